"""The order of what is ready, against its definition: whatever happens, and at whatever size."""

from __future__ import annotations

import heapq
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.costs import trial_flops
from orchestrator.graph import TrialGraph
from orchestrator.retries import RetryRules
from orchestrator.scheduler import Scheduler
from orchestrator.steered_scheduler import SteeredScheduler
from search_spaces.contracts import FailureClass, TrialState
from tests.orchestrator.dags import dags
from tests.orchestrator.factories import make_dag, make_trial

BUDGETS = {FailureClass.ERROR: 2, FailureClass.INFRASTRUCTURE: 2}
RULES = RetryRules(base_s=2.0, jitter=0.0)
PENDING, RUNNING = TrialState.PENDING, TrialState.RUNNING
# What may happen to a trial, and in which states.
VERBS = {
    "succeed": (RUNNING,),
    "fail": (RUNNING,),
    "break": (RUNNING,),
    "reuse": (PENDING,),
    "skip": (PENDING,),
    "give_up": (PENDING, RUNNING),
    "reopen": (TrialState.FAILED, TrialState.CANCELLED),
}
MOVES = st.tuples(st.sampled_from(["start", "start", "add", "wait", *VERBS]), st.integers(0, 99))


class World:
    """A scheduler, a clock, and what was said of waits."""

    def __init__(self, choices: list[list[int]]) -> None:
        trials = make_dag(choices)
        num_known = (len(trials) + 1) // 2
        self.coming = deque(trials[num_known:])
        self.graph = TrialGraph(trials[:num_known])
        self.scheduler = SteeredScheduler(self.graph, BUDGETS, RULES)
        self.now = 0.0
        self.waits: dict[str, float] = {}

    def do(self, verb: str, number: int) -> None:
        """Let one thing happen to one of the trials that it may happen to, if there is one."""
        if verb == "wait":
            self.now += 1.0
        elif verb == "add":
            if self.coming:
                self.scheduler.add(self.coming.popleft())
        elif found := self._candidates(verb):
            self._do_to(verb, found[number % len(found)])

    def expected(self) -> list[str]:
        """Return what is ready by definition: longest chain first, then as given."""
        order = {key: index for index, key in enumerate(self.graph)}
        ready = [key for key in self.graph if self._is_ready(key)]
        return sorted(ready, key=lambda key: (-self._chain(key), order[key]))

    def _candidates(self, verb: str) -> list[str]:
        if verb == "start":
            return self.expected()
        return [key for key in self.graph if self.scheduler.state(key) in VERBS[verb]]

    def _do_to(self, verb: str, key: str) -> None:
        match verb:
            case "start" | "skip" | "give_up":
                getattr(self.scheduler, verb)(key, "said")
            case "succeed" | "reuse":
                getattr(self.scheduler, verb)(key)
            case "reopen":
                for one in self.scheduler.reopen([key]):
                    self.waits.pop(one, None)
            case _:
                failure = FailureClass.ERROR if verb == "fail" else FailureClass.INFRASTRUCTURE
                decision = self.scheduler.fail(key, failure, "broke", self.now)
                self.waits[key] = decision.not_before

    def _is_ready(self, key: str) -> bool:
        parents = [self.scheduler.state(parent) for parent in self.graph.parents(key)]
        return (
            self.scheduler.state(key) is PENDING
            and self.waits.get(key, 0.0) <= self.now
            and all(state is TrialState.SUCCEEDED for state in parents)
        )

    def _chain(self, key: str) -> float:
        below = max((self._chain(child) for child in self.graph.children(key)), default=0.0)
        return trial_flops(self.graph[key].spec) + below


@settings(deadline=None)
@given(dags(), st.lists(MOVES, max_size=60))
def test_what_is_ready_is_what_the_definition_says(choices, moves):
    """With any limit, in order, whatever was tried again, given up, reopened or added."""
    world = World(choices)
    for verb, number in moves:
        world.do(verb, number)
        expected = world.expected()
        for limit in (number % 4, len(expected) + 1):
            assert world.scheduler.ready(world.now, limit) == expected[:limit]
        assert world.scheduler.ready(world.now) == expected
        states = [world.scheduler.state(key) for key in world.graph]
        assert world.scheduler.counts() == {one: states.count(one) for one in TrialState}
        assert world.scheduler.is_finished is (PENDING not in states and RUNNING not in states)


def test_the_heap_does_a_bounded_number_of_moves(monkeypatch):
    """2,000 roots: a start costs the heap two pops and a push, not a move of all others."""
    moves = {"heappush": 0, "heappop": 0}
    for name in moves:
        real = getattr(heapq, name)

        def counted(*arguments, name=name, real=real):
            moves[name] += 1
            return real(*arguments)

        monkeypatch.setattr(f"orchestrator.ready_queue.heapq.{name}", counted)
    trials = [make_trial(seed=seed) for seed in range(2000)]
    scheduler = Scheduler(TrialGraph(trials))
    for _ in trials:
        (key,) = scheduler.ready(0.0, 1)
        scheduler.start(key, "a")
        scheduler.succeed(key)
    assert scheduler.is_finished
    assert moves["heappush"] <= 2 * 2000 and moves["heappop"] <= 2 * 2000
