"""Every bad input ends with one clear sentence and exit code 2, and writes nothing to the store."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.tracking_client import open_client
from tests.search_spaces.makers import write_model

Sweep = dict[str, Any]
Change = Callable[[Path, Sweep], None]


def good_sweep(root: Path) -> Sweep:
    """Return a sweep without faults, after writing its model and data."""
    write_model(root / "model")
    rows = [{"text": f"sentence {i}", "label": "ab"[i % 2], "score": i / 4} for i in range(40)]
    for name, some in (("train", rows), ("dev", rows[:20])):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    source = {"kind": "files", "train": f"{root}/train.jsonl", "report": f"{root}/dev.jsonl"}
    return {
        "name": "toy",
        "models": [{"name": "tiny", "source": f"{root}/model"}],
        "tasks": [{"name": "toy", "source": source}],
        "seeds": [1, 2, 3],
        "schedule": {"kind": "levels", "levels": [0.5]},
        "recipe": {"epochs": 1, "learning_rate": 1e-3},
        "store": f"{root}/store",
        "tracking": {"uri": f"sqlite:///{root}/mlflow.db"},
        "cache": f"{root}/cache",
    }


class Tickets:
    """Runs the command in this process: what it raises beyond SystemExit is a traceback."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self._capture = root, capture

    def write(self, sweep: Sweep) -> str:
        path = self.root / "sweep.yaml"
        path.write_text(yaml.safe_dump(sweep))
        return str(path)

    def __call__(self, *arguments: str) -> tuple[int | str | None, str]:
        """Return exit code and all that was printed."""
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["tickets", *arguments])
            main()
        said = self._capture.readouterr()
        return ended.value.code, said.out + said.err

    def refused(self, *arguments: str) -> str:
        """Return the message of a command that must end with exit code 2."""
        code, said = self(*arguments)
        assert code == 2, said
        assert "Traceback" not in said
        return said


@pytest.fixture
def tickets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tickets:
    monkeypatch.chdir(tmp_path)
    return Tickets(tmp_path, capsys)


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


def closed_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_mlflow_server_that_is_down_stops_the_run_before_it_starts(tickets: Tickets) -> None:
    """The URI and the way out are named, before anything is trained or written."""
    sweep = good_sweep(tickets.root)
    sweep["tracking"]["uri"] = uri = f"http://127.0.0.1:{closed_port()}"
    said = tickets.refused("run", tickets.write(sweep))
    assert "tracking.uri" in said and uri in said and "sqlite:///mlflow.db" in said
    assert not (tickets.root / "store").exists()


@pytest.mark.parametrize("uri", ["mlruns", "file:mlruns"])
def test_a_folder_as_tracking_uri_is_refused(tickets: Tickets, uri: str) -> None:
    """MLflow 3 keeps no runs in folders: the message says what to write instead."""
    sweep = good_sweep(tickets.root)
    sweep["tracking"]["uri"] = uri
    said = tickets.refused("run", tickets.write(sweep))
    assert "tracking.uri" in said and f"'{uri}' is a folder" in said
    assert "sqlite:///mlflow.db" in said
    assert not (tickets.root / "store").exists() and not (tickets.root / "mlruns").exists()


def test_a_database_that_is_none_is_named(tickets: Tickets) -> None:
    """A file that is no SQLite database is one sentence, and stays as it is."""
    sweep = good_sweep(tickets.root)
    (tickets.root / "mlflow.db").write_bytes(b"something else entirely" * 10)
    said = tickets.refused("run", tickets.write(sweep))
    assert "tracking.uri" in said and "mlflow.db" in said
    assert (tickets.root / "mlflow.db").read_bytes().startswith(b"something else")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_file_as_store_is_refused_and_kept(tickets: Tickets, command: str) -> None:
    """The place is named, and the file that lies there is not touched."""
    sweep = good_sweep(tickets.root)
    (tickets.root / "store").write_text("precious")
    said = tickets.refused(command, tickets.write(sweep))
    assert f"{tickets.root}/store" in said and "it is a file" in said and "'store'" in said
    assert (tickets.root / "store").read_text() == "precious"


def test_a_store_where_nobody_may_write_is_refused(tickets: Tickets) -> None:
    """The run says so before it starts Ray."""
    sweep = good_sweep(tickets.root)
    sweep["store"] = "/proc/tickets"
    said = tickets.refused("run", tickets.write(sweep))
    assert "/proc/tickets cannot be written" in said and "'store'" in said


def test_a_damaged_journal_says_that_it_can_be_rebuilt(tickets: Tickets) -> None:
    """Status names the journal and what the next run does with it, and leaves the file as it is."""
    path = tickets.write(good_sweep(tickets.root))
    journal = tickets.root / "store" / "journals" / "toy.sqlite"
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"no database at all" * 100)
    said = tickets.refused("status", path)
    assert str(journal) in said and "moves it aside and rebuilds it from the store" in said
    assert journal.read_bytes().startswith(b"no database")
    assert not (tickets.root / "store" / "results").exists()


def test_an_unknown_key_says_where_keys_are_listed(tickets: Tickets) -> None:
    """A key that no trial has, or that many trials have, is one sentence."""
    path = tickets.write(good_sweep(tickets.root))
    said = tickets.refused("explain-key", path, "zzz")
    assert "key 'zzz'" in said and "no trial" in said and "tickets plan" in said
    said = tickets.refused("explain-key", path, "")
    assert "trials" in said and "tickets plan" in said


def test_reading_makes_no_database(tickets: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to a database that is not there is told so, and leaves nothing behind."""
    monkeypatch.setenv("HOME", str(tickets.root))
    place = tickets.root / "other.db"
    assert f"no database {place}" in tickets.refused("best", "--uri", "sqlite:///~/other.db")
    for command in (("best",), ("registry",), ("card", "models:/tickets-a-b@s50")):
        said = tickets.refused(*command, "--uri", f"sqlite:///{place}")
        assert f"no database {place}" in said and "Run a sweep" in said, command
        assert not place.exists()


def test_best_names_the_experiments_that_there_are(tickets: Tickets) -> None:
    """An unknown experiment, and a rule that is none, are one sentence each."""
    uri = f"sqlite:///{tickets.root}/mlflow.db"
    open_client(uri)
    said = tickets.refused("best", "--uri", uri, "--experiment", "toi")
    assert "experiment 'toi'" in said and uri in said and "Default" in said
    said = tickets.refused("best", "--uri", uri, "--rule", "lucky")
    assert "rule 'lucky'" in said and "noninferior" in said
