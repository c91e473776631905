"""`tickets sync` puts right what MLflow has of a whole sweep: verdicts, own run, experiment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.ending import report_folder
from orchestrator.finishing import ended, report_anew, report_at_hand
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, Transition
from search_spaces.contracts import TrialState
from tests.orchestrator.mirrored_sweep import Place


def test_verdicts_are_written_anew(place: Place) -> None:
    before = place.content()
    for index, condition in enumerate(["tags.rule = 'strict'", "tags.rule = 'noninferior'"]):
        run = place.run(0, f"tags.kind = 'verdict' and {condition}")
        if index:
            place.client.set_tag(run.info.run_id, "matching", "maybe")
        else:
            place.client.delete_run(run.info.run_id)
    problem, remedy = place.mended()
    assert problem == "1 missing, 1 changed or there twice"
    assert remedy == "written anew; the old ones are withdrawn"
    assert place.content() == before


def test_a_sweep_whose_last_trials_were_cancelled_has_ended(place: Place, tmp_path: Path) -> None:
    """Nobody will run them, so verdicts are looked at; after a Ctrl-C somebody will."""
    final = next(trial for trial in place.context.trials if trial.kind == "final")
    results = place.root / "s-store" / "results" / final.key
    path = place.context.journal_path
    shutil.move(results, tmp_path / "kept")
    try:
        assert not place.check().has_verdicts
        for event, has_ended in (("cancelled", False), ("given_up", True)):
            with Journal.open(path, place.context.info, 1.0) as journal:
                journal.rebuild(TrialGraph(place.context.trials), place.store, 1.0)
                state, payload = TrialState.CANCELLED, {"cause": final.key}
                journal.record([Transition(final.key, state, event, payload=payload)], 2.0)
                journal.end(3.0)
            assert place.check().has_verdicts == has_ended
    finally:
        shutil.rmtree(path.parent)
        shutil.move(tmp_path / "kept", results)


@pytest.mark.slow
def test_the_sweeps_own_run_is_there_once(place: Place) -> None:
    """A copy counts for nothing, and no trial is said to belong to another run."""
    before, run = place.content(), place.run(0, "tags.kind = 'sweep'")
    tags = {name: run.data.tags[name] for name in ("kind", "sweep", "sweep_hash")}
    place.client.create_run(run.info.experiment_id, tags=tags)
    assert place.mended() == ("is there 2 times", "copies moved to MLflow's trash")
    assert place.content() == before


@pytest.mark.slow
def test_the_sweeps_own_run_is_restored_with_its_state(place: Place) -> None:
    run = place.run(0, "tags.kind = 'sweep'")
    place.client.delete_run(run.info.run_id)
    (foretold,) = place.check().entries[:1]
    assert foretold.problem == "is missing" and foretold.remedy == "restored or made"
    (entry,) = place.sync().entries
    assert (entry.problem, entry.remedy) == ("was deleted", "restored")
    place.client.update_run(run.info.run_id, "RUNNING")
    assert place.mended() == ("its status is RUNNING, not FINISHED", "mended")
    assert place.run(0, "tags.kind = 'sweep'").info.run_id == run.info.run_id


@pytest.mark.slow
def test_an_experiment_that_is_gone_is_made_with_all_it_held(place: Place) -> None:
    before = place.content()
    place.client.rename_experiment(place.run().info.experiment_id, "moved away")
    (foretold,) = place.check().entries
    assert (foretold.problem, foretold.remedy) == ("is missing", "made, with all its runs")
    entries = place.sync().entries
    assert entries[0].problem == "is missing"
    assert place.sync().entries == ()
    assert place.content() == [run for run in before if run["tags"]["kind"] != "ticket"]


def test_files_of_the_sweeps_own_run_are_written_again(place: Place) -> None:
    """Its report where that lies in its folder, as a run leaves it."""
    spec, (results, failed) = place.context.spec, ended(place.context, place.store)
    folder = report_folder(spec)
    files = report_anew(place.context, results, failed, folder)
    assert report_at_hand(place.context, results, failed, folder) == files
    foretold = [entry.problem for entry in place.check().entries]
    assert foretold == [f"file report/{path.name} is missing" for path in files]
    assert [entry.problem for entry in place.sync().entries] == foretold
    run = place.run(0, "tags.kind = 'sweep'")
    copy = Path(run.info.artifact_uri.removeprefix("file://")) / "report" / "report.html"
    whole = copy.read_bytes()
    for spoilt, problem in (
        (whole[:-1], f"has {len(whole) - 1} bytes, not {len(whole)}"),
        (whole[:-1] + b"?", "has another content"),
    ):
        copy.write_bytes(spoilt)
        assert place.mended() == (f"file report/report.html {problem}", "written anew")
        assert copy.read_bytes() == whole
    files[0].unlink()  # the report is not at hand any more, so nothing is said of it
    copy.unlink()
    assert place.check().entries == ()
