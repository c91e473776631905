"""Steering: what people ask of a sweep while it runs, carried out once and kept in the journal.

The driver looks into the inbox now and then. Each command changes the scheduler, is written to
the journal in one transaction with all that it changes and with its answer, and is then removed;
so after a crash at any point it has been carried out either wholly or not at all, and the journal
tells which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.graph import TrialGraph
from orchestrator.inbox import Command, Inbox
from orchestrator.journal import Journal, Transition
from orchestrator.journal_reader import JournalReader, open_reader
from orchestrator.steered_scheduler import SteeredScheduler
from search_spaces.contracts import Executor, TrialState
from search_spaces.trial import Trial

LOOK_S = 0.5  # between two looks into the inbox
GIVEN_UP, REOPENED = "given_up", "reopened"  # events, from which a later run restores
STILL_PAUSED = "The sweep is paused, as it was: nothing starts until 'tickets resume'."
GIVEN_UP_MESSAGE = "Cancelled by command; 'tickets retry' reopens it."


@dataclass(frozen=True)
class Answer:
    """What came of a command.

    Attributes:
        command: It.
        accepted: Whether anything was done, or was so already.
        text: For people.
        changes: The trials' new states.
        paused: Whether the sweep is paused from now on; None = as before.
    """

    command: Command
    accepted: bool
    text: str
    changes: tuple[Transition, ...] = ()
    paused: bool | None = None

    @property
    def record(self) -> dict[str, object]:
        """What the journal keeps of it."""
        command = self.command.model_dump(mode="json", exclude={"keys"})
        return {**command, "num_keys": len(self.command.keys)} | {
            "accepted": self.accepted,
            "text": self.text,
        }


@dataclass
class Effects:
    """What the driver has to do after a look.

    Attributes:
        said: What people are to be told, oldest first.
        num_ended: Running attempts that were given up.
        reopened: Whether trials are pending again, so that policies must see the results anew.
        stop: Whether the sweep shall end now.
    """

    said: list[str] = field(default_factory=list)
    num_ended: int = 0
    reopened: bool = False
    stop: bool = False


class Steering:
    """Carries out the commands of an inbox.

    Args:
        graph: The sweep's trials.
        scheduler: Whose trials are given up and reopened.
        journal: Opened for writing.
        executor: Ends the attempts of trials that are given up.
        inbox: Where commands come from; None = beside the journal.
    """

    def __init__(
        self,
        graph: TrialGraph,
        scheduler: SteeredScheduler,
        journal: Journal,
        executor: Executor,
        inbox: Inbox | None = None,
    ) -> None:
        self._graph, self._scheduler = graph, scheduler
        self._journal, self._executor = journal, executor
        self._inbox = inbox or Inbox(journal.path)
        self._answered = {event.payload["id"] for event in journal.events_of("command")}
        self._is_first_look = True
        self._next_look = 0.0
        meta = journal.meta()
        self._started_at = float(meta["started_at"])
        self.is_paused = meta.get("paused") == "1"

    def restore(self, now: float) -> None:
        """Give up again what was given up before this run; to be called once, before any look."""
        changes: list[Transition] = []
        for key in given_up(self._journal):
            if key in self._graph and self._scheduler.state(key) is TrialState.PENDING:
                changes += self._give_up(key)
        self._journal.record(changes, now)

    def look(self, now: float) -> Effects:
        """Carry out what has come since the last look; looks at most twice a second."""
        effects = Effects()
        if now < self._next_look:
            return effects
        self._next_look = now + LOOK_S
        if self._is_first_look and self.is_paused:
            effects.said.append(STILL_PAUSED)
        for command in self._inbox.waiting():
            if command.id not in self._answered:
                self._carry_out(command, now, effects)
            self._inbox.remove(command.id)
        self._is_first_look = False
        return effects

    def _carry_out(self, command: Command, now: float, effects: Effects) -> None:
        running = [key for key in self._graph if self._scheduler.state(key) is TrialState.RUNNING]
        answer = self._decide(command)
        self._journal.obey(answer.record, answer.changes, now, answer.paused)
        self._answered.add(command.id)
        self.is_paused = self.is_paused if answer.paused is None else answer.paused
        for key in running:
            if self._scheduler.state(key) is not TrialState.RUNNING:
                self._executor.cancel(key)
                effects.num_ended += 1
        effects.said.append(f"{command.verb}: {answer.text}")
        effects.reopened |= any(one.event == REOPENED for one in answer.changes)
        effects.stop |= command.verb == "stop" and answer.accepted

    def _decide(self, command: Command) -> Answer:
        match command.verb:
            case "pause":
                return self._pause(command)
            case "resume":
                text = "The sweep goes on." if self.is_paused else "The sweep was not paused."
                return Answer(command, True, text, paused=False)
            case "cancel":
                return self._cancel(command)
            case "retry":
                return self._retry(command)
            case "stop":
                return self._stop(command)

    def _pause(self, command: Command) -> Answer:
        num_running = self._scheduler.counts()[TrialState.RUNNING]
        ending = f"; {_trials(num_running)} running will end" if num_running else ""
        text = "The sweep was paused already" if self.is_paused else "The sweep is paused"
        return Answer(command, True, f"{text}: nothing new starts{ending}.", paused=True)

    def _stop(self, command: Command) -> Answer:
        # What comes after the first look was sent to this run, whatever the sender's clock says.
        if self._is_first_look and command.at < self._started_at:
            return Answer(command, False, "It was meant for an earlier run, which has ended.")
        return Answer(command, True, "The run ends; what is committed stays.")

    def _cancel(self, command: Command) -> Answer:
        before = self._named(command)
        open_keys = [key for key, state in before.items() if not state.is_finished]
        changes: list[Transition] = []
        for key in open_keys:
            if not self._scheduler.state(key).is_finished:  # else it waits for one before it
                changes += self._give_up(key)
        if not changes:
            return Answer(command, False, f"Nothing to cancel: {self._why_not(before)}.")
        num_running = sum(before[key] is TrialState.RUNNING for key in open_keys)
        running = f" ({num_running} of them running)" if num_running else ""
        text = f"{_trials(len(open_keys))} cancelled{running}"
        return Answer(
            command,
            True,
            text + _also(len(changes) - len(open_keys)) + self._rest(before, len(open_keys)),
            tuple(changes),
        )

    def _retry(self, command: Command) -> Answer:
        before = self._named(command)
        changed = self._scheduler.reopen(before)
        again = [key for key in changed if self._scheduler.state(key) is TrialState.PENDING]
        changes = tuple(map(self._transition, changed))
        if not again:
            if self._is_first_look and command.everything:  # nothing can have failed yet
                return Answer(command, True, "Every run tries failed trials anew.", changes)
            if self._is_first_look and TrialState.PENDING in before.values():
                text = "They run again: every run tries failed trials anew."
                return Answer(command, True, text, changes)
            text = f"Nothing to try again: {self._why_not(before)}."
            return Answer(command, False, text, changes)
        num_named = sum(key in before for key in again)
        text = f"{_trials(num_named)} will be tried again, with fresh budgets"
        return Answer(
            command,
            True,
            text + _also(len(again) - num_named) + self._rest(before, num_named),
            changes,
        )

    def _named(self, command: Command) -> dict[str, TrialState]:
        """Return the states of the trials that a command is about."""
        keys = (key for key in command.keys or self._graph if key in self._graph)
        states = {key: self._scheduler.state(key) for key in keys}
        if not command.everything:
            return states
        if command.verb == "retry":
            return {key: state for key, state in states.items() if state is TrialState.FAILED}
        return {key: state for key, state in states.items() if not state.is_finished}

    def _give_up(self, key: str) -> list[Transition]:
        return [self._transition(one) for one in self._scheduler.give_up(key, GIVEN_UP_MESSAGE)]

    def _transition(self, key: str) -> Transition:
        """Return a trial's present state as news."""
        state, cause = self._scheduler.state(key), self._scheduler.cause(key)
        if cause is None:
            return Transition(key, state, REOPENED)
        event = GIVEN_UP if state is TrialState.CANCELLED else state.lower()
        label = self._graph[cause.key].main_role.label
        message = cause.message if cause.key == key else f"It waits for {label}. {cause.message}"
        return Transition(key, state, event, message, payload={"cause": cause.key})

    def _rest(self, before: dict[str, TrialState], num_done: int) -> str:
        num = len(before) - num_done
        return f"; {num} more named need nothing or cannot." if num else "."

    def _why_not(self, before: dict[str, TrialState]) -> str:
        """Return why nothing came of a command, by what the named trials are."""
        if len(before) == 1 and (said := self._in_way(*before)):
            return said
        counts = Counter(before.values())
        found = ", ".join(f"{num} {state}" for state, num in counts.items())
        return f"the trials named are {found}" if found else "there is no such trial"

    def _in_way(self, key: str) -> str:
        """Return which ancestor keeps a trial from running, and what to name; "" if none does."""
        state, cause = self._scheduler.state(key), self._scheduler.cause(key)
        root = self._scheduler.cause(self._scheduler.obstacle(key) or key)
        if cause is None or root is None or root.key == key:
            return ""
        label = self._graph[root.key].main_role.label
        if cause.key != key:
            return f"it is {state}, because it waits for {label}; name that one"
        other = self._scheduler.state(root.key)
        return f"it is {state}, and waits for {label}, which is {other}; name both"


def given_up(journal: JournalReader) -> list[str]:
    """Return the trials that people have cancelled and not reopened, in that order.

    Those that only wait for one of them are not among them: they follow from it.
    """
    found: dict[str, None] = {}
    for event in journal.events_of(GIVEN_UP, REOPENED):
        if event.kind == REOPENED:
            found.pop(event.key, None)
        elif event.payload["cause"] == event.key:
            found[event.key] = None
    return list(found)


def held_back(path: Path, trials: Iterable[Trial]) -> dict[str, str]:
    """Return the trials that a run would leave cancelled, and why, by key.

    Args:
        path: Of the sweep's journal, which may not be there.
        trials: The sweep's, parents first.
    """
    if not path.exists() or Inbox(path).num_waiting:  # what waits there may change everything
        return {}
    with open_reader(path) as reader:
        found = dict.fromkeys(given_up(reader), GIVEN_UP_MESSAGE)
    for trial in trials if found else ():
        if any(key in found for key in trial.waits_for):
            found.setdefault(trial.key, f"It waits for a cancelled trial. {GIVEN_UP_MESSAGE}")
    return found


def _trials(num: int) -> str:
    return f"{num} trial{'' if num == 1 else 's'}"


def _also(num: int) -> str:
    return f", {num} that wait{'s' if num == 1 else ''} for them too" if num else ""
