"""SIGTERM stays with whoever heeded it before Ray was started in the process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def keep_sigterm() -> Iterator[None]:
    """Give SIGTERM back to its handler in Python, if there was one, where Ray takes it.

    ``ray.init`` puts two handlers of its own in place of what is there: one leaves by SystemExit,
    the other dumps the stack and aborts the process 3 s later, in the midst of its end. A SIGTERM
    that comes in between goes to the handler that was there, too.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        signal.alarm(0)  # else the process is aborted
        signal.signal(signal.SIGTERM, handler)
        handler(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
