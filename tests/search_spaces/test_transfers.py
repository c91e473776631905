"""Transfer tables expand into cells whose masks come from other tasks' lineages (rule 20)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.errors import SpecError
from search_spaces.expand import expand
from search_spaces.given import GivenFacts, GivenSource
from search_spaces.schedules import (
    GeometricSchedule,
    level_text,
    levels_at,
    removed_counts,
)
from search_spaces.trial import Theta0Mask, TrainedMask, Trial
from tests.search_spaces.makers import MINIMAL, model_facts, sweep, task_facts, trials_of

SOURCE = MINIMAL["tasks"][0]["source"]
TASKS = [{"name": name, "source": SOURCE} for name in ("a", "b", "c")]
TRANSFER = {"sparsity": 0.75}


def cells(trials: list[Trial]) -> dict[tuple[str, str, int], Trial]:
    """Return the transfer trials by source, target and seed."""
    return {
        (role.source_task, role.task, role.seed): trial
        for trial in trials
        for role in trial.roles
        if role.kind == "transfer"
    }


def test_a_table_of_three_tasks_adds_six_cells_a_seed() -> None:
    """The diagonal is the tasks' own finals, which are not trained again."""
    plain, trials = trials_of(tasks=TASKS), trials_of(tasks=TASKS, transfer=TRANSFER)
    found = cells(trials)
    assert len(found) == 3 * 2 * 3
    assert len(trials) == len(plain) + len(found)
    finals = {
        (t.main_role.task, t.main_role.seed): t
        for t in trials
        if t.main_role.kind == "final" and t.main_role.level_index == 1
    }
    for (source, target, seed), trial in found.items():
        assert trial.spec.mask == finals[source, seed].spec.mask
        own = finals[target, seed].spec
        assert trial.spec.model_copy(update={"mask": own.mask}) == own
        assert trial.spec.num_removed == 750
        assert trial.main_role.label == f"transfer:{source}>{target}:imp:0.75:s{seed}"


def test_one_mask_serves_all_seeds_under_finetune() -> None:
    """A transfer has its source's estimand (method rule 2)."""
    found = cells(trials_of(tasks=TASKS, transfer=TRANSFER, replicate="finetune"))
    masks = {trial.spec.mask for (source, _, _), trial in found.items() if source == "a"}
    assert len(masks) == 1


def test_theta0_is_a_row_of_its_own() -> None:
    """Pruning theta_0: equal to the method one-shot-theta0, so trained once where both are."""
    table = {**TRANSFER, "sources": ["a", "theta0"], "targets": ["a", "b"]}
    found = cells(trials_of(tasks=TASKS, transfer=table))
    assert {(source, target) for source, target, _ in found} == {
        ("a", "b"),
        ("theta0", "a"),
        ("theta0", "b"),
    }
    assert found["theta0", "a", 1].spec.mask == Theta0Mask(num_removed=750)
    both = trials_of(tasks=TASKS, transfer=table, methods=["imp", "one-shot-theta0"])
    kinds = {role.kind for role in cells(both)["theta0", "a", 1].roles}
    assert kinds == {"final", "transfer"}


def test_adaptive_cells_wait_for_what_decides() -> None:
    """All seeds but the first wait for the first one and for the target's own tickets."""
    trials = trials_of(tasks=TASKS, transfer={**TRANSFER, "adaptive": True})
    found = cells(trials)
    own = {
        t.main_role.seed: t.key for t in trials if t.main_role.label.startswith("final:b:imp:0.75")
    }
    first = found["a", "b", 1]
    assert first.after == ()
    for seed in (2, 3):
        later = found["a", "b", seed]
        assert set(later.after) == {first.key, *own.values()}
        assert later.waits_for[0] == later.spec.parents[0]
    plain = trials_of(tasks=TASKS, transfer=TRANSFER)
    assert [t.key for t in plain] == [t.key for t in trials]  # waiting is no part of a key


def test_a_cell_that_is_wanted_anyway_does_not_wait() -> None:
    """Adaptive or not, what a sweep judges as a ticket runs."""
    table = {**TRANSFER, "sources": ["theta0"], "adaptive": True}
    both = trials_of(tasks=TASKS, transfer=table, methods=["imp", "one-shot-theta0"])
    assert all(trial.after == () for trial in cells(both).values())


def test_a_geometric_level_to_three_digits_is_that_level() -> None:
    """Six rounds of .1 remove .468559, which nobody writes."""
    schedule = {"kind": "geometric", "rate": 0.1, "rounds": 6}
    facts = model_facts()
    identity = facts.identity.model_copy(update={"num_prunable": 10**6})
    spec = sweep(tasks=TASKS, transfer={"sparsity": 0.469}, schedule=schedule)
    tasks = {task.name: task_facts(task.name) for task in spec.tasks}
    found = cells(expand(spec, {"tiny": replace(facts, identity=identity)}, tasks))
    assert {trial.spec.num_removed for trial in found.values()} == {468_559}


def test_without_rewinding_a_masks_trial_still_starts_at_theta0() -> None:
    """Rounds that never rewind make masks; they move to other tasks at theta_0."""
    rewind = {"kind": "none", "finals": "theta0"}
    found = cells(trials_of(tasks=TASKS, transfer=TRANSFER, rewind=rewind))
    assert all(trial.spec.start is None for trial in found.values())
    assert all(isinstance(trial.spec.mask, TrainedMask) for trial in found.values())


def test_a_level_that_the_schedule_lacks_is_refused_with_the_nearest() -> None:
    expected = (
        "transfer.sparsity: is 0.6, but the schedule's levels are 0.5, 0.75. The nearest is 0.5"
    )
    with pytest.raises(SpecError, match=expected):
        trials_of(tasks=TASKS, transfer={"sparsity": 0.6})


@pytest.mark.parametrize("sparsity", [0.651, 0.6513, 0.65132, 0.6513215599])
def test_a_level_is_written_as_it_prints(sparsity: float) -> None:
    """Ten rounds of .1 of what remains come to .6513215599, which nobody writes."""
    schedule = GeometricSchedule(rate=0.1, rounds=12)
    counts = removed_counts(schedule, 10**9)
    assert levels_at(counts, 10**9, sparsity) == [9]
    assert [level_text(counts, 10**9, place) for place in (5, 9)] == ["0.469", "0.651"]
    assert levels_at(counts, 10**9, 0.65) == []


def test_levels_that_print_alike_are_told_apart_by_more_digits() -> None:
    """What a refusal names can be written: each text means its own level alone."""
    table = {"sparsity": 0.7503}
    levels = {"kind": "levels", "levels": [0.75, 0.7506, 0.9]}
    thousands = model_facts()
    identity = thousands.identity.model_copy(update={"num_prunable": 10**6})
    spec = sweep(tasks=TASKS, transfer=table, schedule=levels)
    tasks = {task.name: task_facts(task.name) for task in spec.tasks}
    expected = r"is 0\.7503, which may be the levels 0\.75 and 0\.751\. Write one of them"
    with pytest.raises(SpecError, match=expected):
        expand(spec, {"tiny": replace(thousands, identity=identity)}, tasks)
    counts = (750_000, 750_600, 900_000)
    for place in range(3):
        assert levels_at(counts, 10**6, float(level_text(counts, 10**6, place))) == [place]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": {"sparsity": 0.5, "targets": ["bb"]}}, "target 'bb'.*a task of the sweep"),
        ({"transfer": {"sparsity": 0.5, "sources": ["theta"]}}, "source 'theta'.*Did you mean"),
        ({"transfer": {"sparsity": 0.5, "sources": ["a", "a"]}}, "'a' more than once"),
        (
            {"transfer": {"sparsity": 0.5, "sources": [{"name": "a", "mask": "x.arrow"}]}},
            "give the mask another name",
        ),
        ({"transfer": {"sparsity": 0.5, "method": "one-shot"}}, "one of the sweep's methods, imp"),
        ({"transfer": {"sparsity": 1.5}}, "less than 1"),
        ({"transfer": TRANSFER, "rewind": {"step": 2}}, "write rewind: theta0, or finals: theta0"),
    ],
)
def test_bad_transfers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        sweep(tasks=TASKS, **changes)


@pytest.mark.parametrize("sources", [["a", "theta0"], ["a"], None])
def test_no_task_may_be_called_as_the_row_of_theta0(sources: list[str] | None) -> None:
    """Its masks would stand in the table for those pruned from theta_0."""
    tasks = [*TASKS, {"name": "theta0", "source": SOURCE}]
    assert sweep(tasks=tasks)
    with pytest.raises(ValidationError, match=r"row 'theta0' .* a task .* rename the task"):
        sweep(tasks=tasks, transfer={**TRANSFER, "sources": sources})


def facts_of(seed: int, num_removed: int = 750) -> GivenFacts:
    """Return facts of a mask that fits ``model_facts``."""
    prunable = model_facts().prunable
    return GivenFacts(
        mask_sha256=str(seed) * 64,
        prunable_sha256=prunable.sha256,
        num_weights=prunable.num_weights,
        num_removed=num_removed,
    )


def given_trials(given: GivenSource | None, **changes: Any) -> list[Trial]:
    """Expand a sweep of three tasks whose only source is a given mask."""
    sources = [{"name": "mine", "mask": "somewhere"}]
    spec = sweep(tasks=TASKS, transfer={**TRANSFER, "sources": sources}, **changes)
    tasks = {task.name: task_facts(task.name) for task in spec.tasks}
    return expand(spec, {"tiny": model_facts()}, tasks, {"mine": given})


def test_a_given_ticket_has_a_mask_for_each_seed_or_one_for_all() -> None:
    """Method rule 2: lineage takes each seed's own, finetune the ticket's default."""
    by_seed = {seed: facts_of(seed) for seed in (1, 2, 3, 4)}
    ticket = GivenSource(ref="t", default=by_seed[2], by_seed=by_seed)
    found = cells(given_trials(ticket))
    assert len(found) == 3 * 3
    for (_, _, seed), trial in found.items():
        assert trial.spec.mask == by_seed[seed].identity and not trial.spec.parents
    masks = {t.spec.mask for t in cells(given_trials(ticket, replicate="finetune")).values()}
    assert masks == {by_seed[2].identity}
    alone = cells(given_trials(GivenSource(ref="t", default=by_seed[1])))
    assert {trial.spec.mask for trial in alone.values()} == {by_seed[1].identity}
    assert cells(given_trials(None)) == {}  # told by whoever looked it up


def test_seeds_that_a_given_ticket_lacks_are_refused() -> None:
    ticket = GivenSource(ref="t", default=facts_of(2), by_seed={2: facts_of(2), 5: facts_of(5)})
    expected = (
        r"transfer\.sources\[0\]\.mask: is 't', which has masks of the seeds 2, 5, but none of "
        r"1, 3: under replicate: lineage .* Write seeds: \[2, 5\], or replicate: finetune"
    )
    with pytest.raises(SpecError, match=expected):
        given_trials(ticket)


def test_every_seeds_mask_must_fit() -> None:
    """A ticket's masks are checked one by one, and faults of masks and seeds told together."""
    by_seed = {1: facts_of(1), 2: facts_of(2, 500)}
    with pytest.raises(SpecError) as end:
        given_trials(GivenSource(ref="t", default=by_seed[1], by_seed=by_seed))
    lacking, count = end.value.faults
    assert "none of 3" in lacking.problem
    assert "at 0.5: it removes 500 weights; the sweep transfers at 0.75, which is 750" in str(count)
