"""Drives a sweep: asks the scheduler what is ready, hands it to an executor, keeps what returns.

What an attempt returns is committed to the store, then written to the journal, then told to the
listener: whatever dies in between, the next run finds the result in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from orchestrator.advice import Advice
from orchestrator.costs import ComputeFor, any_compute
from orchestrator.failing import failure_transitions
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, Transition
from orchestrator.listeners import Listener, SweepOutcome
from orchestrator.mending import drop_orphans
from orchestrator.micro_batches import MicroBatches
from orchestrator.policies import Policy
from orchestrator.retries import DEFAULT_RULES, RetryBudgets, RetryRules
from orchestrator.returned import Returned, new_attempt, publish, requested
from orchestrator.steered_scheduler import SteeredScheduler
from orchestrator.steering import Steering
from orchestrator.store import Store
from orchestrator.store_patience import StorePatience
from orchestrator.vitals import LifeSigns, Vitals
from search_spaces.contracts import (
    Clock,
    Executor,
    Failed,
    Succeeded,
    TrialRequest,
    TrialResult,
    TrialState,
)
from search_spaces.places import masked
from search_spaces.trial import Trial

WAIT_S = 0.5  # longest time without a look at retries and progress

RequestMaker = Callable[[Trial, str], TrialRequest]


def run_sweep(
    trials: Iterable[Trial],
    store: Store,
    journal: Journal,
    executor: Executor,
    policy: Policy,
    budgets: RetryBudgets,
    listener: Listener,
    clock: Clock,
    make_request: RequestMaker,
    check: Callable[[], None] = lambda: None,
    rules: RetryRules = DEFAULT_RULES,
    may_start: Callable[[], bool] = lambda: True,
    compute_for: ComputeFor = any_compute,
) -> SweepOutcome:
    """Run every trial that the store does not hold yet.

    Args:
        trials: All trials of the sweep, each key once.
        store: Where results are reused from and committed to.
        journal: Opened for writing; its rows are first made to agree with the store.
        executor: Runs attempts; closed at the end, however the end comes. Its ``wait`` must
            block for the timeout also while nothing runs.
        policy: Adds and skips trials.
        budgets: Retries by class of failure.
        listener: Told of every change.
        clock: Seconds since the epoch.
        make_request: Turns a trial and an attempt's name into a request; a UserError that it
            raises fails the trial.
        check: Called in every round of the loop; may raise KeyboardInterrupt to stop the sweep,
            or a UserError to end it at once.
        rules: How trials are tried again, beside how often.
        may_start: Whether trials may be started at the moment.
        compute_for: What a trial runs on, as its requests will say.

    Returns:
        How it ended. After a KeyboardInterrupt ``cancelled`` is True and nothing that was
        committed is lost.

    Raises:
        GraphError: When the trials are no graph.
        UserError: When store or journal cannot be used.
    """
    try:
        store.check_writable()
        drive = _Drive(
            graph=TrialGraph(trials),
            store=store,
            journal=journal,
            executor=executor,
            policy=policy,
            budgets=budgets,
            listener=listener,
            clock=clock,
            make_request=make_request,
            check=check,
            rules=rules,
            may_start=may_start,
            compute_for=compute_for,
        )
        try:
            drive.reuse_committed()
            drive.run()
        except KeyboardInterrupt:
            drive.cancel()
    finally:
        executor.close()
    outcome = drive.outcome()
    journal.end(clock())
    listener.finished(outcome)
    return outcome


@dataclass
class _Drive:
    """The loop's collaborators and what it knows between two looks at the executor."""

    graph: TrialGraph
    store: Store
    journal: Journal
    executor: Executor
    policy: Policy
    budgets: RetryBudgets
    listener: Listener
    clock: Clock
    make_request: RequestMaker
    check: Callable[[], None]
    rules: RetryRules
    may_start: Callable[[], bool]
    compute_for: ComputeFor

    def __post_init__(self) -> None:
        self._scheduler = SteeredScheduler(self.graph, self.budgets, self.rules, self.compute_for)
        self._batches = MicroBatches(is_fixed=self.rules.strict_numerics)
        self._steering = Steering(self.graph, self._scheduler, self.journal, self.executor)
        self._advice = Advice(self.graph, self._scheduler, self.journal, self.policy)
        self._vitals = Vitals(self.graph, self._scheduler, self.executor, self.compute_for)
        self._life_signs = LifeSigns(self._vitals, self.executor, self.journal, self.listener)
        self._returned = Returned(self.journal, self.clock)
        self._patience = StorePatience(self.clock, self.listener.steered, self.rules.store_s)
        self._num_running = 0
        self._cancelled = False

    def reuse_committed(self) -> None:
        """Make journal and scheduler agree with the store, then show the policy what is there."""
        committed = self.journal.rebuild(self.graph, self.store, self.clock())
        drop_orphans(self.store, committed)
        for key in committed:
            self._scheduler.reuse(key)
        for key in self.graph.topological_order():
            if key in committed:
                result = committed[key].result
                self.listener.reused(self.graph[key], result)
                self._consult(key, result)
        self._steering.restore(self.clock())

    def run(self) -> None:
        """Go on until no trial is pending or running."""
        self._steer()  # also where nothing is open: a command may reopen it
        while self._is_open:
            self.check()
            self._steer()
            self._patience.begin_round()
            self._patience.ask(self._start_ready)
            if self._is_open:
                wakeup_s = self._scheduler.next_wakeup(self.clock())
                wait_s = self._patience.wait_s(WAIT_S, wakeup_s)
                self._returned.put(self.executor.wait(wait_s))
                self._patience.ask(self._deal_with_returned)
                self._vitals.store_away_since = self._patience.away_since
                self._life_signs.show(self.clock())
            self._patience.end_round()

    def cancel(self) -> None:
        """Keep what has finished, then give up the rest."""
        self._cancelled = True
        self._returned.put(self.executor.wait(0))
        self._patience.ask_at_last(self._deal_with_returned)
        self.executor.close()
        self._scheduler.cancel()
        # The interrupt may have come between scheduler and journal: its rows are what must end.
        left = [row.key for row in self.journal.trials() if not row.state.is_finished]
        self._record(Transition(key, TrialState.CANCELLED, "cancelled") for key in left)

    def outcome(self) -> SweepOutcome:
        """Return how the sweep ended."""
        states, cause = self._scheduler.state, self._scheduler.cause
        causes = {k: c for k in self.graph if states(k) is TrialState.FAILED and (c := cause(k))}
        return SweepOutcome(self._scheduler.counts(), causes, self._cancelled)

    @property
    def _is_open(self) -> bool:
        return not self._scheduler.is_finished or self._advice.is_waiting

    def _start_ready(self) -> None:
        """Fill the free slots; a trial that another sweep has committed meanwhile is reused."""
        self._advice.follow(self.store.read, self.clock())
        # Asked also while nothing may start: else a retry that is due would end every wait.
        while ready := self._scheduler.ready(self.clock(), self._num_free):
            for key in ready:
                if self._scheduler.state(key) is not TrialState.PENDING:
                    continue  # what was reused just now made a policy skip it
                if not self.executor.has_room(self.compute_for(self.graph[key])):
                    return  # nor does a smaller trial overtake it
                record = self.store.record(key)
                if record and not self.store.missing(record, self.graph[key].outputs):
                    self._reuse(key, record.result)
                else:
                    self._start(key)

    @property
    def _num_free(self) -> int:
        """Number of attempts that may be started now."""
        is_held = self._steering.is_paused or not self.may_start()
        return 0 if is_held else max(0, self.executor.num_slots - self._num_running)

    def _reuse(self, key: str, result: TrialResult) -> None:
        self._record([Transition.done(key, "reused", result)])
        self._scheduler.reuse(key)
        self.listener.reused(self.graph[key], result)
        self._consult(key, result)

    def _start(self, key: str) -> None:
        attempt = new_attempt(self.journal.num_attempts(key) + 1)
        make = partial(self.make_request, self.graph[key], attempt)
        # First of all: where the store is away, nothing has begun.
        request = requested(lambda: self._batches.fit(make()), key, attempt)
        note = self._batches.note(key)
        payload = {"attempt": attempt} | ({"note": note} if note else {})
        self._record([Transition(key, TrialState.RUNNING, "started", note, payload=payload)])
        self._scheduler.start(key, attempt)
        self._returned.expect(key, attempt)
        self._num_running += 1
        if isinstance(request, Failed):
            self._note_failure(request)
            return
        self.executor.submit(request)
        self.listener.started(self.graph[key], attempt)

    def _deal_with_returned(self) -> None:
        """Deal with every awaited outcome."""
        for outcome in self._returned.awaited(self._scheduler.state):
            if isinstance(outcome, Succeeded):
                self._keep(outcome)
            else:
                self._note_failure(outcome)

    def _keep(self, outcome: Succeeded) -> None:
        """Commit a result and release the trial's children, or fail the attempt."""
        key, trial = outcome.trial_key, self.graph[outcome.trial_key]
        result = publish(self.store, trial, outcome)
        if isinstance(result, Failed):
            self._note_failure(result)
            return
        self._record([Transition.done(key, "succeeded", result)])
        self._num_running -= 1
        self._scheduler.succeed(key)
        self.listener.succeeded(trial, result)
        self._consult(key, result)

    def _note_failure(self, failed: Failed) -> None:
        key, failure, trial = failed.trial_key, failed.failure, self.graph[failed.trial_key]
        self._num_running -= 1
        message = masked(self._batches.explain(key, failure, failed.message))
        may_retry = self._batches.can_shrink(key, failure)
        decision = self._scheduler.fail(key, failure, message, self.clock(), may_retry)
        note = self._batches.shrink(key, failure) if decision.will_retry else ""
        said = f"{message} Next: {note}." if note else message
        failed = failed.model_copy(update={"message": said, "details": masked(failed.details)})
        self._record(failure_transitions(trial, failed, decision, note))
        self.listener.failed(trial, failed, decision.will_retry)
        cause = self._scheduler.cause(key)
        for child in decision.blocked:
            assert cause is not None, "a trial that blocks others has failed for good"
            self.listener.blocked(self.graph[child], cause)

    def _consult(self, key: str, result: TrialResult) -> None:
        self._vitals.note(key, result)
        self._advice.ask(key, result)
        self._advice.follow(self.store.read, self.clock())

    def _steer(self) -> None:
        """Do what people have asked for since the last look; may raise KeyboardInterrupt."""
        effects = self._steering.look(self.clock())
        self._num_running -= effects.num_ended
        for text in effects.said:
            self.listener.steered(text)
        if effects.reopened:  # what a policy would have skipped may be among it
            self._advice.ask_again()
        if effects.stop:
            raise KeyboardInterrupt

    def _record(self, transitions: Iterable[Transition]) -> None:
        self.journal.record(transitions, self.clock())
