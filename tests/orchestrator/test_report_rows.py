"""The rows behind a report: Parquet and CSV hold exactly what results and verdicts say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.judging import judge_sweep
from orchestrator.report import write_report
from orchestrator.report_rows import (
    TRIAL_COLUMNS,
    csv_bytes,
    parquet_bytes,
    trial_table,
    verdict_table,
)
from orchestrator.report_tables import verdict_rows
from orchestrator.statistics import t_interval
from search_spaces.contracts import SplitScore, TrialResult
from search_spaces.trial import Trial
from tests.orchestrator.factories import make_result
from tests.orchestrator.reports import SWEEP, lose, with_mask
from tests.orchestrator.small_worlds import make_sweep, small_world

ANY = st.floats(allow_nan=False, allow_infinity=False)
NAME = st.text("abc-_", min_size=1, max_size=4)


def read_parquet(data: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.parquet.read_table(io.BytesIO(data)).to_pylist()
    return rows


def in_order(result: TrialResult) -> list[str]:
    return [split for split in ("select", "mm", "report") if split in result.scores]


@st.composite
def results(draw: st.DrawFn) -> TrialResult:
    """Return a result with arbitrary metrics, seconds and counts."""
    metrics = {"accuracy": draw(ANY), **draw(st.dictionaries(NAME, ANY, max_size=3))}
    scores = {
        split: SplitScore(
            metrics=metrics,
            num_examples=draw(st.integers(1, 9)),
            constant_predictor=draw(st.booleans()),
        )
        for split in draw(st.lists(st.sampled_from(["report", "select", "mm"]), unique=True))
    }
    changes = {
        "scores": scores,
        "seconds": draw(st.dictionaries(NAME, ANY, max_size=3)),
        "num_train_tokens": draw(st.integers(0, 2**62)),
        "resumed_at_step": draw(st.integers(0, 2**40)),
        "restart_reason": draw(st.text(max_size=5)),
        "host": draw(st.text(max_size=5)),
    }
    trial = small_world()[0][0]
    return make_result(trial, "a1").model_copy(update=changes)


@settings(deadline=None)  # the machine may be busy
@given(results())
def test_parquet_gives_the_values_of_the_results(result: TrialResult) -> None:
    """Bit by bit, whatever metrics, phases and splits there are."""
    trial = small_world()[0][0]
    rows = read_parquet(parquet_bytes(trial_table([trial], {trial.key: result}, {})))
    assert [row["split"] for row in rows if row["split"]] == in_order(result)
    assert all(row["state"] == "result" for row in rows) and rows
    for row in rows if result.scores else []:
        scored = result.scores[row["split"]]
        metrics = {name: row[f"metric_{name}"] for name in scored.metrics}
        seconds = {name: row[f"seconds_{name}"] for name in result.seconds}
        assert (metrics, seconds) == (scored.metrics, result.seconds)
        assert row["score"] == result.primary(row["split"])
        assert row["num_train_tokens"] == result.num_train_tokens
        assert row["resumed_at_step"] == result.resumed_at_step
        assert (row["restart_reason"] or "") == result.restart_reason
        assert (row["num_examples"], row["host"]) == (scored.num_examples, result.host)
        assert json.loads(row["versions"]) == result.numerics.versions


def test_every_trial_has_its_rows(tmp_path: Path) -> None:
    """14 results on two splits, and one row that says why a trial has none."""
    trials, found = small_world()
    key = lose((trials, found), 100)
    found[trials[0].key] = with_mask(found[trials[0].key], 0.4)
    files = write_report(SWEEP, trials, found, {key: "loss is NaN"}, tmp_path)
    assert [path.name for path in files[-3:]] == ["trials.csv", "trials.parquet", "verdicts.csv"]
    rows = read_parquet((tmp_path / "trials.parquet").read_bytes())
    assert len(rows) == 29
    (missing,) = [row for row in rows if row["split"] is None]
    assert (missing["key"], missing["state"], missing["message"]) == (key, "failed", "loss is NaN")
    assert missing["score"] is missing["attempt"] is missing["num_steps"] is None
    first, second = rows[:2]
    assert (first["split"], second["split"], first["kind"]) == ("select", "report", "dense")
    assert (first["mask_sha256"], first["num_collapsed"]) == ("bits", 1)
    assert (first["resumed_at_step"], first["restart_reason"]) == (0, None)
    assert rows[2]["mask_sha256"] is None
    final = next(row for row in rows if row["kind"] == "final")
    assert (final["model"], final["task"], final["method"]) == ("tiny", "toy", "imp")
    assert (final["sparsity"], final["num_removed"], final["num_prunable"]) == (0.1, 100, 1000)
    assert (final["seed"], final["search_seed"], final["source_task"]) == (1, 1, None)
    assert (final["device"], final["num_threads"], final["exchange"]) == ("cpu", 1, "")
    assert trial_table(trials[:1], {}, {}).to_pylist()[0]["state"] == "not run"


def test_columns_have_the_documented_order() -> None:
    """Those of the table; a star is one column for each metric or phase, sorted."""
    trials, found = small_world()
    names = trial_table(trials, found, {}).column_names
    starred = {"metric_*": ["metric_accuracy"], "seconds_*": ["seconds_total", "seconds_train"]}
    assert names == [one for name in TRIAL_COLUMNS for one in starred.get(name, [name])]
    fixed = [name for name in TRIAL_COLUMNS if name not in starred]
    assert trial_table([], {}, {}).column_names == fixed


def test_csv_says_the_same_as_parquet() -> None:
    """Numbers in CSV are written in full."""
    trials, found = small_world()
    table = trial_table(trials, found, {})
    back = pa.csv.read_csv(io.BytesIO(csv_bytes(table)))
    assert back.column_names == table.column_names
    for name in ("key", "score", "metric_accuracy", "seconds_total", "sparsity", "split"):
        assert back.column(name).to_pylist() == table.column(name).to_pylist()


def test_verdicts_have_their_intervals_and_controls() -> None:
    """Of both splits; without three paired seeds there is none."""
    trials, found = small_world()
    rows = verdict_rows(judge_sweep(SWEEP, trials, found), "noninferior")
    first, second = verdict_table(rows, "noninferior", {"toy": 0.01}).to_pylist()
    assert (first["is_best"], second["is_best"], first["delta"]) == (True, False, 0.01)
    low, high = t_interval([-0.3, -0.3, -0.3])
    assert abs(second["difference_interval_low"] - low) < 1e-9
    assert abs(second["report_interval_high"] - high) < 1e-9
    assert second["outcome_strict"] == "not_matching"
    assert first["random-uniform_beats"] is True and "outcomes" not in first
    two = make_sweep(seeds=[1, 2], verdict={"rule": "strict"})
    rows = verdict_rows(judge_sweep(two, *_of_seeds(trials, found, 2)), "strict")
    assert rows[0].num_seeds == 2 and rows[0].difference_interval is None
    assert verdict_table([], "strict", {}).num_rows == 0


def _of_seeds(
    trials: list[Trial], found: dict[str, TrialResult], last: int
) -> tuple[list[Trial], dict[str, TrialResult]]:
    kept = [trial for trial in trials if trial.main_role.seed <= last]
    return kept, {trial.key: found[trial.key] for trial in kept}


def test_the_page_links_to_its_rows_and_names_every_column(tmp_path: Path) -> None:
    """By names alone: page and rows may be moved together."""
    page = write_report(SWEEP, *small_world(), {}, tmp_path)[0].read_text()
    for name in ("trials.csv", "trials.parquet", "verdicts.csv"):
        assert f'href="{name}"' in page and (tmp_path / name).exists()
    assert all(f"<code>{name}</code>" in page for name in TRIAL_COLUMNS)
