"""The graph of a sweep: trials by key, and which trial waits for which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from search_spaces.canonical import short
from search_spaces.trial import Trial


class GraphError(ValueError):
    """The given trials are no graph that can be run."""


class DuplicateTrialError(GraphError):
    """Two trials have one key."""


class MissingParentError(GraphError):
    """A trial names a parent that is not among the trials."""


class CycleError(GraphError):
    """Trials wait for each other in a circle."""


class TrialGraph:
    """Trials and their parents; grows, never shrinks.

    A key is a hash over the whole specification, so it is computed once for each trial and kept.

    Raises:
        DuplicateTrialError: When two trials have one key; their roles must be merged first.
        MissingParentError: When a parent is not among the trials.
        CycleError: When trials wait for each other in a circle.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._trials: dict[str, Trial] = {}
        self._parents: dict[str, tuple[str, ...]] = {}
        self._children: dict[str, list[str]] = {}
        for trial in trials:
            self._insert(trial)
        for key, parents in self._parents.items():
            self._link(key, parents)
        self.topological_order()

    @property
    def trials(self) -> Mapping[str, Trial]:
        """All trials by key, in the order in which they were given."""
        return MappingProxyType(self._trials)

    def __getitem__(self, key: str) -> Trial:
        return self._trials[key]

    def __contains__(self, key: object) -> bool:
        return key in self._trials

    def __iter__(self) -> Iterator[str]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def parents(self, key: str) -> tuple[str, ...]:
        """Return the keys of the trials that must succeed before this one."""
        return self._parents[key]

    def children(self, key: str) -> tuple[str, ...]:
        """Return the keys of the trials that wait for this one directly."""
        return tuple(self._children[key])

    def add(self, trial: Trial) -> str:
        """Add a trial whose parents are in the graph, and return its key.

        Raises:
            DuplicateTrialError: When the trial is in the graph already.
            MissingParentError: When a parent is not in the graph.
        """
        key = trial.key
        parents = trial.waits_for
        self._require_parents(trial, parents)
        self._insert(trial, key)
        self._link(key, parents)
        return key

    def topological_order(self) -> list[str]:
        """Return all keys, parents first; trials that do not wait keep the order given.

        Raises:
            CycleError: When trials wait for each other in a circle.
        """
        waits_for = {key: len(parents) for key, parents in self._parents.items()}
        order = [key for key, count in waits_for.items() if count == 0]
        for key in order:  # grows while it is read
            for child in self._children[key]:
                waits_for[child] -= 1
                if waits_for[child] == 0:
                    order.append(child)
        if len(order) < len(self._trials):
            stuck = sorted(set(self._trials) - set(order))
            names = ", ".join(short(key) for key in stuck[:5])
            raise CycleError(
                f"{len(stuck)} trials wait for each other in a circle or for such trials: {names}."
            )
        return order

    def descendants(self, key: str) -> list[str]:
        """Return every trial that waits for this one, directly or not, nearest first."""
        found: dict[str, None] = {}
        queue = list(self._children[key])
        for child in queue:  # grows while it is read
            if child not in found:
                found[child] = None
                queue.extend(self._children[child])
        return list(found)

    def _insert(self, trial: Trial, key: str | None = None) -> None:
        key = key or trial.key
        if key in self._trials:
            raise DuplicateTrialError(
                f"Trial {short(key)} ({trial.main_role.label}) was given twice; "
                "equal trials must be merged into one."
            )
        self._trials[key] = trial
        self._parents[key] = trial.waits_for
        self._children[key] = []

    def _link(self, key: str, parents: Iterable[str]) -> None:
        self._require_parents(self._trials[key], parents)
        for parent in parents:
            self._children[parent].append(key)

    def _require_parents(self, trial: Trial, parents: Iterable[str]) -> None:
        for parent in parents:
            if parent not in self._trials:
                raise MissingParentError(
                    f"Trial {trial.main_role.label} needs trial {short(parent)}, "
                    "which is not among the trials."
                )
