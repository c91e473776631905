"""Queries read MLflow alone: tickets are chosen on select, lineages end in dense."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.judging import judge_sweep
from orchestrator.queries import best, lineage, sweeps
from orchestrator.store import Store
from orchestrator.tracking import MlflowTracker
from search_spaces.errors import UserError
from tests.orchestrator.factories import finish, make_lineage
from tests.orchestrator.small_worlds import make_sweep, small_world

CHAIN = make_lineage()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A mirrored sweep of two levels, and a lineage of three rounds; the store is gone."""
    folder = tmp_path_factory.mktemp("queries")
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = MlflowTracker(uri, "small", "small", "hash")
    trials, results = small_world()
    tracker.log_verdicts(judge_sweep(make_sweep(), trials, results), "noninferior", "lineage")
    store = Store(str(folder / "store"))
    for trial in CHAIN:
        store.commit(finish(store.uri, trial, "a1"), trial.spec)
    tracker.catch_up(CHAIN, store)
    Path(store.uri).rename(folder / "gone")
    return uri


def test_best_is_the_sparsest_contiguous_ticket_with_its_report_score(uri: str) -> None:
    """10% matches on select and 20% does not; the report scores are told beside."""
    (ticket,) = best(uri, "small")
    assert (ticket.sparsity, ticket.num_removed, ticket.num_seeds) == (0.1, 100, 3)
    assert (ticket.model, ticket.task, ticket.method) == ("tiny", "toy", "imp")
    assert ticket.rule == "noninferior"
    assert ticket.select_mean == pytest.approx(0.82)
    assert ticket.report_mean == pytest.approx(0.72)
    assert ticket.report_difference == 0
    assert ticket.report_outcome == "matching"
    assert len(ticket.trial_keys) == 3


def test_best_narrows(uri: str) -> None:
    """Every filter keeps what fits and drops what does not."""
    kept = best(uri, "small", task="toy", model="tiny", method="imp", rule="strict")
    assert [ticket.rule for ticket in kept] == ["strict"]
    assert best(uri, "small", task="other") == []
    assert best(uri, "small", model="other") == []
    assert best(uri, "small", method="one-shot") == []
    assert best(uri, "small", min_sparsity=0.1) == best(uri, "small")
    assert best(uri, "small", min_sparsity=0.11) == []


def test_a_lineage_goes_back_to_dense(uri: str) -> None:
    """From the sparsest trial to the one without a mask, also by the beginning of the key."""
    rows = lineage(uri, "small", CHAIN[2].key[:12])
    assert [row.trial_key for row in rows] == [trial.key for trial in reversed(CHAIN)]
    assert [row.sparsity for row in rows] == [0.2, 0.1, 0.0]


def test_sweeps_are_listed(uri: str) -> None:
    assert [(row.name, row.sweep_hash) for row in sweeps(uri, "small")] == [("small", "hash")]


def test_an_updated_verdict_replaces_the_old_one(uri: str) -> None:
    """When a better level comes in, the ticket changes and no verdict is there twice."""
    trials, results = small_world()
    tracker = MlflowTracker(uri, "renewed", "small", "hash")
    early = {k: r for k, r in results.items() if r.primary("select") > 0.6}
    tracker.log_verdicts(judge_sweep(make_sweep(), trials, early), "noninferior", "lineage")
    assert len(best(uri, "renewed")) == 1
    worse = next(t for t in trials if t.kind == "final" and t.spec.num_removed == 100)
    del early[worse.key]
    tracker.log_verdicts(judge_sweep(make_sweep(), trials, early), "noninferior", "lineage")
    assert best(uri, "renewed") == []


def test_wrong_questions_are_answered_with_the_next_step(uri: str) -> None:
    with pytest.raises(UserError, match=r"experiment 'absent' is not at .*there: .*small"):
        best(uri, "absent")
    with pytest.raises(UserError, match=r"rule 'x' is not known. Use one of noninferior"):
        best(uri, "small", rule="x")
    with pytest.raises(UserError, match="no trial begins with it"):
        lineage(uri, "small", "zz")
    with pytest.raises(UserError, match="3 trials begin with it"):
        lineage(uri, "small", "")
