"""SIGTERM stays with whoever heeded it before Ray was started."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import pytest

from cluster.sigterm import keep_sigterm


def leave(number: int, frame: FrameType | None) -> None:
    """Do what Ray's handler does."""
    sys.exit(number)


def test_it_is_given_back(sigterms: list[int]) -> None:
    with keep_sigterm():
        signal.signal(signal.SIGTERM, leave)
    signal.raise_signal(signal.SIGTERM)
    assert sigterms == [signal.SIGTERM]


def test_one_that_comes_meanwhile_is_passed_on(sigterms: list[int]) -> None:
    """Also where it would abort the process a few seconds later."""
    with pytest.raises(SystemExit), keep_sigterm():
        signal.signal(signal.SIGTERM, leave)
        signal.alarm(100)
        signal.raise_signal(signal.SIGTERM)
    assert sigterms == [signal.SIGTERM]
    assert signal.alarm(0) == 0


def test_where_nobody_heeds_it_ray_may_keep_it(sigterms: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with keep_sigterm():
        signal.signal(signal.SIGTERM, leave)
    assert signal.getsignal(signal.SIGTERM) is leave
