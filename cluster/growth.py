"""Whether a cluster grows by itself: then what does not fit yet is demand, not a mistake."""

from __future__ import annotations

import json
import re
from typing import Any

_STATUS_KEY = b"__autoscaling_status"
_V2_KEY = b"__autoscaler_v2_enabled"
_FIXED_NODE = re.compile("node_[0-9a-f]{56}")  # the name that a watcher gives to a node's type


def grows(status: bytes | None, is_v2: bool) -> bool:
    """Return whether an autoscaler may add nodes, from what it last reported.

    Ray runs one on every head. Where it has no node types to choose from it only watches, and
    reports each node as a type of its own.

    Args:
        status: The report, as JSON; None = there is none yet.
        is_v2: Whether it is the second generation, which runs only where nodes can be had.
    """
    if is_v2:
        return True
    try:
        report: dict[str, Any] = json.loads(status or b"{}").get("autoscaler_report") or {}
        types = [*(report.get("active_nodes") or {}), *(report.get("pending_launches") or {})]
    except (ValueError, AttributeError, TypeError):
        return False
    return any(not _FIXED_NODE.fullmatch(str(name)) for name in types)


def cluster_grows() -> bool:
    """Return whether the cluster that this process has joined may get more nodes."""
    from ray.experimental import internal_kv

    client = internal_kv.internal_kv_get_gcs_client()
    v2 = client.internal_kv_get(_V2_KEY, None, timeout=5)
    return grows(client.internal_kv_get(_STATUS_KEY, None, timeout=5), v2 == b"1")
