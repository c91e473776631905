"""All that is known about a winner, gathered from its sweep, results and store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from orchestrator.judging import SELECT
from orchestrator.rules import complete
from orchestrator.statistics import mean, sample_std
from orchestrator.store import Store
from orchestrator.tracking_rows import lineage_rows, mask_file
from orchestrator.winners import Side, Winner
from search_spaces.canonical import short
from search_spaces.contracts import MaskInfo, NumericsClass, TrialResult
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec
from search_spaces.ticket_info import (
    LineageStep,
    MaskEntry,
    SideScores,
    TicketControl,
    TicketInfo,
    TicketModel,
    TicketProtocol,
    TicketTask,
    TicketVerdict,
)


def ticket_info(winner: Winner, spec: SweepSpec, results: Mapping[str, TrialResult]) -> TicketInfo:
    """Return what a sweep and its results say of a winner: all but its lineage."""
    level, scores = winner.verdict, tuple(_scores(winner, spec, results))
    masks = tuple(_masks(winner, results))
    identity = next(iter(winner.sides["ticket"].values())).spec.model
    return TicketInfo(
        key=winner.key,
        model=_model(winner, spec),
        task=_task(winner, spec),
        protocol=_protocol(winner, spec),
        num_weights=identity.num_prunable,
        num_removed=level.num_removed,
        sparsity=level.sparsity,
        masks=masks,
        default_seed=max(masks, key=lambda mask: (mask.select_score, -mask.seed)).seed,
        verdict=_verdict(winner, spec),
        scores=scores,
        controls=tuple(_controls(winner)),
        trial_keys={
            side: {seed: trial.key for seed, trial in own.items()}
            for side, own in winner.sides.items()
        },
        numerics=_numerics(winner, results),
    )


def _model(winner: Winner, spec: SweepSpec) -> TicketModel:
    written = next(model for model in spec.models if model.name == winner.select.model)
    identity = next(iter(winner.sides["ticket"].values())).spec.model
    return TicketModel(
        name=written.name,
        source=written.source,
        revision=written.revision,
        prunable=written.prunable,
        identity=identity,
    )


def _task(winner: Winner, spec: SweepSpec) -> TicketTask:
    written = next(task for task in spec.tasks if task.name == winner.select.task)
    identity = next(iter(winner.sides["ticket"].values())).spec.task
    return TicketTask(
        name=written.name,
        metric=identity.metric,
        report_split=spec.report_split_of(written),
        same_split=winner.select.same_split,
        identity=identity,
    )


def _protocol(winner: Winner, spec: SweepSpec) -> TicketProtocol:
    task = next(task for task in spec.tasks if task.name == winner.select.task)
    return TicketProtocol(
        sweep=spec.name,
        preset=spec.preset,
        method=winner.select.method,
        replicate=spec.replicate,
        seeds=spec.seeds,
        schedule=spec.schedule.model_dump(mode="json"),
        recipe=spec.recipe_of(task).model_dump(mode="json", exclude_none=True),
        search_recipe=spec.search_recipe_of(task).model_dump(mode="json", exclude_none=True),
        select=spec.select_rule_of(task).model_dump(mode="json"),
        code_version=next(iter(winner.sides["ticket"].values())).spec.code_version,
    )


def _verdict(winner: Winner, spec: SweepSpec) -> TicketVerdict:
    task = next(task for task in spec.tasks if task.name == winner.select.task)
    level, told = winner.verdict, winner.report.curve.levels[winner.level]
    reached = winner.select.curve.rules[spec.verdict.rule].sparsest_contiguous
    return TicketVerdict(
        rule=spec.verdict.rule,
        delta=spec.delta_of(task),
        contiguous=reached is not None and level.sparsity <= reached,
        best=level.sparsity == reached,
        select=dict(level.outcomes),
        report=dict(told.outcomes),
        reasons=dict(level.reasons),
        difference=_plain(level.difference_mean),
        difference_lower_bound=_plain(level.difference_lower_bound),
        report_difference=_plain(told.difference_mean),
        flags=tuple(dict.fromkeys([*level.flags, *told.flags])),
    )


def _scores(
    winner: Winner, spec: SweepSpec, results: Mapping[str, TrialResult]
) -> Iterator[SideScores]:
    task = next(task for task in spec.tasks if task.name == winner.select.task)
    report = spec.report_split_of(task)
    splits: tuple[tuple[Literal["select", "report"], str], ...] = (
        ("select", report if spec.same_split(task) else SELECT),
        ("report", report),
    )
    for side, trials in winner.sides.items():
        for split, scored in splits:
            yield _side_scores(side, split, scored, trials, results)


def _side_scores(
    side: str,
    split: Literal["select", "report"],
    scored: str,
    trials: Side,
    results: Mapping[str, TrialResult],
) -> SideScores:
    by_seed = {
        seed: result.primary(scored)
        if (result := results.get(trial.key)) and scored in result.scores
        else None
        for seed, trial in trials.items()
    }
    known = complete(by_seed)
    return SideScores(
        side=side,
        split=split,
        n=sum(score is not None for score in by_seed.values()),
        mean=mean(known) if known else None,
        std=sample_std(known) if len(known) > 1 else None,
        by_seed=by_seed,
    )


def _controls(winner: Winner) -> Iterator[TicketControl]:
    for name, compared in winner.select.controls.items():
        against = compared[winner.level]
        yield TicketControl(
            name=name,
            difference=_plain(against.difference_mean),
            lower_bound=against.lower_bound,
            beats=against.beats,
        )


def load_ticket_files(
    winner: Winner, info: TicketInfo, results: Mapping[str, TrialResult], store: Store
) -> tuple[TicketInfo, dict[str, bytes]] | None:
    """Return a winner with its lineage, and its mask files by name; None where none is kept.

    Args:
        winner: The ticket.
        info: What ``ticket_info`` returned for it.
        results: Committed results by trial key.
        store: Where masks and lineage are read from.

    Raises:
        UserError: A mask file is damaged, or not the mask that was trained under.
    """
    files: dict[str, bytes] = {}
    masks: list[MaskEntry] = []
    for entry in info.masks:
        trial = winner.makers[entry.seed][0]
        found = mask_file(trial, results[trial.key], store)
        if found is None:
            return None
        files[entry.file] = _checked(found[1], entry, f"{masked(store.uri)}: {found[0]}")
        rows = lineage_rows(trial.spec, results[trial.key], store)
        lineage = tuple(LineageStep.model_validate(row) for row in rows)
        masks.append(entry.model_copy(update={"lineage": lineage}))
    return info.model_copy(update={"masks": tuple(masks)}), files


def _checked(data: bytes, entry: MaskEntry, place: str) -> bytes:
    """Return a mask file's bytes if they are the mask that the finals trained under."""
    from workers.mask_file import MaskFileError, read_mask  # reads nothing where nothing is new

    try:
        found = read_mask(data, None, place).sha256
    except MaskFileError as error:
        raise UserError(str(error)) from error
    if found != entry.sha256:
        raise UserError(
            f"{place} holds the mask {short(found)}, but the trials used {short(entry.sha256)}. "
            "Remove its trial from the store and run the sweep again: that trial is run again."
        )
    return data


def _masks(winner: Winner, results: Mapping[str, TrialResult]) -> Iterator[MaskEntry]:
    infos = {seed: _info(results[made[0].key]) for seed, made in winner.makers.items()}
    is_one = len({info.sha256 for info in infos.values()}) == 1
    select = winner.select.levels[winner.level].ticket
    for search_seed, finals in winner.makers.items():
        seeds = [s for s, trial in winner.sides["ticket"].items() if trial in finals]
        info = infos[search_seed]
        yield MaskEntry(
            seed=search_seed,
            file="mask.arrow" if is_one else f"mask-seed{search_seed}.arrow",
            sha256=info.sha256,
            select_score=float(mean([float(select[seed] or 0.0) for seed in seeds])),
            sparsity_per_matrix=info.sparsity_per_matrix,
            collapsed=info.collapsed,
        )


def _info(result: TrialResult) -> MaskInfo:
    assert result.input_mask is not None, "a winner's results know their masks"
    return result.input_mask


def _numerics(winner: Winner, results: Mapping[str, TrialResult]) -> tuple[NumericsClass, ...]:
    keys = [trial.key for side in ("ticket", "dense") for trial in winner.sides[side].values()]
    found = {
        results[key].numerics.model_dump_json(): results[key].numerics
        for key in keys
        if key in results
    }
    return tuple(found.values())


def _plain(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
