"""Ctrl-C that cannot be lost."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Self


class CtrlC:
    """While entered, remembers that Ctrl-C was pressed besides raising KeyboardInterrupt.

    Python prints and drops an exception that is raised inside a fork hook, a destructor or a
    weak reference's callback, and a library may catch it: a sweep would then just go on. A loop
    that calls :meth:`check` in each round stops all the same. To be entered on the main thread.
    """

    def __init__(self) -> None:
        self._pressed = False

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGINT, self._press)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook
        signal.signal(signal.SIGINT, self._handler)

    def check(self) -> None:
        """Do nothing unless Ctrl-C was pressed.

        Raises:
            KeyboardInterrupt: It was, and whoever got the first exception dropped it.
        """
        if self._pressed:
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        raise KeyboardInterrupt

    def _unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:  # which check() raises again
            self._hook(dropped)
