"""SIGTERM stays with whoever heeded it before Ray was started."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from cluster.sigterm import keep_sigterm


@pytest.fixture
def seen() -> Iterator[list[int]]:
    """A process that heeds SIGTERM: here it notes the signal."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    yield noted
    signal.signal(signal.SIGTERM, before)


def leave(number: int, frame: FrameType | None) -> None:
    """Do what Ray's handler does."""
    sys.exit(number)


def test_it_is_given_back(seen: list[int]) -> None:
    with keep_sigterm():
        signal.signal(signal.SIGTERM, leave)
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


def test_one_that_comes_meanwhile_is_passed_on(seen: list[int]) -> None:
    """Also where it would abort the process a few seconds later."""
    with pytest.raises(SystemExit), keep_sigterm():
        signal.signal(signal.SIGTERM, leave)
        signal.alarm(100)
        signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    assert signal.alarm(0) == 0


def test_where_nobody_heeds_it_ray_may_keep_it(seen: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with keep_sigterm():
        signal.signal(signal.SIGTERM, leave)
    assert signal.getsignal(signal.SIGTERM) is leave
