"""A correction raises the version of the trials whose results it changes, and of no others."""

from typing import Any

import pytest

from search_spaces.expand import expand
from search_spaces.recipes import Recipe
from search_spaces.trainer_version import code_version
from search_spaces.trial import TRAINING_CODE_VERSION, OtherStart, SavedWeights
from tests.search_spaces.makers import model_facts, sweep, task_facts, trials_of

RECIPE = Recipe(train_steps=10, lr_horizon_steps=10, batch_size=32, learning_rate=2e-5)
SHUFFLED = OtherStart(kind="layer-shuffle", seed=1)
OTHER_STARTS = [
    None,
    OtherStart(kind="reinit-all", seed=1),
    OtherStart(kind="reinit-prunable", seed=1),
    SavedWeights(kind="resumed", parent="a" * 64, step=3),
]


def version(
    problem: str = "classification",
    family: str = "bert",
    weight_decay: float = 0.01,
    start: Any = None,
    **base: int,
) -> int:
    model = model_facts().identity.model_copy(update={"family": family})
    task = task_facts().identity.model_copy(update={"problem": problem})
    recipe = RECIPE.model_copy(update={"weight_decay": weight_decay})
    return code_version(model, task, recipe, start, **base)


@pytest.mark.parametrize("start", [*OTHER_STARTS, SHUFFLED])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize("problem", ["classification", "regression", "masked-lm", "span"])
def test_three_kinds_of_trials_are_of_version_three(
    problem: str, family: str, weight_decay: float, start: Any
) -> None:
    """Answers, shuffled layers, and a decayed scale of a head that is called as RoBERTa's."""
    of_roberta = family in ("roberta", "xlm-roberta", "camembert")
    is_decayed = problem == "masked-lm" and of_roberta and weight_decay > 0
    is_corrected = problem == "span" or start == SHUFFLED or is_decayed
    found = version(problem, family, weight_decay, start)
    assert found == (3 if is_corrected else TRAINING_CODE_VERSION)


def test_a_version_never_falls_behind_the_trainers() -> None:
    assert [version("span", base=base) for base in (1, 2, 3, 4)] == [3, 3, 3, 4]
    assert [version(base=base) for base in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_only_the_corrected_trials_of_a_sweep_have_other_keys() -> None:
    """Their neighbours in the sweep keep what is stored; the base can still be another one."""
    trials = trials_of(controls=["layer-shuffle", "reinit-all"])
    for trial in trials:
        start = trial.spec.start
        is_shuffled = isinstance(start, OtherStart) and start.kind == "layer-shuffle"
        assert trial.spec.code_version == (3 if is_shuffled else TRAINING_CODE_VERSION)
    plain = {trial.key for trial in trials_of(controls=["reinit-all"])}
    assert plain < {trial.key for trial in trials}


def test_all_trials_of_answers_are_of_version_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds too: their scores choose, and their version is of the task."""
    monkeypatch.setattr("search_spaces.lineages.TRAINING_CODE_VERSION", 1)
    facts = task_facts()
    answers = facts.identity.model_copy(update={"problem": "span", "num_labels": 2})
    spec, models = sweep(), {"tiny": model_facts()}
    for identity, expected in ((answers, 3), (facts.identity, 1)):
        tasks = {"rte": type(facts)(**{**vars(facts), "identity": identity})}
        assert {t.spec.code_version for t in expand(spec, models, tasks)} == {expected}
