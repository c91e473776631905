"""Interrupted trials of every kind that begins elsewhere or reads tokens: the same bits too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import TrialRequest
from search_spaces.trial import CARRY_ARTIFACT, Outputs, SavedWeights, weights_artifact
from tests.workers.interrupted import (
    MASK,
    PRUNE,
    STEPS,
    Toy,
    _notices,
    accumulating,
    leave,
    leaving,
    same,
    staying,
    trial,
    with_checkpoints,
)
from tests.workers.running import artifact_ref, run
from tests.workers.token_tasks import Toys

__all__ = ["_notices", "accumulating"]  # fixtures
pytestmark = pytest.mark.slow
Made = Callable[[str], TrialRequest]  # the same trial in a store of its own
REWIND, LEFT_AFTER = 3, 5
OUTPUTS = Outputs(prunes=(PRUNE,), weights=(4, STEPS), carry=True)


def check(executor: LocalExecutor, made: Made) -> None:
    """Run a trial undisturbed, and in two attempts, and compare all that it leaves."""
    undisturbed = run(executor, made("undisturbed"))
    wanted = with_checkpoints(made("interrupted"))
    leave(executor, leaving(wanted, "a001-0000abcd", LEFT_AFTER))
    result = run(executor, staying(wanted, "a002-0000abcd"))
    assert (result.resumed_at_step, result.restart_reason) == (LEFT_AFTER, "")
    assert same(result) == same(undisturbed)
    assert {weights_artifact(4), CARRY_ARTIFACT} < result.artifacts.keys()


def test_late_rewinding(root: Path, toy: Toy, accumulating: LocalExecutor) -> None:
    """Steps count from the recipe's first, of which some were taken by another trial."""
    first = trial(root, toy, "rewound-to", outputs=Outputs(weights=(REWIND,)))
    file = artifact_ref(first, run(accumulating, first), weights_artifact(REWIND))
    start = SavedWeights(kind="resumed", parent=first.spec.key, step=REWIND)

    def made(name: str) -> TrialRequest:
        changes = {"mask": MASK, "start": start, "start_file": file, "outputs": OUTPUTS}
        return trial(root, toy, f"rewound-{name}", **changes)

    check(accumulating, made)


def test_a_carried_head_and_streams_that_continue(
    root: Path, toy: Toy, accumulating: LocalExecutor
) -> None:
    """Epochs and steps of the random streams count from the parent's last."""
    first = trial(root, toy, "carried-from", outputs=Outputs(carry=True))
    file = artifact_ref(first, run(accumulating, first), CARRY_ARTIFACT)

    def made(name: str) -> TrialRequest:
        own = trial(root, toy, f"carried-{name}", head="carry", rng="continue", outputs=OUTPUTS)
        spec = own.spec.model_copy(update={"carry_from": first.spec.key})
        return own.model_copy(update={"spec": spec, "carry_file": file})

    check(accumulating, made)


@pytest.mark.parametrize("kind", ["text", "squad"])
def test_hidden_words_and_answers(
    root: Path, toys: Toys, accumulating: LocalExecutor, kind: str
) -> None:
    """The words that are hidden after the interruption are those that would have been."""

    def made(name: str) -> TrialRequest:
        return trial(root, toys[kind], f"{kind}-{name}", mask=MASK, outputs=OUTPUTS)

    check(accumulating, made)
