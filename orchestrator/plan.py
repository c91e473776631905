"""What a run would do, why, and what it would cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from orchestrator.costs import (
    ComputeFor,
    Speed,
    SpeedClass,
    any_compute,
    device_hours,
    estimate,
    measure,
    speed_class,
)
from orchestrator.graph import TrialGraph
from orchestrator.simulated_figures import critical_path
from orchestrator.store import CommittedTrial, Store
from search_spaces.collecting import without_collecting
from search_spaces.contracts import Compute
from search_spaces.trial import Trial

Action = Literal["run", "reuse", "wait", "skip"]
NUM_SCANNED_RECORDS = 500  # of other sweeps, to measure speeds by; keeps a plan quick


@dataclass(frozen=True)
class PlanRow:
    """What would happen to one trial.

    Attributes:
        key: The trial's key.
        label: Its readable name.
        kind: Its kind.
        action: ``run`` at once, ``reuse`` the stored result, or ``wait`` for a parent, then run.
        reason: Why, for people.
        num_steps: Optimizer steps that would be taken; 0 for reuse.
        seconds: Estimated wall seconds; 0 for reuse.
        basis: What the estimate was made from; empty for reuse.
        num_ranks: Ranks of its gang.
        device_hours: Estimated GPU-hours, or on CPU core-hours, of its gang; 0 for reuse.
    """

    key: str
    label: str
    kind: str
    action: Action
    reason: str
    num_steps: int = 0
    seconds: float = 0.0
    basis: str = ""
    num_ranks: int = 1
    device_hours: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What would happen to all trials, in the order given.

    Attributes:
        rows: The trials.
        gangs: Shapes of gangs that they would run on.
        graph: The same trials as a graph.
    """

    rows: tuple[PlanRow, ...]
    gangs: tuple[Compute, ...]
    graph: TrialGraph = field(repr=False)

    @property
    def num_run(self) -> int:
        """Number of trials that could start at once."""
        return self._count("run")

    @property
    def num_reuse(self) -> int:
        """Number of trials whose result exists."""
        return self._count("reuse")

    @property
    def num_skip(self) -> int:
        """Number of trials that a policy leaves out."""
        return self._count("skip")

    @property
    def num_wait(self) -> int:
        """Number of trials that would run after a parent."""
        return self._count("wait")

    @property
    def num_train_steps(self) -> int:
        """Optimizer steps that would be taken."""
        return sum(row.num_steps for row in self.rows)

    @property
    def device(self) -> Literal["CPU", "GPU"]:
        """What ``device_hours`` counts: hours of a CPU core or of a GPU."""
        return "GPU" if any(gang.num_gpus_per_rank for gang in self.gangs) else "CPU"

    @property
    def device_hours(self) -> float:
        """Estimated core-hours or GPU-hours of all trials that would run."""
        return sum(row.device_hours for row in self.rows)

    @property
    def hours_by_ranks(self) -> dict[int, float]:
        """The same for each size of gangs, the smallest first."""
        hours: dict[int, float] = defaultdict(float)
        for row in self.rows:
            hours[row.num_ranks] += row.device_hours
        return {ranks: hours[ranks] for ranks in sorted(hours) if hours[ranks]}

    @property
    def critical_path_s(self) -> float:
        """Estimated seconds of the longest chain: no number of slots is quicker."""
        return critical_path(self.graph, self._seconds())[0]

    @property
    def bases(self) -> dict[str, int]:
        """Number of estimates by what they were made from."""
        return dict(Counter(row.basis for row in self.rows if row.basis))

    def _seconds(self) -> dict[str, float]:
        return {row.key: row.seconds for row in self.rows if row.action in ("run", "wait")}

    def _count(self, action: Action) -> int:
        return sum(row.action == action for row in self.rows)


def make_plan(
    trials: Iterable[Trial],
    store: Store,
    compute_for: ComputeFor | None = None,
    skipped: Mapping[str, str] | None = None,
) -> Plan:
    """Return what a run of the trials would do; changes nothing but a damaged marker's place.

    Args:
        trials: All trials of the sweep, each key once.
        store: Where results are reused from.
        compute_for: What each trial would run on; None = one CPU thread.
        skipped: Why trials are left out by a policy, by key.

    Raises:
        GraphError: When the trials are no graph.
        UserError: When the store cannot be read.
    """
    compute_for = compute_for or any_compute
    with without_collecting():
        graph = TrialGraph(trials)
        gangs = {key: compute_for(graph[key]) for key in graph}

    def look(key: str) -> tuple[CommittedTrial, tuple[str, ...]] | None:
        record = store.record(key)
        return (record, store.missing(record, graph[key].outputs)) if record else None

    stored = set(store.trial_keys())
    keys = [key for key in graph if key in stored]
    found = [(key, *one) for key, one in zip(keys, store.for_each(look, keys), strict=True) if one]
    records = {key: record for key, record, _ in found}
    lacking = {key: names for key, _, names in found}
    done = {key for key, names in lacking.items() if not names}
    speeds = _speeds(graph, store, records, done, gangs)
    left_out = skipped or {}
    rows = (
        _reuse_row(graph[key], records[key])
        if key in done
        else _skip_row(graph[key], left_out[key])
        if key in left_out
        else _run_row(key, graph, done, lacking.get(key), gangs[key], speeds)
        for key in graph
    )
    with without_collecting():
        return Plan(tuple(rows), tuple(dict.fromkeys(gangs.values())), graph)


def _speeds(
    graph: TrialGraph,
    store: Store,
    records: Mapping[str, CommittedTrial],
    done: set[str],
    gangs: Mapping[str, Compute],
) -> dict[SpeedClass, Speed]:
    """Measure in the sweep's own results, and in other sweeps' where those do not suffice."""
    speeds = measure((record.spec, record.result) for record in records.values())
    needed = {speed_class(graph[key].spec, gangs[key]) for key in graph if key not in done}
    if needed <= set(speeds):
        return speeds
    foreign = (key for key in store.trial_keys() if key not in graph)
    scanned = store.for_each(store.record, list(islice(foreign, NUM_SCANNED_RECORDS)))
    return measure((record.spec, record.result) for record in scanned if record) | speeds


def _reuse_row(trial: Trial, record: CommittedTrial) -> PlanRow:
    when = f"{record.committed_at[:16]}Z".replace("T", " ")
    reason = f"committed {when}"
    key = record.result.trial_key
    return PlanRow(key, trial.main_role.label, trial.kind, "reuse", reason)


def _skip_row(trial: Trial, reason: str) -> PlanRow:
    return PlanRow(trial.key, trial.main_role.label, trial.kind, "skip", reason)


def _run_row(
    key: str,
    graph: TrialGraph,
    done: set[str],
    lacking: tuple[str, ...] | None,
    compute: Compute,
    speeds: Mapping[SpeedClass, Speed],
) -> PlanRow:
    trial = graph[key]
    cost = estimate(trial.spec, compute, speeds)
    waits = [graph[parent].main_role.label for parent in graph.parents(key) if parent not in done]
    action: Action = "wait" if waits else "run"
    reasons = [f"waits for {' and '.join(waits)}"] if waits else []
    reasons += [f"committed, but {_named(trial, lacking)} is missing"] if lacking else []
    reason = "; ".join(reasons) or "no result yet"
    return PlanRow(
        key=key,
        label=trial.main_role.label,
        kind=trial.kind,
        action=action,
        reason=reason,
        num_steps=trial.spec.num_steps,
        seconds=cost.seconds,
        basis=cost.basis,
        num_ranks=compute.num_ranks,
        device_hours=device_hours(cost.seconds, compute),
    )


def _named(trial: Trial, lacking: tuple[str, ...]) -> str:
    masks = {prune.artifact: f"mask at K={prune.num_removed}" for prune in trial.outputs.prunes}
    return ", ".join(masks.get(name, name) for name in lacking)
