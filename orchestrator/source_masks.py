"""How far the masks of a transfer table's sources overlap."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

from orchestrator.compare_sides import mask_ref
from orchestrator.statistics import mean
from orchestrator.storage import Storage
from orchestrator.store import Store
from orchestrator.transfer_judging import SourceOverlaps, transfer_cells
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial, TrialSpec
from workers.mask import Mask
from workers.mask_algebra import overlap
from workers.mask_file import MaskFileError, read_mask

_log = logging.getLogger(__name__)


def source_overlaps(spec: SweepSpec, trials: Sequence[Trial], store: Store) -> list[SourceOverlaps]:
    """Compare the masks of a sweep's transfer sources pair by pair, seed by seed.

    Args:
        spec: The sweep.
        trials: Its trials.
        store: Where the masks are; a damaged one is warned of and counts as missing.
    """
    found = []
    specs = {trial.key: trial.spec for trial in trials}
    for model, cells in transfer_cells(spec, trials).items():
        masks = {
            source: _masks(source, cells.cells, specs, store, spec.seeds)
            for source in cells.sources
        }
        wide = max(
            (m for by_seed in masks.values() for m in by_seed.values()), default=None, key=_n
        )
        if wide is None:
            continue
        comparable = {
            source: {seed: mask.widened(wide.prunable) for seed, mask in by_seed.items()}
            for source, by_seed in masks.items()
        }
        values = _matrix(cells.sources, comparable)
        kept = 1 - cells.num_removed / wide.prunable.num_weights
        found.append(SourceOverlaps(model, cells.sources, values, kept / (2 - kept)))
    return found


def _n(mask: Mask) -> int:
    return mask.prunable.num_weights


def _masks(
    source: str,
    cells: Mapping[tuple[str, str], Mapping[int, str]],
    specs: Mapping[str, TrialSpec],
    store: Store,
    seeds: Sequence[int],
) -> dict[int, Mask]:
    """Return a source's mask of each seed, from whichever target's trial names it."""
    found: dict[int, Mask] = {}
    for seed in seeds:
        for (row, _), keys in cells.items():
            if row == source and seed in keys and seed not in found:
                mask = _read(specs[keys[seed]], store)
                if mask is not None:
                    found[seed] = mask
    return found


def _read(spec: TrialSpec, store: Store) -> Mask | None:
    if spec.mask_parent is not None and store.record(spec.mask_parent.parent) is None:
        return None
    ref = mask_ref(store, spec)
    if ref is None:
        return None
    folder, _, name = ref.uri.rpartition("/")
    data = Storage(folder).read(name)
    try:
        return None if data is None else read_mask(data, None, masked(ref.uri))
    except MaskFileError as error:  # the table does not need it: its overlaps are unknown
        _log.warning("%s", error)
        return None


def _matrix(
    names: Sequence[str], masks: Mapping[str, Mapping[int, Mask]]
) -> tuple[tuple[float | None, ...], ...]:
    values: dict[tuple[str, str], float | None] = {}
    for one, other in combinations_with_replacement(names, 2):
        common = masks[one].keys() & masks[other].keys()
        each = [overlap(masks[one][seed], masks[other][seed]) for seed in sorted(common)]
        values[one, other] = values[other, one] = mean(each) if each else None
    return tuple(tuple(values[row, column] for column in names) for row in names)
