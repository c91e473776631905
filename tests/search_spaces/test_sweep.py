"""What a sweep answers for each of its tasks and seeds: recipes, splits, margins, search seeds."""

from typing import Any

import pytest

from search_spaces.splits import HashSelect, ReportSelect
from tests.search_spaces.makers import MINIMAL, sweep


def test_task_recipes_lie_over_the_sweeps_recipes() -> None:
    """train_steps of a task replaces the sweep's epochs; the search keeps its own fields."""
    source = MINIMAL["tasks"][0]["source"]
    tasks = [
        {"name": "a", "source": source, "recipe": {"train_steps": 7}},
        {"name": "b", "source": source, "search_recipe": {"learning_rate": 1e-3}},
        {"name": "c", "source": source},
    ]
    spec = sweep(tasks=tasks, search_recipe={"batch_size": 16})
    a, b, c = spec.tasks
    assert (spec.recipe_of(a).train_steps, spec.recipe_of(a).epochs) == (7, None)
    assert spec.search_recipe_of(a).model_dump() == {
        **spec.recipe_of(a).model_dump(),
        "batch_size": 16,
        "head": "fresh",
        "rng": "restart",
    }
    assert spec.recipe_of(b) == spec.recipe_of(c) == spec.recipe
    assert spec.search_recipe_of(b).learning_rate == 1e-3
    assert spec.search_recipe_of(b).batch_size == spec.search_recipe_of(c).batch_size == 16


def test_mismatched_counts_only_where_there_is_such_a_split() -> None:
    tasks = [{"name": n, "source": {"kind": "glue-hub", "task": n}} for n in ("mnli", "rte")]
    splits = {"select": "report", "report": "mismatched"}
    spec = sweep(tasks=tasks, splits=splits)
    mnli, rte = spec.tasks
    assert spec.report_split_of(mnli) == "report_mismatched"
    assert spec.select_rule_of(mnli) == ReportSelect(split="report_mismatched")
    assert spec.report_split_of(rte) == "report"
    assert spec.select_rule_of(rte) == ReportSelect()
    assert spec.same_split(rte)
    assert not sweep().same_split(rte)


def test_selection_on_the_other_report_split_is_no_same_split() -> None:
    """MNLI may choose on mismatched and report matched; other tasks have no such split."""
    mnli, rte = ({"name": n, "source": {"kind": "glue-hub", "task": n}} for n in ("mnli", "rte"))
    other = {"kind": "report", "split": "report_mismatched"}
    spec = sweep(tasks=[mnli], splits={"select": other})
    assert spec.select_rule_of(spec.tasks[0]) == ReportSelect(split="report_mismatched")
    assert not spec.same_split(spec.tasks[0])
    same = sweep(tasks=[mnli], splits={"select": other, "report": "mismatched"})
    assert same.same_split(same.tasks[0])
    message = "has select.split 'report_mismatched', but the task 'rte' has only report"
    with pytest.raises(ValueError, match=message):
        sweep(tasks=[mnli, rte], splits={"select": other})
    with pytest.raises(ValueError, match=message):
        sweep(tasks=[rte | {"select": other}])
    own = sweep(tasks=[mnli, rte | {"select": "hash"}], splits={"select": other})
    assert own.select_rule_of(own.tasks[1]) == HashSelect()


def test_a_tasks_own_select_has_the_short_form_too() -> None:
    spec = sweep(tasks=[{**MINIMAL["tasks"][0], "select": "report"}])
    assert spec.select_rule_of(spec.tasks[0]) == ReportSelect()
    assert spec.same_split(spec.tasks[0])


@pytest.mark.parametrize(("field", "value"), [("seeds", [True, 2, 3]), ("search_seed", False)])
def test_truth_values_are_no_seeds(field: str, value: Any) -> None:
    """`yes` and `true` are truth values to YAML, and would be seed 1."""
    with pytest.raises(ValueError, match=r"has (true|false), but a seed must be a whole number"):
        sweep(**{"replicate": "finetune", field: value})


def test_a_task_may_have_its_own_margin_and_select_rule() -> None:
    task = {**MINIMAL["tasks"][0], "delta": 0.05, "select": {"kind": "hash", "fraction": 0.2}}
    spec = sweep(tasks=[task])
    assert spec.delta_of(spec.tasks[0]) == 0.05
    assert spec.select_rule_of(spec.tasks[0]) == HashSelect(fraction=0.2)
    assert sweep().delta_of(sweep().tasks[0]) == 0.01


def test_margins_are_fractions_of_the_metrics_range() -> None:
    """Matthews and Pearson reach from -1 to 1, so the default margin is .02 there."""
    source = {"kind": "glue-hub", "task": "cola"}
    spec = sweep(tasks=[{"name": "cola", "source": source}])
    assert spec.delta_of(spec.tasks[0]) == 0.02


def test_search_seeds_follow_the_estimand() -> None:
    """lineage: a search for each seed; finetune: one search, by default of the first seed."""
    assert [sweep().search_seed_of(seed) for seed in (1, 2)] == [1, 2]
    finetune = sweep(replicate="finetune", seeds=[5, 2, 3])
    assert [finetune.search_seed_of(seed) for seed in (5, 2)] == [5, 5]
    chosen = sweep(replicate="finetune", search_seed=0)
    assert chosen.search_seed_of(2) == 0
