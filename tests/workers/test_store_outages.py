"""Which errors of a store pass, and what reads and writes it from a worker until they have."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from search_spaces import inputs
from search_spaces.contracts import FailureClass
from search_spaces.errors import StoreAwayError
from search_spaces.outages import Pauses, may_pass, patiently
from workers import artifacts, checkpoint_file
from workers.failures import TrialFailure, classify


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (ConnectionResetError("gone"), True),
        (TimeoutError(), True),
        (
            OSError("When reading: AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 7"),
            True,
        ),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your rate"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation"), True),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied"), False),
        (OSError("AWS Error NO_SUCH_BUCKET during HeadObject operation"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError("no such key"), False),
        (NotADirectoryError("it is a file"), False),
        (OSError("Cannot open for reading: path '/x/MANIFEST.json' is a directory"), False),
        (ValueError("no URI"), False),
    ],
)
def test_what_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_workers_try_again_and_then_fail_as_infrastructure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("search_spaces.outages.FIRST_PAUSE_S", 0.01)
    left, whole = [2], artifacts._write

    def write(*arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ETIMEDOUT, "busy")
        whole(*arguments)

    monkeypatch.setattr(artifacts, "_write", write)
    assert artifacts.write_artifact(str(tmp_path), "file", b"x").num_bytes == 1
    assert (tmp_path / "file").read_bytes() == b"x"
    assert caplog.text.count("Tried again for 600 s.") == 1
    left[0] = 10**9
    with pytest.raises(TrialFailure, match=r"has not answered for 0\.05 s: .*busy") as raised:
        artifacts.write_artifact(str(tmp_path), "file", b"x", patience_s=0.05)
    assert raised.value.failure is FailureClass.INFRASTRUCTURE
    with pytest.raises(FileNotFoundError):
        patiently(lambda: (tmp_path / "none").read_bytes(), "none")
    assert Pauses().next_s() == 0.01


def test_inputs_of_a_store_that_is_away_are_no_users_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that cannot copy its data is tried again, later; a plan says it within a minute."""

    def fail(*_: Any) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path))
    monkeypatch.setattr(inputs, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(inputs, "_copy_all", fail)
    uri = f"s3://bucket/inputs/{'0' * 64}/train.csv"
    with pytest.raises(StoreAwayError) as raised:
        inputs.local_path(uri)
    assert str(raised.value) == (
        f"s3://bucket/inputs/{'0' * 64}: the store does not answer: [Errno 113] No route to host. "
        "Check that this node reaches it."
    )
    assert classify(raised.value) is FailureClass.INFRASTRUCTURE


def test_a_checkpoint_is_not_given_up_for_a_lost_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_spaces.outages.FIRST_PAUSE_S", 0.01)
    info = checkpoint_file.write_file(str(tmp_path), "state", [b"x"])
    left, whole = [2], checkpoint_file._content

    def content(uri: str) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ECONNRESET, "gone")
        return whole(uri)

    monkeypatch.setattr(checkpoint_file, "_content", content)
    assert checkpoint_file.read_file(str(tmp_path), info) == b"x"
