"""How soon a cluster's head notices a node that has vanished without a word."""

from __future__ import annotations

from collections.abc import Mapping

# What Ray 2.60 does unless told otherwise, and what notices a cut cable in about ten seconds.
RAYS_DEFAULTS = {"period_ms": 3000, "timeout_ms": 10_000, "failure_threshold": 5}
ADVISED = {"period_ms": 2000, "timeout_ms": 2000, "failure_threshold": 3}
SOON_S = 15.0
_PREFIX = "RAY_health_check_"


def health_environment() -> dict[str, str]:
    """Return the variables to set where a cluster's head is started, before ``ray start``."""
    return {f"{_PREFIX}{name}": str(value) for name, value in ADVISED.items()}


def notice_s(environment: Mapping[str, str]) -> float:
    """Return the seconds after which a head counts a silent node as dead, at most.

    So many looks in a row must each run into their time limit, with a pause before each.

    Args:
        environment: The variables of the head's processes.
    """
    period_ms, timeout_ms, num_looks = (
        _number(environment.get(f"{_PREFIX}{name}"), default)
        for name, default in RAYS_DEFAULTS.items()
    )
    return num_looks * (period_ms + timeout_ms) / 1000


def _number(given: str | None, default: int) -> int:
    try:
        return int(given) if given is not None else default
    except ValueError:
        return default
