"""Policies while a sweep is driven: what they add and leave out is run, journaled and replayed."""

from __future__ import annotations

from collections import Counter

from orchestrator.policies import Add, Skip
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.factories import finish, make_lineage, make_trial


class Gardener:
    """Skips the rest of one lineage and adds one trial, once a given trial is in."""

    def __init__(self, trigger, skip, add):
        self.trigger, self.skip, self.add = trigger, skip, add

    def on_result(self, graph, scheduler, trial, result):
        if trial.key != self.trigger.key:
            return []
        add = Add(self.add, "one more") if self.add.key not in graph else None
        pending = scheduler.state(self.skip.key) is TrialState.PENDING
        skip = Skip(self.skip.key, "lost twice") if pending else None
        return [event for event in (add, skip) if event]


def test_a_trial_that_a_reused_result_makes_a_policy_skip_is_not_started(world):
    """Though it was ready when the result was found in the store."""
    first, found, skipped = (make_trial(seed=seed) for seed in range(3))
    policy = Gardener(found, skipped, make_trial(seed=77))

    def other_commits(request):
        if request.spec.key == first.key:
            world.store.commit(finish(world.store.uri, found, "other"), found.spec)

    options = {"num_slots": 3, "later": [policy.add], "fail": other_commits}
    trials = [first, *(one.model_copy(update={"after": (first.key,)}) for one in (found, skipped))]
    outcome = world.run(trials, policy=policy, **options)
    assert outcome.succeeded and outcome.counts[TrialState.SKIPPED] == 1
    assert world.submitted == [first.key, policy.add.key]


def test_a_policys_events_are_journaled_and_replayed(world):
    """Trials are added and skipped with a reason; a later run comes to the same states."""
    lineage, extra = make_lineage(num_rounds=3), make_trial(seed=77)
    policy = Gardener(lineage[0], lineage[1], extra)
    for submitted in ([lineage[0].key, extra.key], []):
        outcome = world.run(lineage, policy=policy, later=[extra])
        assert outcome.succeeded
        assert outcome.counts[TrialState.SKIPPED] == 2
        assert world.submitted == submitted
        rows = world.rows()
        assert rows[extra.key].state is TrialState.SUCCEEDED
        assert rows[lineage[2].key].message == "lost twice"
    kinds = Counter(event.kind for event in world.events())
    assert kinds["added"] == 2 and kinds["skipped"] == 4


def test_a_trial_added_below_a_failed_one_is_blocked(world):
    """The journal says so with the failure's message, and the sweep ends."""
    (broken, child), fine = make_lineage(1, 2), make_trial(seed=2)
    policy = Gardener(fine, skip=broken, add=child)
    fail = {broken.key: FailureClass.USER_ERROR}
    outcome = world.run(
        [broken, fine],
        policy=policy,
        later=[child],
        num_slots=1,
        fail=lambda request: fail.get(request.spec.key),
    )
    assert outcome.counts[TrialState.BLOCKED] == 1
    row = world.rows()[child.key]
    assert (row.state, row.message) == (TrialState.BLOCKED, "it broke")
