"""What is known about a task after its data were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search_spaces.contracts import TaskPlace
from search_spaces.trial import TaskIdentity


@dataclass(frozen=True)
class TaskFacts:
    """What is known about a task after its data were read.

    Attributes:
        identity: What the task is, by content.
        place: Where its data are; paths are absolute.
        num_train: Examples trained on: what an epoch is made of.
        num_select: Examples that decisions are made on.
        num_report: Examples that results are reported on, all report splits together.
        mean_chars: Mean characters of a training example, for estimates of cost.
        by_model: The same on each model, for tasks whose examples are made of a model's tokens.
    """

    identity: TaskIdentity
    place: TaskPlace
    num_train: int
    num_select: int
    num_report: int
    mean_chars: float
    by_model: Mapping[str, TaskFacts] = field(default_factory=dict)

    def on(self, model: str) -> TaskFacts:
        """Return the facts on a model of the sweep."""
        return self.by_model.get(model, self)
