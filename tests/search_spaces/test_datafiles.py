"""Examples are read as written, and everything that is wrong with them is said at once."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_spaces.datafiles import data_sha256, read_split, read_task
from search_spaces.errors import SpecError
from search_spaces.tasks import BuiltinSource, FilesSource
from tests.search_spaces.makers import data_folder

PINNED_NAMES = {".csv": "a56d709b26", ".tsv": "a56d709b26", "tab": "9c3a06b6a0"}


def files(folder: Path, suffix: str = ".csv", **options: Any) -> FilesSource:
    train, report = str(folder / f"train{suffix}"), str(folder / f"dev{suffix}")
    return FilesSource(train=train, report=report, **options)


def write(folder: Path, train: str | bytes, dev: str | bytes = "text,label\nx,a\n") -> None:
    for name, content in (("train.csv", train), ("dev.csv", dev)):
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)


def faults_of(source: Any) -> list[str]:
    with pytest.raises(SpecError) as raised:
        read_task(source)
    return [str(fault) for fault in raised.value.faults]


def test_csv_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    write(tmp_path, 'label,text\na,"one, ""two""\nthree"\nb,four\n')
    task = read_task(files(tmp_path))
    assert task.labels == ("a", "b")
    assert task.splits["train"].texts == ['one, "two"\nthree', "four"]
    assert task.splits["train"].labels == [0, 1]
    assert task.splits["report"].labels == [0]


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    """GLUE's sentences begin with lone quotation marks, which end nothing."""
    for name, last in (("train.tsv", ""), ("dev.tsv", "x\ta\n")):
        (tmp_path / name).write_text('text\tlabel\n"lone\ta\nnext\u2028line\tb\n' + last)
    assert read_split(files(tmp_path, ".tsv"), "train").texts == ['"lone', "next\u2028line"]


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (["text\tlabel", '"a ""b"""\tx', '"c"\ty'], {"delimiter": "\t"}),
        (["a\tb,x", "c\td,y"], {"header": False, "text": "0", "label": "1"}),
    ],
)
def test_a_suffix_that_changes_the_reading_is_part_of_the_name(
    tmp_path: Path, lines: list[str], options: dict[str, Any]
) -> None:
    """One content, two readings: csv has quotes, and a delimiter of its own."""
    sources = [files(tmp_path, suffix, **options) for suffix in (".csv", ".tsv")]
    for source in sources:
        Path(source.train).write_text("\n".join(lines) + "\n")
        Path(source.report).write_text("\n".join(lines[:-1]) + "\n")
    csv, tsv = (read_split(source, "train").texts for source in sources)
    assert csv != tsv
    assert data_sha256(sources[0]) != data_sha256(sources[1])


def test_a_suffix_that_only_repeats_the_format_is_no_part_of_the_name(tmp_path: Path) -> None:
    """Names of old are pinned: only where bytes may be read in two ways does the suffix count."""
    for name in ("train.csv", "dev.csv", "train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("text\tlabel\none\ta\n")
    found = {s: data_sha256(files(tmp_path, s))[:10] for s in (".csv", ".tsv")}
    found["tab"] = data_sha256(files(tmp_path, ".csv", delimiter="\t"))[:10]
    assert found == PINNED_NAMES


def test_jsonl_and_parquet_hold_the_same_task(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y", "label": 1.5}, {"a": "z", "b": "w", "label": 2}]
    for name, some in (("train", rows), ("dev", rows[:1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)) + "\n")
        pq.write_table(pa.Table.from_pylist(some), tmp_path / f"{name}.parquet")
    options = {"text": "a", "text_pair": "b", "problem": "regression"}
    tasks = [read_task(files(tmp_path, s, **options)) for s in (".jsonl", ".parquet")]
    assert tasks[0] == tasks[1]
    assert tasks[0].splits["train"].pairs == ["y", "w"]
    assert tasks[0].splits["train"].labels == [1.5, 2.0]
    assert tasks[0].labels == ()


@pytest.mark.parametrize("label", ["NUM:dist", "NUM"])
def test_trec_label_ends_at_the_colon(tmp_path: Path, label: str) -> None:
    for name, num in (("train.all", 1), ("dev.all", 2)):
        (tmp_path / name).write_bytes(f"{label} How far is Málaga ?\n".encode("latin-1") * num)
    source = files(tmp_path, ".all", format="trec", encoding="latin-1", labels=("DESC", "NUM"))
    assert read_split(source, "train").texts == ["How far is Málaga ?"]
    assert read_split(source, "train").labels == [1]


def test_without_header_columns_are_numbers(tmp_path: Path) -> None:
    write(tmp_path, "a,one\nb,two\n", "a,x\n")
    source = files(tmp_path, header=False, text="1", label="0")
    assert read_split(source, "train").texts == ["one", "two"]


def test_labels_may_be_ordered_by_hand(tmp_path: Path) -> None:
    write(tmp_path, "text,label\nx,no\ny,yes\n", "text,label\nx,yes\n")
    source = files(tmp_path, labels=("yes", "no"))
    assert read_split(source, "train").labels == [1, 0]


def test_all_faults_of_both_files_come_at_once(tmp_path: Path) -> None:
    write(tmp_path, "text,label\nx,\ny,nan\nz,a\nw,aa\n", "text,lable\nx,a\n")
    faults = faults_of(files(tmp_path, labels=("a", "b")))
    assert [re.sub(r"^.*/", "", fault) for fault in faults] == [
        "dev.csv: has no column 'label'; columns found: text, lable. Did you mean 'lable'?",
        "train.csv: row 1: the label is empty.",
        "train.csv: row 2: the label is 'nan', but must be one of a, b.",
        "train.csv: row 4: the label is 'aa', but must be one of a, b. Did you mean 'a'?",
    ]


def test_many_faults_of_a_kind_are_counted_not_listed(tmp_path: Path) -> None:
    write(tmp_path, "text,label\n" + "x,c\n" * 25)
    faults = faults_of(files(tmp_path, labels=("a", "b")))
    assert len(faults) == 11
    assert faults[-1].endswith("has 15 more faults like these.")


def test_a_regression_needs_finite_numbers(tmp_path: Path) -> None:
    write(tmp_path, "text,label\nx,1.5\ny,good\nz,inf\nw,\n", "text,label\nx,2\n")
    joined = "\n".join(faults_of(files(tmp_path, problem="regression")))
    assert "row 2: the label is 'good', but a regression needs a finite number" in joined
    assert "row 3: the label is 'inf', but a regression needs a finite number" in joined
    assert "row 4: the label is empty" in joined


def test_empty_cells_of_parquet_are_named(tmp_path: Path) -> None:
    table = pa.table({"text": ["x", None], "label": ["a", None]})
    for name in ("train", "dev"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    joined = "\n".join(faults_of(files(tmp_path, ".parquet")))
    assert "train.parquet: row 2: the text is empty, but must be text" in joined
    assert "dev.parquet: row 2: the label is empty" in joined


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,label\n", {}, r"train\.csv: holds no rows\. Check the path"),
        ("", {}, r"train\.csv: is empty\."),
        ("text,label\nx,a\ny, really,b\n", {}, r"train\.csv: row 2 has 3 fields, but there are 2"),
        ("text,label\nx\n", {}, r"row 1 has 1 fields, but the columns need 2\."),
        (b"text,label\n\xe9,a\n", {}, r"line 2 is not utf-8 text \(byte 0xe9\).*encoding"),
        ("text,label\nx,a\n", {"encoding": "utf9"}, "unknown encoding 'utf9'.*latin-1"),
        ("{}\n[1]\n", {"format": "jsonl"}, "line 2 is a JSON list, not an object"),
        ("{x\n", {"format": "jsonl"}, "line 1 is no JSON: .* at column 2"),
        ("x", {"format": "parquet"}, r"train\.csv: is no Parquet"),
        ("loner", {"format": "trec"}, "line 1 is 'loner', but must be 'LABEL:sub text'"),
    ],
)
def test_faulty_files_say_what_and_where(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    write(tmp_path, content)
    with pytest.raises(SpecError, match=message):
        read_task(files(tmp_path, **options))


@pytest.mark.parametrize("other", [1.0, True, "1", None])
def test_json_labels_have_one_type(tmp_path: Path, other: Any) -> None:
    """1, 1.0, true and "1" would be up to four classes to a program and one to a reader."""
    rows = [{"text": "x", "label": 0}, {"text": "y", "label": 1}]
    for name, label in (("train", 1), ("dev", other)):
        lines = [*rows, {"text": name, "label": label}]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    values = ("0", "1", "1.0", "True")
    found = faults_of(files(tmp_path, ".jsonl", labels=values))
    expected = f"row 3: the label is {other!r} ({type(other).__name__}), but an earlier one is 0 (i"
    assert len(found) == 1
    assert ("the label is empty" if other is None else expected) in found[0]


def test_labels_that_differ_by_white_space_only_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "text,label\nx,1\ny,0\nz,1 \n", "text,label\nw,1\n")
    with pytest.raises(SpecError, match=r"row 3: the label is '1 ' \(str\), but .* is '1' \(str"):
        read_task(files(tmp_path, labels=("0", "1", "1 ")))


def test_train_and_report_are_different_files(tmp_path: Path) -> None:
    """Neither one path, however written, nor a copy: results would be those of memory."""
    write(tmp_path, "text,label\nx,a\n", "text,label\nx,a\n")
    assert "dev.csv: holds the same examples as the train file" in faults_of(files(tmp_path))[0]
    (tmp_path / "link.csv").symlink_to(tmp_path / "train.csv")
    source = FilesSource(train=str(tmp_path / "train.csv"), report=str(tmp_path / "link.csv"))
    assert "Give held-out examples as report." in faults_of(source)[0]


def test_missing_files_name_their_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "text,label\nx,a\n")
    source = FilesSource(train=str(tmp_path / "trian.csv"), report=str(tmp_path / "no/dev.csv"))
    faults = faults_of(source)
    assert faults[0] == f"{tmp_path}/trian.csv: does not exist. Did you mean 'train.csv'?"
    assert f"{tmp_path}/no/dev.csv: does not exist. Neither does its folder" in faults[1]


def test_unknown_suffixes_ask_for_the_format(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"suffix '\.dat'.*Write format: csv, tsv"):
        read_task(files(tmp_path, ".dat"))


def test_content_names_the_data_and_paths_do_not(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "text,label\nx,a\ny,b\n")
    first, second = files(tmp_path / "one"), files(tmp_path / "two")
    assert data_sha256(first) == data_sha256(second)
    assert data_sha256(first) != data_sha256(files(tmp_path / "one", labels=("b", "a")))
    swapped = FilesSource(train=first.report, report=first.train)
    assert data_sha256(first) != data_sha256(swapped)
    write(tmp_path / "two", "text,label\nx,a\ny,a\n")
    assert data_sha256(first) != data_sha256(second)


def test_the_embedded_task_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are built once, in $TICKETS_CACHE."""
    from search_spaces import docstrings

    def build(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train.jsonl", "dev.jsonl"):
            (folder / name).write_text('{"text": "x", "label": "ray"}\n')
        return folder

    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path))
    monkeypatch.setattr(docstrings, "build", build)
    assert read_task(BuiltinSource()).labels == ("ray",)
    assert (tmp_path / "docstrings" / "train.jsonl").is_file()


def test_an_embedded_task_that_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces import docstrings

    def build(folder: Path) -> Path:
        raise docstrings.DocstringsError("not installed: pandas. Run: pip install pandas")

    monkeypatch.setattr(docstrings, "build", build)
    assert faults_of(BuiltinSource()) == [
        "builtin task 'docstrings': not installed: pandas. Run: pip install pandas."
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem": "regression", "labels": ["a"]}, "has labels, but a regression has none"),
        ({"labels": ["a", "a"]}, "labels are .* but they must differ"),
        ({"metric": "pearson"}, "metric is 'pearson', but a classification has: accuracy"),
    ],
)
def test_contradicting_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilesSource.model_validate({"train": "t.csv", "report": "r.csv", **changes})


def test_real_trec_and_banking_files() -> None:
    folder = data_folder()
    trec = FilesSource(
        train=str(folder / "trec" / "TREC.train.all"),
        report=str(folder / "trec" / "TREC.test.all"),
        format="trec",
        encoding="latin-1",
    )
    assert [len(s) for s in read_task(trec).splits.values()] == [5452, 500]
    assert len(read_task(trec).labels) == 6
    banking = FilesSource(
        train=str(folder / "banking77" / "train.csv"),
        report=str(folder / "banking77" / "test.csv"),
        label="category",
    )
    assert len(read_task(banking).labels) == 77
    assert len(read_split(banking, "report")) == 3080
