"""What a sweep says of its resources, and a task of its own; where it keeps things."""

import pytest

from search_spaces.run_specs import ResourcesSpec
from search_spaces.sweep import SweepSpec
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


def _places(spec: SweepSpec) -> list[str | None]:
    return [spec.store, spec.cache, spec.tracking.uri]


def test_a_home_folder_is_one_for_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading ``~`` is replaced when the sweep is read; all other places stay as written."""
    monkeypatch.setenv("HOME", "/home/me")
    at_home = sweep(store="~/runs", cache="~", tracking={"uri": "sqlite:///~/a.db?timeout=9"})
    assert _places(at_home) == ["/home/me/runs", "/home/me", "sqlite:////home/me/a.db?timeout=9"]
    for store, cache, uri in (
        ("runs/~x", "./~", "sqlite:///runs/a.db"),
        ("/runs", "../cache", "sqlite:////runs/~.db"),
        ("s3://bucket/~/x", "~no-such-user/x", "https://host/~me"),
    ):
        same = sweep(store=store, cache=cache, tracking={"uri": uri})
        assert _places(same) == [store, cache, uri]
