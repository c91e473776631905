"""The store: what counts as a result, whatever dies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
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
from orchestrator.store import DamagedArtifactError, Store
from search_spaces.errors import UserError
from search_spaces.trial import Outputs, PruneOutput
from tests.orchestrator.factories import finish, leave_artifacts, make_result, make_trial

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def marker_path(store: Store, key: str) -> Path:
    return Path(store.uri) / "results" / key / "COMMITTED.json"


def quarantined(store: Store, key: str) -> list[str]:
    return [n for n in Storage(store.uri).names(f"quarantine/{key}") if n.endswith(".json")]


def test_a_committed_result_is_read_back_equal(store):
    """Result, specification and artifacts come back as they were; the path may be relative."""
    trial = make_trial(prunes=(100, 200))
    result = finish(store.uri, trial, "a1")
    assert store.read(trial.key) is None
    assert store.commit(result, trial.spec)
    assert store.read(trial.key) == result
    assert list(store.specs()) == [trial.spec]
    assert store.trial_keys() == [trial.key]
    ref = store.artifact(trial.key, "mask-global-magnitude-200.arrow")
    assert ref.uri == (
        f"{store.uri}/results/{trial.key}/attempts/a1/mask-global-magnitude-200.arrow"
    )
    assert ref.sha256 == result.artifacts["mask-global-magnitude-200.arrow"].sha256


def test_file_uris_and_relative_paths_are_one_place(tmp_path, monkeypatch):
    """A folder may be named by path or by URI."""
    monkeypatch.chdir(tmp_path)
    trial = make_trial()
    Store("here").commit(make_result(trial, "a1"), trial.spec)
    assert Store(f"file://{tmp_path}/here").read(trial.key) == make_result(trial, "a1")
    assert Store("here/").uri == str(tmp_path / "here")


def test_a_store_on_another_file_system(request):
    """The same laws hold where there are no hard links: in fsspec's memory file system."""
    uri = f"fsspec+memory://{request.node.name}"
    trial = make_trial(carry_from="x" * 64)
    result = make_result(trial, "a1")
    assert Store(uri).commit(result, trial.spec)
    assert not Store(uri).commit(make_result(trial, "a2", score=0.1), trial.spec)
    assert Store(uri).read(trial.key) == result
    assert list(Store(uri).specs()) == [trial.spec]
    Store(uri).quarantine(trial.key, "for the test")
    assert Store(uri).read(trial.key) is None
    assert len(quarantined(Store(uri), trial.key)) == 1
    Store(uri).check_writable()


def test_the_first_result_wins(store):
    """A later result is refused and changes nothing."""
    trial = make_trial(prunes=(100,))
    first = finish(store.uri, trial, "a1", score=0.9)
    assert store.commit(first, trial.spec)
    assert not store.commit(finish(store.uri, trial, "a2", score=0.1), trial.spec)
    assert not store.commit(first, trial.spec)
    assert store.read(trial.key) == first


def test_later_attempts_add_masks_and_never_scores(store):
    """A mask wanted later is added beside the first result, whose scores stay the truth."""
    small = make_trial(prunes=(100,))
    large = make_trial(prunes=(100, 200))
    store.commit(finish(store.uri, small, "a1", score=0.9), small.spec)
    assert store.has_outputs(small.key, small.outputs)
    assert not store.has_outputs(large.key, large.outputs)
    later = finish(store.uri, large, "a2", score=0.1)
    assert store.commit(later, large.spec)
    assert not store.commit(finish(store.uri, large, "a3", score=0.2), large.spec)
    merged = store.read(small.key)
    assert merged.primary("select") == 0.9
    assert merged.attempt == "a1"
    assert set(merged.masks) == set(merged.artifacts) == set(large.outputs.artifacts)
    assert store.has_outputs(large.key, large.outputs)
    assert "/a1/" in store.artifact(small.key, "mask-global-magnitude-100.arrow").uri
    assert "/a2/" in store.artifact(small.key, "mask-global-magnitude-200.arrow").uri


def test_a_file_that_was_lost_is_replaced(store):
    """A committed mask that somebody deleted makes the trial runnable, and the new one counts."""
    trial = make_trial(prunes=(100,))
    name = "mask-global-magnitude-100.arrow"
    store.commit(finish(store.uri, trial, "a1"), trial.spec)
    Path(store.artifact(trial.key, name).uri).unlink()
    assert not store.has_outputs(trial.key, trial.outputs)
    assert store.commit(finish(store.uri, trial, "a2", score=0.1), trial.spec)
    assert store.has_outputs(trial.key, trial.outputs)
    assert "/a2/" in store.artifact(trial.key, name).uri
    assert store.read(trial.key).primary("select") == 0.9


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.unlink(), r"100\.arrow is missing, but the result names 96 bytes"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"100\.arrow has 95 bytes"),
        (lambda file: file.write_bytes(b"x" * 96), r"100\.arrow has not the sha256"),
    ],
)
def test_a_damaged_artifact_is_not_committed(store, damage, problem):
    """Missing, truncated and changed files are refused by name; nothing is published."""
    trial = make_trial(prunes=(100,))
    result = finish(store.uri, trial, "a1")
    folder = Path(store.uri) / "results" / trial.key / "attempts" / "a1"
    damage(folder / "mask-global-magnitude-100.arrow")
    with pytest.raises(DamagedArtifactError, match=problem):
        store.commit(result, trial.spec)
    assert store.read(trial.key) is None


def test_a_truncated_artifact_is_no_output(store):
    """What was cut after the commit is found by its size."""
    trial = make_trial(prunes=(100,))
    store.commit(finish(store.uri, trial, "a1"), trial.spec)
    file = Path(store.artifact(trial.key, "mask-global-magnitude-100.arrow").uri)
    os.truncate(file, 5)
    assert not store.has_outputs(trial.key, trial.outputs)


@pytest.mark.parametrize("num_bytes", [0, 1, 200, -2])
def test_a_half_written_marker_never_counts(store, caplog, num_bytes):
    """A cut marker is quarantined with a warning that names it, and the trial can run again."""
    trial = make_trial()
    store.commit(make_result(trial, "a1"), trial.spec)
    path = marker_path(store, trial.key)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with caplog.at_level(logging.WARNING):
        assert store.read(trial.key) is None
    assert f"{path} is damaged" in caplog.text
    assert len(quarantined(store, trial.key)) == 1
    assert store.commit(make_result(trial, "a2"), trial.spec)
    assert store.read(trial.key).attempt == "a2"


def test_a_damaged_marker_does_not_stop_a_commit(store):
    """A result that meets a damaged marker takes its place."""
    trial = make_trial()
    marker_path(store, trial.key).parent.mkdir(parents=True)
    marker_path(store, trial.key).write_bytes(b"{")
    assert store.commit(make_result(trial, "a1"), trial.spec)
    assert store.read(trial.key).attempt == "a1"


def test_a_damaged_extra_marker_leaves_the_first_result(store, caplog):
    """Only the files that it added are gone."""
    small, large = make_trial(prunes=(100,)), make_trial(prunes=(100, 200))
    store.commit(finish(store.uri, small, "a1"), small.spec)
    store.commit(finish(store.uri, large, "a2"), large.spec)
    extra = marker_path(store, small.key).with_name("EXTRA-a2.json")
    extra.write_bytes(extra.read_bytes().replace(b'"a2"', b'"a3"'))
    assert set(store.read(small.key).artifacts) == {"mask-global-magnitude-100.arrow"}
    assert "EXTRA-a2.json is damaged: its content has not the sha256" in caplog.text


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


def test_a_marker_in_a_wrong_folder_is_damaged(store, caplog):
    """A folder that was copied under another key counts for nothing."""
    trial, other = make_trial(seed=1), make_trial(seed=2)
    store.commit(make_result(trial, "a1"), trial.spec)
    target = marker_path(store, other.key)
    target.parent.mkdir()
    target.write_bytes(marker_path(store, trial.key).read_bytes())
    assert store.read(other.key) is None
    assert "it is the marker of another trial" in caplog.text
    assert store.read(trial.key) is not None


@pytest.mark.parametrize("change", ["schema", "field"])
def test_a_newer_versions_marker_is_not_thrown_away(store, change):
    """A whole marker that says unknown things is an error for people, not damage."""
    trial = make_trial()
    body = Marker.now(trial.spec, make_result(trial, "a1")).model_dump(mode="json")
    if change == "field":
        body["invented"] = 1
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    envelope = json.loads(encode_marker(Marker.now(trial.spec, make_result(trial, "a1"))))
    envelope |= {"body": body, "num_bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    envelope["schema"] = 99 if change == "schema" else 1
    path = marker_path(store, trial.key)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(envelope))
    with pytest.raises(UserError, match="whole, but was written by another version"):
        store.read(trial.key)
    assert path.exists()


def test_quarantine_makes_a_trial_run_again(store, caplog):
    """All markers go, extras included, the reason is kept, and no old mask joins a new result."""
    small, large = make_trial(prunes=(100,)), make_trial(prunes=(100, 200))
    store.commit(finish(store.uri, small, "a1"), small.spec)
    store.commit(finish(store.uri, large, "a2"), large.spec)
    places = store.quarantine(small.key, "mask-global-magnitude-100.arrow has another sha256")
    assert len(places) == 2
    assert all(Path(place).exists() for place in places)
    reasons = [Path(f"{place}.reason.txt").read_text() for place in places]
    assert reasons == ["mask-global-magnitude-100.arrow has another sha256"] * 2
    assert "mask-global-magnitude-100.arrow has another sha256" in caplog.text
    assert store.read(small.key) is None
    store.commit(finish(store.uri, small, "a3", score=0.5), small.spec)
    assert set(store.read(small.key).artifacts) == {"mask-global-magnitude-100.arrow"}
    assert store.quarantine("0" * 64, "nothing there") == ()


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
    with pytest.raises(UserError, match=r"store nope://x cannot be opened: .*Unrecognized"):
        Store("nope://x")


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


def test_only_committed_files_are_outputs(store):
    """Files of an attempt that never committed count for nothing."""
    trial = make_trial(prunes=(100,))
    leave_artifacts(store.uri, trial, "a1")
    assert not store.has_outputs(trial.key, trial.outputs)
    assert list(store.records()) == []
    assert not store.has_outputs(
        trial.key, Outputs(prunes=(PruneOutput(pruner="global-magnitude", num_removed=5),))
    )
