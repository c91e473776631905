"""What a sweep says of its resources, and a task of its own."""

from search_spaces.run_specs import ResourcesSpec
from tests.search_spaces.makers import MINIMAL, sweep


def test_a_task_has_the_sweeps_resources_but_for_its_own() -> None:
    """Only what it writes differs; its batches are checked against its own ranks alone."""
    task = MINIMAL["tasks"][0]
    large = {**task, "name": "large", "resources": {"ranks": 4, "micro_batch_size": 2}}
    odd = {
        **task,
        "name": "odd",
        "recipe": {"batch_size": 9},
        "resources": {"ranks": 3, "micro_batch_size": 3},
    }
    spec = sweep(tasks=[task, large, odd], resources={"cpus_per_rank": 2})
    shapes = [(one.ranks, one.cpus_per_rank) for one in map(spec.resources_of, spec.tasks)]
    assert shapes == [(1, 2), (4, 2), (3, 2)]
    assert ResourcesSpec().of_task(None) == ResourcesSpec()
