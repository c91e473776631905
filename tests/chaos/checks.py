"""What must hold after any faults: every trial once, each with the result of a quiet run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mlflow import MlflowClient

from orchestrator.journal import Journal
from orchestrator.journal_reader import EventRow
from orchestrator.store import Store
from orchestrator.tracking_client import search_all
from search_spaces.canonical import short
from search_spaces.contracts import TrialResult, TrialState
from tests.chaos.enduring import Endured, Hit
from tests.chaos.schedules import REACH

# What may differ between two attempts of one trial.
_OWN = {"attempt", "numerics", "seconds", "peak_memory_gib", "host", "started_at"}
_NOTICED_S = 30.0  # a node's loss is noticed about 13 s later; what starts there until then is hit


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a sweep that was hit; nothing, if all is well.

    Attributes:
        lost: Trials without a result.
        rerun: Attempts beyond the first of their trial that no fault explains.
        wrong: Anything else, a sentence each.
    """

    lost: tuple[str, ...]
    rerun: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.rerun or self.wrong)

    @property
    def text(self) -> str:
        """Everything that is wrong, a line each."""
        lines = [*(f"lost: {key}" for key in self.lost), *self.rerun, *self.wrong]
        return "\n".join(lines)


def results_of(store: Path) -> dict[str, TrialResult]:
    """Return a store's committed results by key."""
    return {r.result.trial_key: r.result for r in Store(str(store)).records()}


def judge(endured: Endured, quiet: Mapping[str, TrialResult], database: str) -> Verdict:
    """Compare a sweep with the same sweep undisturbed.

    Args:
        endured: The sweep.
        quiet: The undisturbed results by key.
        database: What the MLflow server serves.
    """
    found = results_of(endured.store)
    with Journal.read_only(endured.journal) as reader:
        events, rows = reader.events(), reader.trials()
    wrong = [
        *(f"{short(row.key)} is {row.state}" for row in rows if row.state != TrialState.SUCCEEDED),
        *_different(found, quiet),
        *_damaged(endured.store, found),
        *_committed_twice(endured, events),
        *_wrong_in_mlflow(database, endured.sweep.stem, quiet),
        *_unfit_for_people(endured.log),
    ]
    return Verdict(
        lost=tuple(sorted(quiet.keys() - found.keys())),
        rerun=tuple(unexplained(events, endured.hits)),
        wrong=tuple(wrong),
    )


def _different(found: Mapping[str, TrialResult], quiet: Mapping[str, TrialResult]) -> Iterator[str]:
    """Masks, scores, losses and proofs are equal to the last bit."""
    for key, result in found.items():
        if key not in quiet:
            yield f"{short(key)} belongs to no trial of the sweep"
        elif result.model_dump(exclude=_OWN) != quiet[key].model_dump(exclude=_OWN):
            yield f"{short(key)} has another result than undisturbed"


def _damaged(store: Path, found: Mapping[str, TrialResult]) -> Iterator[str]:
    """Every file is there and is what its result says."""
    for key, result in found.items():
        for name in result.artifacts:
            ref = Store(str(store)).artifact(key, name)
            if hashlib.sha256(Path(ref.uri).read_bytes()).hexdigest() != ref.sha256:
                yield f"{ref.uri} is not what its result says"


def _committed_twice(endured: Endured, events: Sequence[EventRow]) -> Iterator[str]:
    """A marker that was once seen stays as it was, and no trial is done twice in the journal."""
    now = endured.markers_now()
    for key, written in endured.markers.items():
        if now.get(key) != written:
            yield f"the marker of {short(key)} was written again or is gone"
    done = Counter(event.key for event in events if event.kind in ("succeeded", "reused"))
    for key, times in done.items():
        if times > 1:
            yield f"{short(key)} is done {times} times in the journal"


def unexplained(events: Sequence[EventRow], hits: Sequence[Hit]) -> Iterator[str]:
    """Yield a sentence for each further attempt that no fault is the reason for.

    Each fault explains as many attempts as it can reach, of those that ran when it struck or that
    started before it could be noticed.
    """
    further: list[_Further] = []
    for key in sorted({event.key for event in events if event.kind == "started"}):
        own = [event for event in events if event.key == key]
        starts = [event.at for event in own if event.kind == "started"]
        further += [_Further(key, n, *pair) for n, pair in enumerate(pairwise(starts), 1)]
        done = [event.id for event in own if event.kind in ("succeeded", "reused")]
        late = [event for event in own if event.kind == "started" and done and event.id > done[0]]
        if late:
            yield f"{short(key)} was started again after it was done"
    for one in _left_over(further, hits):
        yield f"{short(one.key)}: attempt {one.number} was followed by another without reason"


@dataclass(frozen=True)
class _Further:
    """An attempt that was followed by another one: its number and when the two started."""

    key: str
    number: int
    start: float
    following: float

    def may_be_of(self, hit: Hit) -> bool:
        return self.start - _NOTICED_S < hit.at <= self.following


def _left_over(further: Sequence[_Further], hits: Sequence[Hit]) -> list[_Further]:
    """Return what remains when each fault, in order, takes what no later one could explain first.

    Of intervals that hold a moment, those that end soonest: no other choice explains more.
    """
    left = sorted(further, key=lambda one: one.following)
    for hit in sorted(hits, key=lambda hit: hit.at):
        taken = [one for one in left if one.may_be_of(hit)][: REACH[hit.fault.kind]]
        left = [one for one in left if one not in taken]
    return left


def _wrong_in_mlflow(
    database: str, experiment: str, quiet: Mapping[str, TrialResult]
) -> Iterator[str]:
    """Each trial has one finished run, below one parent."""
    client = MlflowClient(database)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        yield "MLflow has no such experiment"
        return
    runs = search_all(client, found.experiment_id, "tags.trial_key LIKE '%'")
    counts = Counter(run.data.tags["trial_key"] for run in runs)
    if counts != dict.fromkeys(quiet, 1):
        yield f"MLflow has the trials {dict(counts)} times"
    if {run.info.status for run in runs} != {"FINISHED"}:
        yield "MLflow has runs that are not finished"
    if len(search_all(client, found.experiment_id, "tags.kind = 'sweep'")) != 1:
        yield "MLflow has not one parent run"


def _unfit_for_people(log: Path) -> Iterator[str]:
    """Whatever dies, people see no traceback."""
    if "Traceback (most recent call last)" in log.read_text(errors="replace"):
        yield f"{log.name} has a traceback"
