"""Stop transfer cells that are clearly lost after one seed (method rule 20)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from orchestrator.graph import TrialGraph
from orchestrator.policies import Event, SchedulerView, Skip
from orchestrator.transfer import Pair
from orchestrator.transfer_judging import TransferCells, deciders, lost_of, transfer_cells
from search_spaces.contracts import TrialResult, TrialState
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial


class AdaptiveTransfer:
    """Skips a cell's other seeds once its first one and the target's own tickets say so.

    Those seeds wait for exactly these trials (``Trial.after``), so none starts too early.

    Args:
        spec: The sweep; nothing is stopped unless its transfer is adaptive.
        trials: Its trials.
        read: Returns a committed result by trial key.
    """

    def __init__(
        self,
        spec: SweepSpec,
        trials: Sequence[Trial],
        read: Callable[[str], TrialResult | None],
    ) -> None:
        self._spec, self._read = spec, read
        self._deciding: dict[str, list[tuple[TransferCells, Pair]]] = defaultdict(list)
        if spec.transfer and spec.transfer.adaptive:
            for cells in transfer_cells(spec, trials).values():
                for pair in cells.cells:
                    if pair[0] != pair[1]:
                        for key in deciders(spec, cells, pair):
                            self._deciding[key].append((cells, pair))

    def heeds(self, key: str) -> bool:
        """Return whether a trial is a cell's first seed or a target's own ticket."""
        return key in self._deciding

    def on_result(
        self, graph: TrialGraph, scheduler: SchedulerView, trial: Trial, result: TrialResult
    ) -> list[Event]:
        """Return the skips that follow from a trial's result."""
        return [
            Skip(key, reason)
            for cells, pair in self._deciding.get(trial.key, ())
            for key, reason in lost_of(self._spec, cells, pair, self._read).items()
            if graph[key].after and scheduler.state(key) is TrialState.PENDING
        ]
