"""Masks from outside a sweep: what is known about them, and whether they fit its transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from search_spaces.canonical import Frozen, short
from search_spaces.errors import Fault
from search_spaces.lineages import Lineages
from search_spaces.schedules import level_text
from search_spaces.sweep import SweepSpec
from search_spaces.trial import GivenMask


class GivenFacts(Frozen):
    """What is known about one mask, without its bits."""

    mask_sha256: str = Field(description="Of the mask: prunable set and bits.")
    prunable_sha256: str = Field(description="Of the prunable set that it covers.")
    num_weights: int = Field(description="N.")
    num_removed: int = Field(description="K.")
    theta0_sha256: str | None = Field(default=None, description="None where nothing notes it.")

    @property
    def identity(self) -> GivenMask:
        """The mask as a part of a trial's identity."""
        return GivenMask(mask_sha256=self.mask_sha256, num_removed=self.num_removed)


class GivenSource(Frozen):
    """What a source of a transfer refers to: a mask for each seed, or one for all."""

    ref: str = Field(description="As the sweep names it.")
    default: GivenFacts = Field(description="The mask where one serves all seeds.")
    by_seed: dict[int, GivenFacts] = Field(
        default_factory=dict, description="By search seed; empty where there is one mask alone."
    )

    def mask_of(self, spec: SweepSpec, seed: int) -> GivenFacts | None:
        """Return a replicate's mask (method rule 2); None where the seed has none."""
        if spec.replicate == "finetune" or not self.by_seed:
            return self.default
        return self.by_seed.get(seed)


# By the source's name in the transfer; None for one that led nowhere, which is told elsewhere.
Given = Mapping[str, GivenSource | None]


def given_faults(
    spec: SweepSpec,
    model: str,
    lineages: Mapping[str, Lineages],
    levels: Mapping[str, int],
    given: Given,
) -> Iterator[Fault]:
    """Yield whatever keeps the given masks from being trained on one model's targets.

    Args:
        spec: The sweep; it has a transfer.
        model: The model's name.
        lineages: The model's tasks by name.
        levels: Place of the transfer's sparsity among the levels of each task.
        given: The masks by the source's name.
    """
    assert spec.transfer is not None, "the caller asks only then"
    targets = spec.transfer.targets or tuple(lineages)
    for index, source in enumerate(spec.transfer.sources or ()):
        one = given[source.name] if source.mask is not None else None
        if one is not None:
            field = f"transfer.sources[{index}].mask"
            yield from _seed_faults(spec, field, one)
            masks = dict.fromkeys(one.mask_of(spec, seed) for seed in spec.seeds)
            known = [mask for mask in masks if mask is not None]
            for problem, hint in _misfits(known, model, lineages, targets, levels):
                yield Fault("sweep", field, f"is '{one.ref}', {problem}", hint)


def _seed_faults(spec: SweepSpec, field: str, given: GivenSource) -> Iterator[Fault]:
    lacking = [seed for seed in spec.seeds if given.mask_of(spec, seed) is None]
    if lacking:
        known = ", ".join(map(str, sorted(given.by_seed)))
        wanted = ", ".join(map(str, lacking))
        problem = (
            f"is '{given.ref}', which has masks of the seeds {known}, but none of {wanted}: under "
            "replicate: lineage each seed takes its own."
        )
        hint = f"Write seeds: [{known}], or replicate: finetune for one mask on all seeds."
        yield Fault("sweep", field, problem, hint)


def _misfits(
    masks: Sequence[GivenFacts],
    model: str,
    lineages: Mapping[str, Lineages],
    targets: Sequence[str],
    levels: Mapping[str, int],
) -> Iterator[tuple[str, str]]:
    """Yield problem and hint of each mask that does not fit, once for each model."""
    for mask in masks:
        for target in targets:
            own = lineages[target]
            found = (
                _other_theta0(mask, own, model)
                or _other_matrices(mask, own, model, target)
                or _other_count(mask, own, model, levels[target])
            )
            if found:
                yield found
                break


def _other_theta0(mask: GivenFacts, own: Lineages, model: str) -> tuple[str, str] | None:
    theirs, ours = mask.theta0_sha256, own.model.theta0_sha256
    if theirs in (None, ours):
        return None
    return (
        f"a mask of theta_0 {short(str(theirs))}, but model '{model}' has {short(ours)}.",
        "Give a mask of this model, or leave the model out of the sweep.",
    )


def _other_matrices(
    mask: GivenFacts, own: Lineages, model: str, target: str
) -> tuple[str, str] | None:
    """Refuse other matrices; those without the pooler widen to a set that has it."""
    ours = own.prunable
    if mask.prunable_sha256 in (ours.sha256, ours.without_pooler().sha256):
        return None
    return (
        f"a mask over {mask.num_weights:,} weights (prunable set {short(mask.prunable_sha256)}), "
        f"but task '{target}' on model '{model}' has {ours.num_weights:,} "
        f"({short(ours.sha256)}).",
        "Give a mask of a model of this size, or write the model's prunable as the mask has it.",
    )


def _other_count(mask: GivenFacts, own: Lineages, model: str, level: int) -> tuple[str, str] | None:
    wanted, num = own.counts[level], own.num_ranked
    if mask.num_removed == wanted:
        return None
    texts = [level_text(own.counts, num, place) for place in range(len(own.counts))]
    nearest = min(range(len(texts)), key=lambda i: abs(own.counts[i] - mask.num_removed))
    hint = f"The schedule's nearest level is {texts[nearest]}. Give a mask that removes {wanted:,}."
    if own.counts[nearest] == mask.num_removed:
        hint = f"Write transfer.sparsity: {texts[nearest]}, a level of the schedule."
    return (
        f"at {mask.num_removed / num:.4g}: it removes {mask.num_removed:,} weights; the sweep "
        f"transfers at {texts[level]}, which is {wanted:,} of model '{model}'.",
        hint,
    )
