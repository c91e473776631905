"""Whether the Hugging Face hub answers: asked once and quickly, not by every source anew.

The hub's client tries each request again and again before it gives up, which takes it half a
minute. A sweep names up to dozens of sources, so a machine without a network would say so only
after many minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from search_spaces.errors import Fault
from search_spaces.places import masked

FORGET_S = 60.0  # for which a "no" holds: a worker may live longer than an outage
_DOWN = (502, 503, 504)  # a gateway's words for "nobody there", which the client asks again
_answers: dict[str, tuple[float, str]] = {}  # by endpoint: when it was asked, and what is wrong
_lock = threading.Lock()


def hub_fault() -> Fault | None:
    """Return why nothing can be had from the hub; None where it answers.

    An answer is any at all, also that something is not there or not allowed: what is wrong with a
    source, the source's own request tells. The limit is the client's own, ``HF_HUB_ETAG_TIMEOUT``
    (10 s). It is asked once for the process, after a "no" once a minute.
    """
    from huggingface_hub import constants  # only sources from the hub need it

    endpoint = str(constants.ENDPOINT)
    with _lock:
        asked_at, problem = _answers.get(endpoint, (0.0, ""))
        if not asked_at or (problem and time.monotonic() - asked_at > FORGET_S):
            problem = _ask(endpoint, constants.HF_HUB_ETAG_TIMEOUT)
            _answers[endpoint] = time.monotonic(), problem
    if not problem:
        return None
    return Fault(
        f"the hub, {masked(endpoint)}",
        "",
        f"is out of reach: {masked(problem)}.",
        "Check network, proxy and HF_ENDPOINT; or name local copies; or run the command once "
        "where the hub can be reached, and copy the cache, HF_HOME, from there.",
    )


def ask_anew() -> None:
    """Forget what was found: something could not be had from a hub that answered."""
    with _lock:
        _answers.clear()


@contextmanager
def cache_only() -> Iterator[None]:
    """Let ``datasets`` look into its cache alone; it has no argument that says so."""
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def first_line(error: Exception) -> str:
    """Return what an error of a library says, as a part of a sentence."""
    text = str(error).strip()
    return text.splitlines()[0][:200].rstrip(".") if text else type(error).__name__


def _ask(endpoint: str, limit_s: float) -> str:
    """Return what is wrong with the hub; '' where it answers.

    The request has a thread of its own: no limit of the client's covers the look-up of the name.
    """
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(_head(endpoint, limit_s)), daemon=True)
    asking.start()
    asking.join(limit_s)
    return said[0] if said else f"no answer within {limit_s:g} s"


def _head(endpoint: str, limit_s: float) -> str:
    from huggingface_hub import get_session

    try:
        answer = get_session().head(endpoint, timeout=2 * limit_s, follow_redirects=False)
    except Exception as error:
        # Name, connection, proxy, certificate and HF_HUB_OFFLINE share no base class.
        return first_line(error)
    return f"it answers {answer.status_code}" if answer.status_code in _DOWN else ""
