"""The notice that this process is about to be taken away: it may end its work in good order."""

from __future__ import annotations

import threading

_GIVEN = threading.Event()  # of the process: whoever takes it away asks no single trial


def give() -> None:
    """Tell whatever runs in this process; may be called from a signal handler."""
    _GIVEN.set()


def is_given() -> bool:
    """Whether the process is about to be taken away."""
    return _GIVEN.is_set()


def withdraw() -> None:
    """Forget the notice."""
    _GIVEN.clear()
