"""Every fault of a sweep is one clear sentence and exit code 2, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.bad_sweeps import Sweep, Tickets, good_sweep

Change = Callable[[Path, Sweep], None]


def put(*path: str | int, value: Any) -> Change:
    """Return a change that gives one field of the sweep another value."""

    def change(root: Path, sweep: Sweep) -> None:
        target: Any = sweep
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value

    return change


def write(name: str, data: bytes) -> Change:
    """Return a change that gives a file other content."""
    return lambda root, sweep: _put_bytes(root / name, data)


def remove(name: str) -> Change:
    """Return a change that removes a file."""
    return lambda root, sweep: (root / name).unlink()


def both(*changes: Change) -> Change:
    def change(root: Path, sweep: Sweep) -> None:
        for one in changes:
            one(root, sweep)

    return change


def _put_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _regression_with(label: str) -> Change:
    rows = ['{"text": "one", "score": 0.5}', f'{{"text": "two", "score": {label}}}'] * 20
    text = "\n".join(rows).encode()
    return both(
        put("tasks", 0, "source", "problem", value="regression"),
        put("tasks", 0, "source", "label", value="score"),
        write("train.jsonl", text),
    )


def _folder_for(name: str) -> Change:
    def change(root: Path, sweep: Sweep) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return change


SOURCE = ("tasks", 0, "source")
GPT2 = b'{"model_type": "gpt2", "n_layer": 2}'
# What is wrong with the sweep, and the words that a user needs to mend it.
FAULTS: dict[str, tuple[Change, list[str]]] = {
    "unknown field": (
        put("recipe", "learning_rat", value=1e-3),
        ["sweep.yaml: recipe.learning_rat", "no known field", "Did you mean 'learning_rate'?"],
    ),
    "wrong type": (
        put("recipe", "learning_rate", value="fast"),
        ["recipe.learning_rate", "'fast'", "must be a number"],
    ),
    "sparsity 1": (
        put("schedule", "levels", value=[0.5, 1.0]),
        ["schedule.levels", "[0.5, 1.0]", "between 0 and 1"],
    ),
    "sparsity below 0": (
        put("schedule", "levels", value=[-0.1]),
        ["schedule.levels", "[-0.1]", "between 0 and 1"],
    ),
    "zero rounds": (
        put("schedule", value={"kind": "geometric", "rate": 0.2, "rounds": 0}),
        ["schedule.rounds", "is 0", "must be >= 1"],
    ),
    "tracking scheme": (
        put("tracking", "uri", value="foo://x"),
        ["sweep.yaml: tracking.uri", "'foo://x'", "must begin with one of", "sqlite://"],
    ),
    "too few seeds": (
        put("seeds", value=[1, 2]),
        ["verdict", "noninferior needs at least 3 seeds", "has 2"],
    ),
    "missing column": (
        put(*SOURCE, "text", value="sentence"),
        ["train.jsonl", "no column 'sentence'", "text, label, score"],
    ),
    "empty split": (
        write("dev.jsonl", b""),
        ["dev.jsonl", "at least one example"],
    ),
    "not UTF-8": (
        write("train.jsonl", '{"text": "caf\xe9", "label": "a"}'.encode("latin-1")),
        ["train.jsonl", "line 1", "0xe9", "option encoding"],
    ),
    "missing file": (
        remove("train.jsonl"),
        ["train.jsonl", "does not exist", "dev.jsonl"],
    ),
    "folder for a file": (
        _folder_for("train.jsonl"),
        ["train.jsonl", "Is a directory", "Check the path"],
    ),
    "NaN label": (
        _regression_with("NaN"),
        ["train.jsonl", "row 2", "the label is empty"],
    ),
    "infinite label": (
        _regression_with("1e999"),
        ["train.jsonl", "row 2", "'inf'", "finite number"],
    ),
    "no BERT": (
        write("model/config.json", GPT2),
        ["config.json", "model_type 'gpt2'", "must be one of bert, roberta"],
    ),
    "no weights": (
        remove("model/model.safetensors"),
        ["model", "holds no model.safetensors", "folder that has the weights"],
    ),
    "cut weights": (
        write("model/model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
        ["model.safetensors", "cut off", "Copy it again"],
    ),
}


def test_the_sweep_that_all_faults_are_put_into_has_none(tickets: Tickets) -> None:
    """The unchanged sweep is valid, so each refusal below is due to its one change."""
    code, said = tickets("validate", tickets.write(good_sweep(tickets.root)))
    assert code == 0, said


@pytest.mark.parametrize(("change", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_sentence_and_nothing_is_written(
    tickets: Tickets, change: Change, words: list[str]
) -> None:
    """File, field, what was given, what is allowed, and the next step; then exit code 2."""
    sweep = good_sweep(tickets.root)
    change(tickets.root, sweep)
    said = tickets.refused("run", tickets.write(sweep))
    for word in words:
        assert word in said
    assert not (tickets.root / "store").exists()
    assert not (tickets.root / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"name: caf\xe9", ["not UTF-8", "Save it as UTF-8"]),
        (b"", ["holds no fields", "name: my-sweep"]),
        (b"name: [toy", ["line 1", "no YAML", "quotes"]),
    ],
    ids=["not UTF-8", "empty", "no YAML"],
)
def test_an_unreadable_sweep_file_is_named(tickets: Tickets, data: bytes, words: list[str]) -> None:
    """A sweep file that cannot be read says why, for every command that takes one."""
    (tickets.root / "sweep.yaml").write_bytes(data)
    for command in ("validate", "plan", "run", "status"):
        said = tickets.refused(command, "sweep.yaml")
        for word in ["sweep.yaml", *words]:
            assert word in said


def test_a_folder_is_no_sweep_file(tickets: Tickets) -> None:
    """A folder in place of the sweep file is one sentence."""
    said = tickets.refused("run", str(tickets.root))
    assert str(tickets.root) in said and "Is a directory" in said
