"""What a sweep's trials run on: gangs of one shape, or of several where tasks have their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search_spaces.contracts import Compute
from search_spaces.run_specs import ResourcesSpec, least_ranks
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial


@dataclass(frozen=True)
class Shapes:
    """Each task's gangs.

    All trials of a task that are compared run on gangs of one shape, so that a ticket and the
    dense trials that it is judged against share a numerics class (method rule 22).

    Attributes:
        by_task: Shape of a task's gangs, by its name in the sweep.
        by_trial: Shape by the trial's key, where sizes are chosen (`orchestrator/gang_sizes.py`).
    """

    by_task: Mapping[str, Compute]
    by_trial: Mapping[str, Compute] = field(default_factory=dict)

    @staticmethod
    def of(spec: SweepSpec) -> Shapes:
        """Return the shapes that a sweep asks for; one rank where it leaves the size open."""
        return Shapes({task.name: compute_from(spec.resources_of(task)) for task in spec.tasks})

    def __call__(self, trial: Trial) -> Compute:
        """Return what a trial runs on: for a transfer, the gangs of the task trained on."""
        chosen = self.by_trial.get(trial.key) if self.by_trial else None
        return chosen or self.by_task[trial.main_role.task]

    @property
    def distinct(self) -> tuple[Compute, ...]:
        """Every shape of gangs once, as the tasks come."""
        shapes = dict.fromkeys((self.by_trial or self.by_task).values())
        return tuple(dict.fromkeys(shape.with_micro_batch(None) for shape in shapes))


def compute_from(resources: ResourcesSpec) -> Compute:
    """Return the gang that resources describe."""
    return Compute(
        num_ranks=least_ranks(resources.ranks),
        num_threads=resources.cpus_per_rank,
        num_gpus_per_rank=resources.gpus_per_rank,
        micro_batch_size=resources.micro_batch_size,
        layout=resources.layout,
    )
