"""Leases that are wrong, and trouble with right ones: nobody is locked out or waits for good."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import lease as lease_module
from orchestrator.lease_record import LeaseRecord, decode_lease
from orchestrator.storage import Storage
from search_spaces.errors import UserError
from tests.orchestrator.leases import PATH, elsewhere, eventually, seen, take, uri, write

__all__ = ["uri"]  # a fixture


def test_an_unreadable_lease_is_respected_until_it_is_watched(uri: str) -> None:
    """Nobody can tell whose it is: it is treated as one that may be alive."""
    endless = elsewhere().model_copy(update={"term_s": 1e9})
    Storage(uri).replace(PATH, b"{half")
    with pytest.raises(UserError, match="being run by somebody whose lease cannot be read"):
        take(uri)
    take(uri, take_over=True).close()
    write(uri, endless)  # nobody would wait for it
    take(uri, take_over=True).close()


def test_what_can_be_no_lease_is_told(tmp_path: Path) -> None:
    """Not waited for: it is neither there nor absent."""
    path = tmp_path / "store" / PATH
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"LEASE\.json: something is there that .* delete it"):
        take(str(tmp_path / "store"))


def test_a_lease_that_changes_hands_before_it_is_replaced_is_judged_anew(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two find the holder gone; the slower one looks again and is refused."""
    write(uri, LeaseRecord.new(term_s=60).model_copy(update={"pid_started": "1"}))
    judge = lease_module._require_over
    calls: list[bytes] = []

    def slow(storage: Storage, path: str, found: bytes, *rest: Any) -> None:
        judge(storage, path, found, *rest)
        calls.append(found)
        write(uri, elsewhere())  # the quicker one

    monkeypatch.setattr(lease_module, "_require_over", slow)
    with pytest.raises(UserError, match="this sweep is being run by process 1234 on node7"):
        take(uri)
    assert len(calls) == 1 and seen(uri).pid == 1234


def test_an_error_of_any_kind_does_not_end_the_heartbeats(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A silent end of its thread would leave a sweep that waits for good."""
    with take(uri) as lease, caplog.at_level(logging.WARNING):

        def fail(path: str) -> bytes:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(lease._storage, "read", fail)
            eventually(lambda: "can't start new thread" in caplog.text)
            assert not lease.is_current
        eventually(lambda: lease.is_current)
        assert "The sweep's lease is renewed: trials are started again." in caplog.text


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda x: json.dumps(x).encode(),
        st.dictionaries(
            st.sampled_from(["token", "counter", "pid", "term_s", "schema_version"]), st.integers()
        ),
    )
)
def test_no_bytes_make_a_lease_of_nothing(data: bytes) -> None:
    """Whatever lies there is a whole record or none."""
    assert decode_lease(data) is None


def test_a_lease_of_another_version_is_not_understood() -> None:
    """It is whole, but says things that nobody here knows."""
    newer = LeaseRecord.new(term_s=1).model_copy(update={"schema_version": 2})
    assert decode_lease(newer.encode()) is None
