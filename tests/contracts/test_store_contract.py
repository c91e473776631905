"""What every store promises, on each kind of file system it may lie on."""

from __future__ import annotations

import itertools
import threading

import pytest

from orchestrator.lease import Lease, LeaseLostError, Timing, lease_path
from orchestrator.storage import Storage
from orchestrator.store import Store
from search_spaces.contracts import below
from search_spaces.errors import UserError
from search_spaces.trial import Outputs, PruneOutput
from tests.orchestrator.factories import finish, leave_artifacts, make_result, make_trial

_numbers = itertools.count()


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
    zombie._storage = zombie._markers._storage = Stepped(uri, looked, go)
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


def test_looks_at_many_trials_come_in_order_and_so_do_errors(store: Store) -> None:
    trials = [make_trial(seed=seed) for seed in range(5)]
    for trial in trials:
        store.commit(make_result(trial, f"a{trial.spec.seed}"), trial.spec)
    keys = [trial.key for trial in trials]
    found = store.for_each(store.read, keys)
    assert [result and result.trial_key for result in found] == keys
    assert store.for_each(store.read, []) == []
    looked: list[int] = []

    def look(number: int) -> int:
        looked.append(number)
        if number in (3, 5):
            raise UserError(f"number {number}")
        return number

    with pytest.raises(UserError, match="number 3"):
        store.for_each(look, range(10_000))
    assert len(looked) < 10_000


def test_an_object_store_is_looked_at_several_times_at_once(s3: str) -> None:
    """The first look waits for the second: one after the other they would never end."""
    together = threading.Barrier(2, timeout=60)
    store = Store(below(s3, f"store-{next(_numbers)}"))
    store.for_each(lambda _: together.wait(), range(2))
