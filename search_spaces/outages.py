"""Outages of a store: which errors pass of their own, and how long they are waited for.

A full, read-only or forbidden place is none: it stays as it is until somebody mends it, who should
learn of it at once, and each minute waited would train what cannot be kept either.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from search_spaces.places import masked

LIMIT_S = 600.0  # shorter than a hang's: see run_specs.HangLimits
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
T = TypeVar("T")
_log = logging.getLogger(__name__)
# Of a folder: a server, a network or a lock that may be there again in a moment.
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE),
    *(errno.ESHUTDOWN, errno.EREMOTEIO, errno.ENOLCK),
}
# Of errors without a number, an object store's mostly: what only another setting mends.
_REFUSALS = (
    *("is a directory", "not a directory", "not a regular file"),
    *("access_denied", "access denied", "permission_denied", "permission denied", "forbidden"),
    *("no_such_bucket", "nosuchbucket", "invalid_access_key", "invalidaccesskey"),
    *("unrecognized_client", "signature_does_not_match", "signaturedoesnotmatch"),
    *("unauthenticated", "http status 401", "http status 403"),
)


def may_pass(error: BaseException) -> bool:
    """Return whether a store that raised this may work again without anybody's doing."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno in _PASSING
    text = str(error).lower()
    return type(error) is OSError and not any(sign in text for sign in _REFUSALS)


class Pauses:
    """The pauses between tries: each is twice as long, up to ``LONGEST_PAUSE_S``."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def next_s(self) -> float:
        """Return how many seconds to wait before the next try."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s


def patiently(action: Callable[[], T], place: str, limit_s: float = LIMIT_S) -> T:
    """Return what an action gives; while the store does not answer, try it again.

    Args:
        action: Reads or writes a file of the store; may be done twice.
        place: The file, for the log.
        limit_s: After it the store's last error is raised.

    Raises:
        OSError: The store has not answered for so long, or its error is none that passes.
    """
    pauses, until_s, was_told = Pauses(), time.monotonic() + limit_s, False
    while True:
        try:
            return action()
        except OSError as error:
            pause_s = pauses.next_s()
            if not may_pass(error) or time.monotonic() + pause_s > until_s:
                raise
            if not was_told:
                said = masked(str(error))
                _log.warning("%s: %s. Tried again for %g s.", masked(place), said, limit_s)
            was_told = True
        time.sleep(pause_s)
