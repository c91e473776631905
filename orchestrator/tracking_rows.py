"""What a trial and a verdict look like in MLflow: params, metrics, tags and files as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from orchestrator.judging import REPORT, SELECT, Judged
from orchestrator.rules import RULES
from orchestrator.storage import Storage
from orchestrator.store import Store
from orchestrator.verdicts import LevelVerdict
from search_spaces.canonical import short
from search_spaces.contracts import ArtifactInfo, ArtifactRef, TrialResult
from search_spaces.errors import UserError
from search_spaces.trial import Trial, TrialSpec

# Identity, run name, metrics, tags.
VerdictRow = tuple[tuple[str, ...], str, dict[str, float], dict[str, str]]
RARE_TAGS = frozenset({"source_task", "resumed_at_step", "restart_reason"})  # not of every trial
NUMBERS = {  # a verdict's metrics, and where a level's verdict has them
    "num_seeds": "n",
    "ticket_mean": "ticket_mean",
    "ticket_std": "ticket_std",
    "dense_mean": "dense_mean",
    "dense_std": "dense_std",
    "difference": "difference_mean",
    "difference_lower_bound": "difference_lower_bound",
}


def trial_params(spec: TrialSpec) -> dict[str, str]:
    """Return what decides a trial's result: recipe and identities. Never changes."""
    params = {f"recipe.{name}": value for name, value in spec.recipe.model_dump().items()}
    params |= {f"model.{name}": value for name, value in spec.model.model_dump().items()}
    params |= {f"task.{name}": value for name, value in spec.task.model_dump().items()}
    params |= {"seed": spec.seed, "code_version": spec.code_version}
    params["mask"] = spec.mask.model_dump_json() if spec.mask else "none"
    params["start"] = spec.start.model_dump_json() if spec.start else "theta_0"
    return {name: str(value) for name, value in params.items()}


def trial_metrics(trial: Trial, result: TrialResult) -> dict[str, float]:
    """Return what trials are ranked by: scores of each split, sparsity, seconds."""
    metrics = {
        f"{split}.{name}": value
        for split, score in result.scores.items()
        for name, value in score.metrics.items()
    }
    if SELECT in result.scores:
        metrics["score"] = result.primary(SELECT)
    metrics["num_removed"] = trial.spec.num_removed
    metrics["sparsity"] = trial.spec.num_removed / trial.spec.model.num_prunable
    metrics |= {f"seconds.{name}": value for name, value in result.seconds.items()}
    metrics["peak_memory_gib"] = result.peak_memory_gib
    return {name: float(value) for name, value in metrics.items()}


def trial_tags(trial: Trial, result: TrialResult) -> dict[str, str]:
    """Return what trials are filtered by, and what differs between attempts."""
    role = trial.main_role
    step = result.resumed_at_step
    rare = {"source_task": role.source_task, "restart_reason": result.restart_reason}
    rare["resumed_at_step"] = str(step) if step else ""
    return {
        **{name: value for name, value in rare.items() if value},
        "kind": trial.kind,
        "roles": ",".join(sorted({r.label for r in trial.roles})),
        "method": role.method or "dense",
        "task": role.task,
        "model": role.model,
        "seed": str(role.seed),
        "parents": ",".join(trial.spec.parents),
        "theta0": trial.spec.model.theta0_sha256,
        "metric": result.metric,
        "attempt": result.attempt,
        "host": result.host,
        "numerics": result.numerics.model_dump_json(),
    }


def lineage_rows(
    spec: TrialSpec, result: TrialResult | None, store: Store
) -> Iterator[dict[str, object]]:
    """Yield a trial and its mask's ancestors, back to the dense trial that was pruned first."""
    return (lineage_row(*one) for one in ancestors(spec, result, store))


def ancestors(
    spec: TrialSpec, result: TrialResult | None, store: Store
) -> Iterator[tuple[TrialSpec, TrialResult | None]]:
    """Yield a trial and its mask's ancestors; where the store lacks one they end before it."""
    current: TrialSpec | None = spec
    while current is not None:
        yield current, result
        parent = current.mask_parent
        record = store.record(parent.parent) if parent else None
        current, result = (record.spec, record.result) if record else (None, None)


def lineage_row(spec: TrialSpec, result: TrialResult | None) -> dict[str, object]:
    """Return what a lineage says of one trial."""
    mask = result.input_mask if result else None
    return {
        "trial_key": spec.key,
        "mask_sha256": mask.sha256 if mask else None,
        "num_removed": spec.num_removed,
        "sparsity": spec.num_removed / spec.model.num_prunable,
    }


def mask_file(trial: Trial, result: TrialResult, store: Store) -> tuple[str, bytes] | None:
    """Return name and content of a final trial's mask, if one is kept."""
    found = _mask_of(trial, store) if trial.kind == "final" else None
    if found is None:
        return None
    folder, name = _place(found[0])
    data = Storage(folder).read(name)
    return None if data is None else (name, data)


def mask_info(trial: Trial, store: Store) -> ArtifactInfo | None:
    """Return what was committed of a final trial's mask file, if one is kept and still there."""
    found = _mask_of(trial, store) if trial.kind == "final" else None
    if found is None:
        return None
    folder, name = _place(found[0])
    return None if Storage(folder).sizes([name]) == [None] else found[1]


def require_same(trial: Trial, info: ArtifactInfo, data: bytes) -> None:
    """Make sure that a trial's mask file is the committed one.

    Raises:
        UserError: It is not.
    """
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise UserError(
            f"The mask file {info.name} of trial {short(trial.key)} in the store is damaged: its "
            f"sha256 is not the committed {info.sha256[:12]}.... Put the right file back, or "
            "delete it and repeat 'tickets run', which makes it again."
        )


def verdict_rows(judged: Sequence[Judged]) -> Iterator[VerdictRow]:
    """Yield a row for each (model, task, method, level, rule), judged on select."""
    reported = {(j.model, j.task, j.method): j for j in judged if j.split == REPORT}
    for one in judged:
        if one.split == SELECT:
            report = reported[one.model, one.task, one.method]
            for level in range(len(one.levels)):
                for rule in RULES:
                    yield _row(one, report, level, rule)


def _row(select: Judged, report: Judged, level: int, rule: str) -> VerdictRow:
    ours, theirs = select.curve.levels[level], report.curve.levels[level]
    reached = select.curve.rules[rule].sparsest_contiguous
    metrics = {"sparsity": ours.sparsity, "num_removed": float(ours.num_removed)}
    metrics |= _numbers(ours, "") | _numbers(theirs, "report.")
    for name, comparisons in select.controls.items():
        difference = comparisons[level].difference_mean
        if difference is not None:
            metrics[f"over.{name}"] = float(difference)
    flags = [*ours.flags, *(["same_split"] if select.same_split else [])]
    tags = {
        "kind": "verdict",
        "rule": rule,
        "matching": _word(ours.outcomes[rule] == "matching"),
        "contiguous": _word(reached is not None and ours.sparsity <= reached),
        "report.matching": _word(theirs.outcomes[rule] == "matching"),
        "outcome": ours.outcomes[rule],
        "report.outcome": theirs.outcomes[rule],
        "reason": ours.reasons[rule],
        "task": select.task,
        "model": select.model,
        "method": select.method,
        "flags": ",".join(flags),
        "trials": ",".join(key for _, key in sorted(select.trial_keys[level].items())),
    }
    tags |= {f"rule.{name}": outcome for name, outcome in ours.outcomes.items()}
    for name, comparisons in select.controls.items():
        verdict = comparisons[level].beats
        tags[f"beats.{name}"] = "undecided" if verdict is None else _word(verdict)
    identity = (select.model, select.task, select.method, str(ours.num_removed), rule)
    name = f"verdict:{select.task}:{select.method}:{ours.sparsity:.3g}:{rule}"
    return identity, name, metrics, tags


def _numbers(level: LevelVerdict, prefix: str) -> dict[str, float]:
    numbers = {name: getattr(level, attribute) for name, attribute in NUMBERS.items()}
    return {prefix + name: float(value) for name, value in numbers.items() if value is not None}


def _word(value: bool) -> str:
    return "true" if value else "false"


def _mask_of(trial: Trial, store: Store) -> tuple[ArtifactRef, ArtifactInfo] | None:
    """Return the committed file of the mask that a trial trained under, if one is kept."""
    parent = trial.spec.mask_parent
    owner, names = trial.key, trial.outputs.artifacts
    if parent is not None:
        owner = parent.parent
        names = (f"mask-{parent.pruner}-{parent.num_removed}.arrow",)
    record = store.record(owner)
    kept = [name for name in names if record and name in record.attempts]
    if record is None or not kept:
        return None
    return store.artifact(owner, kept[0]), record.result.artifacts[kept[0]]


def _place(file: ArtifactRef) -> tuple[str, str]:
    """Return folder and name of a file."""
    folder, _, name = file.uri.rpartition("/")
    return folder, name
