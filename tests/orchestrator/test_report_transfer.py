"""The report of a sweep with a transfer: figures, cells in words, counts, and its rows."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from rich.console import Console

from orchestrator.report import write_report
from orchestrator.report_text import show_points, show_pvalue
from orchestrator.report_transfer import cell_word, count_text, source_sentence
from orchestrator.transfer import DarkCount, TransferCell, TransferMatrix
from orchestrator.transfer_judging import judge_transfers
from orchestrator.transfer_rows import TRANSFER_COLUMNS, transfer_table
from orchestrator.transfer_screens import show_transfer
from tests.orchestrator.reports import SWEEP, words
from tests.orchestrator.small_worlds import small_world
from tests.orchestrator.transfer_worlds import OVERLAPS, finished, run, world

FIGURES = ["overlap-01-tiny.png", "transfer-01-tiny-report.png", "transfer-01-tiny-select.png"]


def transfers_of(folder: Path) -> list[str]:
    kept = [path.name for pattern in ("transfer*", "overlap*") for path in folder.glob(pattern)]
    return sorted(kept)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, written once: figures take their time."""
    place = tmp_path_factory.mktemp("report")
    write_report(*finished(), {}, place, [OVERLAPS])
    return place


def test_the_page_says_each_sources_count_and_each_cell_in_words(folder: Path) -> None:
    text = words((folder / "report.html").read_text())
    assert "Transfer · tiny" in text
    assert "theta0: 1 of 2 tasks: a." in text
    assert "a: 0 of 1 other task." in text
    assert "b: 0 of 1 other task; stopped after one seed: a." in text
    assert "+10.00 ± 0.00 dark n = 3" in text
    assert "−1.00 ± 0.00 not dark n = 3" in text
    assert "−30.00 stopped after one seed n = 1" in text
    assert "0.00 ± 0.00 own ticket n = 3" in text
    assert "unrounded, over the same seeds, and with the same K = 500 weights removed" in text
    assert "is out of averages" in text
    assert "Two random masks of this sparsity would overlap by 0.333." in text
    assert "On select, which decides." in text and "On report, which is told." in text


def test_intervals_and_tests_are_in_details(folder: Path) -> None:
    """One details element for each split; .1 above dense cannot be a loss of .01."""
    page = (folder / "report.html").read_text()
    inside = [words(part.split("</details>")[0]) for part in page.split("<details>")[1:]]
    told = [text for text in inside if text.startswith("Scores, intervals and tests")]
    assert len(told) == 2
    assert "theta0 a dark 3 0.9100 ± 0.0100 +0.1000 +0.1000 [+0.1000, +0.1000] 0.01 yes" in told[0]
    assert "b a stopped after one seed 1 0.5000 – −0.3000 0.01 – – –" in told[0]


def test_figures_and_rows_lie_beside_the_page(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert transfers_of(folder) == [*FIGURES, "transfers.csv"]
    assert page.count("data:image/png") == 4 + len(FIGURES)
    assert 'href="transfers.csv"' in page
    assert all(f"<code>{name}</code>" in page for name in TRANSFER_COLUMNS)


def test_rows_hold_every_cell_of_both_splits_unrounded(folder: Path) -> None:
    """Six cells; a stopped one has one trial and no verdict."""
    spec, trials, results = finished()
    table = transfer_table(judge_transfers(spec, trials, results), {"a": 0.01, "b": 0.02})
    assert table.column_names == list(TRANSFER_COLUMNS)
    rows = table.to_pylist()
    assert [row["split"] for row in rows] == ["select"] * 6 + ["report"] * 6
    by_pair = {(row["source"], row["target"]): row for row in rows[:6]}
    lost, dark = by_pair["b", "a"], by_pair["theta0", "a"]
    assert (lost["state"], lost["n"], lost["dark"], lost["std"]) == ("lost_futility", 1, None, None)
    assert lost["trials"].count(",") == 0 and dark["trials"].count(",") == 2
    assert (dark["dark"], dark["noninferior"], dark["num_removed"]) == (True, True, 500)
    assert dark["difference_dense"] == pytest.approx(0.1)
    assert (dark["delta"], by_pair["a", "b"]["delta"]) == (0.01, 0.02)
    back = pa.csv.read_csv(io.BytesIO((folder / "transfers.csv").read_bytes()))
    assert back.column("difference_dense").to_pylist() == [row["difference_dense"] for row in rows]


def test_a_sweep_without_a_transfer_looks_as_before(tmp_path: Path) -> None:
    """An older report's tables and figures are taken away; other files stay."""
    for name in (*FIGURES, "transfers.csv", "transfer-notes.txt"):
        (tmp_path / name).write_text("old")
    files = write_report(SWEEP, *small_world(), {}, tmp_path)
    page = files[0].read_text()
    assert 'class="transfer"' not in page and "transfers.csv" not in page
    assert transfers_of(tmp_path) == ["transfer-notes.txt"]


def test_before_any_transfer_was_run_everything_is_open(tmp_path: Path) -> None:
    spec, trials, results = finished()
    early = {trial.key: results[trial.key] for trial in trials if trial.kind == "dense"}
    text = words(write_report(spec, trials, early, {}, tmp_path)[0].read_text())
    assert "theta0: at least 0 of 2 tasks; undecided: a, b." in text
    assert "not run n = 0" in text and "overlap by" not in text


def test_a_target_that_is_no_source_has_its_own_ticket_alone(tmp_path: Path) -> None:
    """Its row counts nothing, and Holm's correction knows only the cells that were asked for."""
    spec, trials = world(sources=["theta0"], targets=["a", "b"])
    results = run(spec, trials)[1]
    table = judge_transfers(spec, trials, results)[0]
    assert set(table.asked) == {("theta0", "a"), ("theta0", "b"), ("a", "a"), ("b", "b")}
    assert table.matrix.counts["a"] == DarkCount(0, 0, 0)
    assert table.matrix.cells["a", "b"].state == "not_asked"
    pvalues = [table.matrix.cells["theta0", name] for name in ("a", "b")]
    largest = max(pvalues, key=lambda cell: cell.pvalue or 0)
    assert largest.pvalue_holm == largest.pvalue
    text = words(write_report(spec, trials, results, {}, tmp_path)[0].read_text())
    assert "theta0: 1 of 2 tasks: a." in text and "a: 0 of" not in text


def test_the_terminal_leaves_out_what_was_not_asked_for() -> None:
    """A row of a task's own mask alone has one cell and no count."""
    spec, trials = world(sources=["theta0"])
    console = Console(width=100, record=True, file=io.StringIO())
    show_transfer(console, judge_transfers(spec, trials, run(spec, trials)[1])[0])
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["a", "+0.00", "±0.00", "*"] in rows
    assert ["theta0", "+10.00", "±0.00", "*", "-1.00", "±0.00", "1/2"] in rows


def test_a_sentence_tells_dark_stopped_and_open_targets() -> None:
    cells = {
        ("m", "a"): TransferCell("m", "a", "judged", 3, dark=True),
        ("m", "b"): TransferCell("m", "b", "lost_futility", 1),
        ("m", "c"): TransferCell("m", "c", "undecided", 2),
        ("m", "m"): TransferCell("m", "m", "diagonal", 3, dark=True),
    }
    matrix = TransferMatrix(("m",), ("a", "b", "c", "m"), cells, {"m": DarkCount(1, 2, 3)})
    assert source_sentence(matrix, "m") == (
        "m: at least 1 of 3 other tasks: a; stopped after one seed: b; undecided: c."
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (DarkCount(0, 0, 0), ""),
        (DarkCount(1, 3, 3), "1 of 3"),
        (DarkCount(1, 2, 3), "at least 1 of 3"),
    ],
)
def test_counts_are_bounds_while_cells_are_open(count: DarkCount, text: str) -> None:
    assert count_text(count) == text


def test_every_state_has_its_words() -> None:
    """A cell whose task has no own ticket yet is neither dark nor light."""
    assert cell_word(TransferCell("a", "b", "judged", 3)) == (
        "undecided: no own ticket to compare with"
    )
    assert cell_word(TransferCell("a", "b", "not_run", 0)) == "not run"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.5, "0.5"), (0.04567, "0.0457"), (1e-9, "< 0.0001")]
)
def test_pvalues_are_short(value: float | None, text: str) -> None:
    assert show_pvalue(value) == text


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(-0.00001, "+", "0.00"), (0.0123, "+", "+1.23"), (0.0123, "", "1.23"), (-0.5, "", "−50.00")],
)
def test_points_have_no_sign_at_zero(value: float, sign: str, text: str) -> None:
    assert show_points(value, sign) == text
