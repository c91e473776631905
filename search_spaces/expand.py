"""Expand a sweep into its trials; equal trials fall together because they share a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces.models import ModelFacts
from search_spaces.recipe_specs import resolve_recipe
from search_spaces.recipes import Recipe
from search_spaces.schedules import removed_counts
from search_spaces.sweep import ITERATIVE_METHODS, SweepSpec, TaskSpec
from search_spaces.task_facts import TaskFacts
from search_spaces.trial import (
    TRAINING_CODE_VERSION,
    MaskSource,
    OtherStart,
    Outputs,
    PruneMethod,
    PruneOutput,
    RandomInitMask,
    RandomLayerwiseMask,
    RandomMask,
    Role,
    Theta0Mask,
    TrainedMask,
    Trial,
    TrialSpec,
)

PRUNERS: dict[str, PruneMethod] = {
    "imp": "global-magnitude",
    "layerwise-imp": "layerwise-magnitude",
    "one-shot": "global-magnitude",
}


def expand(
    spec: SweepSpec, models: Mapping[str, ModelFacts], tasks: Mapping[str, TaskFacts]
) -> list[Trial]:
    """Return all trials of a sweep, parents before children.

    For each model and task: one dense trial a seed; for each method the rounds that make its
    masks, and at each level a final trial a seed; for each control a trial at each level and
    seed. Trials with equal keys are merged: their roles and outputs are united.

    Args:
        spec: The sweep.
        models: Facts of its models, by name.
        tasks: Facts of its tasks, by name.

    Raises:
        SpecError: The schedule does not fit a model's number of prunable weights, or a recipe's
            lengths do not fit each other.
    """
    trials = _Trials()
    for model in spec.models:
        for task in spec.tasks:
            facts = tasks[task.name].on(model.name)
            seen = models[model.name].under(spec.pooler, facts.identity.problem)
            _Lineages(spec, model.name, task, seen, facts, trials).add()
    return trials.in_order()


def _control(
    name: str, num_removed: int, seed: int, ticket: Sequence[MaskSource]
) -> tuple[MaskSource, OtherStart | None]:
    """Return a control's mask and start; ``ticket`` holds the imp mask of its level, if any."""
    if name == "random-uniform":
        return RandomMask(num_removed=num_removed, seed=seed), None
    if name == "random-init-magnitude":
        return RandomInitMask(num_removed=num_removed, seed=seed), None
    (mask,) = ticket
    assert isinstance(mask, TrainedMask), "validated: needs the imp method"
    if name == "random-layerwise":
        return RandomLayerwiseMask(reference=mask, seed=seed), None
    return mask, OtherStart.model_validate({"kind": name, "seed": seed})


@dataclass
class _Trials:
    """Trials by key, in the order of their first appearance: parents come before children."""

    by_key: dict[str, Trial] = field(default_factory=dict)

    def add(self, spec: TrialSpec, role: Role, outputs: Outputs) -> str:
        key = spec.key
        known = self.by_key.get(key)
        if known is None:
            self.by_key[key] = Trial(spec=spec, roles=(role,), outputs=outputs)
        else:
            roles = known.roles if role in known.roles else (*known.roles, role)
            united = known.outputs.merged(outputs)
            self.by_key[key] = Trial(spec=known.spec, roles=roles, outputs=united)
        return key

    def in_order(self) -> list[Trial]:
        return list(self.by_key.values())


class _Lineages:
    """Adds the trials of one model and task."""

    def __init__(
        self,
        spec: SweepSpec,
        model_name: str,
        task: TaskSpec,
        model: ModelFacts,
        facts: TaskFacts,
        trials: _Trials,
    ) -> None:
        self.spec, self.trials = spec, trials
        self.model_name, self.task_name = model_name, task.name
        self.model, self.task = model.identity, facts.identity
        self.counts = removed_counts(spec.schedule, model.identity.num_prunable)
        self.carries = spec.search_recipe_of(task).carries
        num, place, search = facts.num_train, f"task '{task.name}'", spec.search_recipe_of(task)
        self.final_recipe = resolve_recipe(spec.recipe_of(task), num, place=place)
        self.first_recipe, self.round_recipe = (
            resolve_recipe(search, num, inherits=later, place=place, field="search_recipe")
            for later in (False, True)
        )

    def add(self) -> None:
        for seed in self.spec.seeds:
            self._add_trial(self.final_recipe, seed, None, self._role("dense", "", seed))
        searched = dict.fromkeys(self.spec.search_seed_of(seed) for seed in self.spec.seeds)
        masks = {
            (method, seed): self._masks(method, seed)
            for seed in searched
            for method in self.spec.methods
        }
        for seed in self.spec.seeds:
            search_seed = self.spec.search_seed_of(seed)
            for method in self.spec.methods:
                self._add_finals(method, seed, masks[method, search_seed])
            for control in self.spec.controls:
                self._add_controls(control, seed, masks.get(("imp", search_seed), []))

    def _masks(self, method: str, search_seed: int) -> list[MaskSource]:
        """Return a method's mask of each level, after adding the trials that make them."""
        if method == "one-shot-theta0":
            return [Theta0Mask(num_removed=count) for count in self.counts]
        if method in ITERATIVE_METHODS:
            return self._iterative_masks(method, search_seed)
        prunes = tuple(self._prune(method, count) for count in self.counts)
        role = self._role("round", method, search_seed, round_index=0)
        outputs = Outputs(prunes=prunes)
        parent = self._add_trial(self.first_recipe, search_seed, None, role, outputs)
        return [self._trained_mask(method, parent, count) for count in self.counts]

    def _iterative_masks(self, method: str, search_seed: int) -> list[MaskSource]:
        masks: list[MaskSource] = []
        parent = None
        for index, count in enumerate(self.counts):
            outputs = Outputs(
                prunes=(self._prune(method, count),),
                carry=self.carries and index + 1 < len(self.counts),
            )
            level = index - 1 if index else None
            role = self._role("round", method, search_seed, round_index=index, level_index=level)
            parent = self._add_trial(
                self.round_recipe if index else self.first_recipe,
                search_seed,
                masks[-1] if masks else None,
                role,
                outputs,
                carry_from=parent if self.carries else None,
            )
            masks.append(self._trained_mask(method, parent, count))
        return masks

    def _add_finals(self, method: str, seed: int, masks: list[MaskSource]) -> None:
        outputs = Outputs(input_mask=method == "one-shot-theta0")
        for level, mask in enumerate(masks):
            role = self._role("final", method, seed, level_index=level)
            self._add_trial(self.final_recipe, seed, mask, role, outputs)

    def _add_controls(self, control: str, seed: int, references: list[MaskSource]) -> None:
        mask_seed = self.spec.search_seed_of(seed)
        for level, count in enumerate(self.counts):
            mask, start = _control(control, count, mask_seed, references[level : level + 1])
            role = self._role("control", control, seed, level_index=level)
            self._add_trial(self.final_recipe, seed, mask, role, start=start)

    def _add_trial(
        self,
        recipe: Recipe,
        seed: int,
        mask: MaskSource | None,
        role: Role,
        outputs: Outputs | None = None,
        carry_from: str | None = None,
        start: OtherStart | None = None,
    ) -> str:
        spec = TrialSpec(
            model=self.model,
            task=self.task,
            recipe=recipe,
            seed=seed,
            mask=mask,
            start=start,
            carry_from=carry_from,
            code_version=TRAINING_CODE_VERSION,
        )
        return self.trials.add(spec, role, outputs or Outputs())

    def _role(
        self,
        kind: str,
        method: str,
        seed: int,
        *,
        round_index: int | None = None,
        level_index: int | None = None,
    ) -> Role:
        removed = 0 if level_index is None else self.counts[level_index]
        search_seed = seed if kind == "round" else self.spec.search_seed_of(seed)
        return Role.model_validate(
            {
                "kind": kind,
                "model": self.model_name,
                "task": self.task_name,
                "method": method,
                "seed": seed,
                "search_seed": search_seed,
                "round_index": round_index,
                "level_index": level_index,
                "sparsity": removed / self.model.num_prunable,
            }
        )

    def _prune(self, method: str, count: int) -> PruneOutput:
        return PruneOutput(pruner=PRUNERS[method], num_removed=count)

    def _trained_mask(self, method: str, parent: str, count: int) -> TrainedMask:
        return TrainedMask(parent=parent, pruner=PRUNERS[method], num_removed=count)
