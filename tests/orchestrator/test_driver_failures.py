"""What goes wrong while a sweep is driven: retries, broken lineages, bad stores and masks."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.retries import DEFAULT_RULES
from search_spaces.contracts import FailureClass, TrialState
from search_spaces.errors import UserError
from tests.orchestrator.factories import make_lineage, make_request, make_trial
from tests.orchestrator.simulated import SimulatedExecutor
from tests.orchestrator.world import World


def test_infrastructure_failures_are_tried_again_later(world):
    """A node that dies twice costs two back-offs; other trials go on meanwhile."""
    unlucky, other = make_trial(seed=1), make_trial(seed=2)
    left = Counter({unlucky.key: 2})

    def fail(request):
        left[request.spec.key] -= 1
        return FailureClass.INFRASTRUCTURE if left[request.spec.key] >= 0 else None

    assert world.run([unlucky, other], fail=fail, num_slots=1).succeeded
    assert world.submitted == [unlucky.key, other.key, unlucky.key, unlucky.key]
    starts = world.executor.started_at
    shortest_s = DEFAULT_RULES.base_s * (1 - DEFAULT_RULES.jitter)
    assert starts[2] - starts[0] >= shortest_s
    assert starts[3] - starts[2] >= 2 * shortest_s
    assert world.diary.of("retry") == [unlucky.key] * 2
    assert world.rows()[unlucky.key].attempts == 3
    numbers = [attempt[:6] for key, attempt in world.executor.submitted if key == unlucky.key]
    assert numbers == ["a0001-", "a0002-", "a0003-"]


class Patient(SimulatedExecutor):
    """Wants to be waited for while it has no free slot."""

    def wait(self, timeout_s):
        assert timeout_s > 0 or len(self._running) < self.num_slots, "the loop spins"
        return super().wait(timeout_s)


def test_a_retry_that_is_due_while_no_slot_is_free_does_not_spin(world):
    """The loop waits for the slot instead of asking again and again."""
    trials = [make_trial(seed=seed) for seed in range(20)]
    left = Counter({trials[0].key: 1})

    def fail(request):
        left[request.spec.key] -= 1
        return FailureClass.INFRASTRUCTURE if left[request.spec.key] >= 0 else None

    options = {"num_slots": 1, "rng": random.Random(3), "executor": Patient}
    assert world.run(trials, fail=fail, **options).succeeded
    assert world.submitted.count(trials[0].key) == 2 and world.submitted[-1] != trials[0].key


def test_one_broken_lineage_does_not_stop_the_others(world):
    """What waits for the failed trial is blocked with the cause; everything else succeeds."""
    broken, fine = make_lineage(1, 4), make_lineage(2, 4)
    outcome = world.run(
        [*broken, *fine],
        fail=lambda r: FailureClass.USER_ERROR if r.spec.key == broken[1].key else None,
    )
    assert not outcome.succeeded
    assert outcome.counts[TrialState.SUCCEEDED] == 5
    assert list(outcome.failures) == [broken[1].key]
    assert outcome.failures[broken[1].key].message == "it broke"
    assert world.diary.of("blocked") == [broken[2].key, broken[3].key]
    row = world.rows()[broken[3].key]
    assert row.state is TrialState.BLOCKED
    assert row.message == "round:toy:imp:r1:0.1:s1 failed: it broke"
    assert world.run([*broken, *fine]).succeeded


def test_the_executor_is_closed_whatever_happens(world):
    """Also when the trials are no graph."""
    with pytest.raises(ValueError, match="given twice"):
        world.run([make_trial(), make_trial()])
    assert world.executor.num_closes == 1


def test_a_store_that_cannot_be_written_is_found_before_anything_runs(tmp_path):
    """No trial is trained for a result that cannot be kept."""
    world = World(tmp_path)
    (tmp_path / "store").write_text("a file")  # since the store was opened
    with pytest.raises(UserError, match="cannot be written"):
        world.run([make_trial()])
    assert world.submitted == []


class Damaging(SimulatedExecutor):
    """Its first attempt leaves a cut mask, its second none at all."""

    def _end(self, request):
        outcome = super()._end(request)
        name = next(iter(outcome.result.artifacts))
        if len(self.submitted) == 1:
            (Path(request.attempt_uri) / name).write_bytes(b"")
        elif len(self.submitted) == 2:
            result = outcome.result.model_copy(update={"artifacts": {}})
            outcome = outcome.model_copy(update={"result": result})
        return outcome


def test_attempts_that_leave_no_whole_mask_have_failed(world):
    """A damaged and a forgotten mask are named and retried; the third attempt counts."""
    trial = make_trial(prunes=(100,))
    assert world.run([trial], executor=Damaging).succeeded
    failed = [event.payload for event in world.events() if event.kind == "failed"]
    assert [payload["failure"] for payload in failed] == ["infrastructure", "error"]
    assert "mask-global-magnitude-100.arrow has 0 bytes" in failed[0]["message"]
    assert failed[1]["message"] == (
        "The attempt ended well, but left no mask-global-magnitude-100.arrow."
    )
    assert world.store.has_outputs(trial.key, trial.outputs)


def test_a_request_that_cannot_be_made_fails_its_trial(world):
    """A user error is the trial's failure, not the sweep's."""
    good, bad = make_trial(seed=1), make_trial(seed=2)

    def request(uri, trial, attempt):
        if trial.key == bad.key:
            raise UserError("no model at ./nowhere")
        return make_request(uri, trial, attempt)

    outcome = world.run([bad, good], request=request)
    assert outcome.counts[TrialState.SUCCEEDED] == 1
    assert outcome.failures[bad.key].message == "no model at ./nowhere"
    assert outcome.failures[bad.key].failure is FailureClass.USER_ERROR
