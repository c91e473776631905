"""The store: what counts as a result, whatever dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.markers import DamagedMarkerError, Marker, decode_marker, encode_marker
from orchestrator.storage import Storage
from orchestrator.store import Store
from search_spaces.errors import UserError
from search_spaces.trial import Outputs
from tests.orchestrator.factories import finish, make_result, make_trial

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def marker_path(store: Store, key: str) -> Path:
    return Path(store.uri) / "results" / key / "COMMITTED.json"


def quarantined(store: Store, key: str) -> list[str]:
    return [n for n in Storage(store.uri).names(f"quarantine/{key}") if n.endswith(".json")]


def test_file_uris_and_relative_paths_are_one_place(tmp_path, monkeypatch):
    """A folder may be named by path or by URI."""
    monkeypatch.chdir(tmp_path)
    trial = make_trial()
    Store("here").commit(make_result(trial, "a1"), trial.spec)
    assert Store(f"file://{tmp_path}/here").read(trial.key) == make_result(trial, "a1")
    assert Store("here/").uri == str(tmp_path / "here")
    assert Store("here").folder == Store(f"file://{tmp_path}/here").folder == tmp_path / "here"
    assert Store(f"fsspec+memory://{tmp_path}").folder is None


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data):
    """A marker with one changed character is refused, unless the change says the same."""
    trial = make_trial()
    marker = Marker.now(trial.spec, make_result(trial, "a1"))
    text = encode_marker(marker)
    assert decode_marker(text, trial.key) == marker
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + bytes([data.draw(st.integers(0, 255))]) + text[place + 1 :]
    with contextlib.suppress(DamagedMarkerError, UserError):
        assert decode_marker(changed, trial.key) == marker


def test_wrong_names_are_refused(store):
    """Neither a key, an attempt nor a file can leave its folder."""
    trial = make_trial(prunes=(100,))
    result = finish(store.uri, trial, "a1")
    info = next(iter(result.artifacts.values()))
    with pytest.raises(ValueError, match=r"'\.\./x' is not allowed as trial key"):
        store.read("../x")
    with pytest.raises(ValueError, match=r"'\.\.' is not allowed as attempt"):
        store.commit(result.model_copy(update={"attempt": ".."}), trial.spec)
    with pytest.raises(ValueError, match=r"'\.\./x' is not allowed as file name"):
        store.commit(result.model_copy(update={"artifacts": {"../x": info}}), trial.spec)
    with pytest.raises(ValueError, match="The result is of trial"):
        store.commit(result, make_trial(seed=7).spec)


def test_a_missing_artifact_is_explained(store):
    """Who asks for a file that nobody committed is told which, and what to do."""
    trial = make_trial()
    with pytest.raises(UserError, match=r"has no file 'mask\.arrow' of trial .* Run the sweep"):
        store.artifact(trial.key, "mask.arrow")
    store.commit(make_result(trial, "a1"), trial.spec)
    with pytest.raises(UserError, match=r"has no file 'mask\.arrow'"):
        store.artifact(trial.key, "mask.arrow")


def test_a_store_that_cannot_be_used_is_explained(tmp_path):
    """The place and the next step are named."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"store .*/file cannot be opened: it is a file"):
        Store(str(tmp_path / "file"))
    store = Store(str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match=r"store .*/below cannot be written: .* under 'store'"):
        store.check_writable()
    trial = make_trial()
    with pytest.raises(UserError, match=r"store .*/below cannot be (read|written)"):
        store.commit(make_result(trial, "a1"), trial.spec)
    with pytest.raises(
        UserError, match=r"store nope://x cannot be opened: it is .* begins with s3:"
    ):
        Store("nope://x")


def test_places_are_shown_without_credentials(tmp_path):
    """What is logged, kept as a reason or told names the place, and no secret of its URI."""
    assert Storage(str(tmp_path)).shown("a/b") == f"{tmp_path}/a/b"
    storage = Storage(f"fsspec+memory://{tmp_path}")
    storage.uri = "s3://AKIA:se/cret@bucket/tickets/?endpoint_override=x&token=y"
    assert storage.shown("results/k/COMMITTED.json") == (
        "s3://***@bucket/tickets/results/k/COMMITTED.json"
    )


def test_an_absent_store_is_empty(store):
    """Planning against a new place finds nothing and leaves nothing there."""
    assert list(store.records()) == []
    assert not store.has_outputs(make_trial().key, Outputs())
    assert not Path(store.uri).exists()
    store.check_writable()
    assert os.listdir(store.uri) == []


def commit_many(uri: str, attempt: str, num_trials: int, barrier, won) -> None:
    store = Store(uri)
    trials = [make_trial(seed=seed) for seed in range(num_trials)]
    barrier.wait()
    for trial in trials:
        if store.commit(make_result(trial, attempt), trial.spec):
            won.put((trial.key, attempt))
    won.put(None)


def test_of_racing_processes_exactly_one_commits(store):
    """Of three processes that commit the same trials at once, each trial has one winner."""
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=commit_many, args=(store.uri, f"a{n}", 30, barrier, won))
        for n in range(3)
    ]
    for racer in racers:
        racer.start()
    winners, num_done = [], 0
    while num_done < 3:
        item = won.get(timeout=60)
        num_done += item is None
        winners += [item] if item else []
    for racer in racers:
        racer.join()
    assert len(winners) == 30
    assert dict(winners) == {r.result.trial_key: r.result.attempt for r in store.records()}
    assert not [n for n in os.listdir(marker_path(store, winners[0][0]).parent) if "partial" in n]


ENDLESS_COMMITS = """
import sys
from orchestrator.store import Store
from tests.orchestrator.factories import finish, make_trial
store, seed = Store(sys.argv[1]), 0
while True:
    trial = make_trial(seed=seed, prunes=(100,))
    store.commit(finish(store.uri, trial, "a1"), trial.spec)
    seed += 1
    print(seed, flush=True)
"""


def test_kill_9_leaves_a_readable_store(store):
    """Whatever a killed process reported as committed is whole; the rest can be run again."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS_COMMITS, store.uri],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    while int(process.stdout.readline()) < 20:
        pass
    time.sleep(0.013)
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    num_committed = int(rest[-1]) if rest else 20
    for seed in range(num_committed):
        trial = make_trial(seed=seed, prunes=(100,))
        assert store.read(trial.key) is not None
        assert store.has_outputs(trial.key, trial.outputs)
    assert num_committed <= len(list(store.records())) <= num_committed + 1
    assert not Path(store.uri, "quarantine").exists()
    trial = make_trial(seed=num_committed + 1, prunes=(100,))
    assert store.commit(finish(store.uri, trial, "b1"), trial.spec)
