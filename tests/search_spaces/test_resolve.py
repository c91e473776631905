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
from tests.search_spaces.makers import MINIMAL, write_model


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


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    task = write_task(tmp_path, labels="123")
    task["source"]["problem"] = "regression"
    facts = resolve_sweep(spec_of(tmp_path, tasks=[task]))[1]["own"]
    assert (facts.identity.num_labels, facts.identity.metric) == (1, "pearson")
