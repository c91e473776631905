"""A real object store that is gone for some seconds in the middle of a sweep, twice."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from cluster.local_executor import LocalExecutor
from orchestrator.driver import run_sweep
from orchestrator.journal import Journal
from orchestrator.policies import LadderPolicy
from orchestrator.retries import DEFAULT_BUDGETS
from orchestrator.storage import Storage, _quick
from orchestrator.store import Store
from search_spaces.contracts import Compute, TrialRequest, TrialResult
from search_spaces.errors import StoreAwayError
from tests.orchestrator.factories import finish, make_lineage, make_request
from tests.orchestrator.object_store import SETTINGS, Door, running_s3
from tests.orchestrator.weather import Patient
from tests.orchestrator.world import SWEEP


class Runs:
    """Trials that end at once; one shuts the store as it ends, another before it writes.

    It is opened again when somebody has noticed: the driver, and the worker.
    """

    def __init__(self, door: Door, trials: list[Any], said: list[str], log: list[Any]) -> None:
        self._door, self._trials = door, {trial.key: trial for trial in trials}
        self._said, self._log = said, log
        self._shut_after, self._shut_before = trials[1].key, trials[2].key
        self.counts: Counter[str] = Counter()

    def __call__(self, request: TrialRequest, reporter: Any) -> TrialResult:
        key = request.spec.key
        self.counts[key] += 1
        if key == self._shut_before:
            self._shut(lambda: any("Tried again" in str(record.msg) for record in self._log))
        result = finish(self._door.uri, self._trials[key], request.attempt)
        if key == self._shut_after:
            self._shut(lambda: bool(self._said))
        return result

    def _shut(self, is_noticed: Callable[[], bool]) -> None:
        def open_later() -> None:
            while not is_noticed():
                time.sleep(0.1)
            self._door.open()

        self._door.shut()
        threading.Thread(target=open_later, daemon=True).start()


@pytest.mark.slow
def test_a_sweep_outlives_a_store_that_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Driver and worker wait for it: every trial runs once, is committed once, and it is said."""
    trials, diary = make_lineage(num_rounds=4), Patient()
    with running_s3() as uri:
        door = Door(uri)
        runs, store = Runs(door, trials, diary.said, caplog.records), Store(door.uri)
        executor = LocalExecutor(Compute(), runs, connect_function=lambda env: None)
        with Journal.open(tmp_path / "journal.db", SWEEP, now=time.time()) as journal:
            outcome = run_sweep(
                trials,
                store,
                journal,
                executor,
                LadderPolicy(),
                DEFAULT_BUDGETS,
                diary,
                time.time,
                partial(make_request, door.uri),
            )
            kinds = Counter(event.kind for event in journal.events())
        assert outcome.succeeded
        assert runs.counts == Counter({trial.key: 1 for trial in trials})
        assert kinds == {"started": 4, "succeeded": 4}
        for trial in trials:
            names = Storage(uri).names(f"results/{trial.key}")
            assert names == ["COMMITTED.json", "attempts"]
            assert len(Storage(uri).names(f"results/{trial.key}/attempts")) == 1
        assert "cannot be " in diary.said[0]
        assert "answers again after" in diary.said[1]
        door.shut()


@pytest.mark.slow
def test_a_server_that_never_answers_is_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver can do nothing else in a call; pyarrow's own default is 100 s for each."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(StoreAwayError, match=r"cannot be opened: .*Timeout was reached"):
            Storage(f"s3://bucket?endpoint_override={place}&scheme=http&region=us-east-1")
        assert time.monotonic() - began < 60


def test_what_a_copy_would_lose_is_not_copied() -> None:
    """An S3 file system's copy has not all of its options."""
    uri = "s3://bucket/folder?region=us-east-1&tls_verify_certificates=false"
    system, _ = fs.FileSystem.from_uri(uri)
    assert _quick(system, uri) is system
    uri = "s3://key:secret@bucket?region=us-east-1"
    system, _ = fs.FileSystem.from_uri(uri)
    copied = _quick(system, uri)
    assert copied is not system
    assert copied.equals(system)
