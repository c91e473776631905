"""What a sweep names on this machine, in its store: once, and without another key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.submit_inputs import local_inputs, safe_name, upload
from orchestrator.submit_sweep import control_text, sweep_text, written
from orchestrator.sweep_context import SweepContext
from search_spaces.errors import SpecError, UserError
from search_spaces.loading import parse_sweep
from tests.orchestrator.object_store import running_s3
from tests.orchestrator.sweeps import write_data, write_sweep


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a task."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def _sent(sweep: Path) -> tuple[SweepContext, str, list[str]]:
    """Return a sweep, its text for the cluster, and what the upload said."""
    said: list[str] = []
    context = SweepContext.open(sweep)
    inputs = upload(local_inputs(context.spec), context.spec.store, said.append)
    return context, sweep_text(context, written(sweep), inputs), said


def _opened(text: str, folder: Path) -> SweepContext:
    """Open a sweep as the cluster does, in a folder of its own."""
    folder.mkdir()
    (folder / "sweep.yaml").write_text(text)
    return SweepContext.open(folder / "sweep.yaml")


def test_same_plan_without_the_local_files(data: Path, tmp_path: Path) -> None:
    """The cluster plans the very same trials, and needs nothing that lies here."""
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    context, text, _ = _sent(write_sweep(tmp_path, "one", copy))
    shutil.rmtree(copy)
    there = _opened(text, tmp_path / "job")
    assert there.info.sweep_hash == context.info.sweep_hash
    assert [trial.key for trial in there.trials] == [trial.key for trial in context.trials]
    assert text.count(str(copy)) == 1  # the model's source, for people


def test_second_upload_copies_nothing(data: Path, tmp_path: Path) -> None:
    """Content that is there is not written again, under whatever name it comes."""
    sweep = write_sweep(tmp_path, "two", data)
    assert "6 file(s)" in _sent(sweep)[2][0]
    store = tmp_path / "two-store"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    assert "no new" in _sent(sweep)[2][0]
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def test_half_an_upload_is_made_whole(data: Path, tmp_path: Path) -> None:
    """A file that is missing in the store is copied again."""
    sweep = write_sweep(tmp_path, "half", data)
    _sent(sweep)
    [train] = (tmp_path / "half-store").rglob("train.jsonl")
    train.unlink()
    assert "1 file(s)" in _sent(sweep)[2][0]
    assert train.exists()


def test_object_store(data: Path, tmp_path: Path) -> None:
    """On S3 the sweep names URIs; opening it there copies them, and plans the same trials."""
    with running_s3() as uri:
        root, _, options = uri.partition("?")
        sweep = write_sweep(tmp_path, "s3", data, store=f"{root}/tickets?{options}")
        context, text, _ = _sent(sweep)
        place = yaml.safe_load(text)["models"][0]["files"]
        assert place.startswith("s3://bucket/tickets/inputs/") and place.endswith(options)
        there = _opened(text, tmp_path / "job")
        assert there.info.sweep_hash == context.info.sweep_hash
        assert there.models["tiny"].place.folder == place  # each node copies it for itself


def test_glue_folder(data: Path, tmp_path: Path) -> None:
    """A folder of all GLUE tasks sends the files of its one task, and plans the same trials."""
    rows = [f"sentence number {number}\t{number % 2}" for number in range(80)]
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows[:60]]) + "\n")
    (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows[60:]]) + "\n")
    (folder / "test.tsv").write_text("not needed")
    source = {"kind": "glue-folder", "task": "sst2", "path": str(folder.parent)}
    tasks = [{"name": "sst2", "source": source, "max_length": 24}]
    context, text, _ = _sent(write_sweep(tmp_path, "glue-sweep", data, tasks=tasks))
    shutil.rmtree(folder)
    assert _opened(text, tmp_path / "job").info.sweep_hash == context.info.sweep_hash
    assert not list((tmp_path / "glue-sweep-store").rglob("test.tsv"))


def test_model_keeps_its_source(data: Path, tmp_path: Path) -> None:
    """Where the files lie is written beside the source: tickets name the model, not a store."""
    _, text, _ = _sent(write_sweep(tmp_path, "source", data))
    [model] = yaml.safe_load(text)["models"]
    assert model["source"] == f"{data}/model"
    assert model["files"].startswith(f"{tmp_path}/source-store/inputs/")


def test_hub_model_needs_a_revision(data: Path, tmp_path: Path) -> None:
    """A name on the hub alone may mean other weights tomorrow."""
    models = [{"name": "tiny", "source": "some-owner/some-model"}]
    spec = parse_sweep(write_sweep(tmp_path, "hub", data, models=models).read_text())
    with pytest.raises(SpecError, match=r"model 'tiny': revision: .*hub.*Pin the commit"):
        local_inputs(spec)


def test_variables_stay_unreplaced(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the environment holds does not travel with the job."""
    monkeypatch.setenv("SECRET", "pa55word")
    monkeypatch.setenv("WHERE", "s3://bucket/tickets")
    tracking = {"uri": "http://user:${SECRET}@mlflow:5000"}
    sweep = write_sweep(tmp_path, "secret", data, store="${WHERE}", tracking=tracking)
    text = control_text(sweep)
    assert "pa55word" not in text
    assert yaml.safe_load(text)["store"] == "${WHERE}"
    assert parse_sweep(text).tracking.uri == "http://user:pa55word@mlflow:5000"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"store": "s3://key:secret@bucket/x"}, "store"),
        ({"store": "s3://${WHERE}:secret@bucket/x"}, "store"),
        ({"tracking": {"uri": "postgresql://me:secret@host/db"}}, "tracking.uri"),
    ],
)
def test_credentials_are_refused(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    field: str,
) -> None:
    """Written credentials would lie in the job's package; the message does not repeat them."""
    monkeypatch.setenv("WHERE", "x")
    with pytest.raises(SpecError, match=rf"{field}: holds credentials.*\$\{{NAME\}}") as caught:
        written(write_sweep(tmp_path, "open", data, **changes))
    assert "secret" not in str(caught.value)


def test_options_in_a_variable(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs lie below the store: its options must be where they can be told from its path."""
    monkeypatch.setenv("WHERE", "s3://bucket/x?region=eu-west-1")
    with pytest.raises(SpecError, match=r"store: has its options after '\?' in a variable"):
        written(write_sweep(tmp_path, "options", data, store="${WHERE}"))


def test_plan_of_another_version_is_refused(data: Path, tmp_path: Path) -> None:
    """A cluster that would run other trials than were submitted runs none."""
    context = SweepContext.open(write_sweep(tmp_path, "plan", data))
    context.require_plan(None)
    context.require_plan(context.info.sweep_hash)
    with pytest.raises(UserError, match=r"submitted with plan 0000000000, but here it is"):
        context.require_plan("0" * 64)


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/my data.csv", "my_data.csv"), ("..x.tsv", "x.tsv"), ("ä.jsonl", "_.jsonl"), ("-", "file")],
)
def test_safe_name(path: str, name: str) -> None:
    """A name in a store is plain, and its suffix still tells the format."""
    assert safe_name(path) == name
