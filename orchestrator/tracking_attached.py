"""The files of a sweep's own run in MLflow: its transfer tables and its report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.transfer_judging import TransferTable
from orchestrator.transfer_rows import transfer_data

TRANSFER_FILE = "transfer.json"
REPORT_FOLDER = "report"


@dataclass(frozen=True)
class FileFault:
    """A file that is missing or says something else.

    Attributes:
        path: In the run.
        problem: For people.
        source: The file of the report that it is a copy of; None for the tables.
    """

    path: str
    problem: str
    source: Path | None = None


def attached_faults(
    client: MlflowClient,
    run_id: str,
    transfers: Sequence[TransferTable],
    report: Sequence[Path],
    reads_files: bool,
) -> Iterator[FileFault]:
    """Compare the files of a sweep's own run with what they should be; nothing is written.

    Args:
        client: Connected.
        run_id: Of the sweep's own run.
        transfers: Judged tables; none where the sweep has no transfer.
        report: Files of the report, where it is at hand.
        reads_files: Whether a file of the report that has the right size is read.
    """
    if transfers:
        wanted = json.loads(json.dumps(transfer_data(transfers), default=str))
        problem = "is missing"
        if TRANSFER_FILE in {item.path for item in client.list_artifacts(run_id)}:
            problem = "" if _table(client, run_id) == wanted else "has another content"
        if problem:
            yield FileFault(TRANSFER_FILE, problem)
    if not report:
        return
    there = {item.path: item.file_size for item in client.list_artifacts(run_id, REPORT_FOLDER)}
    for source in report:
        path, num_bytes = f"{REPORT_FOLDER}/{source.name}", source.stat().st_size
        if path not in there:
            yield FileFault(path, "is missing", source)
        elif there[path] != num_bytes:
            yield FileFault(path, f"has {there[path]} bytes, not {num_bytes}", source)
        elif reads_files and _content(client, run_id, path) != source.read_bytes():
            yield FileFault(path, "has another content", source)


def _table(client: MlflowClient, run_id: str) -> object:
    try:
        return json.loads(_content(client, run_id, TRANSFER_FILE) or b"null")
    except ValueError:
        return None


def _content(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """Return a file's content; None where it cannot be read, so that it is written anew."""
    with tempfile.TemporaryDirectory() as place:
        try:
            return Path(client.download_artifacts(run_id, path, place)).read_bytes()
        except (MlflowException, OSError):
            return None
