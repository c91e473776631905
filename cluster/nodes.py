"""Nodes that are taken away on purpose: drained, reclaimed by their owner, or shut down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import ray
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.exceptions import RayActorError

from cluster.attempts import AttemptFailure
from search_spaces.contracts import FailureClass

_TAKEN_AWAY = (NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED, NodeDeathInfo.EXPECTED_TERMINATION)
# How Ray words the second of these in the death of an actor, which has a flag for the first only.
_ENDED_EXPECTEDLY = "the actor's node was terminated expectedly"


def was_taken_away(error: BaseException) -> bool:
    """Whether an actor died because its node was preempted, or ended by a signal to end.

    A node that vanishes without a word looks like a crash, and counts as one.
    """
    if not isinstance(error, RayActorError):
        return False
    return error.preempted or _ENDED_EXPECTEDLY in str(error)


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that Ray was told will soon be taken away."""
    # Ray's own trainer asks in the same way; there is no public call.
    return set(ray._private.state.state.get_draining_nodes())


def leaving_nodes() -> set[str]:
    """Return the ids of the nodes that drain, and of those that were taken away before."""
    dead = (node for node in ray.nodes() if not node["Alive"])
    taken = {node["NodeID"] for node in dead if node.get("DeathReason") in _TAKEN_AWAY}
    return draining_nodes() | taken


def with_lost_nodes(
    failure: AttemptFailure,
    node_ids: Iterable[str],
    leaving: Callable[[], set[str]] = leaving_nodes,
) -> AttemptFailure:
    """Return a failure, as preemption if it broke a connection while a node was taken away.

    When a node goes, a rank on another node may notice before Ray does: it tells of a lost peer.

    Args:
        failure: Of any class; only ``infrastructure`` may become ``preempted``.
        node_ids: Of the gang's ranks.
        leaving: Asked only where it matters.
    """
    if failure.failure is not FailureClass.INFRASTRUCTURE:
        return failure
    gone = sorted(leaving().intersection(node_ids))
    if not gone:
        return failure
    names = ", ".join(f"{node_id[:10]}" for node_id in gone)
    message = f"Node {names} of the gang is being taken away (drained or preempted)."
    return replace(
        failure,
        failure=FailureClass.PREEMPTED,
        message=f"{message} What was seen: {failure.message}",
    )
