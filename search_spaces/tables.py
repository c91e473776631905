"""Read the columns of one data file, whatever its format, and say plainly why when it fails."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.errors import Fault, SpecError, did_you_mean
from search_spaces.tasks import FileFormat

SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class TableSettings:
    """How a data file is read.

    Attributes:
        columns: The columns wanted; numbers as text when there is no header.
        format: File format.
        encoding: Text encoding; a byte-order mark is always skipped in UTF-8.
        delimiter: Of csv and tsv.
        header: Whether the first line names the columns.
        skips_short_rows: Leave out rows that end before the last wanted column.
        cuts_long_rows: Ignore fields beyond the header's; otherwise such a row is refused.
    """

    columns: tuple[str, ...]
    format: FileFormat
    encoding: str = "utf-8"
    delimiter: str | None = None
    header: bool = True
    skips_short_rows: bool = False
    cuts_long_rows: bool = False


Columns = dict[str, list[Any]]


def guess_format(path: Path) -> FileFormat:
    """Return the format that a file's suffix stands for.

    Raises:
        SpecError: The suffix is none of the known ones.
    """
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    problem = f"has the suffix '{path.suffix}', which names no known format."
    hint = "Write format: csv, tsv, jsonl, parquet or trec beside the path."
    raise SpecError([Fault(str(path), "", problem, hint)])


def read_table(path: Path, settings: TableSettings) -> Columns:
    """Return the wanted columns of a file, all equally long.

    Args:
        path: The file.
        settings: How it is read.

    Returns:
        Values by column; text formats give strings, JSON and Parquet their own types, and None
        where a row lacks the value.

    Raises:
        SpecError: The file is missing, unreadable, malformed, empty or lacks a column.
    """
    columns = _READERS[settings.format](path, settings)
    if not next(iter(columns.values())):
        raise _fault(path, "holds no rows.", "Check the path; a split needs at least one example.")
    return columns


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        SpecError: The file does not exist or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _fault(path, "does not exist.", _what_is_there(path)) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise _fault(path, f"cannot be read: {reason}.", "Check the path and its rights.") from None


def _what_is_there(path: Path) -> str:
    if not path.parent.is_dir():
        return f"Neither does its folder: current folder is {Path.cwd()}."
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = did_you_mean(path.name, names)
    return near or f"Its folder holds: {', '.join(names[:8]) or 'nothing'}."


def read_text(path: Path, encoding: str) -> str:
    """Return a text file's characters.

    Raises:
        SpecError: The file cannot be read, or is not in that encoding.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError:
        problem = f"cannot be read with the unknown encoding '{encoding}'."
        raise _fault(path, problem, "Use a name like utf-8 or latin-1.") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"line {line} is not {encoding} text (byte 0x{data[error.start]:02x})."
        raise _fault(path, problem, "Set the option encoding, for example latin-1.") from None
    return text


def _lines(path: Path, encoding: str) -> list[str]:
    # Not splitlines(): sentences may hold U+0085 or U+2028, which are no ends of rows.
    lines = read_text(path, encoding).replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines


def _read_tsv(path: Path, settings: TableSettings) -> Columns:
    """Split at the delimiter without any quoting: GLUE's sentences hold lone quotation marks."""
    delimiter = settings.delimiter or "\t"
    rows = [line.split(delimiter) for line in _lines(path, settings.encoding)]
    return _pick_rows(path, rows, settings)


def _read_csv(path: Path, settings: TableSettings) -> Columns:
    text = read_text(path, settings.encoding)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=settings.delimiter or ","))
    except csv.Error as error:
        raise _fault(path, f"is no CSV: {error}.", "Check the quoting.") from None
    return _pick_rows(path, [row for row in rows if row], settings)


def _pick_rows(path: Path, rows: Sequence[list[str]], settings: TableSettings) -> Columns:
    if not rows:
        raise _fault(path, "is empty.", "Check the path; a split needs at least one example.")
    header = rows[0] if settings.header else [str(index) for index in range(len(rows[0]))]
    positions = _positions(path, header, settings)
    body = rows[1:] if settings.header else rows
    if not settings.cuts_long_rows:
        _check_not_longer(path, body, len(header))
    width = max(positions) + 1
    if any(len(row) < width for row in body):
        body = _without_short(path, body, width, settings)
    return {
        name: [row[position] for row in body]
        for name, position in zip(settings.columns, positions, strict=True)
    }


def _check_not_longer(path: Path, rows: Sequence[list[str]], width: int) -> None:
    if any(len(row) > width for row in rows):
        number, row = next((i, row) for i, row in enumerate(rows, 1) if len(row) > width)
        problem = f"row {number} has {len(row)} fields, but there are {width} columns."
        hint = "Quote texts that hold the delimiter (csv), or set the option delimiter."
        raise _fault(path, problem, hint)


def _positions(path: Path, header: Sequence[str], settings: TableSettings) -> list[int]:
    _check_columns(path, header, settings.columns)
    return [list(header).index(name) for name in settings.columns]


def _without_short(
    path: Path, rows: Sequence[list[str]], width: int, settings: TableSettings
) -> list[list[str]]:
    if settings.skips_short_rows:
        return [row for row in rows if len(row) >= width]
    number, row = next((i, row) for i, row in enumerate(rows, 1) if len(row) < width)
    problem = f"row {number} has {len(row)} fields, but the columns need {width}."
    raise _fault(path, problem, "Check the delimiter and the quoting.")


def _read_jsonl(path: Path, settings: TableSettings) -> Columns:
    rows = []
    for number, line in enumerate(_lines(path, settings.encoding), 1):
        if line.strip():
            rows.append(_json_row(path, number, line))
    if rows:
        found = dict.fromkeys(name for row in rows[:100] for name in row)
        _check_columns(path, list(found), settings.columns)
    return {name: [row.get(name) for row in rows] for name in settings.columns}


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"line {number} is no JSON: {error.msg} at column {error.colno}."
        raise _fault(path, problem, "Every line must be one JSON object.") from None
    if not isinstance(row, dict):
        problem = f"line {number} is a JSON {type(row).__name__}, not an object."
        raise _fault(path, problem, "Every line must be one JSON object.")
    return row


def _read_parquet(path: Path, settings: TableSettings) -> Columns:
    import pyarrow as pa  # slow to import, and only this format needs it
    import pyarrow.parquet as pq

    _check_is_file(path)
    try:
        found = pq.read_schema(path).names
        _check_columns(path, found, settings.columns)
        table = pq.read_table(path, columns=list(settings.columns))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise _fault(path, f"is no Parquet: {reason}.", "Check the option format.") from None
    return {name: table.column(name).to_pylist() for name in settings.columns}


def _check_is_file(path: Path) -> None:
    """Raise the SpecError of ``read_bytes`` without reading a large file whole."""
    if not path.is_file():
        read_bytes(path)


def _read_trec(path: Path, settings: TableSettings) -> Columns:
    """Read ``LABEL:sub text``: the label ends at the colon, the text begins after the space.

    Files that already lack the finer label (``0 text``) are read the same way. The columns are
    called label and text.
    """
    _check_columns(path, ["text", "label"], settings.columns)
    heads, texts = [], []
    for number, line in enumerate(_lines(path, settings.encoding), 1):
        head, space, text = line.partition(" ")
        if not space:
            problem = f"line {number} is '{line[:40]}', but must be 'LABEL:sub text'."
            raise _fault(path, problem, "Check the option format.")
        heads.append(head.partition(":")[0])
        texts.append(text)
    columns = {"label": heads, "text": texts}
    return {name: columns[name] for name in settings.columns}


def _check_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    faults = [
        Fault(
            str(path),
            "",
            f"has no column '{name}'; columns found: {', '.join(found[:20])}.",
            did_you_mean(name, found),
        )
        for name in wanted
        if name not in found
    ]
    if faults:
        raise SpecError(faults)


def _fault(path: Path, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(str(path), "", problem, hint)])


_READERS: dict[FileFormat, Callable[[Path, TableSettings], Columns]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "trec": _read_trec,
}
