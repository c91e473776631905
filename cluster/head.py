"""A cluster's head that is gone: when that is sure, what is said, and how a stuck driver ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from search_spaces.errors import ClusterLostError

QUIET_S = 4.0  # without an answer: nothing is asked of the head that could wait for it
_STUCK_S = 5.0
_PATIENCE_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RAYS_PATIENCE_S = 60.0


def lost_after_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds without an answer after which a head counts as gone.

    Ray ends every process of the cluster, this one too, when its own patience ends: two thirds of
    that leave time to say why.
    """
    try:
        patience_s = float(environment[_PATIENCE_VARIABLE])
    except (KeyError, ValueError):
        patience_s = _RAYS_PATIENCE_S
    return patience_s * 2 / 3


def is_stuck(silent_s: float) -> bool:
    """Whether a driver should have ended by itself since its head was lost."""
    return silent_s > lost_after_s() + _STUCK_S


def lost_text(where: str, silent_s: float) -> str:
    """Return what a user is told of a head that is gone.

    Args:
        where: The cluster, for people.
        silent_s: Since its last answer.
    """
    return (
        f"The head of the cluster ({where}) has not answered for {silent_s:.0f} s and counts as "
        "lost. What was committed is kept. Start the cluster again, then go on with the same "
        "'tickets run' command."
    )


def end_stuck(text: str) -> None:
    """End this process at once: its main thread waits within Ray for a head that is gone."""
    sys.stderr.write(f"\n{text}\n")
    sys.stderr.flush()
    os._exit(ClusterLostError.exit_code)
