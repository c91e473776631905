"""The trials of one model and task: dense ones, rounds that make masks, finals and controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from search_spaces.models import ModelFacts
from search_spaces.recipe_specs import resolve_recipe
from search_spaces.recipes import Recipe
from search_spaces.schedules import removed_counts
from search_spaces.sweep import ITERATIVE_METHODS, SweepSpec
from search_spaces.task_facts import TaskFacts
from search_spaces.task_specs import TaskSpec
from search_spaces.trainer_version import code_version
from search_spaces.trial import (
    TRAINING_CODE_VERSION,
    GivenMask,
    MaskSource,
    OtherStart,
    Outputs,
    PruneMethod,
    PruneOutput,
    RandomInitMask,
    RandomLayerwiseMask,
    RandomMask,
    Role,
    SavedWeights,
    Theta0Mask,
    TrainedMask,
    TrialSpec,
)
from search_spaces.trial_set import TrialSet

PRUNERS: dict[str, PruneMethod] = {
    "imp": "global-magnitude",
    "layerwise-imp": "layerwise-magnitude",
    "one-shot": "global-magnitude",
}


def _control(
    name: str, num_removed: int, seed: int, ticket: Sequence[MaskSource]
) -> tuple[MaskSource, OtherStart | None]:
    """Return a control's mask and start; ``ticket`` holds the imp mask of its level, if any."""
    if name == "random-uniform":
        return RandomMask(num_removed=num_removed, seed=seed), None
    if name == "random-init-magnitude":
        return RandomInitMask(num_removed=num_removed, seed=seed), None
    (mask,) = ticket
    if name == "random-layerwise":
        assert isinstance(mask, TrainedMask | Theta0Mask), "validated: needs the imp method"
        return RandomLayerwiseMask(reference=mask, seed=seed), None
    return mask, OtherStart.model_validate({"kind": name, "seed": seed})


class Ticket(NamedTuple):
    """A mask, and the trained weights that it goes on from where nothing is rewound."""

    mask: MaskSource
    start: SavedWeights | None = None


class Lineages:
    """Adds the trials of one model and task."""

    def __init__(
        self,
        spec: SweepSpec,
        model_name: str,
        task: TaskSpec,
        model: ModelFacts,
        facts: TaskFacts,
        trials: TrialSet,
    ) -> None:
        own = model.under(spec.pooler, facts.identity.problem)
        self.spec, self.trials = spec, trials
        self.model_name, self.task_name = model_name, task.name
        self.model, self.prunable, self.task = own.identity, own.prunable, facts.identity
        # Transfers compare at equal K over the target's N (method rule 10).
        self.num_ranked = (model if spec.transfer else own).identity.num_prunable
        self.counts = removed_counts(spec.schedule, self.num_ranked)
        self.carries = spec.search_recipe_of(task).carries
        num, place, search = facts.num_train, f"task '{task.name}'", spec.search_recipe_of(task)
        self.final_recipe = resolve_recipe(spec.recipe_of(task), num, place=place)
        self.first_recipe, self.round_recipe = (
            resolve_recipe(search, num, inherits=later, place=place, field="search_recipe")
            for later in (False, True)
        )
        self.round_step = self.final_step = 0  # of late rewinding
        if spec.rewind.kind == "late":
            self.round_step = spec.rewind.step_of(self.first_recipe, num, place)
            self.final_step = spec.rewind.step_of(self.final_recipe, num, place)
        self.dense: dict[int, str] = {}  # key of each seed's dense trial
        self.tickets: dict[tuple[str, int], list[Ticket]] = {}  # by method and search seed
        self.finals: dict[tuple[str, int, int], str] = {}  # key by method, level and seed

    @property
    def finals_follow(self) -> bool:
        """Whether tickets are judged from where their rounds start, and not from theta_0."""
        return self.spec.rewind.finals == "same"

    @property
    def is_first_untrained(self) -> bool:
        """Whether iterative methods prune theta_0 first, as the released code does for MLM."""
        first = self.spec.first_prune
        is_lm = self.task.problem == "masked-lm"
        return first == "untrained" or (first == "untrained-masked-lm" and is_lm)

    def add(self) -> None:
        """Add the dense trials, every method's rounds and finals, and the controls."""
        is_late = self.spec.rewind.kind == "late" and self.finals_follow
        outputs = Outputs(weights=(self.final_step,) if is_late else ())
        for seed in self.spec.seeds:
            role = self._role("dense", "", seed)
            self.dense[seed] = self._add_trial(self.final_recipe, seed, None, role, outputs)
        searched = dict.fromkeys(self.spec.search_seed_of(seed) for seed in self.spec.seeds)
        self.tickets = {
            (method, seed): self._tickets(method, seed)
            for seed in searched
            for method in self.spec.methods
        }
        for seed in self.spec.seeds:
            search_seed = self.spec.search_seed_of(seed)
            for method in self.spec.methods:
                self._add_finals(method, seed, self.tickets[method, search_seed])
            for control in self.spec.controls:
                self._add_controls(control, seed, self.tickets.get(("imp", search_seed), []))

    def _tickets(self, method: str, search_seed: int) -> list[Ticket]:
        """Return a method's ticket of each level, after adding the trials that make them."""
        if method == "one-shot-theta0":
            return [Ticket(Theta0Mask(num_removed=count)) for count in self.counts]
        if method == "random":
            return [
                Ticket(RandomMask(num_removed=count, seed=search_seed)) for count in self.counts
            ]
        if method in ITERATIVE_METHODS:
            return self._iterative_tickets(method, search_seed)
        prunes = tuple(self._prune(method, count) for count in self.counts)
        role = self._role("round", method, search_seed, round_index=0)
        outputs = Outputs(prunes=prunes, weights=self._inherited_steps(is_last=True))
        parent = self._add_trial(self.first_recipe, search_seed, None, role, outputs)
        start = self._inherited(parent) if self.finals_follow else None
        return [Ticket(self._trained_mask(method, parent, count), start) for count in self.counts]

    def _iterative_tickets(self, method: str, search_seed: int) -> list[Ticket]:
        tickets: list[Ticket] = []
        parent = first = None
        for index, count in enumerate(self.counts):
            if index == 0 and self.is_first_untrained:
                tickets.append(Ticket(Theta0Mask(num_removed=count)))
                continue
            is_last = index + 1 == len(self.counts)
            level = index - 1 if index else None
            parent = self._add_trial(
                self.round_recipe if parent else self.first_recipe,
                search_seed,
                tickets[-1].mask if tickets else None,
                self._role("round", method, search_seed, round_index=index, level_index=level),
                Outputs(
                    prunes=(self._prune(method, count),),
                    carry=self.carries and not is_last,
                    weights=self._late_steps(first, is_last) or self._inherited_steps(is_last),
                ),
                carry_from=parent if self.carries else None,
                start=self._round_start(parent, first),
            )
            first = first or parent
            start = self._inherited(parent) if self.finals_follow else None
            tickets.append(Ticket(self._trained_mask(method, parent, count), start))
        return tickets

    def _round_start(self, parent: str | None, first: str | None) -> SavedWeights | None:
        """Return where a round starts: theta_0, its dense run's step, or its parent's end."""
        if first and self.round_step:
            return SavedWeights(kind="resumed", parent=first, step=self.round_step)
        return self._inherited(parent) if parent else None

    def _inherited(self, parent: str) -> SavedWeights | None:
        """Return a trial's last weights, where nothing is rewound."""
        if self.spec.rewind.kind != "none":
            return None
        return SavedWeights(kind="inherited", parent=parent, step=self.first_recipe.train_steps)

    def _late_steps(self, first: str | None, is_last: bool) -> tuple[int, ...]:
        """Return the step that the dense round keeps for the rounds after it."""
        return (self.round_step,) if self.round_step and not first and not is_last else ()

    def _inherited_steps(self, is_last: bool) -> tuple[int, ...]:
        """Return the step that a round keeps for what inherits from it."""
        if self.spec.rewind.kind != "none" or (is_last and not self.finals_follow):
            return ()
        return (self.first_recipe.train_steps,)

    def _add_finals(self, method: str, seed: int, tickets: list[Ticket]) -> None:
        outputs = Outputs(input_mask=method in ("one-shot-theta0", "random"))
        for level, ticket in enumerate(tickets):
            role = self._role("final", method, seed, level_index=level)
            start = ticket.start or self._late_start(seed)
            self.finals[method, level, seed] = self._add_trial(
                self.final_recipe, seed, ticket.mask, role, outputs, start=start
            )

    def add_transfer(
        self, source: str, mask: MaskSource, seed: int, level: int, after: tuple[str, ...] = ()
    ) -> str:
        """Add a final trial of this task under another one's mask; return its key.

        Args:
            source: Where the mask is from: the table's row.
            mask: The mask.
            seed: The replicate.
            level: Place in the sweep's levels.
            after: Keys of trials that decide whether it is worth while.
        """
        method = self.spec.transfer.method if self.spec.transfer else ""
        method = "given" if isinstance(mask, GivenMask) else method
        role = self._role("transfer", method, seed, level_index=level, source_task=source)
        outputs = Outputs(input_mask=isinstance(mask, Theta0Mask))
        return self._add_trial(self.final_recipe, seed, mask, role, outputs, after=after)

    def _add_controls(self, control: str, seed: int, tickets: list[Ticket]) -> None:
        mask_seed = self.spec.search_seed_of(seed)
        for level, count in enumerate(self.counts):
            ticket = [ticket.mask for ticket in tickets[level : level + 1]]
            mask, other = _control(control, count, mask_seed, ticket)
            role = self._role("control", control, seed, level_index=level)
            start = other or self._late_start(seed)
            self._add_trial(self.final_recipe, seed, mask, role, start=start)

    def _late_start(self, seed: int) -> SavedWeights | None:
        """Return the seed's own theta_k, from its dense trial."""
        if not self.final_step or not self.finals_follow:
            return None
        return SavedWeights(kind="resumed", parent=self.dense[seed], step=self.final_step)

    def _add_trial(
        self,
        recipe: Recipe,
        seed: int,
        mask: MaskSource | None,
        role: Role,
        outputs: Outputs | None = None,
        carry_from: str | None = None,
        start: OtherStart | SavedWeights | None = None,
        after: tuple[str, ...] = (),
    ) -> str:
        spec = TrialSpec(
            model=self.model,
            task=self.task,
            recipe=recipe,
            seed=seed,
            mask=mask,
            start=start,
            carry_from=carry_from,
            code_version=code_version(self.model, self.task, recipe, start, TRAINING_CODE_VERSION),
        )
        return self.trials.add(spec, role, outputs or Outputs(), after)

    def _role(
        self,
        kind: str,
        method: str,
        seed: int,
        *,
        round_index: int | None = None,
        level_index: int | None = None,
        source_task: str = "",
    ) -> Role:
        removed = 0 if level_index is None else self.counts[level_index]
        search_seed = seed if kind == "round" else self.spec.search_seed_of(seed)
        return Role.model_validate(
            {
                "kind": kind,
                "model": self.model_name,
                "task": self.task_name,
                "source_task": source_task,
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
