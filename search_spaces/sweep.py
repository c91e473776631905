"""A sweep as a user writes it: which tickets are searched, how, and where they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from search_spaces.canonical import Frozen
from search_spaces.errors import did_you_mean
from search_spaces.models import ModelSpecYaml
from search_spaces.presets import PRESETS, with_preset
from search_spaces.protocol_specs import FirstPrune, RewindSpec
from search_spaces.prunable import PoolerPolicy
from search_spaces.recipe_specs import RecipeSpec, SearchRecipeSpec, merge_recipes
from search_spaces.resuming import CheckpointsSpec
from search_spaces.run_specs import (
    Place,
    ResourcesSpec,
    RetriesSpec,
    StorePlace,
    TrackingSpec,
    VerdictSpec,
    check_batch,
    task_problems,
)
from search_spaces.schedules import Schedule
from search_spaces.splits import AnySelectRule, ReportSelect
from search_spaces.task_specs import NAME_PATTERN, SplitsSpec, TaskSpec, check_select, with_recipes
from search_spaces.tasks import (
    metric_range,
    primary_metric,
    problem_of,
    report_splits,
)
from search_spaces.transfer_specs import TransferSpec, check_transfer

TicketControl = Literal["random-layerwise", "reinit-all", "reinit-prunable", "layer-shuffle"]
Method = Literal["imp", "layerwise-imp", "one-shot", "one-shot-theta0", "random"]
Control = Literal["random-uniform", "random-init-magnitude", TicketControl]
OF_A_TICKET = get_args(TicketControl)
ITERATIVE_METHODS = ("imp", "layerwise-imp")
SEED_LIMIT = 2**63  # tables hold seeds as signed 64-bit numbers


class SweepSpec(Frozen):
    """All that one sweep.yaml describes."""

    name: str = Field(pattern=NAME_PATTERN, max_length=100, description="Names its files too.")
    preset: str | None = Field(default=None, description="Named protocol to start from.")
    models: tuple[ModelSpecYaml, ...] = Field(min_length=1)
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1, description="Replicates; dense has the same.")
    replicate: Literal["lineage", "finetune"] = Field(
        default="lineage", description="A mask for each seed, or one mask for all (method rule 2)."
    )
    search_seed: int | None = Field(
        default=None, ge=0, description="finetune only; default: the first seed."
    )
    schedule: Schedule
    recipe: RecipeSpec = Field(description="The final recipe, by which tickets are judged.")
    search_recipe: SearchRecipeSpec | None = Field(
        default=None, description="Fields of the rounds' recipe that differ from recipe."
    )
    rewind: RewindSpec = Field(default=RewindSpec(), description="theta0, none, or late.")
    first_prune: FirstPrune = Field(
        default="trained",
        description="untrained: the first prune of iterative methods ranks theta_0; "
        "untrained-masked-lm: for masked language modelling only.",
    )
    methods: tuple[Method, ...] = Field(default=("imp",), min_length=1, validate_default=True)
    controls: tuple[Control, ...] = Field(default=(), validate_default=True)
    pooler: PoolerPolicy = Field(default="theta0-magnitude", description="See method rule 10.")
    transfer: TransferSpec | None = Field(default=None, description="Masks on other tasks.")
    splits: SplitsSpec = SplitsSpec()
    verdict: VerdictSpec = Field(default=VerdictSpec(), validate_default=True)
    policy: Literal["ladder", "stop-at-failure"] = Field(
        default="ladder", description="stop-at-failure: no level beyond two that failed in a row."
    )
    resources: ResourcesSpec = Field(default=ResourcesSpec(), validate_default=True)
    retries: RetriesSpec = RetriesSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    store: StorePlace = Field(default="runs", min_length=1, description="Folder or URI of results.")
    tracking: TrackingSpec = TrackingSpec()
    cache: Place | None = Field(default=None, description="Node-local folder; default: the user's.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Put the preset under what was written, and whole recipes under partial ones."""
        if not isinstance(data, Mapping):
            return data
        preset = data.get("preset")
        filled = dict(data)
        if isinstance(preset, str) and preset in PRESETS:
            filled = with_preset(data, preset)
        recipe, search = filled.get("recipe"), filled.get("search_recipe")
        if search is not None:
            filled["search_recipe"] = search = merge_recipes(recipe, search)
        if isinstance(filled.get("tasks"), list | tuple):
            filled["tasks"] = [with_recipes(task, recipe, search) for task in filled["tasks"]]
        return filled

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESETS:
            near = did_you_mean(value, PRESETS)
            raise ValueError(f"is '{value}', but must be one of {', '.join(PRESETS)}. {near}")
        return value

    @field_validator("models", "tasks")
    @classmethod
    def _distinct_names(cls, items: Any) -> Any:
        _check_distinct([item.name for item in items], "name")
        return items

    @field_validator("seeds", "search_seed", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        given = value if isinstance(value, list | tuple) else [value]
        wrong = [item for item in given if isinstance(item, bool)]
        if wrong:  # pydantic takes true for 1
            raise ValueError(
                f"has {str(wrong[0]).lower()}, but a seed must be a whole number >= 0: write 1 or 0"
            )
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        _check_distinct(seeds, "seed")
        if min(seeds) < 0:
            raise ValueError(f"has the seed {min(seeds)}, but seeds must be >= 0")
        if max(seeds) >= SEED_LIMIT:
            raise ValueError(f"has the seed {max(seeds)}, but seeds must be < {SEED_LIMIT} (2^63)")
        return seeds

    @field_validator("search_seed")
    @classmethod
    def _search_seed_applies(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value >= SEED_LIMIT:
            raise ValueError(f"is {value}, but must be < {SEED_LIMIT} (2^63)")
        if value is not None and info.data.get("replicate") == "lineage":
            raise ValueError(
                "is set, but under 'replicate: lineage' every seed searches its own mask: "
                "remove it, or write 'replicate: finetune'"
            )
        return value

    @field_validator("first_prune")
    @classmethod
    def _late_needs_a_dense_round(cls, value: str, info: ValidationInfo) -> str:
        rewind = info.data.get("rewind")
        if value == "trained" or rewind is None or rewind.kind != "late":
            return value
        whose, tasks = "", info.data.get("tasks", ())
        if value == "untrained-masked-lm":
            names = [task.name for task in tasks if problem_of(task.source) == "masked-lm"]
            if not names:
                return value
            whose = f" of task '{names[0]}'"
        raise ValueError(
            f"is {value}, so no dense round{whose} trains up to the step that rewind names: "
            "write first_prune: trained, or rewind: theta0"
        )

    @field_validator("methods")
    @classmethod
    def _methods(cls, methods: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        _check_distinct(methods, "method")
        search = info.data.get("search_recipe")
        if search is not None and search.carries and not set(methods) & set(ITERATIVE_METHODS):
            raise ValueError(
                f"are {list(methods)}, but search_recipe carries head or rng from round to round "
                f"and only {' and '.join(ITERATIVE_METHODS)} have rounds"
            )
        return methods

    @field_validator("controls")
    @classmethod
    def _controls(cls, controls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        _check_distinct(controls, "control")
        followers = " and ".join(name for name in controls if name in OF_A_TICKET)
        if followers and "imp" not in info.data.get("methods", ("imp",)):
            raise ValueError(f"has {followers}, made from the imp mask: add imp to methods")
        return controls

    @field_validator("transfer")
    @classmethod
    def _transfer_fits(
        cls, transfer: TransferSpec | None, info: ValidationInfo
    ) -> TransferSpec | None:
        found = info.data
        if transfer is not None and {"tasks", "methods", "rewind"} <= found.keys():
            rewind, names = found["rewind"], [task.name for task in found["tasks"]]
            is_rewound = "theta0" in (rewind.kind, rewind.finals)
            check_transfer(transfer, names, found["methods"], is_rewound)
        return transfer

    @field_validator("splits")
    @classmethod
    def _tasks_have_select_split(cls, splits: SplitsSpec, info: ValidationInfo) -> SplitsSpec:
        for task in info.data.get("tasks", ()):
            if task.select is None:
                check_select(splits.select, task.source, task.name)
        return splits

    @field_validator("verdict")
    @classmethod
    def _enough_seeds(cls, verdict: VerdictSpec, info: ValidationInfo) -> VerdictSpec:
        seeds = info.data.get("seeds")
        needed = 3 if verdict.rule == "noninferior" else 2
        if seeds is not None and len(seeds) < needed:
            raise ValueError(
                f"rule {verdict.rule} needs at least {needed} seeds, but seeds has {len(seeds)}"
            )
        return verdict

    @field_validator("resources")
    @classmethod
    def _batches_divide(cls, resources: ResourcesSpec, info: ValidationInfo) -> ResourcesSpec:
        sweeps = [info.data.get("recipe"), info.data.get("search_recipe")]
        tasks = info.data.get("tasks", ())
        shared = [task for task in tasks if task.resources is None]
        recipes = [*sweeps] if shared or not tasks else []
        recipes += [one for task in shared for one in (task.recipe, task.search_recipe)]
        for size in _batch_sizes(recipes):
            check_batch(size, resources)
        problems = []
        for task in tasks:
            if task.resources is not None:
                own = [task.recipe or sweeps[0], task.search_recipe or sweeps[1]]
                gangs = resources.of_task(task.resources)
                problems += task_problems(task.name, _batch_sizes(own), gangs)
        if problems:
            raise ValueError("; ".join(problems))
        return resources

    @field_validator("retries")
    @classmethod
    def _strict_sizes_are_written(cls, retries: RetriesSpec, info: ValidationInfo) -> RetriesSpec:
        resources, tasks = info.data.get("resources"), info.data.get("tasks", ())
        given = [resources.of_task(task.resources) for task in tasks] if resources else []
        if retries.strict_numerics and any(one.ranks == "auto" for one in given):
            raise ValueError(
                "strict_numerics is true, but ranks is auto in resources, which may be another "
                "number on another cluster: write the number of ranks"
            )
        return retries

    def resources_of(self, task: TaskSpec) -> ResourcesSpec:
        """Return what a task's gangs are made of."""
        return self.resources.of_task(task.resources)

    def recipe_of(self, task: TaskSpec) -> RecipeSpec:
        """Return the final recipe of a task."""
        return task.recipe or self.recipe

    def search_recipe_of(self, task: TaskSpec) -> SearchRecipeSpec:
        """Return the recipe of a task's rounds: by default the final one, everything reset."""
        written = task.search_recipe or self.search_recipe
        return written or SearchRecipeSpec(**self.recipe_of(task).model_dump())

    def search_seed_of(self, seed: int) -> int:
        """Return the seed of the lineage whose mask a replicate is judged under."""
        if self.replicate == "lineage":
            return seed
        return self.seeds[0] if self.search_seed is None else self.search_seed

    def delta_of(self, task: TaskSpec) -> float:
        """Return the margin of ``noninferior`` for a task, in units of its primary metric."""
        fraction = self.verdict.delta if task.delta is None else task.delta
        return fraction * metric_range(primary_metric(task.source))

    def report_split_of(self, task: TaskSpec) -> str:
        """Return the name of the split that is reported: MNLI has two."""
        names = report_splits(task.source)
        return names[-1] if self.splits.report == "mismatched" else names[0]

    def select_rule_of(self, task: TaskSpec) -> AnySelectRule:
        """Return how a task's select split is held out."""
        rule = task.select or self.splits.select
        if isinstance(rule, ReportSelect) and self.report_split_of(task) == "report_mismatched":
            return ReportSelect(split="report_mismatched")
        return rule

    def same_split(self, task: TaskSpec) -> bool:
        """Whether masks are chosen and reported on the same split, which verdicts must say."""
        rule = self.select_rule_of(task)
        return isinstance(rule, ReportSelect) and rule.split == self.report_split_of(task)


def _batch_sizes(recipes: Sequence[RecipeSpec | None]) -> list[int]:
    return sorted({recipe.batch_size for recipe in recipes if recipe is not None})


def _check_distinct(values: Sequence[Any], what: str) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"has the {what} {twice[0]!r} more than once, but each must differ")
