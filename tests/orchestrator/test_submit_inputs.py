"""What a sweep names on this machine, in its store: once, and without another key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from orchestrator.storage import Storage
from orchestrator.submit_inputs import local_inputs, safe_name, upload
from orchestrator.submit_sweep import sweep_text, written
from orchestrator.sweep_context import SweepContext
from search_spaces.datafiles import data_sha256
from search_spaces.errors import SpecError, UserError
from search_spaces.inputs import MANIFEST
from search_spaces.loading import load_sweep, parse_sweep
from tests.orchestrator.object_store import running_s3
from tests.orchestrator.sweeps import write_sweep
from tests.workers.token_tasks import KINDS, make_word_model

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_upload_that_fails_leaves_nothing_half(tmp_path: Path) -> None:
    """A disk that cannot be read any further: the error is one sentence, and no rest lies about."""
    storage = Storage(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be written: .*Input/output error"):
        storage.copy_in("inputs/a", Path("/proc/self/mem"))
    assert list((tmp_path / "inputs").iterdir()) == []


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


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_text_and_questions(kind: str, tmp_path: Path) -> None:
    """A corpus and a file of questions travel as they are; splits of one name do not collide."""
    copy = tmp_path / "copy"
    source = KINDS[kind](copy)
    for split in ("train", "report"):
        at = copy / split / Path(source["train"]).name
        at.parent.mkdir()
        shutil.move(source[split], at)
        source[split] = str(at)
    models = [{"name": "tiny", "source": str(make_word_model(copy / "model"))}]
    tasks = [{"name": "toy", "source": source, "max_length": 20}]
    context, text, _ = _sent(write_sweep(tmp_path, kind, copy, models=models, tasks=tasks))
    shutil.rmtree(copy)
    there = _opened(text, tmp_path / "job")
    assert [trial.key for trial in there.trials] == [trial.key for trial in context.trials]
    assert yaml.safe_load(text)["tasks"][0]["source"]["kind"] == kind


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "glue-hub", "task": "sst2"},
        {"kind": "squad-hub"},
        {"kind": "text-hub", "repository": "a/b", "revision": "0" * 40, "config": "c"},
        {"kind": "builtin"},
        {"kind": "builtin-words"},
    ],
    ids=lambda source: source["kind"],
)
def test_data_of_the_hub_and_of_packages_stay(
    source: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """Each node reads them itself, at the very revision; split names are not taken for files."""
    tasks = [{"name": "toy", "source": source, "max_length": 24}]
    sweep = write_sweep(tmp_path, "stay", data, tasks=tasks)
    spec = load_sweep(sweep)
    [model] = local_inputs(spec)
    assert model.field == ("models", 0, "files")
    text = sweep_text(SweepContext(spec, {}, {}, ()), written(sweep), {})
    assert parse_sweep(text).tasks == spec.tasks


def test_local_copy_of_the_hubs_glue(data: Path, tmp_path: Path) -> None:
    """The files of the one task, by which the data keep their name."""
    mirror = tmp_path / "mirror"
    names = {"sst2/train-00000.parquet", "sst2/validation-00000.parquet"}
    for name in (*names, "README.md", "cola/train-0.parquet"):
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(name.encode())
    source = {"kind": "glue-hub", "task": "sst2", "path": str(mirror)}
    sweep = write_sweep(tmp_path, "hub-copy", data, tasks=[{"name": "toy", "source": source}])
    spec = load_sweep(sweep)
    before = data_sha256(spec.tasks[0].source)
    paths = upload(local_inputs(spec), spec.store, lambda text: None)
    shutil.rmtree(mirror)
    there = parse_sweep(sweep_text(SweepContext(spec, {}, {}, ()), written(sweep), paths))
    assert data_sha256(there.tasks[0].source) == before
    folder = Path(there.tasks[0].source.path)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == names | {MANIFEST}


def test_hub_model_travels_at_its_revision(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken from the hub here, once; the cluster needs no hub and keeps its name."""
    import huggingface_hub.constants

    hub, revision = tmp_path / "hub", "5" * 40
    snapshot = hub / "models--some-owner--some-model" / "snapshots" / revision
    shutil.copytree(data / "model", snapshot)
    (snapshot / "pytorch_model.bin").write_bytes(b"pickled")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    models = [{"name": "tiny", "source": "some-owner/some-model", "revision": revision}]
    context, text, _ = _sent(write_sweep(tmp_path, "hub-model", data, models=models))
    shutil.rmtree(hub)
    there = _opened(text, tmp_path / "job")
    assert there.info.sweep_hash == context.info.sweep_hash
    assert there.spec.models[0].source == "some-owner/some-model"
    assert there.spec.models[0].revision == revision
    assert not list((tmp_path / "hub-model-store").rglob("pytorch_model.bin"))


def test_package_model_stays(data: Path, tmp_path: Path) -> None:
    """What the installed packages bring along is on every node."""
    models = [{"name": "tiny", "source": "package:cognition/model"}]
    spec = load_sweep(write_sweep(tmp_path, "package", data, models=models))
    assert [one.field[0] for one in local_inputs(spec)] == ["tasks", "tasks"]


def test_files_beside_the_source_travel(data: Path, tmp_path: Path) -> None:
    """Where a sweep names the files of a model by itself, those are what is needed there."""
    copy = tmp_path / "copy"
    shutil.copytree(data / "model", copy)
    models = [{"name": "tiny", "source": "some-owner/some-model", "files": str(copy)}]
    context, text, _ = _sent(write_sweep(tmp_path, "files", data, models=models))
    shutil.rmtree(copy)
    assert _opened(text, tmp_path / "job").info.sweep_hash == context.info.sweep_hash


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
