"""Presets hold the protocols of the papers, and yield to what a sweep writes."""

import pytest

from search_spaces.recipe_specs import RecipeSpec, SearchRecipeSpec, merge_recipes, resolve_recipe
from search_spaces.recipes import learning_rate_factor
from search_spaces.schedules import removed_counts
from search_spaces.splits import ReportSelect
from search_spaces.sweep import SweepSpec
from tests.search_spaces.makers import MINIMAL

BARE = {name: MINIMAL[name] for name in ("name", "models", "tasks", "seeds")}


def test_chen2020_code_is_the_released_protocol() -> None:
    """Ten percent of the original a round, head and random streams run on, horizon 30 epochs."""
    spec = SweepSpec.model_validate({**BARE, "preset": "chen2020-code"})
    assert removed_counts(spec.schedule, 85_524_480)[6] == 59_867_136  # 70%
    assert spec.replicate == "finetune"
    assert (spec.verdict.rule, spec.splits.report) == ("subnetwork_std", "mismatched")
    assert spec.splits.select == ReportSelect()
    assert spec.models[0].prunable == "encoder+pooler"
    task = spec.tasks[0]
    assert task.max_length == 128
    search = spec.search_recipe_of(task)
    assert (search.head, search.rng) == ("carry", "continue")
    resolved = resolve_recipe(search, 2490, inherits=True)  # RTE: 78 steps an epoch
    assert (resolved.train_steps, resolved.lr_horizon_steps, resolved.warmup_steps) == (
        234,
        2340,
        0,
    )
    assert learning_rate_factor(234, resolved) == 0.9  # 2e-5 falls only to 1.8e-5
    final = resolve_recipe(spec.recipe_of(task), 2490)
    assert (final.train_steps, final.lr_horizon_steps) == (234, 234)
    assert (final.learning_rate, final.batch_size, final.weight_decay) == (2e-5, 32, 0.0)
    assert (final.adam_epsilon, final.max_grad_norm) == (1e-8, 1.0)


def test_chen2020_paper_differs_from_the_code_in_visible_settings_only() -> None:
    """A tenth of what remains, everything reset, the round's own horizon; the rest is the same."""
    paper, code = (
        SweepSpec.model_validate({**BARE, "preset": name})
        for name in ("chen2020-paper", "chen2020-code")
    )
    counts = removed_counts(paper.schedule, 85_524_480)
    assert [round(count / 85_524_480, 3) for count in counts[:4]] == [0.1, 0.19, 0.271, 0.344]
    assert counts[-2] / 85_524_480 < 0.9 < counts[-1] / 85_524_480
    search = paper.search_recipe_of(paper.tasks[0])
    assert not search.carries
    resolved = resolve_recipe(search, 2490)
    assert (resolved.train_steps, resolved.lr_horizon_steps) == (234, 234)
    ours, theirs = (spec.model_dump(exclude={"preset"}) for spec in (paper, code))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"schedule", "search_recipe", "first_prune"}


def test_lth2019_resets_everything() -> None:
    recipe = {"epochs": 1, "learning_rate": 1e-3}
    spec = SweepSpec.model_validate({**BARE, "preset": "lth2019", "recipe": recipe})
    assert removed_counts(spec.schedule, 1000)[:3] == (200, 360, 488)
    assert spec.replicate == "lineage"
    assert not spec.search_recipe_of(spec.tasks[0]).carries


def test_what_is_written_wins_over_the_preset() -> None:
    written = {
        "preset": "chen2020-code",
        "models": [{**MINIMAL["models"][0], "prunable": "encoder"}],
        "schedule": {"rounds": 3},
        "recipe": {"train_steps": 50},
        "search_recipe": {"head": "fresh"},
        "verdict": {"delta": 0.02},
    }
    spec = SweepSpec.model_validate({**BARE, **written})
    assert spec.models[0].prunable == "encoder"
    assert spec.schedule.model_dump()["rounds"] == 3
    assert spec.schedule.model_dump()["rounding"] == "torch"
    assert (spec.recipe.epochs, spec.recipe.train_steps) == (None, 50)
    assert spec.recipe.learning_rate == 2e-5
    search = spec.search_recipe_of(spec.tasks[0])
    assert (search.head, search.rng, search.lr_horizon_epochs) == ("fresh", "continue", 30)
    assert (spec.verdict.rule, spec.verdict.delta) == ("subnetwork_std", 0.02)


def test_another_kind_takes_nothing_over() -> None:
    """A levels schedule has no step; a hash rule no split."""
    written = {"schedule": {"kind": "levels", "levels": [0.5]}, "splits": {"select": "hash"}}
    spec = SweepSpec.model_validate({**BARE, "preset": "chen2020-code", **written})
    assert spec.schedule.kind == "levels"
    assert spec.splits.select.kind == "hash"
    assert spec.splits.report == "mismatched"


def test_the_preset_itself_stays_as_it_is() -> None:
    """Two sweeps from one preset do not see each other."""
    first = {**BARE, "preset": "chen2020-code", "recipe": {"learning_rate": 1}}
    SweepSpec.model_validate(first)
    spec = SweepSpec.model_validate({**BARE, "preset": "chen2020-code"})
    assert spec.recipe.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ({"epochs": 3}, (12, 12, 0)),  # 100 examples in batches of 32: 4 steps, the last of 4
        ({"epochs": 0.3}, (2, 2, 0)),
        ({"train_steps": 10, "warmup_fraction": 0.1}, (10, 10, 1)),
        ({"epochs": 1, "lr_horizon_epochs": 10, "warmup_fraction": 0.05}, (4, 40, 2)),
        ({"epochs": 1, "lr_horizon_steps": 7, "warmup_steps": 3}, (4, 7, 3)),
    ],
)
def test_lengths_resolve_to_steps(written: dict[str, float], steps: tuple[int, int, int]) -> None:
    spec = RecipeSpec.model_validate({"learning_rate": 1e-4, **written})
    recipe = resolve_recipe(spec, 100)
    assert (recipe.train_steps, recipe.lr_horizon_steps, recipe.warmup_steps) == steps


def test_only_rounds_with_a_parent_inherit() -> None:
    """Round 0 is the same trial under every protocol."""
    spec = SearchRecipeSpec(epochs=1, learning_rate=1e-4, head="carry", rng="continue")
    first, later = (resolve_recipe(spec, 100, inherits=later) for later in (False, True))
    assert (first.head, first.rng) == ("fresh", "restart")
    assert (later.head, later.rng) == ("carry", "continue")


def test_a_written_length_replaces_its_rival() -> None:
    base = {"epochs": 3, "warmup_steps": 5, "batch_size": 32}
    over = {"train_steps": 10, "warmup_fraction": 0.1}
    expected = {"batch_size": 32, "train_steps": 10, "warmup_fraction": 0.1}
    assert merge_recipes(base, over) == expected
    assert merge_recipes(base, "nonsense") == "nonsense"
