"""What every store does with what was lost, cut or damaged in it."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import datetime, timedelta

import pytest

from orchestrator import markers
from orchestrator.markers import Marker, encode_marker
from orchestrator.storage import Storage
from orchestrator.store import DamagedArtifactError, Store
from search_spaces.errors import UserError
from search_spaces.trial import Trial
from tests.orchestrator.factories import finish, make_result, make_trial


def marker_of(trial: Trial, name: str = "COMMITTED.json") -> str:
    return f"results/{trial.key}/{name}"


def file_of(trial: Trial, attempt: str, name: str) -> str:
    return f"results/{trial.key}/attempts/{attempt}/{name}"


def quarantined(store: Store, key: str) -> list[str]:
    return [n for n in Storage(store.uri).names(f"quarantine/{key}") if n.endswith(".json")]


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


class Fast(datetime):
    """The clock of a machine that is an hour fast."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=1)


def test_a_repair_by_a_machine_whose_clock_is_behind_counts(store, monkeypatch):
    """What is added later is later, whatever the clocks of two machines say."""
    plain, trial = make_trial(seed=1), make_trial(seed=1, prunes=(100,))
    assert plain.key == trial.key
    name = "mask-global-magnitude-100.arrow"
    store.commit(finish(store.uri, plain, "a0"), plain.spec)
    with monkeypatch.context() as patch:
        patch.setattr(markers, "datetime", Fast)
        store.commit(finish(store.uri, trial, "a1"), trial.spec)
    for lost, repair in (("a1", "a2"), ("a2", "a3")):
        Storage(store.uri).delete(file_of(trial, lost, name))
        assert store.commit(finish(store.uri, trial, repair), trial.spec)
        assert store.has_outputs(trial.key, trial.outputs)
        assert f"/{repair}/" in store.artifact(trial.key, name).uri


@pytest.mark.parametrize("moment", ["read", "move"])
def test_a_marker_that_is_committed_meanwhile_stays(store, monkeypatch, moment):
    """Of two that find a damaged one, the slower does not withdraw what the other commits then."""
    trial = make_trial()
    store.commit(make_result(trial, "a1"), trial.spec)
    Storage(store.uri).replace(marker_of(trial), b"{")
    slow, whole = Store(store.uri), getattr(Storage, moment)
    calls = []

    def repaired_meanwhile(storage, path, *to):
        if storage is not slow._storage or calls or path != marker_of(trial):
            return whole(storage, path, *to)
        calls.append(path)
        seen = whole(storage, path) if moment == "read" else None
        assert store.commit(make_result(trial, "a2"), trial.spec)
        return seen if moment == "read" else whole(storage, path, *to)

    monkeypatch.setattr(Storage, moment, repaired_meanwhile)
    assert slow.read(trial.key).attempt == "a2"
    assert calls
    assert store.read(trial.key).attempt == "a2"
    assert len(quarantined(store, trial.key)) == 1


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
