"""A sweep's models and tasks become identities from their files, or all faults are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces.canonical import content_key
from search_spaces.errors import SpecError
from search_spaces.expand import expand
from search_spaces.resolve import resolve_sweep, resolve_task
from search_spaces.splits import HashSelect, ReportSelect, load_splits
from search_spaces.sweep import SweepSpec
from tests.search_spaces.makers import MINIMAL, toy_tensors, write_model


def write_task(folder: Path, labels: str = "ab") -> dict[str, Any]:
    for name, num in (("train", 40), ("dev", 6)):
        rows = [{"text": f"{name} {i:02}", "label": labels[i % len(labels)]} for i in range(num)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"train": str(folder / "train.jsonl"), "report": str(folder / "dev.jsonl")}
    return {"name": "own", "source": {"kind": "files", **files}}


def spec_of(tmp_path: Path, **changes: Any) -> SweepSpec:
    model = {"name": "toy", "source": str(write_model(tmp_path / "model"))}
    tasks = changes.pop("tasks", None) or [write_task(tmp_path)]
    return SweepSpec.model_validate({**MINIMAL, "models": [model], "tasks": tasks, **changes})


def test_a_sweep_resolves_and_expands(tmp_path: Path) -> None:
    """From files to trials: 40 examples less 4 for select make 2 steps an epoch."""
    spec = spec_of(tmp_path)
    models, tasks = resolve_sweep(spec)
    facts = tasks["own"]
    assert (facts.num_train, facts.num_select, facts.num_report) == (36, 4, 6)
    assert facts.mean_chars == len("train 00")
    assert facts.identity.num_labels == 2
    assert facts.identity.metric == "accuracy"
    assert facts.identity.num_train_examples == 36
    assert facts.identity.select_sha256 == content_key(HashSelect())
    trials = expand(spec, models, tasks)
    assert {trial.spec.recipe.train_steps for trial in trials} == {4}


def test_places_can_be_read_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has another current folder: places hold absolute paths, identities none."""
    absolute = resolve_sweep(spec_of(tmp_path))[1]["own"]
    monkeypatch.chdir(tmp_path)
    source = {"kind": "files", "train": "train.jsonl", "report": "dev.jsonl"}
    relative = resolve_sweep(spec_of(tmp_path, tasks=[{"name": "own", "source": source}]))[1]["own"]
    assert relative == absolute
    monkeypatch.chdir("/")
    place, identity = relative.place, relative.identity
    splits = load_splits(place, identity.num_train_examples, identity.data_sha256)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 36,
        "select": 4,
        "report": 6,
    }


def test_same_split_selection_counts_the_report_split(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, splits={"select": "report"})
    facts = resolve_task(spec.tasks[0], spec.select_rule_of(spec.tasks[0]))
    assert (facts.num_train, facts.num_select, facts.num_report) == (40, 6, 6)
    assert facts.identity.select_sha256 == content_key(ReportSelect())


def test_one_layer_cannot_be_shuffled(tmp_path: Path) -> None:
    """The control would be its own ticket; the other controls need no second layer."""
    tensors = {n: v for n, v in toy_tensors().items() if ".layer.1." not in n}
    folder = write_model(tmp_path / "flat", tensors, num_hidden_layers=1)
    models = [{"name": "flat", "source": str(folder)}]
    spec = spec_of(tmp_path, models=models, controls=["reinit-all", "layer-shuffle"])
    expected = (
        "sweep: controls: has layer-shuffle, but model 'flat' has 1 layer; it needs 2 or more. "
        "Leave out layer-shuffle, or the model."
    )
    with pytest.raises(SpecError) as raised:
        resolve_sweep(spec)
    assert [str(fault) for fault in raised.value.faults] == [expected]
    assert resolve_sweep(spec_of(tmp_path, models=models, controls=["reinit-all"]))
    assert resolve_sweep(spec_of(tmp_path, controls=["layer-shuffle"]))


def test_faults_of_all_models_and_tasks_come_at_once(tmp_path: Path) -> None:
    models = [{"name": name, "source": f"./{name}"} for name in ("one", "two")]
    source = {"kind": "files", "train": "gone.csv", "report": "gone.csv"}
    spec = spec_of(tmp_path, models=models, tasks=[{"name": "own", "source": source}])
    with pytest.raises(SpecError) as raised:
        resolve_sweep(spec)
    shown = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in shown] == ["model 'one'", "model 'two'", "gone.csv"]


def test_a_classification_needs_two_labels(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, tasks=[write_task(tmp_path, labels="a")])
    with pytest.raises(SpecError, match=r"task 'own': source: has only the label \['a'\]"):
        resolve_sweep(spec)


def test_f1_is_for_two_labels(tmp_path: Path) -> None:
    task = write_task(tmp_path, labels="abc")
    task["source"]["metric"] = "f1"
    with pytest.raises(
        SpecError, match=r"task 'own': source\.metric: is f1, .* but the task has 3"
    ):
        resolve_sweep(spec_of(tmp_path, tasks=[task]))
    two = write_task(tmp_path)
    two["source"]["metric"] = "f1"
    assert resolve_sweep(spec_of(tmp_path, tasks=[two]))[1]["own"].identity.metric == "f1"


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    task = write_task(tmp_path, labels="123")
    task["source"]["problem"] = "regression"
    facts = resolve_sweep(spec_of(tmp_path, tasks=[task]))[1]["own"]
    assert (facts.identity.num_labels, facts.identity.metric) == (1, "pearson")


@pytest.mark.parametrize(
    ("config", "largest"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 64, "model_type": "roberta"}, 62),  # padding is token 1
        ({"max_position_embeddings": 64, "model_type": "roberta", "pad_token_id": 3}, 60),
    ],
)
def test_a_task_is_not_longer_than_a_models_positions(
    tmp_path: Path, config: dict[str, Any], largest: int
) -> None:
    """The largest length is accepted and the next one refused, with both names."""
    model = {"name": "toy", "source": str(write_model(tmp_path / "model", **config))}
    task = write_task(tmp_path)
    resolve_sweep(spec_of(tmp_path / "m", models=[model], tasks=[task | {"max_length": largest}]))
    long = spec_of(tmp_path / "m", models=[model], tasks=[task | {"max_length": largest + 1}])
    message = (
        f"task 'own': max_length: is {largest + 1}, but model 'toy' has positions for {largest} "
        f"tokens. Write max_length: {largest} or less."
    )
    with pytest.raises(SpecError, match=message):
        resolve_sweep(long)


@pytest.mark.parametrize(("family", "smallest"), [("bert", 5), ("roberta", 6)])
def test_pairs_need_a_token_of_each_text(tmp_path: Path, family: str, smallest: int) -> None:
    model = {"name": "toy", "source": str(write_model(tmp_path / "model", model_type=family))}
    task = write_task(tmp_path)
    task["source"]["text_pair"] = "text"
    fits = spec_of(tmp_path / "m", models=[model], tasks=[task | {"max_length": smallest}])
    resolve_sweep(fits)
    short = spec_of(tmp_path / "m", models=[model], tasks=[task | {"max_length": smallest - 1}])
    with pytest.raises(
        SpecError, match=f"is {smallest - 1}, but pairs need at least {smallest} on"
    ):
        resolve_sweep(short)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"train_steps": 9, "lr_horizon_epochs": 2},
            r"task 'own': recipe\.lr_horizon_steps: resolves to 4 steps, but must be at least",
        ),
        (
            {"epochs": 2, "warmup_steps": 4},
            r"task 'own': recipe\.warmup_steps: resolves to 4 steps, but must be fewer than the 4",
        ),
        (
            {"train_steps": 2, "lr_horizon_steps": 10, "warmup_fraction": 0.2},
            r"recipe\.warmup_steps: resolves to 2 steps, but must be fewer than the 2",
        ),
    ],
)
def test_lengths_in_mixed_units_must_fit(
    tmp_path: Path, recipe: dict[str, Any], message: str
) -> None:
    """With 2 steps an epoch, no step may fall behind the horizon or never leave the warm-up."""
    spec = spec_of(tmp_path, recipe={"learning_rate": 1e-4, **recipe})
    with pytest.raises(SpecError, match=message):
        expand(spec, *resolve_sweep(spec))
