"""What every store promises, on each kind of file system it may lie on."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.lease import Lease, LeaseLostError, Timing, lease_path
from orchestrator.markers import Marker, encode_marker
from orchestrator.storage import Storage
from orchestrator.store import DamagedArtifactError, Store
from search_spaces.contracts import below
from search_spaces.errors import UserError
from search_spaces.trial import Outputs, PruneOutput, Trial
from tests.orchestrator.factories import finish, leave_artifacts, make_result, make_trial
from tests.orchestrator.object_store import running_s3

SHM = Path("/dev/shm")  # Linux has this file system in memory beside the disk's
_numbers = itertools.count()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URI of a bucket on a server of its own."""
    with running_s3() as uri:
        yield uri


@pytest.fixture(params=["folder", "shm", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that nobody has used."""
    if request.param == "s3":
        return below(request.getfixturevalue("s3"), f"store-{next(_numbers)}")
    if request.param == "folder":
        return str(tmp_path / "store")
    if not SHM.is_dir():
        pytest.skip("this machine has no /dev/shm")
    return str(request.getfixturevalue("shm_folder"))


@pytest.fixture
def shm_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder) / "store"


@pytest.fixture
def store(uri: str) -> Store:
    return Store(uri)


def marker_of(trial: Trial, name: str = "COMMITTED.json") -> str:
    return f"results/{trial.key}/{name}"


def file_of(trial: Trial, attempt: str, name: str) -> str:
    return f"results/{trial.key}/attempts/{attempt}/{name}"


def quarantined(store: Store, key: str) -> list[str]:
    return [n for n in Storage(store.uri).names(f"quarantine/{key}") if n.endswith(".json")]


def test_a_committed_result_is_read_back_equal(store):
    """Result, specification and artifacts come back as they were."""
    trial = make_trial(prunes=(100, 200))
    result = finish(store.uri, trial, "a1")
    assert store.read(trial.key) is None
    assert store.commit(result, trial.spec)
    assert store.read(trial.key) == result
    assert [record.spec for record in store.records()] == [trial.spec]
    assert store.trial_keys() == [trial.key]
    ref = store.artifact(trial.key, "mask-global-magnitude-200.arrow")
    name = "mask-global-magnitude-200.arrow"
    assert ref.uri == below(store.uri, f"results/{trial.key}/attempts/a1/{name}")
    assert ref.sha256 == result.artifacts["mask-global-magnitude-200.arrow"].sha256


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
    Storage(store.uri).delete(file_of(trial, "a1", name))
    assert not store.has_outputs(trial.key, trial.outputs)
    assert store.commit(finish(store.uri, trial, "a2", score=0.1), trial.spec)
    assert store.has_outputs(trial.key, trial.outputs)
    assert "/a2/" in store.artifact(trial.key, name).uri
    assert store.read(trial.key).primary("select") == 0.9


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"100\.arrow is missing, but the result names 96 bytes"),
        (b"x" * 95, r"100\.arrow has 95 bytes"),
        (b"x" * 96, r"100\.arrow has not the sha256"),
    ],
)
def test_a_damaged_artifact_is_not_committed(store, content, problem):
    """Missing, truncated and changed files are refused by name; nothing is published."""
    trial = make_trial(prunes=(100,))
    result = finish(store.uri, trial, "a1")
    file = file_of(trial, "a1", "mask-global-magnitude-100.arrow")
    if content is None:
        Storage(store.uri).delete(file)
    else:
        Storage(store.uri).replace(file, content)
    with pytest.raises(DamagedArtifactError, match=problem):
        store.commit(result, trial.spec)
    assert store.read(trial.key) is None


def test_a_truncated_artifact_is_no_output(store):
    """What was cut after the commit is found by its size."""
    trial = make_trial(prunes=(100,))
    store.commit(finish(store.uri, trial, "a1"), trial.spec)
    file = file_of(trial, "a1", "mask-global-magnitude-100.arrow")
    Storage(store.uri).replace(file, b"12345")
    assert not store.has_outputs(trial.key, trial.outputs)


@pytest.mark.parametrize("num_bytes", [0, 1, 200, -2])
def test_a_half_written_marker_never_counts(store, caplog, num_bytes):
    """A cut marker is quarantined with a warning that names it, and the trial can run again."""
    trial = make_trial()
    store.commit(make_result(trial, "a1"), trial.spec)
    path = marker_of(trial)
    Storage(store.uri).replace(path, Storage(store.uri).read(path)[:num_bytes])
    with caplog.at_level(logging.WARNING):
        assert store.read(trial.key) is None
    assert f"{path} is damaged" in caplog.text
    assert len(quarantined(store, trial.key)) == 1
    assert store.commit(make_result(trial, "a2"), trial.spec)
    assert store.read(trial.key).attempt == "a2"


def test_a_damaged_marker_does_not_stop_a_commit(store):
    """A result that meets a damaged marker takes its place."""
    trial = make_trial()
    Storage(store.uri).replace(marker_of(trial), b"{")
    assert store.commit(make_result(trial, "a1"), trial.spec)
    assert store.read(trial.key).attempt == "a1"


def test_a_damaged_extra_marker_leaves_the_first_result(store, caplog):
    """Only the files that it added are gone."""
    small, large = make_trial(prunes=(100,)), make_trial(prunes=(100, 200))
    store.commit(finish(store.uri, small, "a1"), small.spec)
    store.commit(finish(store.uri, large, "a2"), large.spec)
    extra = marker_of(small, "EXTRA-a2.json")
    storage = Storage(store.uri)
    storage.replace(extra, storage.read(extra).replace(b'"a2"', b'"a3"'))
    assert set(store.read(small.key).artifacts) == {"mask-global-magnitude-100.arrow"}
    assert "EXTRA-a2.json is damaged: its content has not the sha256" in caplog.text


def test_a_marker_in_a_wrong_folder_is_damaged(store, caplog):
    """A folder that was copied under another key counts for nothing."""
    trial, other = make_trial(seed=1), make_trial(seed=2)
    store.commit(make_result(trial, "a1"), trial.spec)
    storage = Storage(store.uri)
    storage.replace(marker_of(other), storage.read(marker_of(trial)))
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
    Storage(store.uri).replace(marker_of(trial), json.dumps(envelope).encode())
    with pytest.raises(UserError, match="whole, but was written by another version"):
        store.read(trial.key)
    assert Storage(store.uri).read(marker_of(trial))


def test_quarantine_makes_a_trial_run_again(store, caplog):
    """All markers go, extras included, the reason is kept, and no old mask joins a new result."""
    small, large = make_trial(prunes=(100,)), make_trial(prunes=(100, 200))
    store.commit(finish(store.uri, small, "a1"), small.spec)
    store.commit(finish(store.uri, large, "a2"), large.spec)
    places = store.quarantine(small.key, "mask-global-magnitude-100.arrow has another sha256")
    assert len(places) == 2
    storage, folder = Storage(store.uri), f"quarantine/{small.key}"
    names = storage.names(folder)
    assert [place.rpartition("/")[2] in names for place in places] == [True, True]
    reasons = [storage.read(f"{folder}/{n}") for n in names if n.endswith(".reason.txt")]
    assert reasons == [b"mask-global-magnitude-100.arrow has another sha256"] * 2
    assert "mask-global-magnitude-100.arrow has another sha256" in caplog.text
    assert store.read(small.key) is None
    store.commit(finish(store.uri, small, "a3", score=0.5), small.spec)
    assert set(store.read(small.key).artifacts) == {"mask-global-magnitude-100.arrow"}
    assert store.quarantine("0" * 64, "nothing there") == ()


def test_only_committed_files_are_outputs(store):
    """Files of an attempt that never committed count for nothing."""
    trial = make_trial(prunes=(100,))
    leave_artifacts(store.uri, trial, "a1")
    assert not store.has_outputs(trial.key, trial.outputs)
    assert list(store.records()) == []
    assert not store.has_outputs(
        trial.key, Outputs(prunes=(PruneOutput(pruner="global-magnitude", num_removed=5),))
    )


class Stepped(Storage):
    """Writes only when it is let: between its look and its write others may do as they please."""

    def __init__(self, uri: str, looked: threading.Barrier, go: threading.Event) -> None:
        super().__init__(uri)
        self._looked, self._go = looked, go

    def _write(self, target: str, data: bytes) -> None:
        self._looked.wait()
        self._go.wait()
        super()._write(target, data)


def test_of_two_committers_at_once_one_is_told_that_it_won(s3):
    """On an object store both have looked before either writes: the last write wins, and counts."""
    uri = below(s3, f"store-{next(_numbers)}")
    looked, go, won = threading.Barrier(3), threading.Event(), {}

    def commit(name: str) -> None:
        won[name] = Stepped(uri, looked, go).publish_once("marker", name.encode(), settle_s=5)

    racers = [threading.Thread(target=commit, args=(name,)) for name in ("a1", "a2")]
    for racer in racers:
        racer.start()
    looked.wait()
    go.set()
    for racer in racers:
        racer.join()
    (winner,) = [name for name in won if won[name]]
    assert Storage(uri).read("marker") == winner.encode()


def test_the_race_that_is_left_keeps_the_store_whole(s3):
    """A writer that sleeps longer than the settle time is believed too; its marker is whole."""
    uri, trial = below(s3, f"store-{next(_numbers)}"), make_trial(prunes=(100,))
    first, late = (finish(uri, trial, name, score=0.5) for name in ("a1", "a2"))
    looked, go = threading.Barrier(2), threading.Event()
    zombie = Store(uri)
    zombie._storage = Stepped(uri, looked, go)
    sleeper = threading.Thread(target=zombie.commit, args=(late, trial.spec))
    sleeper.start()
    looked.wait()
    assert Store(uri).commit(first, trial.spec)
    go.set()
    sleeper.join()
    assert Store(uri).read(trial.key) == late
    assert Store(uri).has_outputs(trial.key, trial.outputs)


def test_a_lease_is_held_lost_and_given_back(uri):
    """As on a folder: one driver, told of each other, taken over when silent."""
    timing = Timing(heartbeat_s=60, term_s=0.3, settle_s=0.2)
    lease = Lease.acquire(uri, "toy", "h", timing=timing)
    with pytest.raises(UserError, match="this sweep is being run by process"):
        Lease.acquire(uri, "toy", "h", timing=timing)
    lease.renew()
    with Lease.acquire(uri, "toy", "h", take_over=True, timing=timing):
        lease.renew()
        with pytest.raises(LeaseLostError, match="has lost the sweep"):
            lease.check()
        lease.close()
        assert Storage(uri).read(lease_path("toy", "h"))
    assert Storage(uri).read(lease_path("toy", "h")) is None


def test_a_store_is_found_writable_and_left_as_it_was(store):
    """The probe is gone afterwards."""
    store.check_writable()
    assert Storage(store.uri).names("") == []


def test_a_checkpoint_goes_when_its_trial_is_committed(store: Store) -> None:
    """And one that was left behind is seen beside the result, and deleted once."""
    trial, storage = make_trial(), Storage(store.uri)
    place = f"results/{trial.key}/checkpoint"

    def write() -> None:
        storage.replace(f"{place}/a1-00000003/state.safetensors", b"state")
        storage.replace(f"{place}/MANIFEST.json", b"{}")

    write()
    assert store.record(trial.key) is None
    store.commit(finish(store.uri, trial, "a1"), trial.spec)
    assert storage.files(place) == []
    assert not store.record(trial.key).has_checkpoint
    write()
    assert store.record(trial.key).has_checkpoint
    for _ in range(2):
        store.drop_checkpoint(trial.key)
    assert not store.record(trial.key).has_checkpoint
    assert store.read(trial.key) is not None
