"""The transfer trials of a sweep: masks of each source on each target (method rule 20)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces.errors import Fault, SpecError
from search_spaces.given import Given, given_faults
from search_spaces.lineages import Lineages
from search_spaces.schedules import level_text, levels_at
from search_spaces.sweep import SweepSpec
from search_spaces.transfer_specs import THETA0, TransferSource, TransferSpec
from search_spaces.trial import MaskSource, Theta0Mask


def add_transfers(
    spec: SweepSpec, model: str, lineages: Mapping[str, Lineages], given: Given
) -> None:
    """Add the cells of one model's transfer table; those of a task on itself are its finals.

    Where cells stop early, all seeds but the first wait for what decides: the cell's first seed
    and the target's own tickets.

    Args:
        spec: The sweep; it has a transfer.
        model: The model's name.
        lineages: The model's tasks, with their tickets, by name.
        given: What the sources that name a mask refer to, by the source's name.

    Raises:
        SpecError: The schedule has no such level, or masks do not fit targets.
    """
    transfer = spec.transfer
    assert transfer is not None, "the caller asks only then"
    levels = {name: _level(transfer, one) for name, one in lineages.items()}
    if faults := list(given_faults(spec, model, lineages, levels, given)):
        raise SpecError(faults)
    targets = transfer.targets or tuple(lineages)
    for source in sources_of(transfer, tuple(lineages)):
        is_there = source.mask is None or given[source.name] is not None
        for target in targets if is_there else ():
            if source.name != target:
                _add_cell(spec, lineages, given, source.name, target, levels)


def sources_of(transfer: TransferSpec, tasks: Sequence[str]) -> tuple[TransferSource, ...]:
    """Return the rows of a table: by default all tasks."""
    return transfer.sources or tuple(TransferSource(name=task) for task in tasks)


def _add_cell(
    spec: SweepSpec,
    lineages: Mapping[str, Lineages],
    given: Given,
    source: str,
    target: str,
    levels: Mapping[str, int],
) -> None:
    transfer, own, level = spec.transfer, lineages[target], levels[target]
    assert transfer is not None
    after: tuple[str, ...] = ()
    for index, seed in enumerate(spec.seeds):
        mask: MaskSource
        if source in lineages:
            row = lineages[source]
            mask = row.tickets[transfer.method, spec.search_seed_of(seed)][levels[source]].mask
            _check_equal(row, own, mask, source, target)
        elif source == THETA0:
            mask = Theta0Mask(num_removed=own.counts[level])
        else:
            found = given[source]
            facts = found.mask_of(spec, seed) if found else None
            assert facts is not None, "checked: the source has a mask of each seed"
            mask = facts.identity
        key = own.add_transfer(source, mask, seed, level, after)
        if index == 0 and transfer.adaptive:
            finals = (own.finals[transfer.method, level, each] for each in spec.seeds)
            after = (key, *finals)


def _level(transfer: TransferSpec, lineages: Lineages) -> int:
    """Return the place of the transfer's sparsity among a task's levels."""
    counts, num = lineages.counts, lineages.num_ranked
    places = levels_at(counts, num, transfer.sparsity)
    if len(places) == 1:
        return places[0]
    texts = [level_text(counts, num, place) for place in range(len(counts))]
    if places:
        several = " and ".join(texts[place] for place in places)
        problem = f"is {transfer.sparsity}, which may be the levels {several}."
        hint = "Write one of them with all these digits."
    else:
        nearest = min(range(len(counts)), key=lambda i: abs(counts[i] / num - transfer.sparsity))
        problem = f"is {transfer.sparsity}, but the schedule's levels are {', '.join(texts)}."
        hint = f"The nearest is {texts[nearest]}."
    raise SpecError([Fault("sweep", "transfer.sparsity", problem, hint)])


def _check_equal(row: Lineages, own: Lineages, mask: MaskSource, source: str, target: str) -> None:
    """Refuse masks over matrices that the target's own tickets leave alone."""
    ours, theirs = own.prunable, row.prunable
    if theirs == ours or set(theirs.names) < set(ours.names):
        return
    extra = sorted(set(theirs.names) - set(ours.names))
    problem = (
        f"moves masks of '{source}' to '{target}', whose tickets leave {', '.join(extra)} out "
        "under pooler: keep-all: K would differ."
    )
    hint = "Write pooler: theta0-magnitude, or leave that target out."
    raise SpecError([Fault("sweep", "transfer", problem, hint)])
