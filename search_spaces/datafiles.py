"""Read a task's examples and name its data by content; every fault is reported at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.canonical import canonical_json
from search_spaces.corpus import built_docstrings, check_apart, text_file
from search_spaces.errors import Fault, SpecError
from search_spaces.examples import Examples, RawSplit, checked_examples, finite_number, is_empty
from search_spaces.hub import check_columns, load_hub
from search_spaces.inputs import local_path
from search_spaces.questions import squad_file
from search_spaces.tables import (
    Columns,
    TableSettings,
    guess_format,
    read_bytes,
    read_table,
)
from search_spaces.tasks import (
    GLUE,
    GLUE_REPOSITORY,
    AnyTaskSource,
    BuiltinSource,
    FilesSource,
    GlueFolderSource,
    GlueHubSource,
    LabelledSource,
    problem_of,
    report_splits,
)
from search_spaces.token_sources import FileWordsSource, SquadHubSource, SquadSource, TextHubSource


@dataclass(frozen=True)
class TaskData:
    """All splits of a task as its source gives them.

    Attributes:
        labels: Names of the classes, in index order; () for a regression.
        splits: ``train``, ``report`` and, for MNLI, ``report_mismatched``.
    """

    labels: tuple[str, ...]
    splits: dict[str, Examples]


def read_split(source: LabelledSource, split: str) -> Examples:
    """Return one split of a task: ``train``, ``report`` or ``report_mismatched``.

    Raises:
        SpecError: Everything that is wrong with the data.
    """
    return read_task(source).splits[split]


def read_task(source: LabelledSource) -> TaskData:
    """Return all splits of a task.

    Args:
        source: Where the examples come from.

    Raises:
        SpecError: All faults of all splits: missing files and columns, empty splits, empty or
            unknown labels (with the row), labels that are no numbers, undecodable text.
    """
    faults: list[Fault] = []
    raws: dict[str, RawSplit] = {}
    for split in ("train", *report_splits(source)):
        try:
            raws[split] = _read_raw(source, split)
        except SpecError as error:
            faults += error.faults
    values = _label_values(source, raws.get("train"))
    splits = {
        split: checked_examples(raw, values, _label_base(source), faults)
        for split, raw in raws.items()
        if values is not None  # without train, the classes may be unknown
    }
    if isinstance(source, FilesSource) and not faults:
        faults += _files_faults(source, raws)
    if faults:
        raise SpecError(list(dict.fromkeys(faults)))  # splits may share a cause
    return TaskData(_label_names(source, values or ()), splits)


def _files_faults(source: FilesSource, raws: dict[str, RawSplit]) -> list[Fault]:
    """Return what only shows when a user's files are seen together."""
    faults: list[Fault] = []
    try:
        check_apart(_file(source, "train"), _file(source, "report"))
    except SpecError as error:
        faults += error.faults
    if source.problem == "classification":
        faults += _mixed_labels(raws)
    return faults


def _mixed_labels(raws: dict[str, RawSplit]) -> list[Fault]:
    """Refuse labels that are one class to a reader, and several by type or white space."""
    cells = [
        (raw.place, row, value) for raw in raws.values() for row, value in enumerate(raw.labels, 1)
    ]
    model = cells[0][2]
    spelled: dict[str, Any] = {}
    for place, row, label in cells:
        is_same_type = type(label) is type(model)
        other = spelled.setdefault(str(label).strip(), label) if is_same_type else model
        if not is_same_type or other != label:
            problem = (
                f"row {row}: the label is {label!r} ({type(label).__name__}), but an earlier one "
                f"is {other!r} ({type(other).__name__})."
            )
            hint = "Write all labels as one type, each class always in the same way."
            return [Fault(place, "", problem, hint)]
    return []


def data_sha256(source: AnyTaskSource) -> str:
    """Return the sha256 of a task's data: of all files' bytes and of how they are read.

    A hub task is named by repository, configuration and revision, without any download.

    Raises:
        SpecError: A file is missing or unreadable.
    """
    digest = hashlib.sha256(canonical_json(_reading_settings(source)).encode())
    for split in ("train", *report_splits(source)):
        for path in files_of(source, split):
            digest.update(f"\0{split}\0".encode())
            digest.update(hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()


def _reading_settings(source: AnyTaskSource) -> dict[str, Any]:
    if isinstance(source, TextHubSource):  # its train and report are names of splits
        return source.model_dump(mode="json")
    settings = source.model_dump(mode="json", exclude={"path", "train", "report"})
    if isinstance(source, GlueHubSource):
        settings["repository"] = GLUE_REPOSITORY
    if isinstance(source, FilesSource) and source.format is None:
        settings |= _guessed_formats(source)
    return settings


def _guessed_formats(source: FilesSource) -> dict[str, Any]:
    """Return the formats that suffixes stand for, where the same bytes may be read in two ways.

    With a header and each format's own delimiter only one reading finds the columns, and csv is
    what is meant if nothing is said.
    """
    if source.header and source.delimiter is None:
        return {}
    guessed = [guess_format(_file(source, split)) for split in ("train", "report")]
    return {"guessed": guessed} if set(guessed) != {"csv"} else {}


def files_of(source: AnyTaskSource, split: str) -> list[Path]:
    """Return the files that hold a split; none for a task that is read from the hub."""
    if isinstance(source, GlueHubSource):
        return _mirror_files(source, split) if source.path else []
    if isinstance(source, TextHubSource | SquadHubSource):
        return []
    if isinstance(source, FileWordsSource):
        return [text_file(source, split)]
    if isinstance(source, SquadSource):
        return [squad_file(source, split)]
    return [_file(source, split)]


def _file(source: GlueFolderSource | FilesSource | BuiltinSource, split: str) -> Path:
    if isinstance(source, FilesSource):
        return local_path(source.train if split == "train" else source.report)
    if isinstance(source, BuiltinSource):
        return built_docstrings() / ("train.jsonl" if split == "train" else "dev.jsonl")
    task = GLUE[source.task]
    names = dict(zip(report_splits(source), task.report_files, strict=True))
    folder = local_path(source.path)
    if (folder / task.folder).is_dir():
        folder = folder / task.folder
    return folder / ("train.tsv" if split == "train" else names[split])


def _read_raw(source: LabelledSource, split: str) -> RawSplit:
    if isinstance(source, GlueHubSource):
        return _read_mirror(source, split) if source.path else _read_hub(source, split)
    path = _file(source, split)
    text, pair, label = _column_names(source)
    columns = read_table(path, _settings(source, path, (text, pair, label)))
    return _raw(str(path), columns, (text, pair, label))


def _raw(place: str, columns: Columns, names: tuple[str, str, str]) -> RawSplit:
    text, pair, label = names
    return RawSplit(place, columns[text], columns[pair] if pair else None, columns[label])


def _column_names(source: LabelledSource) -> tuple[str, str, str]:
    if isinstance(source, GlueHubSource):
        return GLUE[source.task].hub_columns
    if isinstance(source, GlueFolderSource):
        return GLUE[source.task].tsv_columns
    if isinstance(source, FilesSource):
        return source.text, source.text_pair or "", source.label
    return "text", "", "label"


def _settings(
    source: GlueFolderSource | FilesSource | BuiltinSource,
    path: Path,
    names: tuple[str, str, str],
) -> TableSettings:
    columns = tuple(dict.fromkeys(name for name in names if name))
    if isinstance(source, GlueFolderSource):
        task = GLUE[source.task]
        return TableSettings(
            columns,
            "tsv",
            header=task.tsv_has_header,
            skips_short_rows=task.skips_short_rows,
            cuts_long_rows=True,
        )
    if isinstance(source, BuiltinSource):
        return TableSettings(columns, "jsonl")
    return TableSettings(
        columns,
        source.format or guess_format(path),
        encoding=source.encoding,
        delimiter=source.delimiter,
        header=source.header,
    )


def _read_hub(source: GlueHubSource, split: str) -> RawSplit:
    place, names = f"{GLUE_REPOSITORY}/{source.task}", _column_names(source)
    hint = "Check the network, or give a local copy: path: <folder> or kind: glue-folder."
    wanted = _hub_split(source, split)
    rows = load_hub(GLUE_REPOSITORY, source.task, wanted, source.revision, place, hint)
    check_columns(rows, names, f"{place} {split}")
    return _raw(f"{place} {split}", {name: list(rows[name]) for name in names if name}, names)


def _read_mirror(source: GlueHubSource, split: str) -> RawSplit:
    """Read a local copy of the hub's files: exactly those that name the data."""
    names = _column_names(source)
    wanted = tuple(name for name in names if name)
    settings = TableSettings(wanted, "parquet")
    tables = [read_table(path, settings) for path in _mirror_files(source, split)]
    columns = {name: [value for table in tables for value in table[name]] for name in wanted}
    return _raw(f"{source.path}/{source.task} {split}", columns, names)


def _hub_split(source: GlueHubSource, split: str) -> str:
    names = dict(zip(report_splits(source), GLUE[source.task].hub_report_splits, strict=True))
    return "train" if split == "train" else names[split]


def _mirror_files(source: GlueHubSource, split: str) -> list[Path]:
    folder = local_path(source.path or "") / source.task
    pattern = f"{_hub_split(source, split)}-*.parquet"
    found = sorted(folder.glob(pattern))
    if not found:
        problem = f"holds no {pattern}, but a local copy has the hub's files under their names."
        hint = f"Copy {GLUE_REPOSITORY} as it is, or write kind: glue-folder or files."
        raise SpecError([Fault(str(folder), "", problem, hint)])
    return found


def _label_base(source: LabelledSource) -> Callable[[Any], Any]:
    """Return what turns a label as stored into the value that is looked up."""
    if isinstance(source, GlueHubSource) and GLUE[source.task].labels:
        return lambda value: value
    return str if problem_of(source) == "classification" else finite_number


def _label_values(source: LabelledSource, train: RawSplit | None) -> tuple[Any, ...] | None:
    """Return the stored values of the classes in order; () for a regression, None if unknown."""
    if problem_of(source) == "regression":
        return ()
    if isinstance(source, GlueHubSource):
        return tuple(range(len(GLUE[source.task].labels)))
    if isinstance(source, GlueFolderSource):
        return GLUE[source.task].tsv_labels
    if isinstance(source, FilesSource) and source.labels:
        return source.labels
    if train is None:
        return None
    return tuple(sorted({str(value) for value in train.labels if not is_empty(value)}))


def _label_names(source: LabelledSource, values: tuple[Any, ...]) -> tuple[str, ...]:
    if isinstance(source, GlueHubSource | GlueFolderSource):
        return GLUE[source.task].labels
    return tuple(values)
