"""Which of several ranks' failures explains what happened."""

from __future__ import annotations

import pytest
import ray
from ray import ActorID, JobID, TaskID
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from cluster.attempts import AttemptFailure
from cluster.calls import RankCalls, explain_death
from cluster.rank import RankPlace, RankReply
from cluster.session import Session
from search_spaces.contracts import FailureClass

PLACE = RankPlace(pid=7, node_ip="10.0.0.7", log_path="/logs/7.err")


def test_memory_monitor_is_out_of_memory() -> None:
    """A process that Ray ended for its memory counts as out of memory, not as lost."""
    failure = explain_death(OutOfMemoryError("node ran low"), "rank 1 of gang 0")
    assert failure.failure is FailureClass.OUT_OF_MEMORY
    assert failure.message == "Ray ended rank 1 of gang 0 because its node ran out of memory."
    assert failure.details == "node ran low"


def test_lost_process_is_infrastructure() -> None:
    """Any other loss of a process is the infrastructure's; the message names it."""
    failure = explain_death(ActorDiedError(), "rank 1 of gang 0")
    assert failure.failure is FailureClass.INFRASTRUCTURE
    assert failure.message.startswith("Rank 1 of gang 0 died: The actor died unexpectedly")


# As Ray's head words them (gcs_actor_manager.cc).
PREEMPTED = "\tthe actor's node was preempted: Node was forcibly preempted"
ENDED = "\tthe actor's node was terminated expectedly: received SIGTERM"
LOST = "\tthe actor's node was terminated unexpectedly: health check failed"


def died(reason: int, text: str) -> ActorDiedError:
    """Return what Ray raises for an actor that died with its node."""
    job = JobID.from_int(1)
    actor = ActorID.of(job, TaskID.for_driver_task(job), 1)
    context = ActorDiedErrorContext(
        error_message=f"The actor died because its node has died. Node Id: 77\n{text}",
        actor_id=actor.binary(),
        class_name="Rank",
        node_death_info=NodeDeathInfo(reason=reason, reason_message=text),
    )
    return ActorDiedError(context)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED, PREEMPTED),
        (NodeDeathInfo.EXPECTED_TERMINATION, ENDED),
    ],
)
def test_node_taken_away_is_preemption(reason: int, text: str) -> None:
    """A drained or reclaimed node, and one told to end, are nobody's fault."""
    failure = explain_death(died(reason, text), "rank 1 of gang 0")
    assert failure.failure is FailureClass.PREEMPTED
    assert failure.message == (
        f"Rank 1 of gang 0 was lost with its node, which was taken away: {text.strip()}"
    )


@pytest.mark.parametrize(
    "error",
    [died(NodeDeathInfo.UNEXPECTED_TERMINATION, LOST), ActorUnavailableError("no route", None)],
)
def test_node_that_vanished_is_infrastructure(error: Exception) -> None:
    """A node that goes without a word looks like a crash, and counts as one."""
    assert explain_death(error, "rank 0").failure is FailureClass.INFRASTRUCTURE


@ray.remote
def _dies() -> None:
    raise ChildProcessError("gone")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (FailureClass.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY),
        (FailureClass.DIVERGED, FailureClass.DIVERGED),
        (FailureClass.PREEMPTED, FailureClass.PREEMPTED),  # its own budget: it costs no failure's
        (FailureClass.ERROR, FailureClass.INFRASTRUCTURE),
        (FailureClass.INFRASTRUCTURE, FailureClass.INFRASTRUCTURE),
    ],
)
def test_a_peers_death_hides_no_failure_of_its_own(
    ray_session: Session, reported: FailureClass, expected: FailureClass
) -> None:
    """What only looks like a lost peer is explained by the process that died."""
    reply = RankReply(PLACE, AttemptFailure(reported, "told", "trace"), 1, 0.1)
    refs = [ray.put(reply), _dies.options(max_retries=0).remote()]
    ray.wait(refs, num_returns=2)
    calls = RankCalls(refs, "gang 0", [None, None])
    calls.collect()
    assert calls.failure is not None and calls.failure.failure is expected
    died_of_it = expected is FailureClass.INFRASTRUCTURE
    assert calls.failure.message.startswith("Rank 1 of gang 0 died" if died_of_it else "told")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ((FailureClass.INFRASTRUCTURE, FailureClass.DIVERGED), FailureClass.DIVERGED),
        ((FailureClass.ERROR, FailureClass.USER_ERROR), FailureClass.USER_ERROR),
        ((FailureClass.ERROR, FailureClass.INFRASTRUCTURE), FailureClass.ERROR),
        ((FailureClass.INFRASTRUCTURE, FailureClass.PREEMPTED), FailureClass.PREEMPTED),
    ],
)
def test_most_telling_failure_wins(
    ray_session: Session, reported: tuple[FailureClass, ...], expected: FailureClass
) -> None:
    """A lost connection is what the peers of a failed rank see, so it explains the least."""
    replies = [
        RankReply(PLACE, AttemptFailure(failure, failure.value, "trace"), 1, 0.1)
        for failure in reported
    ]
    calls = RankCalls([ray.put(reply) for reply in replies], "gang 0", [None, None])
    calls.collect()
    assert calls.failure is not None and not calls.succeeded
    assert calls.failure.failure is expected
    assert calls.failure.details.endswith("Log of (process 7 on 10.0.0.7, log /logs/7.err)")
