"""What tests of processes that are told to end share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def sigterms() -> Iterator[list[int]]:
    """A process that heeds SIGTERM: it notes each one here."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    yield noted
    signal.signal(signal.SIGTERM, before)
