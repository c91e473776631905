"""Verdicts in MLflow are those of the sweep as it is now: stale ones are withdrawn."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator import tracking
from orchestrator import tracking_verdicts as verdicts
from orchestrator.queries import best, sweeps
from orchestrator.tracking import MlflowTracker
from search_spaces.errors import UserError
from search_spaces.trial import Trial
from tests.orchestrator.mirrored import World, log, runs_of, sparsities
from tests.orchestrator.small_worlds import make_sweep, scored, small_world


def winning_world() -> World:
    """The small world, but the tickets at 20% match too."""
    trials, results = small_world()
    for trial in trials:
        if trial.kind == "final":
            seed = trial.roles[0].seed
            results[trial.key] = scored(trial, 0.8 + seed / 100, 0.7 + seed / 100)
    return trials, results


def without_level(world: World, num_removed: int) -> World:
    trials, results = world
    kept = [trial for trial in trials if trial.spec.num_removed != num_removed]
    return kept, {trial.key: results[trial.key] for trial in kept}


@pytest.mark.parametrize("new_hash", ["before", "after"])
def test_a_dropped_level_is_withdrawn(uri: str, new_hash: str) -> None:
    """Best names no ticket that the sweep no longer has; what was measured stays readable."""
    name = f"dropped {new_hash}"
    log(MlflowTracker(uri, name, "small", "before"), winning_world())
    assert sparsities(uri, name) == [0.2]
    log(MlflowTracker(uri, name, "small", new_hash), without_level(winning_world(), 200))
    assert sparsities(uri, name) == [0.1]
    old = runs_of(uri, name, "tags.kind = 'verdict' and tags.superseded = 'true'")
    assert {run.data.tags["contiguous"] for run in old} == {"false"}
    assert 0.2 in {run.data.metrics["sparsity"] for run in old}


def test_two_sweeps_of_one_name_keep_their_own_verdicts(uri: str) -> None:
    """Nobody's runs are overwritten; best shows what was logged last, also when that is again A."""
    first, second = (MlflowTracker(uri, "people", "small", one) for one in ("a", "b"))
    log(first, winning_world())
    log(second, small_world())
    assert sparsities(uri, "people") == [0.1]
    condition = "tags.kind = 'verdict' and tags.rule = 'strict' and tags.sweep_hash = '{}'"
    scores = {
        one: [r.data.metrics["ticket_mean"] for r in runs_of(uri, "people", condition.format(one))]
        for one in ("a", "b")
    }
    assert sorted(scores["a"]) == pytest.approx([0.82, 0.82])
    assert sorted(scores["b"]) == pytest.approx([0.52, 0.82])
    log(first, winning_world())
    assert sparsities(uri, "people") == [0.2]
    assert len(runs_of(uri, "people", "tags.kind = 'verdict'")) == 2 * 2 * 5


def test_sweeps_of_two_names_with_the_same_trials_are_two(uri: str) -> None:
    """Each has its parent run and its tickets."""
    for name in ("one", "other"):
        log(MlflowTracker(uri, "names", name, "same"), small_world())
    assert {row.name for row in sweeps(uri, "names")} == {"one", "other"}
    assert {ticket.sweep for ticket in best(uri, "names")} == {"one", "other"}


def test_a_dropped_control_leaves_no_trace(uri: str) -> None:
    """A verdict run says what is computed now, and nothing of a control that is gone."""
    tracker = MlflowTracker(uri, "controls", "small", "hash")
    log(tracker, small_world(), make_sweep(controls=["random-uniform"]))
    (run, *_) = runs_of(uri, "controls", "tags.kind = 'verdict'")
    assert "beats.random-uniform" in run.data.tags
    log(tracker, small_world())
    runs = runs_of(uri, "controls", "tags.kind = 'verdict'")
    assert len(runs) == 2 * 5
    assert not [name for run in runs for name in run.data.tags if name.startswith("beats.")]
    assert not [name for run in runs for name in run.data.metrics if name.startswith("over.")]


def test_a_level_that_turned_undecided_has_no_mean(uri: str) -> None:
    """Numbers of a level with a missing seed are those that can be computed without it."""
    tracker, (trials, results) = MlflowTracker(uri, "turned", "small", "hash"), small_world()
    log(tracker, (trials, results))
    lost = next(t for t in trials if t.kind == "final" and t.spec.num_removed == 100)
    log(tracker, (trials, {key: r for key, r in results.items() if key != lost.key}))
    condition = "tags.kind = 'verdict' and tags.rule = 'strict' and metrics.num_removed = 100"
    (run,) = runs_of(uri, "turned", condition)
    assert run.data.tags["outcome"] == "undecided"
    assert {"difference", "ticket_mean", "report.ticket_mean"}.isdisjoint(run.data.metrics)


def test_a_verdict_that_still_holds_stays_the_same_run(uri: str) -> None:
    """Logging again what is there writes nothing, also beside tags that people added."""
    tracker = MlflowTracker(uri, "same", "small", "hash")
    log(tracker, small_world())
    before = runs_of(uri, "same", "tags.kind = 'verdict'")
    MlflowClient(uri).set_tag(before[0].info.run_id, "reviewed", "yes")
    MlflowClient(uri).log_metric(before[0].info.run_id, "mine", 1.0)
    log(tracker, small_world())
    after = runs_of(uri, "same", "tags.kind = 'verdict'")
    assert {run.info.run_id for run in after} == {run.info.run_id for run in before}


@pytest.mark.slow
def test_what_people_wrote_on_a_verdict_outlives_a_change_of_it(uri: str) -> None:
    """The run goes, since MLflow cannot take back a metric; the new one has their tags."""
    tracker = MlflowTracker(uri, "words", "small", "hash")
    log(tracker, small_world())
    asked = "tags.kind = 'verdict' and tags.rule = 'strict' and metrics.num_removed = 200"
    (old,) = runs_of(uri, "words", asked)
    for name in ("reviewed", "mlflow.note.content"):
        MlflowClient(uri).set_tag(old.info.run_id, name, "yes")
    log(tracker, winning_world())
    (new,) = runs_of(uri, "words", asked)
    assert new.info.run_id != old.info.run_id
    assert new.data.tags["reviewed"] == new.data.tags["mlflow.note.content"] == "yes"
    assert new.data.tags["outcome"] == "matching" != old.data.tags["outcome"]


def test_a_half_written_verdict_is_no_ticket_and_is_written_anew(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between making a verdict's run and its numbers leaves nothing that best reads."""
    tracker = MlflowTracker(uri, "half", "small", "hash")
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "log_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log(tracker, winning_world())
    assert len(runs_of(uri, "half", "tags.kind = 'verdict'")) == 1
    assert best(uri, "half") == []
    log(tracker, winning_world())
    assert sparsities(uri, "half") == [0.2]
    assert len(runs_of(uri, "half", "tags.kind = 'verdict'")) == 2 * 5


@pytest.mark.parametrize("is_trashed", [False, True])
def test_two_processes_at_once_write_no_verdict_twice(
    uri: str, monkeypatch: pytest.MonkeyPatch, is_trashed: bool
) -> None:
    """The later one withdraws the copies, also where the other one is doing just that."""
    name = f"at once {is_trashed}"
    first, second = (MlflowTracker(uri, name, "small", "hash") for _ in range(2))
    look, trash = tracking.plan_verdicts, MlflowClient.delete_run

    def looked_at_once(*args: Any) -> verdicts.VerdictPlan:
        plan = look(*args)
        monkeypatch.setattr(tracking, "plan_verdicts", look)
        log(second, small_world())
        return plan

    def trashed_meanwhile(client: MlflowClient, run_id: str) -> None:
        for _ in range(1 + is_trashed):
            trash(client, run_id)

    monkeypatch.setattr(tracking, "plan_verdicts", looked_at_once)
    monkeypatch.setattr(MlflowClient, "delete_run", trashed_meanwhile)
    log(first, small_world())
    runs = runs_of(uri, name, "tags.kind = 'verdict'")
    assert len(runs) == len({run.data.tags["verdict_key"] for run in runs}) == 2 * 5
    log(first, small_world())
    log(second, small_world())
    again = runs_of(uri, name, "tags.kind = 'verdict'")
    assert {run.info.run_id for run in again} == {run.info.run_id for run in runs}


def test_of_copies_every_process_keeps_the_same(uri: str) -> None:
    """The one that began first; one that somebody still writes is left to whoever writes it."""
    log(MlflowTracker(uri, "copies", "small", "hash"), small_world())
    client, before = MlflowClient(uri), runs_of(uri, "copies", "tags.kind = 'verdict'")
    run, wanted = before[0], dict[str, verdicts.Verdict]()
    experiment_id, begun = run.info.experiment_id, run.info.start_time
    for shift in (-1, 1):
        copy = client.create_run(experiment_id, begun + shift, run.data.tags)
        for metric, value in run.data.metrics.items():
            client.log_metric(copy.info.run_id, metric, value)
        if shift < 0:
            client.set_terminated(copy.info.run_id)
            first = copy.info.run_id
        else:
            unfinished = copy.info.run_id
    key = run.data.tags["verdict_key"]
    wanted[key] = verdicts.Verdict(run.info.run_name, run.data.metrics, run.data.tags)
    for _ in range(2):
        verdicts.drop_copies(client, experiment_id, "small", wanted)
        left = runs_of(uri, "copies", f"tags.verdict_key = '{key}'")
        assert {one.info.run_id for one in left} == {first, unfinished}


def test_two_processes_at_once_make_one_parent(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was made first, also where a process had looked before that."""
    made: list[MlflowTracker] = []

    def looked_at_once(*_: Any) -> None:
        monkeypatch.undo()
        made.append(MlflowTracker(uri, "parents", "small", "hash"))

    monkeypatch.setattr(tracking, "find_one", looked_at_once)
    made.append(MlflowTracker(uri, "parents", "small", "hash"))
    (parent,) = runs_of(uri, "parents", "tags.kind = 'sweep'")
    assert {one.parent_id for one in made} == {parent.info.run_id}


def test_best_leaves_out_what_another_version_wrote(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A verdict run without a tag that a ticket needs is counted, and hides no other."""
    log(MlflowTracker(uri, "older", "small", "hash"), small_world())
    strict = "tags.kind = 'verdict' and tags.contiguous = 'true' and tags.rule = 'strict'"
    (run,) = runs_of(uri, "older", strict)
    MlflowClient(uri).delete_tag(run.info.run_id, "replicate")
    assert sparsities(uri, "older") == [0.1]
    assert "1 verdict runs of experiment 'older' were written by another version" in caplog.text


def test_sixty_percent_is_met_to_half_a_weight(uri: str) -> None:
    """Of 10,616,832 weights 60% are 6,370,099.2, so that many is a share just below 0.6."""
    trials, results = small_world()
    kept, num_prunable = list[Trial](), 10_616_832
    for trial in trials:
        if trial.spec.num_removed in (0, 100) and trial.kind != "control":
            model = trial.spec.model.model_copy(update={"num_prunable": num_prunable})
            changes: dict[str, object] = {"model": model}
            if trial.spec.mask is not None:
                count = {"num_removed": 6_370_099}
                changes["mask"] = trial.spec.mask.model_copy(update=count)
            new = trial.model_copy(update={"spec": trial.spec.model_copy(update=changes)})
            results[new.key] = results[trial.key]
            kept.append(new)
    log(MlflowTracker(uri, "sixty", "small", "hash"), (kept, results))
    (ticket,) = best(uri, "sixty", min_sparsity=0.6)
    assert ticket.sparsity < 0.6
    assert best(uri, "sixty", min_sparsity=6_370_100 / num_prunable) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 60.0, float("nan")])
def test_a_sparsity_is_a_fraction(uri: str, wrong: float) -> None:
    with pytest.raises(UserError, match=r"min_sparsity .* is not allowed. Use a fraction"):
        best(uri, "any", min_sparsity=wrong)
