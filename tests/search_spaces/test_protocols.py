"""Protocols differ in visible settings only, and expand into what they say (rules 5 and 6)."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.errors import SpecError
from search_spaces.presets import PRESETS
from search_spaces.recipe_specs import resolve_recipe
from search_spaces.sweep import SweepSpec
from search_spaces.trial import OtherStart, RandomMask, SavedWeights, Theta0Mask, Trial
from tests.search_spaces.makers import MINIMAL, SHORTER, sweep, trials_of

LATE = {"step": 3}
RTE = MINIMAL["tasks"][0]
WORDS = {"name": "words", "source": {"kind": "builtin-words"}}
RECIPE = {"epochs": 2, "learning_rate": 1e-4}
BARE = {name: MINIMAL[name] for name in ("name", "models", "tasks", "seeds")}


def of_kind(trials: list[Trial], kind: str, seed: int = 1) -> list[Trial]:
    """Return a seed's trials in one role, by level."""
    found = [
        (role.level_index if role.level_index is not None else -1, trial)
        for trial in trials
        for role in trial.roles
        if role.kind == kind and role.seed == seed
    ]
    return [trial for _, trial in sorted(found, key=lambda pair: pair[0])]


def test_without_rewinding_each_training_inherits_the_one_before() -> None:
    """Standard pruning: a round starts from its parent's last weights, and so does its final."""
    trials = trials_of(rewind="none")
    (dense,) = of_kind(trials, "dense")
    finals = of_kind(trials, "final")
    assert dense.spec.start is None
    for parent, final in zip([dense, finals[0]], finals, strict=True):
        last = parent.spec.recipe.train_steps
        assert final.spec.start == SavedWeights(kind="inherited", parent=parent.key, step=last)
        assert last in parent.outputs.weights
        assert parent.key in final.spec.parents
        assert final.spec.num_steps == last
    assert finals[-1].outputs.weights == ()  # nothing goes on from it
    assert len(trials) == 3 * 3  # rounds are finals here too


def test_late_rewinding_goes_back_to_a_step_of_the_seeds_dense_run() -> None:
    """Every ticket and every control of a mask starts from the theta_k of its own seed."""
    controls = ["random-uniform", "reinit-all"]
    trials = trials_of(rewind=LATE, controls=controls)
    for seed in (1, 2, 3):
        (dense,) = of_kind(trials, "dense", seed)
        assert dense.outputs.weights == (3,)
        start = SavedWeights(kind="resumed", parent=dense.key, step=3)
        for final in of_kind(trials, "final", seed):
            assert final.spec.start == start
            assert final.spec.num_steps == final.spec.recipe.train_steps - 3
        for control in of_kind(trials, "control", seed):
            is_random = control.main_role.method == "random-uniform"
            expected = start if is_random else OtherStart(kind="reinit-all", seed=seed)
            assert control.spec.start == expected
    assert len(trials) == 3 * (1 + 2 + 4)


def test_late_rounds_rewind_to_their_own_recipes_dense_run() -> None:
    """With a search recipe of their own, rounds share round 0's theta_k, finals the dense one's."""
    trials = trials_of(rewind=LATE, search_recipe=SHORTER, seeds=[1, 2, 3])
    rounds = of_kind(trials, "round")
    assert rounds[0].outputs.weights == (3,)
    assert rounds[1].spec.saved_start == SavedWeights(kind="resumed", parent=rounds[0].key, step=3)
    (dense,) = of_kind(trials, "dense")
    assert dense.key != rounds[0].key
    assert all(t.spec.start and t.spec.parents[-1] == dense.key for t in of_kind(trials, "final"))


def test_an_epoch_fraction_resolves_for_each_recipe() -> None:
    """2,490 examples in batches of 32 are 78 steps an epoch, a tenth of them 8."""
    spec = sweep(rewind={"epochs": 0.1})
    recipe = resolve_recipe(spec.recipe, 2490)
    assert spec.rewind.step_of(recipe, 2490, "task 'rte'") == 8


def test_rewinding_beyond_the_training_is_refused() -> None:
    with pytest.raises(SpecError, match=r"task 'rte'.*resolves to step 9999.*earlier step"):
        trials_of(rewind={"step": 9999})


def test_the_first_prune_may_rank_theta0_untrained() -> None:
    """No dense round: the first mask is theta_0's, and the first training runs under it."""
    trials = trials_of(first_prune="untrained", search_recipe=SHORTER)
    rounds = of_kind(trials, "round")
    assert [type(trial.spec.mask) for trial in rounds] == [Theta0Mask]
    assert rounds[0].spec.start is None and rounds[0].main_role.round_index == 1
    first, second = of_kind(trials, "final")
    assert isinstance(first.spec.mask, Theta0Mask)
    assert second.spec.mask_parent and second.spec.mask_parent.parent == rounds[0].key


def test_the_mlm_rule_leaves_other_tasks_alone() -> None:
    assert [t.key for t in trials_of(first_prune="untrained-masked-lm")] == [
        t.key for t in trials_of()
    ]


def test_the_aliased_protocol_goes_on_in_rounds_and_judges_at_theta0() -> None:
    """LT_pretrain.py's rewind restores trained weights; the mask is judged from theta_0."""
    trials = trials_of(
        rewind={"kind": "none", "finals": "theta0"}, search_recipe={**SHORTER, "head": "carry"}
    )
    rounds = of_kind(trials, "round")
    last = rounds[0].spec.recipe.train_steps
    inherited = SavedWeights(kind="inherited", parent=rounds[0].key, step=last)
    assert rounds[1].spec.start == inherited
    assert rounds[1].outputs.weights == ()
    assert all(trial.spec.start is None for trial in of_kind(trials, "final"))


def test_random_is_a_method_whose_trials_are_the_controls() -> None:
    """The protocol and the control random-uniform are the same trials."""
    trials = trials_of(methods=["imp", "random"], controls=["random-uniform"])
    finals = [t for t in of_kind(trials, "final") if isinstance(t.spec.mask, RandomMask)]
    assert len(finals) == 2
    for final in finals:
        assert {role.kind for role in final.roles} == {"final", "control"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_sweep_that_expands(name: str) -> None:
    """With a recipe where the preset brings none."""
    own = {} if "recipe" in PRESETS[name] else {"recipe": RECIPE}
    spec = SweepSpec.model_validate({**BARE, "preset": name, **own})
    small = {"kind": "levels", "levels": [0.5, 0.75]}
    changes: dict[str, Any] = {**spec.model_dump(exclude={"schedule"}), "schedule": small}
    assert of_kind(trials_of(**changes), "final")


def test_problems_have_recipes_of_their_own_below_what_a_sweep_writes() -> None:
    """A preset's recipe of one problem yields to the sweep's own fields and to the task's."""
    from search_spaces.presets import with_preset

    text = {"name": "lm", "source": {"kind": "text", "train": "a", "report": "b"}}
    rte = dict(MINIMAL["tasks"][0])
    data = {"tasks": [rte, text], "preset": "chen2020-code"}
    plain = with_preset(data, "chen2020-code")["tasks"]
    assert plain[0]["max_length"] == 128 and "recipe" not in plain[0]
    assert plain[1]["max_length"] == 512
    assert plain[1]["search_recipe"]["lr_horizon_steps"] == 90_000
    own = {**text, "recipe": {"batch_size": 4}}
    written = {**data, "tasks": [own], "recipe": {"learning_rate": 1e-3, "epochs": 1}}
    (task,) = with_preset(written, "chen2020-code")["tasks"]
    assert task["recipe"] == {"batch_size": 4, "learning_rate": 1e-3, "epochs": 1}
    assert task["search_recipe"]["learning_rate"] == 1e-3
    assert "train_steps" not in task["search_recipe"]


def test_a_written_rewind_replaces_the_presets() -> None:
    """A step does not meet the preset's epochs."""
    own = {"preset": "late-rewind", "recipe": RECIPE, "rewind": {"step": 4}}
    assert SweepSpec.model_validate({**BARE, **own}).rewind.step == 4
    own["rewind"] = "theta0"
    assert SweepSpec.model_validate({**BARE, **own}).rewind.kind == "theta0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewind": {"kind": "late"}}, "is late and has neither step and epochs"),
        ({"rewind": {"step": 1, "epochs": 0.5}}, "is late and has both step and epochs"),
        ({"rewind": {"kind": "none", "step": 4}}, "is none, which takes no step"),
        ({"rewind": "theta1"}, "theta0"),
        ({"rewind": LATE, "first_prune": "untrained"}, "no dense round trains up to the step"),
        (
            {"rewind": LATE, "first_prune": "untrained-masked-lm", "tasks": [RTE, WORDS]},
            "is untrained-masked-lm, so no dense round of task 'words' trains up to the step",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sweep(**changes)
