"""Ctrl-C and SIGTERM that cannot be lost."""

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

    SIGTERM, by which Kubernetes, systemd, Slurm and docker end a process, is the same as Ctrl-C.
    One that comes after either is let pass: it would break off an end that is in good order.
    """

    def __init__(self) -> None:
        self._pressed: int | None = None

    def __enter__(self) -> Self:
        self._handlers = {
            number: signal.signal(number, self._press) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """Exit code of a command that was stopped: 143 by SIGTERM, 130 by anything else."""
        return 128 + (self._pressed or signal.SIGINT)

    def check(self) -> None:
        """Do nothing unless Ctrl-C was pressed or SIGTERM came.

        Raises:
            KeyboardInterrupt: It was, and whoever got the first exception dropped it.
        """
        if self._pressed:
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed and number == signal.SIGTERM:
            return
        self._pressed = self._pressed or number
        raise KeyboardInterrupt

    def _unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        value = dropped.exc_value
        if isinstance(value, SystemExit) and value.code == signal.SIGTERM:
            self._pressed = self._pressed or signal.SIGTERM  # by Ray's own handler, as it starts
        elif dropped.exc_type is not KeyboardInterrupt:  # which check() raises again
            self._hook(dropped)
