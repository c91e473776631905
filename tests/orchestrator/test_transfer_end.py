"""The commands that end a sweep with a transfer: report and mirror, with masks from the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.compare_sides import mask_ref
from orchestrator.finishing import mirror_finished, report_anew, tracker_of
from orchestrator.source_masks import source_overlaps
from orchestrator.sweep_context import SweepContext
from orchestrator.syncing import sync_mirror
from search_spaces.loading import show
from tests.orchestrator.mirrored import runs_of
from tests.orchestrator.reports import words
from tests.orchestrator.ticket_worlds import World, make_world
from tests.workers.requests import make_task

NAMES = (("a", 24), ("b", 20))  # with max_length, so that the tasks differ


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two tasks whose masks are equal seed by seed, and theta0, whose masks nobody kept."""
    root = tmp_path_factory.mktemp("world")
    data = make_task(root / "data")
    source = {"kind": "files", "train": f"{data}/train.jsonl", "report": f"{data}/dev.jsonl"}
    tasks = [{"name": name, "source": source, "max_length": length} for name, length in NAMES]
    transfer = {"sparsity": 0.5, "sources": ["a", "b", "theta0"]}
    uri = f"sqlite:///{root}/mlflow.db"
    changes = {"tasks": tasks, "transfer": transfer, "controls": [], "tracking": {"uri": uri}}
    return make_world(root, uri, **changes)


def context_of(made: World) -> SweepContext:
    return SweepContext(made.spec, {}, {}, tuple(made.trials))


def test_overlaps_are_of_the_masks_in_the_store(made: World) -> None:
    """Equal masks overlap fully, at half the weights random ones by a third."""
    (found,) = source_overlaps(made.spec, made.trials, made.store)
    assert (found.model, found.names) == ("bert-tiny", ("a", "b", "theta0"))
    assert found.values == ((1.0, 1.0, None), (1.0, 1.0, None), (None, None, None))
    assert found.by_chance == pytest.approx(1 / 3, abs=1e-4)


def test_the_end_of_a_run_reports_overlaps_once(made: World, tmp_path: Path) -> None:
    """A report from before there were transfer tables is written anew."""
    context = context_of(made)
    files = report_anew(context, made.results, {}, tmp_path)
    names = [path.name for path in files]
    assert "overlap-01-bert-tiny.png" in names and "transfers.csv" in names
    text = words(files[0].read_text())
    assert "Two random masks of this sparsity would overlap by 0.333." in text
    assert report_anew(context, made.results, {}, tmp_path) == ()
    (tmp_path / "transfers.csv").unlink()
    assert report_anew(context, made.results, {}, tmp_path) == files


def test_a_finished_sweep_mirrors_its_cells(made: World) -> None:
    context = context_of(made)
    tracker = tracker_of(context)
    for _ in range(2):
        mirror_finished(context, tracker, made.store)
    assert len(runs_of(made.uri, "small", "tags.kind = 'transfer-verdict'")) == 6


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_text('{"tables": []}'), "has another content"),
        pytest.param(
            lambda path: path.write_text("{"), "has another content", marks=pytest.mark.slow
        ),
    ],
)
def test_sync_writes_spoilt_tables_again(
    made: World, spoil: Callable[[Path], object], problem: str
) -> None:
    context = context_of(made)
    mirror_finished(context, tracker_of(context), made.store)
    (run,) = runs_of(made.uri, "small", "tags.kind = 'sweep'")
    path = Path(run.info.artifact_uri.removeprefix("file://")) / "transfer.json"
    whole = path.read_bytes()
    spoil(path)
    (entry,) = sync_mirror(context, made.store).entries
    assert entry.problem == f"file transfer.json {problem}"
    assert path.read_bytes() == whole


def test_tickets_report_writes_and_logs_it(made: World, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(show(made.spec))
    done = CliRunner().invoke(app, ["report", str(sweep), "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert f"{tmp_path}/overlap-01-bert-tiny.png" in said["figures"]
    assert f"{tmp_path}/transfers.csv" in said["tables"]


def test_a_damaged_mask_is_warned_of_and_its_overlaps_are_unknown(
    made: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the table and the report are there all the same."""
    (one, *_) = (t for t in made.trials if t.main_role.label.startswith("transfer:a>"))
    ref = mask_ref(made.store, one.spec)
    assert ref is not None
    path = Path(ref.uri)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"?" + whole[-8:])
    try:
        (found,) = source_overlaps(made.spec, made.trials, made.store)
    finally:
        path.write_bytes(whole)
    assert "the mask file is damaged" in caplog.text and "run the sweep again" in caplog.text
    assert found.values[1][1] == 1.0
