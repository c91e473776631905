"""A head that is gone: when that is sure, and what is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.head import QUIET_S, is_stuck, lost_after_s, lost_text

PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
TEXT = (
    "The head of the cluster (Ray cluster head:6379: 2 node(s)) has not answered for 46 s and "
    "counts as lost. What was committed is kept. Start the cluster again, then go on with the same "
    "'tickets run' command."
)


@pytest.mark.parametrize(("given", "expected"), [(None, 40.0), ("120", 80.0), ("soon", 40.0)])
def test_driver_ends_before_ray_would_end_it(given: str | None, expected: float) -> None:
    environment = {PATIENCE: given} if given else {}
    assert lost_after_s(environment) == expected > QUIET_S


def test_stuck_driver_is_ended_later_than_one_that_ends_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(PATIENCE, raising=False)
    assert not is_stuck(lost_after_s() + 1) and is_stuck(lost_after_s() + 6) and is_stuck(55)


def test_what_is_said() -> None:
    assert lost_text("Ray cluster head:6379: 2 node(s)", 46.4) == TEXT


def test_stuck_process_ends_with_words() -> None:
    """Also while its main thread never comes back."""
    program = (
        "import threading, time; from cluster.head import end_stuck\n"
        "threading.Timer(0.1, end_stuck, ['the words']).start(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=50)
    assert (done.returncode, done.stderr.strip()) == (75, b"the words")
