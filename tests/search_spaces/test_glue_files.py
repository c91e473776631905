"""GLUE as TSV files and as the hub has it: the same examples, and the published numbers of them."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_spaces.datafiles import data_sha256, read_split, read_task
from search_spaces.errors import SpecError
from search_spaces.tasks import GLUE, GlueFolderSource, GlueHubSource
from tests.search_spaces.makers import data_folder


def test_a_hub_revision_is_a_commit() -> None:
    with pytest.raises(ValueError, match="revision"):
        GlueHubSource(task="rte", revision="main")


def test_glue_files_may_have_longer_rows(tmp_path: Path) -> None:
    """In the official files, fields beyond the header are left out as ever."""
    write_tsv(tmp_path, "sst2")
    with (tmp_path / "SST-2" / "train.tsv").open("a") as stream:
        stream.write("9\tlong\t1\textra\n")
    assert len(read_split(GlueFolderSource(task="sst2", path=str(tmp_path)), "train")) == 10


def glue_rows(task: str, num: int) -> list[dict[str, Any]]:
    """Return rows as the hub has them."""
    text, pair, label = GLUE[task].hub_columns
    labels = len(GLUE[task].labels)
    return [
        {text: f"first {i}"}
        | ({pair: f"second {i}"} if pair else {})
        | {label: i % labels if labels else i / 2, "idx": i}
        for i in range(num)
    ]


def write_mirror(folder: Path, task: str) -> None:
    """Write a copy of the hub's repository with one task and its README."""
    splits = ("train", *GLUE[task].hub_report_splits)
    (folder / task).mkdir(parents=True)
    lines = ["---", "configs:", f"- config_name: {task}", "  data_files:"]
    for split in splits:
        rows = glue_rows(task, 9 if split == "train" else 3)
        pq.write_table(
            pa.Table.from_pylist(rows), folder / task / f"{split}-00000-of-00001.parquet"
        )
        lines += [f"  - split: {split}", f"    path: {task}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_tsv(folder: Path, task: str) -> None:
    """Write the same rows as the official TSV files have them."""
    glue = GLUE[task]
    target = folder / glue.folder
    target.mkdir(parents=True)
    for name in ("train.tsv", *glue.report_files):
        lines = ["\t".join(["index", *filter(None, glue.tsv_columns)])]
        for i, row in enumerate(glue_rows(task, 9 if name == "train.tsv" else 3)):
            text, pair, label = (row.get(column) for column in glue.hub_columns)
            value = glue.tsv_labels[row["label"]] if glue.labels else str(label)
            cells = [str(i), str(text), *([str(pair)] if pair else []), value]
            lines.append("\t".join(cells))
        lines = lines[1:] if not glue.tsv_has_header else lines
        if task == "cola":  # source, label, star, sentence
            rows = [line.split("\t") for line in lines]
            lines = ["\t".join(["src", row[2], "", row[1]]) for row in rows]
        (target / name).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("task", sorted(GLUE))
def test_tsv_files_hold_the_same_examples_as_the_hub(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every GLUE task, both readers give equal texts, pairs, labels and class names."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_mirror(tmp_path / "hub", task)
    write_tsv(tmp_path / "tsv", task)
    name: Any = task
    hub = read_task(GlueHubSource(task=name, path=str(tmp_path / "hub")))
    tsv = read_task(GlueFolderSource(task=name, path=str(tmp_path / "tsv")))
    assert hub == tsv
    assert len(hub.splits["train"]) == 9
    assert ("report_mismatched" in hub.splits) == (task == "mnli")


def test_a_mirror_without_the_hubs_files_is_refused(tmp_path: Path) -> None:
    """Other names, to which a card may lead, would be read without being part of the name."""
    with pytest.raises(SpecError, match=r"none/rte: holds no train-\*\.parquet, .*kind: glue-fol"):
        read_task(GlueHubSource(task="rte", path=str(tmp_path / "none")))
    write_mirror(tmp_path, "rte")
    card = tmp_path / "README.md"
    for split in ("train", "validation"):
        whole = tmp_path / "rte" / f"{split}-00000-of-00001.parquet"
        whole.rename(whole.with_name(f"{split}.parquet"))
        card.write_text(card.read_text().replace(f"{split}-*", f"{split}.parquet"))
    source = GlueHubSource(task="rte", path=str(tmp_path))
    with pytest.raises(SpecError) as raised:
        read_task(source)
    assert [f.problem.split(",")[0] for f in raised.value.faults] == [
        "holds no train-*.parquet",
        "holds no validation-*.parquet",
    ]
    with pytest.raises(SpecError, match="holds no train"):
        data_sha256(source)


def test_a_mirror_is_read_from_the_files_that_name_it(tmp_path: Path) -> None:
    """Whatever its card leads to: the shards of a split, in order, and nothing else."""
    write_mirror(tmp_path, "rte")
    (tmp_path / "README.md").write_text("no card")
    first = tmp_path / "rte" / "train-00000-of-00001.parquet"
    rows = glue_rows("rte", 9)
    pq.write_table(pa.Table.from_pylist(rows[:4]), first.with_name("train-00000-of-00002.parquet"))
    pq.write_table(pa.Table.from_pylist(rows[4:]), first.with_name("train-00001-of-00002.parquet"))
    first.unlink()
    found = read_split(GlueHubSource(task="rte", path=str(tmp_path)), "train")
    assert found.texts == [row["sentence1"] for row in rows]
    assert found.labels == [row["label"] for row in rows]


def test_hub_faults_name_the_place_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("away")

    monkeypatch.setattr("datasets.load_dataset", fail)
    monkeypatch.setattr("search_spaces.hub.hub_fault", lambda: None)
    with pytest.raises(SpecError, match=r"/rte: cannot be loaded .*path: <folder> or kind"):
        read_task(GlueHubSource(task="rte"))


def test_hub_data_are_named_without_a_download() -> None:
    """Repository, configuration and revision name them."""
    pinned = data_sha256(GlueHubSource(task="rte"))
    assert pinned != data_sha256(GlueHubSource(task="wnli"))
    assert pinned != data_sha256(GlueHubSource(task="rte", revision="0" * 40))
    assert len(pinned) == 64


def test_a_mirror_is_named_by_its_bytes(tmp_path: Path) -> None:
    write_mirror(tmp_path, "rte")
    source = GlueHubSource(task="rte", path=str(tmp_path))
    before = data_sha256(source)
    rows = glue_rows("rte", 4)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rte" / "train-00000-of-00001.parquet")
    assert data_sha256(source) != before


def test_qqp_rows_with_missing_fields_are_left_out_as_on_the_hub(tmp_path: Path) -> None:
    write_tsv(tmp_path, "qqp")
    with (tmp_path / "QQP" / "train.tsv").open("a") as stream:
        stream.write("9\tcut off\n")
    assert len(read_split(GlueFolderSource(task="qqp", path=str(tmp_path)), "train")) == 9


REAL = {"sst2": (67_349, 872), "mrpc": (3_667, 408), "cola": (8_551, 1_043), "stsb": (5_749, 1_500)}


@pytest.mark.parametrize("task", sorted(REAL))
def test_real_glue_files_have_the_published_numbers_of_rows(task: Any) -> None:
    data = read_task(GlueFolderSource(task=task, path=str(data_folder() / task)))
    assert (len(data.splits["train"]), len(data.splits["report"])) == REAL[task]


def test_sst2_is_read_within_two_seconds_of_cpu() -> None:
    """Half a second on a quiet core: one function call for each row's checks would take longer."""
    source = GlueFolderSource(task="sst2", path=str(data_folder() / "sst2"))
    start = time.process_time()
    read_task(source)
    assert time.process_time() - start < 2
