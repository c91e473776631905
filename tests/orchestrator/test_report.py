"""The report: its numbers, what it says of gaps and failures, and that it needs no other file."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.judging import judge_sweep
from orchestrator.report import write_report
from orchestrator.report_curves import Point, make_curves
from orchestrator.report_plots import draw_curves
from orchestrator.report_sections import cost_rows, matrix_table
from orchestrator.report_text import headline, show_percent, show_score, show_seconds
from search_spaces.errors import UserError
from tests.orchestrator.reports import SWEEP, lose, page_of, rows_of, with_mask, words
from tests.orchestrator.small_worlds import make_sweep, scored, small_world


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the small world, written once: figures take their time."""
    return write_report(SWEEP, *small_world(), {}, tmp_path_factory.mktemp("report"))[0]


def test_rows_hold_the_numbers_of_both_splits_and_of_the_controls() -> None:
    """Dense .82 and ticket .82 and .52 on select, .1 less on report, control .52."""
    first, second = rows_of(small_world())
    assert (first.model, first.task, first.method) == ("tiny", "toy", "imp")
    assert [first.sparsity, second.sparsity] == [0.1, 0.2]
    assert [first.num_removed, second.num_removed] == [100, 200]
    assert (first.num_seeds, first.reason) == (3, "upper bound of the loss 0 < delta 0.01")
    numbers = [first.ticket_mean, first.ticket_std, first.dense_mean, first.dense_std]
    assert numbers == pytest.approx([0.82, 0.01, 0.82, 0.01])
    assert [first.report_mean, second.report_mean] == pytest.approx([0.72, 0.42])
    assert [second.difference, second.report_difference] == pytest.approx([-0.3, -0.3])
    assert first.report_dense_mean == pytest.approx(0.72)
    assert first.outcomes["strict"] == "matching"
    assert second.outcomes["overlap"] == second.report_outcome == "not_matching"
    assert [first.is_best, second.is_best] == [True, False]
    (control,) = first.controls
    assert (control.name, control.beats) == ("random-uniform", True)
    assert [control.mean, control.difference, control.lower_bound] == pytest.approx(
        [0.52, 0.3, 0.3]
    )


def test_a_headline_names_the_best_ticket_and_what_stops_the_next_level() -> None:
    """Scores of both splits, the rule, the control and the next level are in the sentence."""
    said = headline(rows_of(small_world()), "noninferior", 0.01)
    assert said.state == "best"
    assert said.text == (
        "The best ticket removes 10% of the prunable weights (100): select 0.8200 against 0.8200 "
        "dense, report 0.7200 against 0.7200 dense. It matches on select under noninferior with "
        "delta 0.01, n = 3; on report the same rule says: matching. It beats random-uniform "
        "(lower bound +0.3000). The next level, 20%, is not matching: upper bound of the loss "
        "0.3 > delta 0.01."
    )


def test_a_headline_says_when_nothing_matches_and_when_nothing_was_run() -> None:
    """Without a matching first level there is no best ticket, and without levels no claim."""
    trials, results = small_world()
    for trial in trials:
        if trial.kind == "final":
            results[trial.key] = scored(trial, 0.4, 0.4)
    said = headline(rows_of((trials, results)), "noninferior", 0.01)
    assert said.state == "none"
    assert said.text.startswith(
        "No level matches under noninferior with delta 0.01: already at 10%"
    )
    assert headline([], "strict", 0.01).state == "pending"


def test_a_failed_seed_is_told_as_undecided_and_listed(tmp_path: Path) -> None:
    """A failed seed decides nothing: no best ticket, no mean, and its message is shown."""
    world = small_world()
    key = lose(world, 100)
    text = words(page_of(world, tmp_path, {key: "loss is NaN at step 7"}))
    assert "Undecided at 10%: no score for seed 2: failed or not run." in text
    assert "14 of 15 trials have a result, 1 failed" in text
    assert f"final:toy:imp:0.1:s2 {key[:10]} loss is NaN at step 7" in text
    assert "10% 100 2 – 0.8200 ± 0.0100 – – undecided" in text
    assert "The best ticket" not in text


def test_a_best_ticket_below_an_undecided_level_says_so() -> None:
    """What stops the ladder is told apart: a level without a verdict is no failing level."""
    world = small_world()
    lose(world, 200)
    said = headline(rows_of(world), "noninferior", 0.01)
    assert said.state == "best"
    assert said.text.endswith(
        "The next level, 20%, is undecided: no score for seed 2: failed or not run."
    )


def test_the_page_shows_the_numbers(report: Path) -> None:
    """Verdicts, controls, costs and identities are the ones that were measured."""
    text = words(report.read_text())
    assert "10% best 100 3 0.8200 ± 0.0100 0.8200 ± 0.0100 +0.0000 [+0.0000, +0.0000]" in text
    interval = "[−0.3000, −0.3000]"
    assert f"0.5200 ± 0.0100 0.8200 ± 0.0100 −0.3000 {interval} −0.3000 no" in text
    assert f"no 0.4200 0.7200 −0.3000 {interval} no" in text
    assert "20% random-uniform 0.5200 0.5200 +0.0000 +0.0000 no" in text
    assert "noninferior yes no 10% – 10%" in text
    assert "all 15 of 15 150 2,400 – 30.0 s – – 37.5 s 0.10 GiB" in text
    assert "tiny bert theta0 config tokenizer prunable 1,000" in text
    assert "replicate: lineage" in text


def test_what_users_wrote_is_shown_and_never_run(tmp_path: Path) -> None:
    """A message or a name with markup in it is text in the page."""
    world = small_world()
    key = lose(world, 200)
    models = [{"name": "tiny", "source": "x"}, {"name": "<b>$x$</b>", "source": "x"}]
    hostile = '"><script>alert(1)</script>'
    page = page_of(world, tmp_path, {key: hostile}, make_sweep(models=models))
    assert "<script" not in page
    assert "<b>$x$" not in page
    assert "&gt;&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page
    assert "toy · <b>$x$</b> · imp No level has been evaluated yet." in words(page)


def test_the_page_needs_no_other_file_and_the_figures_lie_beside_it(report: Path) -> None:
    """Every image is inside; the PNG files hold the same bytes; nothing is fetched."""
    page, folder = report.read_text(), report.parent
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "curve-01-tiny-toy-report.png",
        "curve-01-tiny-toy-select.png",
        "report.html",
        "trials.csv",
        "trials.parquet",
        "verdicts.csv",
    ]
    embedded = [base64.b64decode(data) for data in re.findall(r'base64,([^"]+)"', page)]
    files = [(folder / name).read_bytes() for name in reversed(names[:2])]
    assert embedded == files
    assert all(data.startswith(b"\x89PNG") and len(data) > 10_000 for data in files)
    assert page.count("<img") == page.count('src="data:image/png') == 2
    for outside in ("http:", "https:", "file:", "<link", "<script", "@import", "url("):
        assert outside not in page


def test_a_report_is_the_same_each_time_and_replaces_the_old_one(
    report: Path, tmp_path: Path
) -> None:
    """It tells of results alone, not of when it was written; no temporary file stays."""
    folder = tmp_path / "made" / "here"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("old")
    assert page_of(small_world(), folder) == report.read_text()
    assert {path.name for path in folder.iterdir()} == {p.name for p in report.parent.iterdir()}


def test_a_sweep_judged_on_one_split_says_so(tmp_path: Path) -> None:
    """Under same_split there is one figure, and the page warns."""
    spec = make_sweep(splits={"select": "report"})
    page = page_of(small_world(), tmp_path, spec=spec)
    assert page.count("<img") == 1
    assert "same_split: tickets are chosen and reported on the same examples" in words(page)


def test_no_results_is_one_clear_error(tmp_path: Path) -> None:
    """Without results of this sweep nothing is written, and the next step is named."""
    trials, results = small_world()
    with pytest.raises(UserError, match=r"no results yet.*tickets run"):
        write_report(SWEEP, trials, {"another": next(iter(results.values()))}, {}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the place of the folder is the user's to mend."""
    place = tmp_path / "taken"
    place.write_text("")
    with pytest.raises(UserError, match=r"taken': the report cannot be written there"):
        write_report(SWEEP, *small_world(), {}, place)


def test_a_control_with_a_missing_seed_has_dots_and_no_mean() -> None:
    """A curve never averages over the seeds that happen to be there."""
    trials, results = small_world()
    lost = next(t for t in trials if t.kind == "control" and t.spec.num_removed == 200)
    del results[lost.key]
    judged = judge_sweep(SWEEP, trials, results)
    curves = make_curves(SWEEP, judged, trials, results)
    assert [(curve.split, curve.levels) for curve in curves] == [
        ("select", (0.1, 0.2)),
        ("report", (0.1, 0.2)),
    ]
    (control,) = curves[0].controls
    assert control.points[0].mean == pytest.approx(0.52)
    assert (control.points[1].mean, control.points[1].std) == (None, None)
    assert control.points[1].present == (0.52, 0.53)
    assert curves[0].tickets[0].best == curves[1].tickets[0].best == 0.1
    assert curves[0].dense.mean == pytest.approx(0.82)
    assert min(curves[0].heights) == 0.51
    assert all(len(png) > 10_000 for png in draw_curves(curves))


def test_a_point_of_one_seed_has_a_mean_and_no_deviation() -> None:
    """A deviation needs two scores."""
    assert (Point(0.5, {1: 0.8}).mean, Point(0.5, {1: 0.8}).std) == (0.8, None)


def test_matrices_are_laid_out_by_layer_and_kind() -> None:
    """Cells are means over the masks with their range; what is in no layer comes apart."""
    trials, results = small_world()
    keys = [trial.key for trial in trials[:2]]
    for key, share in zip(keys, (0.4, 0.8), strict=True):
        results[key] = with_mask(results[key], share)
    table = matrix_table(0.1, [*keys, trials[2].key, "not run"], results)
    assert table is not None
    assert (table.num_masks, table.columns) == (2, ("query", "output"))
    query, output = table.layers[0]
    assert query is not None and output is not None
    assert (query.mean, query.lowest, query.highest) == pytest.approx((0.6, 0.4, 0.8))
    assert output.mean == pytest.approx(0.3)
    assert table.layers[1][0] is None
    assert table.others["pooler.dense.weight"].collapsed
    assert matrix_table(0.1, [trials[2].key], results) is None


def test_costs_are_sums_over_the_results_of_each_kind() -> None:
    """Trials without a result are counted, and cost nothing that is known."""
    trials, results = small_world()
    lose((trials, results), 100)
    rows = cost_rows(trials, results)
    assert [(row.kind, row.num_trials, row.num_finished) for row in rows] == [
        ("dense", 3, 3),
        ("final", 6, 5),
        ("control", 6, 6),
        ("all", 15, 14),
    ]
    assert (rows[1].num_steps, rows[1].num_train_tokens) == (50, 800)
    assert (rows[1].seconds["train"], rows[1].seconds["load"]) == (10.0, None)


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.7, "70%"), (0.59049, "59%"), (0.9995, "99.95%"), (None, "–")]
)
def test_a_sparsity_below_one_never_reads_100_percent(fraction: float | None, text: str) -> None:
    """Three digits, or as many as tell it from everything."""
    assert show_percent(fraction) == text


def test_what_is_missing_is_a_dash_and_no_zero() -> None:
    """A number that nobody measured is not invented."""
    assert (show_score(None), show_seconds(None)) == ("–", "–")
    assert (show_seconds(119), show_seconds(120), show_seconds(7200)) == (
        "119.0 s",
        "2.0 min",
        "2.0 h",
    )


def test_rows_need_no_drawing_library() -> None:
    """The terminal shows rows without loading what only the page needs."""
    code = (
        "import sys, orchestrator.report_tables; "
        "print({'matplotlib', 'jinja2', 'rich', 'torch', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
