"""Whatever bytes a reader is given, it soon ends with a value or with a documented error."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo, Transition
from orchestrator.journal_reader import open_reader
from orchestrator.markers import DamagedMarkerError, Marker, decode_marker, encode_marker
from orchestrator.store import Store
from search_spaces.contracts import TrialState
from search_spaces.errors import SpecError, UserError
from search_spaces.loading import load_sweep, parse_sweep
from tests.orchestrator.factories import make_lineage, make_result, make_trial

SWEEP = """
name: toy
models: [{name: tiny, source: model}]
tasks:
  - name: toy
    source: {kind: files, train: train.jsonl, report: dev.jsonl}
    max_length: 24
seeds: [1, 2, 3]
schedule: {kind: levels, levels: [0.3, 0.5]}
controls: [random-uniform]
recipe: {epochs: 1, batch_size: 16, learning_rate: 1.0e-3}
resources: {gangs: 1}
store: ${HOME}/store
"""
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
LADDER = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 440))


def mutated(whole: bytes, max_changes: int = 3) -> st.SearchStrategy[bytes]:
    """Bytes with some spans replaced, deleted or doubled, or the end cut."""
    places = st.integers(0, len(whole))
    change = st.tuples(places, st.integers(0, 40), st.binary(max_size=20))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = whole
        for place, length, new in changes:
            data = data[:place] + new + data[place + length :]
        return data

    cut = places.map(lambda place: whole[:place])
    return cut | st.lists(change, min_size=1, max_size=max_changes).map(apply)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200) | mutated(SWEEP.encode()))
@example(b"[" * 1000)
@example(b"name: 2020-13-45")
@example(b"seeds: !!int x")
@example(b"a: &a [*a]")
@example(b"a: &a {b: *a}")
@example(b"? [1, 2]\n: 3")
@example(b"? {a: b}\n: 3")
@example(b"<<: [1]\nname: x")
@example(b"x: " + b"9" * 5000)
@example(BOMB.encode())
@example(LADDER.encode())
@example(b"name: \x00")
@example(b"\xff\xfe\x00")
def test_no_sweep_file_ends_in_a_traceback(data: bytes) -> None:
    """A sweep is read, or its faults are listed; also deep, endless and exploding ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.yaml"
        path.write_bytes(data)
        with contextlib.suppress(SpecError):
            load_sweep(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 2000, "is nested too deeply: more than 64 levels"),
        ("- " * 2000 + "x", "is nested too deeply: more than 64 levels"),
        ("{a: " * 65 + "x" + "}" * 65, "is nested too deeply"),
        (LADDER, "is nested too deeply"),
        ("name: \x00", r"is no YAML: unacceptable character #x0000"),
        ("name: 2020-13-45", "holds a value that cannot be: month must be in"),
        ("a: &a [*a]", "has more than 100,000 values, or one that holds itself"),
        (BOMB, "has more than 100,000 values"),
    ],
)
def test_hostile_yaml_is_told_in_a_sentence(text: str, problem: str) -> None:
    """Each names what is wrong with it, however deep Python itself would let it go."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with pytest.raises(SpecError, match=problem):
            parse_sweep(text)
    finally:
        sys.setrecursionlimit(limit)


TRIAL = make_trial(prunes=(100,))
MARKER = encode_marker(Marker.now(TRIAL.spec, make_result(TRIAL, "a1")))


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200) | mutated(MARKER))
@example(b"[" * 100_000)
@example(b'{"schema": 1, "num_bytes": 1, "sha256": "", "body": NaN}')
def test_no_marker_ends_in_a_traceback(data: bytes) -> None:
    """It is the marker that was written, damaged, or of another version."""
    with contextlib.suppress(DamagedMarkerError, UserError):
        assert decode_marker(data, TRIAL.key).result.attempt == "a1"


def whole_journal() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path, trials = Path(folder) / "toy.sqlite", make_lineage(num_rounds=2)
        with Journal.open(path, SweepInfo("toy", "h", ""), now=1.0) as journal:
            journal.rebuild(TrialGraph(trials), Store(f"{folder}/store"), now=1.0)
            started = Transition(trials[0].key, TrialState.RUNNING, "started")
            journal.record([started], now=2.0)
        return path.read_bytes()


JOURNAL = whole_journal()


def read_all(path: Path) -> None:
    with contextlib.suppress(UserError), open_reader(path) as reader:
        reader.trials()
        reader.events()
        reader.meta()
        reader.counts()
        reader.num_attempts("x")


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200) | mutated(JOURNAL, max_changes=2))
def test_no_journal_file_ends_in_a_traceback(data: bytes) -> None:
    """Readers are told; a writer begins anew or refuses, and can then be read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.sqlite"
        path.write_bytes(data)
        read_all(path)
        with contextlib.suppress(UserError):
            Journal.open(path, SweepInfo("toy", "h", ""), now=3.0).close()
        read_all(path)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["trial", "event", "meta"]),
    st.integers(0, 7),
    st.none()
    | st.integers().filter(lambda x: abs(x) < 2**62)
    | st.text()
    | st.binary()
    | st.just("[" * 100_000),
)
def test_no_value_in_a_journal_ends_in_a_traceback(table: str, column: int, value: object) -> None:
    """SQLite keeps values of any type in any column."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.sqlite"
        path.write_bytes(JOURNAL)
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(path) as database:
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            name = names[column % len(names)]
            database.execute(f"UPDATE OR IGNORE {table} SET {name} = ?", (value,))
        database.close()
        read_all(path)
