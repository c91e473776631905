"""Trials whose memory runs out: the next attempt computes fewer examples at once."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.driver import run_sweep
from orchestrator.journal import Journal, SweepInfo
from orchestrator.journal_reader import EventRow, TrialRow
from orchestrator.listeners import SilentListener, SweepOutcome
from orchestrator.micro_batches import MicroBatches, micro_batch_sizes
from orchestrator.policies import LadderPolicy
from orchestrator.retries import DEFAULT_BUDGETS, RetryRules
from orchestrator.store import Store
from search_spaces.contracts import FailureClass, TrialRequest, TrialState
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_lineage, make_request, make_trial
from tests.orchestrator.simulated import FakeClock, SimulatedExecutor

OOM = FailureClass.OUT_OF_MEMORY
NO_ROOM_FOR_ONE = (
    "it broke. The micro-batch was 1 and cannot be halved: let fewer gangs share a device or node, "
    "or take one with more memory. A smaller max_length, or recipe.dtype: bf16, needs less too, "
    "but those are other trials."
)


@settings(deadline=None)
@given(st.integers(1, 512), st.data())
def test_sizes_divide_the_share_and_end_with_one(share: int, data: st.DataObject) -> None:
    """Each is at most half the one before, and none keeps an example out of the batch."""
    first = data.draw(st.sampled_from([n for n in range(1, share + 1) if share % n == 0]))
    sizes = micro_batch_sizes(share, first)
    assert (sizes[0], sizes[-1]) == (first, 1)
    assert all(share % size == 0 for size in sizes)
    assert all(2 * after <= before for before, after in pairwise(sizes))


def test_sizes_of_some_batches() -> None:
    assert micro_batch_sizes(32, 32) == (32, 16, 8, 4, 2, 1)
    assert micro_batch_sizes(24, 24) == (24, 12, 6, 3, 1)
    assert micro_batch_sizes(15, 15) == (15, 5, 1)


def wide_trial(batch_size: int) -> Trial:
    """Return a trial with that global batch."""
    trial = make_trial()
    recipe = trial.spec.recipe.model_copy(update={"batch_size": batch_size})
    return trial.model_copy(update={"spec": trial.spec.model_copy(update={"recipe": recipe})})


class Run:
    """A sweep over some trials in which attempts fail as a function of their request says."""

    def __init__(self, folder: Path, trials: list[Trial], fail: Any, **rules: Any) -> None:
        self.requests: list[TrialRequest] = []
        clock, store = FakeClock(), Store(f"{folder}/store")

        def noted(request: TrialRequest) -> FailureClass | None:
            self.requests.append(request)
            found: FailureClass | None = fail(request)
            return found

        executor = SimulatedExecutor(clock, store.uri, trials, num_slots=1, fail=noted)
        path = folder / "journal.db"
        with Journal.open(path, SweepInfo("toy", "h", ""), now=0.0) as journal:
            self.outcome: SweepOutcome = run_sweep(
                trials,
                store,
                journal,
                executor,
                LadderPolicy(),
                DEFAULT_BUDGETS,
                SilentListener(),
                clock,
                partial(make_request, store.uri),
                rules=RetryRules(**rules),
            )
            self.rows: list[TrialRow] = journal.trials()
            self.events: list[EventRow] = journal.events()

    @property
    def sizes(self) -> list[int | None]:
        """Micro-batch of each attempt; None = the whole share."""
        return [request.compute.micro_batch_size for request in self.requests]


def too_large(limit: int) -> Any:
    """Memory holds that many examples at once."""

    def fail(request: TrialRequest) -> FailureClass | None:
        size = request.compute.micro_batch_size or request.spec.recipe.batch_size
        return OOM if size > limit else None

    return fail


def test_each_retry_has_half_the_micro_batch_and_the_same_key(tmp_path: Path) -> None:
    """The journal says what was done, when it was decided and when it was started."""
    trial = make_trial()
    whole = trial.spec.recipe.batch_size
    run = Run(tmp_path, [trial], too_large(whole // 4))
    assert run.outcome.succeeded
    assert run.sizes == [None, whole // 2, whole // 4]
    assert {request.spec.key for request in run.requests} == {trial.key}
    notes = [
        f"retry 1 with micro-batch {whole // 2} instead of {whole}",
        f"retry 2 with micro-batch {whole // 4} instead of {whole // 2}",
    ]
    assert [e.payload["note"] for e in run.events if e.kind == "failed"] == notes
    started = [event.payload.get("note") for event in run.events if event.kind == "started"]
    assert started == [None, *notes]
    assert run.events[-2].payload["note"] == notes[1]  # the attempt that succeeded
    first = next(event for event in run.events if event.kind == "failed")
    said = f"it broke. The micro-batch was {whole}. Next: {notes[0]}."
    assert first.payload["message"] == said


def test_other_trials_and_other_failures_keep_theirs(tmp_path: Path) -> None:
    """Only a trial that ran out of memory itself is halved."""
    unlucky, other, crashing = make_trial(seed=1), make_trial(seed=2), make_trial(seed=3)
    failed: set[str] = set()

    def fail(request: TrialRequest) -> FailureClass | None:
        key = request.spec.key
        if key in failed or key == other.key:
            return None
        failed.add(key)
        return OOM if key == unlucky.key else FailureClass.INFRASTRUCTURE

    run = Run(tmp_path, [unlucky, other, crashing], fail)
    assert run.outcome.succeeded
    halved = [r.spec.key for r in run.requests if r.compute.micro_batch_size]
    assert halved == [unlucky.key]


def test_one_example_that_does_not_fit_is_final_and_says_so(tmp_path: Path) -> None:
    """At micro-batch 1 no budget helps; what waits for it is blocked with the same words."""
    first, second = make_lineage(num_rounds=2)
    whole = first.spec.recipe.batch_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.DEFAULT_BUDGETS", {OOM: 99})
        run = Run(tmp_path, [first, second], too_large(0))
    assert run.sizes == [None, *micro_batch_sizes(whole, whole)[1:]]
    assert run.outcome.failures[first.key].message == NO_ROOM_FOR_ONE
    states = {row.key: (row.state, row.message) for row in run.rows}
    assert states[first.key] == (TrialState.FAILED, NO_ROOM_FOR_ONE)
    label = first.main_role.label
    assert states[second.key] == (TrialState.BLOCKED, f"{label} failed: {NO_ROOM_FOR_ONE}")


def test_the_budget_ends_halving_too(tmp_path: Path) -> None:
    """The last message names the micro-batch that was still too large."""
    trial = wide_trial(64)
    run = Run(tmp_path, [trial], too_large(1))
    assert run.sizes == [None, 32, 16, 8]
    assert run.outcome.failures[trial.key].message == "it broke. The micro-batch was 8."


def test_strict_numerics_forbids_another_micro_batch(tmp_path: Path) -> None:
    """The retries are there, but each as the sweep says (method rule 22)."""
    run = Run(tmp_path, [make_trial()], too_large(1), strict_numerics=True)
    assert run.sizes == [None] * 4
    assert not any("note" in event.payload for event in run.events)


def test_a_share_of_two_ranks_is_halved_on_each() -> None:
    batches, request = MicroBatches(), make_request("unused", wide_trial(32), "a1")
    compute = request.compute.model_copy(update={"num_ranks": 2})
    request = request.model_copy(update={"compute": compute})
    assert batches.fit(request) is request
    key = request.spec.key
    assert batches.can_shrink(key, OOM) and batches.note(key) == ""
    assert batches.shrink(key, FailureClass.ERROR) == ""
    assert batches.shrink(key, OOM) == "retry 1 with micro-batch 8 instead of 16"
    assert batches.fit(request).compute == compute.with_micro_batch(8)
    assert json.loads(batches.fit(request).spec.model_dump_json()) == json.loads(
        request.spec.model_dump_json()
    )
