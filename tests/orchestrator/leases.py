"""Leases of one sweep, in a store of each kind: taken here, held elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.lease import Lease, Timing, lease_path
from orchestrator.lease_record import LeaseRecord, decode_lease
from orchestrator.storage import Storage

QUICK = Timing(heartbeat_s=0.05, term_s=0.5, settle_s=0.1)
PATH = lease_path("toy", "h" * 64)


@pytest.fixture(params=["folder", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"fsspec+memory://{tmp_path}"


def take(uri: str, take_over: bool = False, timing: Timing = QUICK, **more: Any) -> Lease:
    return Lease.acquire(uri, "toy", "h" * 64, take_over, timing=timing, **more)


def seen(uri: str) -> LeaseRecord:
    record = decode_lease(Storage(uri).read(PATH) or b"")
    assert record is not None
    return record


def write(uri: str, record: LeaseRecord) -> None:
    Storage(uri).replace(PATH, record.encode())


def elsewhere(**changes: Any) -> LeaseRecord:
    """A lease of a driver on another machine, whose clock is far ahead."""
    future = "2999-01-01T00:00:00+00:00"
    machine = {"host": "node7", "machine": "node7 b s", "pid": 1234, "user": "ada"}
    record = LeaseRecord.new(term_s=0.5)
    return record.model_copy(update={**machine, "since": future, "heartbeat_at": future, **changes})


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
