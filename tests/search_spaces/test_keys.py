"""Keys are pinned: a change here throws away every result that anybody has stored.

A new field must have a default, which leaves these literals alone. If a literal has to change,
raise TRAINING_CODE_VERSION and say so in the changelog.
"""

import copy
import hashlib
import json
import pickle
from typing import Literal

from pydantic import Field

from search_spaces.canonical import (
    _KEYS,
    Frozen,
    canonical_form,
    canonical_json,
    content_key,
    short,
)
from search_spaces.expand import expand
from search_spaces.prunable import prunable_set
from search_spaces.recipes import Recipe
from search_spaces.splits import HashSelect, ReportSelect
from search_spaces.trial import (
    GivenMask,
    RandomLayerwiseMask,
    RandomMask,
    Theta0Mask,
    TrainedMask,
    TrialSpec,
)
from tests.search_spaces.makers import MINIMAL, matrices, model_facts, sweep, task_facts

BASE = TrialSpec(
    model=model_facts().identity,
    task=task_facts().identity,
    recipe=Recipe(train_steps=10, lr_horizon_steps=10, batch_size=32, learning_rate=2e-5),
    seed=1,
    code_version=1,
)
TRAINED = TrainedMask(parent="a" * 64, num_removed=500)
LAYERWISE = TrainedMask(parent="a" * 64, pruner="layerwise-magnitude", num_removed=500)
MASKED = {
    "dense": None,
    "trained": TRAINED,
    "layerwise": LAYERWISE,
    "theta0": Theta0Mask(num_removed=500),
    "random": RandomMask(num_removed=500, seed=3),
    "random-layerwise": RandomLayerwiseMask(reference=TRAINED, seed=3),
    "given": GivenMask(mask_sha256="a" * 64, num_removed=500),
}
PINNED_KEYS = {
    "dense": "c2e9d014dc",
    "trained": "9b155d7055",
    "layerwise": "720bb0f811",
    "theta0": "57f20808a5",
    "random": "43cd1dfaf5",
    "random-layerwise": "22d285333f",
    "given": "a516e3d7ba",
}
PINNED_CARRY = "40b55e8aa1"
PINNED_SWEEP = "c877e54ce4"


def test_keys_of_handmade_trials_are_pinned() -> None:
    found = {
        name: short(BASE.model_copy(update={"mask": mask}).key) for name, mask in MASKED.items()
    }
    assert found == PINNED_KEYS


def test_key_of_a_carried_round_is_pinned() -> None:
    recipe = BASE.recipe.model_copy(update={"head": "carry", "rng": "continue"})
    spec = BASE.model_copy(update={"recipe": recipe, "carry_from": "a" * 64, "mask": TRAINED})
    assert short(spec.key) == PINNED_CARRY


def test_keys_of_an_expanded_sweep_are_pinned() -> None:
    """All trials of a sweep with every method and control, in order.

    38: 3 dense, a second round of imp and of layerwise-imp, and finals at 2 levels x 3 seeds
    of 6 methods and controls, less one-shot's first level, which is imp's.
    """
    spec = sweep(
        methods=["imp", "layerwise-imp", "one-shot", "one-shot-theta0"],
        controls=["random-uniform", "random-layerwise"],
        search_recipe={"head": "carry"},
        replicate="finetune",
    )
    trials = expand(spec, {"tiny": model_facts()}, {"rte": task_facts()})
    keys = "\n".join(trial.key for trial in trials)
    assert (len(trials), short(hashlib.sha256(keys.encode()).hexdigest())) == (38, PINNED_SWEEP)


def test_how_a_sweep_runs_changes_no_key() -> None:
    """Gangs, their limits and the sweep's place beside others are no part of what a trial is."""
    plain, other = (
        expand(sweep(resources=resources), {"tiny": model_facts()}, {"rte": task_facts()})
        for resources in (
            {},
            {
                "gangs": 3,
                "gpus_per_rank": 1,
                "max_gpus": 2,
                "priority": 5,
                "idle_release_s": 1,
            },
        )
    )
    own = sweep(tasks=[{**MINIMAL["tasks"][0], "resources": {"ranks": 4}}])
    larger = expand(own, {"tiny": model_facts()}, {"rte": task_facts()})
    assert [trial.key for trial in plain] == [trial.key for trial in other]
    assert plain == larger


def test_hashes_of_select_rules_and_prunable_sets_are_pinned() -> None:
    """They are part of every trial's identity."""
    assert canonical_json(HashSelect()) == '{"type":"HashSelect"}'
    assert canonical_json(ReportSelect(split="report_mismatched")) == (
        '{"split":"report_mismatched","type":"ReportSelect"}'
    )
    toy = prunable_set(matrices(1), 1, with_pooler=False)
    assert short(content_key(toy)) == short(toy.sha256) == "3bde419219"


def test_a_new_field_with_a_default_changes_no_key() -> None:
    class Thing(Frozen):
        size: int

    old = content_key(Thing(size=1))
    newer = type(
        "Thing",
        (Frozen,),
        {
            "__annotations__": {"size": int, "mode": Literal["a", "b"]},
            "mode": Field(default="a"),
        },
    )
    assert content_key(newer(size=1)) == old
    assert content_key(newer(size=1, mode="b")) != old


def test_a_changed_copy_has_its_own_key() -> None:
    """No key is remembered from before a change: a stale name would be another trial's."""
    before = BASE.key
    assert BASE.model_copy(update={"seed": BASE.seed + 1}).key != before


def test_a_key_is_forgotten_with_its_object() -> None:
    """A new object at a dead one's place in memory has its own key, and nothing piles up."""
    num_known, places = len(_KEYS), set()
    for seed in range(200):
        trial = BASE.model_copy(update={"seed": seed})
        assert trial.key == trial.key == content_key(trial)
        places.add(id(trial))
        del trial
    assert len(places) < 200  # places were taken again, so that a stale key would have shown
    assert len(_KEYS) == num_known


def test_a_pickled_trial_has_the_same_key() -> None:
    """In another process too: the key is of the content, and not of the place in memory."""
    assert pickle.loads(pickle.dumps(BASE)).key == BASE.key
    assert copy.deepcopy(BASE).key == BASE.key


def test_a_key_is_the_hash_of_the_whole_form() -> None:
    """However many parts are remembered: changed ones, shared ones and new ones at old places."""
    for steps in range(1, 600):
        recipe = BASE.recipe.model_copy(update={"train_steps": steps})
        for mask in (None, TrainedMask(parent="b" * 64, num_removed=steps)):
            spec = BASE.model_copy(update={"recipe": recipe, "mask": mask})
            form = json.dumps(canonical_form(spec), sort_keys=True, separators=(",", ":"))
            assert canonical_json(spec) == form
        del recipe, mask, spec
