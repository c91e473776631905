"""Laws of the embedded data set, on tiny made-up packages and once on the installed ones."""

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from search_spaces import docstrings
from search_spaces.docstrings import DocstringsError, build, clean

Rows = list[dict[str, str]]
GIVEAWAYS = re.compile(
    "torch|mlflow|sklearn|scikit|pandas|transformers|huggingface|rllib|databricks|anyscale"
    "|(?<![a-z])(ray|hf|pd)(?![a-z])",
    re.IGNORECASE,
)


@pytest.fixture
def libraries(tmp_path: Path) -> dict[str, Path]:
    """Two libraries of 60 and 40 different sentences, some of them in both."""
    shared = "This very sentence stands in both of the libraries."
    for name, num in (("alpha", 60), ("beta", 40)):
        for i in range(num):
            _write(tmp_path / name / f"part{i % 4}" / f"m{i}.py", f"{name} computes step {i} here")
        _write(tmp_path / name / "shared.py", shared)
        _write(tmp_path / name / "tests" / "case.py", f"{name} must never read a test folder")
    return {"alpha": tmp_path / "alpha", "beta": tmp_path / "beta"}


def _write(path: Path, sentence: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'def run():\n    """{sentence} today.\n\n    More text.\n    """\n')


def _rows(folder: Path, split: str) -> Rows:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def _both(folder: Path) -> tuple[Rows, Rows]:
    return _rows(folder, "train"), _rows(folder, "dev")


def test_two_builds_are_the_same_bytes(tmp_path: Path, libraries: dict[str, Path]) -> None:
    """Equal sources give equal files, in whatever order the libraries are named."""
    first = build(tmp_path / "a", libraries)
    second = build(tmp_path / "b", dict(reversed(libraries.items())))
    for name in ("train.jsonl", "dev.jsonl", "SOURCE.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_splits_are_disjoint_balanced_and_unambiguous(
    tmp_path: Path, libraries: dict[str, Path]
) -> None:
    """No text in both splits; equally many of each label; a text of two libraries is in none."""
    train, dev = _both(build(tmp_path / "out", libraries))
    texts = [row["text"] for row in train + dev]
    assert len(set(texts)) == len(texts)
    assert not any("both of the libraries" in text for text in texts)
    assert not any("test folder" in text for text in texts)
    for rows in (train, dev):
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == {"alpha", "beta"} and len(set(counts.values())) == 1


def test_a_text_keeps_its_split_when_others_come(
    tmp_path: Path, libraries: dict[str, Path]
) -> None:
    """The split depends on the text alone."""
    before = {r["text"] for r in _rows(build(tmp_path / "a", libraries), "dev")}
    for i in range(50):
        _write(libraries["beta"] / f"new{i}.py", f"beta has gained number {i} just now")
    after = {r["text"] for r in _rows(build(tmp_path / "b", libraries), "train")}
    assert before and not before & after


def test_source_holds_the_hashes_and_counts(tmp_path: Path, libraries: dict[str, Path]) -> None:
    """SOURCE.json describes exactly the bytes beside it."""
    folder = build(tmp_path / "out", libraries)
    source = json.loads((folder / "SOURCE.json").read_text())
    for split in ("train", "dev"):
        data = (folder / f"{split}.jsonl").read_bytes()
        assert source["sha256"][f"{split}.jsonl"] == hashlib.sha256(data).hexdigest()
        assert source["num_rows"][split] == len(data.splitlines())
    assert sorted(p.name for p in folder.iterdir()) == ["SOURCE.json", "dev.jsonl", "train.jsonl"]


def test_a_built_folder_is_left_alone_and_a_torn_one_is_mended(
    tmp_path: Path, libraries: dict[str, Path]
) -> None:
    """Whole files of the same sources are reused; a cut file or changed sources are rebuilt."""
    folder = build(tmp_path / "out", libraries)
    train = folder / "train.jsonl"
    whole, made = train.read_bytes(), train.stat().st_mtime_ns
    build(folder, libraries)
    assert train.stat().st_mtime_ns == made
    train.write_bytes(whole[:-10])
    build(folder, libraries)
    assert train.read_bytes() == whole
    _write(libraries["alpha"] / "m0.py", "alpha computes something else in this place")
    before = (folder / "SOURCE.json").read_bytes()
    build(folder, libraries)
    assert (folder / "SOURCE.json").read_bytes() != before


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            "Run :class:`~ray.data.Dataset` on a\n   ``torch.Tensor`` of **two** axes.\n\nMore.",
            "Run library on a library of two axes.",
        ),
        (
            "Log a RayCluster of arrays with [MLflow](https://mlflow.org) and scikit-learn.",
            "Log a library of arrays with library and library.",
        ),
        (
            "See `the guide <https://a.b/c>`_ about an HfArgumentParser or `pd.Series` here.",
            "See the guide about an library or library here.",
        ),
        ("Too few words here.", None),
        ("word " * 41, None),
        (".. deprecated:: 2.0 use the other function instead of this one", None),
        ("linear(input, weight, bias=None) -> Tensor of the very same shape", None),
    ],
)
def test_clean(docstring: str, expected: str | None) -> None:
    """One plain line without mark-up and library names, or nothing."""
    assert clean(docstring) == expected


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names what is missing and the command that brings it."""
    monkeypatch.setitem(docstrings.DISTRIBUTIONS, "no_such_library", "no-such-library")
    with pytest.raises(DocstringsError, match=r"not installed: no_such_library\. Run: pip install"):
        build(tmp_path / "out")


def test_a_library_without_docstrings_is_refused(
    tmp_path: Path, libraries: dict[str, Path]
) -> None:
    """A class without rows would silently shrink every other class to nothing."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocstringsError, match="no usable docstring for split 'train' in: empty"):
        build(tmp_path / "out", libraries | {"empty": tmp_path / "empty"})


@pytest.mark.slow
def test_the_installed_libraries_give_the_whole_data_set(tmp_path: Path) -> None:
    """The pins give 6,000 + 1,500 sentences in six equal classes that name no library."""
    pytest.importorskip("pandas")
    loaded = set(sys.modules)
    train, dev = _both(build(tmp_path / "out"))
    assert not {"ray", "mlflow", "transformers", "sklearn"} & (set(sys.modules) - loaded)
    for rows, num in ((train, 1000), (dev, 250)):
        assert Counter(r["label"] for r in rows) == dict.fromkeys(docstrings.DISTRIBUTIONS, num)
    assert not [row for row in train + dev if GIVEAWAYS.search(row["text"])]
    assert all(6 <= len(row["text"].split()) <= 40 for row in train + dev)
