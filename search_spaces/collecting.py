"""Python's search for dead cycles, left out where very many objects without any are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Leave out the search for dead cycles: trials have none, and of 100,000 it takes a third.

    Freezing and unfreezing hands all that was made to the oldest generation unseen: else the
    first search afterwards would go through it as new.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.unfreeze()
            gc.enable()
