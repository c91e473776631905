"""A sweep expands into exactly the trials its protocol needs, each once (method rule 1-5, 11)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.errors import SpecError
from search_spaces.explain import explain_difference
from search_spaces.trial import (
    OtherStart,
    Outputs,
    PruneOutput,
    RandomInitMask,
    RandomLayerwiseMask,
    RandomMask,
    Theta0Mask,
    TrainedMask,
    Trial,
)
from tests.search_spaces.makers import MINIMAL, SHORTER, trials_of


def roles_of(trials: list[Trial]) -> Counter[str]:
    return Counter(role.kind for trial in trials for role in trial.roles)


def test_two_levels_and_three_seeds_of_imp() -> None:
    """3 dense + 3 x (round 0, round 1) + 3 x 2 finals, with a search recipe of its own."""
    trials = trials_of(search_recipe=SHORTER)
    assert len(trials) == 3 + 6 + 6
    assert roles_of(trials) == {"dense": 3, "round": 6, "final": 6}


def test_equal_recipes_train_rounds_and_finals_once() -> None:
    """Round 0 is the dense trial and round 1 the final at level 0: R + 1 trainings a seed."""
    trials = trials_of()
    assert len(trials) == 3 * 3
    assert roles_of(trials) == {"dense": 3, "round": 6, "final": 6}
    assert Counter(trial.kind for trial in trials) == {"dense": 3, "final": 6}
    dense = [trial for trial in trials if trial.kind == "dense"]
    assert all({role.kind for role in trial.roles} == {"dense", "round"} for trial in dense)


def test_the_last_level_is_never_pruned_again() -> None:
    """Rounds 0 and 1 leave the masks of levels 0 and 1; the final at level 1 leaves none."""
    trials = [trial for trial in trials_of() if trial.spec.seed == 1]
    prunes = {trial.spec.num_removed: trial.outputs.prunes for trial in trials}
    assert prunes == {
        0: (PruneOutput(pruner="global-magnitude", num_removed=500),),
        500: (PruneOutput(pruner="global-magnitude", num_removed=750),),
        750: (),
    }


def test_rounds_chain_through_their_masks() -> None:
    """Round 1's mask was pruned from round 0; the final at level 1 takes round 1's mask."""
    trials = {t.spec.num_removed: t for t in trials_of(search_recipe=SHORTER) if t.spec.seed == 2}
    by_role = {
        (role.kind, role.round_index, role.level_index): trial
        for trial in trials_of(search_recipe=SHORTER)
        for role in trial.roles
        if role.seed == 2
    }
    first, second = by_role["round", 0, None], by_role["round", 1, 0]
    assert first.spec.mask is None
    assert second.spec.mask == TrainedMask(parent=first.key, num_removed=500)
    assert by_role["final", None, 0].spec.mask == second.spec.mask
    mask = TrainedMask(parent=second.key, num_removed=750)
    assert by_role["final", None, 1].spec.mask == mask
    assert trials[750].key == by_role["final", None, 1].key


def test_one_dense_trial_a_seed_serves_all_methods_and_controls() -> None:
    methods = ["imp", "layerwise-imp", "one-shot", "one-shot-theta0"]
    controls = ["random-uniform", "random-layerwise"]
    trials = trials_of(methods=methods, controls=controls)
    dense = [trial for trial in trials if trial.spec.mask is None]
    assert len(dense) == 3
    # imp, layerwise-imp: 2 levels; one-shot: level 0 is imp's own; theta0: 2; controls: 2 + 2
    assert len(trials) == 3 + 3 * (2 + 2 + 1 + 2 + 2 + 2)
    wanted = {
        "mask-global-magnitude-500.arrow",
        "mask-global-magnitude-750.arrow",
        "mask-layerwise-magnitude-500.arrow",
    }
    assert all(set(trial.outputs.artifacts) == wanted for trial in dense)


def test_the_first_prune_of_imp_and_one_shot_is_one_mask() -> None:
    """At the first level the two methods are the same trial, with two roles."""
    trials = trials_of(methods=["imp", "one-shot"])
    both = [
        t for t in trials if {r.method for r in t.roles if r.kind == "final"} == {"imp", "one-shot"}
    ]
    assert len(both) == 3
    assert {trial.spec.num_removed for trial in both} == {500}


def test_one_shot_masks_come_straight_from_the_dense_weights() -> None:
    trials = trials_of(methods=["one-shot"])
    assert len(trials) == 3 + 6
    dense = {trial.spec.seed: trial.key for trial in trials if trial.spec.mask is None}
    for trial in trials:
        if trial.spec.mask is not None:
            assert trial.spec.parents == (dense[trial.spec.seed],)


def test_theta0_masks_need_no_training_and_are_kept() -> None:
    """No round is made for them, and the final leaves the mask it computed."""
    trials = trials_of(methods=["one-shot-theta0"], search_recipe=SHORTER)
    assert roles_of(trials) == {"dense": 3, "final": 6}
    finals = [trial for trial in trials if trial.kind == "final"]
    assert all(isinstance(trial.spec.mask, Theta0Mask) for trial in finals)
    assert all(trial.outputs == Outputs(input_mask=True) for trial in finals)
    assert all(trial.spec.parents == () for trial in finals)


def test_finetune_searches_once_and_evaluates_every_seed() -> None:
    """One lineage of seed 1; all finals of a level share its mask."""
    trials = trials_of(replicate="finetune", search_recipe=SHORTER)
    assert roles_of(trials) == {"dense": 3, "round": 2, "final": 6}
    rounds = [trial for trial in trials if trial.kind == "round"]
    assert {trial.spec.seed for trial in rounds} == {1}
    for level in (0, 1):
        finals = [
            t for t in trials if any(r.level_index == level and r.kind == "final" for r in t.roles)
        ]
        assert len({trial.spec.mask for trial in finals}) == 1
        assert {trial.spec.seed for trial in finals} == {1, 2, 3}
        assert {role.search_seed for trial in finals for role in trial.roles} == {1}


def test_a_search_seed_of_its_own_needs_its_own_rounds() -> None:
    """Round 0 of search seed 9 is no dense trial of the sweep: it is not judged."""
    trials = trials_of(replicate="finetune", search_seed=9)
    assert len(trials) == 3 + 2 + 6
    assert {t.spec.seed for t in trials if t.kind == "round"} == {9}


def test_random_controls_follow_the_mask_s_seed() -> None:
    """lineage: a random mask for each seed; finetune: one random mask, as there is one ticket."""
    for replicate, seeds in (("lineage", {1, 2, 3}), ("finetune", {1})):
        trials = trials_of(replicate=replicate, controls=["random-uniform", "random-layerwise"])
        controls = [trial for trial in trials if trial.kind == "control"]
        assert len(controls) == 12
        masks = [trial.spec.mask for trial in controls]
        assert all(isinstance(mask, RandomMask | RandomLayerwiseMask) for mask in masks)
        assert {getattr(mask, "seed") for mask in masks} == seeds  # noqa: B009


def test_random_layerwise_points_at_the_ticket_of_its_level_and_seed() -> None:
    trials = trials_of(controls=["random-layerwise"])
    tickets = {
        (role.seed, role.level_index): trial.spec.mask
        for trial in trials
        for role in trial.roles
        if role.kind == "final"
    }
    for trial in trials:
        if isinstance(trial.spec.mask, RandomLayerwiseMask):
            role = trial.main_role
            assert trial.spec.mask.reference == tickets[role.seed, role.level_index]
            assert trial.spec.num_removed == (500, 750)[role.level_index or 0]


@pytest.mark.parametrize("kind", ["reinit-all", "reinit-prunable", "layer-shuffle"])
def test_controls_with_another_start_keep_the_mask_of_their_ticket(kind: str) -> None:
    """Same mask, recipe and seed as the ticket of their level; only the start differs.

    And of shuffled layers the trainer's version, which a correction raised.
    """
    trials = trials_of(controls=[kind])
    tickets = {
        (role.seed, role.level_index): trial.spec
        for trial in trials
        for role in trial.roles
        if role.kind == "final"
    }
    controls = [trial for trial in trials if trial.kind == "control"]
    assert len(controls) == len(tickets) == 6
    for trial in controls:
        role = trial.main_role
        start = OtherStart.model_validate({"kind": kind, "seed": role.seed})
        ticket = tickets[role.seed, role.level_index]
        version = 3 if kind == "layer-shuffle" else ticket.code_version
        changes = {"start": start, "code_version": version}
        assert trial.spec == ticket.model_copy(update=changes)
        assert trial.key != ticket.key


def test_the_mask_of_a_fresh_initialisation_needs_no_ticket() -> None:
    trials = trials_of(methods=["one-shot-theta0"], controls=["random-init-magnitude"])
    masks = [trial.spec.mask for trial in trials if trial.kind == "control"]
    assert masks == [
        RandomInitMask(num_removed=count, seed=seed) for seed in (1, 2, 3) for count in (500, 750)
    ]


def test_carried_state_is_a_parent_of_every_later_round_and_of_no_final() -> None:
    """Head or random streams go on from round to round; finals draw a fresh head."""
    levels = {"kind": "levels", "levels": [0.25, 0.5, 0.75]}
    for carried in ({"head": "carry"}, {"rng": "continue"}):
        trials = trials_of(search_recipe=carried, schedule=levels)
        assert len(trials) == 3 * (1 + 2 + 3)  # round 0 is dense; no other round is a final
        rounds = {(r.seed, r.round_index): t for t in trials for r in t.roles if r.kind == "round"}
        for seed in (1, 2, 3):
            chain = [rounds[seed, index] for index in range(3)]
            assert [t.spec.carry_from for t in chain] == [None, chain[0].key, chain[1].key]
            assert [t.outputs.carry for t in chain] == [True, True, False]
        assert all(t.spec.carry_from is None for t in trials if t.kind == "final")


def test_sparsity_of_a_role_is_exact() -> None:
    """K / N of the actual count: 0.333 of 1000 weights is 333."""
    trials = trials_of(schedule={"kind": "geometric", "rate": 0.333, "rounds": 1})
    assert {role.sparsity for t in trials for role in t.roles} == {0.0, 0.333}


def test_every_model_meets_every_task() -> None:
    model = MINIMAL["models"][0]
    tasks = [{"name": n, "source": {"kind": "glue-hub", "task": n}} for n in ("rte", "wnli")]
    trials = trials_of(models=[model, {**model, "name": "other"}], tasks=tasks)
    assert len(trials) == 4 * 9
    pairs = {(role.model, role.task) for trial in trials for role in trial.roles}
    assert pairs == {(m, t) for m in ("tiny", "other") for t in ("rte", "wnli")}


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match=r"levels\[0\]: is 0.9999, but removes all of 1000"):
        trials_of(schedule={"kind": "levels", "levels": [0.9999]})


METHODS = st.lists(
    st.sampled_from(["imp", "layerwise-imp", "one-shot", "one-shot-theta0"]),
    min_size=1,
    unique=True,
)


@given(METHODS, st.sampled_from(["lineage", "finetune"]), st.booleans(), st.booleans())
def test_laws_of_every_expansion(
    methods: list[str], replicate: str, same_recipe: bool, controlled: bool
) -> None:
    """Keys differ, parents come first and leave what their children need, dense is shared."""
    controls = ["random-uniform"] + (["random-layerwise"] if "imp" in methods else [])
    trials = trials_of(
        methods=methods,
        replicate=replicate,
        search_recipe=None if same_recipe else SHORTER,
        controls=controls if controlled else [],
    )
    seen: dict[str, Trial] = {}
    for trial in trials:
        assert trial.key not in seen
        mask = trial.spec.mask_parent
        if mask is not None:
            wanted = PruneOutput(pruner=mask.pruner, num_removed=mask.num_removed)
            assert wanted in seen[mask.parent].outputs.prunes
        seen[trial.key] = trial
    assert sum(trial.kind == "dense" for trial in trials) == 3
    finals = Counter((r.method, r.seed) for t in trials for r in t.roles if r.kind == "final")
    assert finals == {(method, seed): 2 for method in methods for seed in (1, 2, 3)}


def test_explain_difference_names_the_fields() -> None:
    """A round and a final of one level differ in their recipes only."""
    trials = trials_of(search_recipe=SHORTER)
    by_kind = {t.kind: t.spec for t in trials if t.spec.seed == 1 and t.spec.num_removed == 500}
    assert explain_difference(by_kind["round"], by_kind["final"]) == [
        ("recipe.train_steps", 4, 8),
        ("recipe.lr_horizon_steps", 4, 8),
    ]
    assert explain_difference(by_kind["final"], by_kind["final"]) == []


def test_explain_difference_shows_what_one_lacks() -> None:
    trials = trials_of()
    dense, masked = trials[0].spec, next(t.spec for t in trials if t.spec.mask)
    fields = {field: (a, b) for field, a, b in explain_difference(dense, masked)}
    assert fields["mask"] == (None, "-")
    assert fields["mask.num_removed"] == ("-", 500)
