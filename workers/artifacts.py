"""Files that a trial reads from and leaves in the store, checked by sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from search_spaces.contracts import ArtifactInfo, ArtifactRef, FailureClass
from search_spaces.outages import LIMIT_S, may_pass, patiently
from search_spaces.places import masked
from workers.failures import TrialFailure

T = TypeVar("T")


def write_artifact(
    folder_uri: str, name: str, data: bytes, patience_s: float = LIMIT_S
) -> ArtifactInfo:
    """Write one file of an attempt, durable before this returns.

    An attempt's folder counts only once its trial is committed, so files need no other guard.

    Args:
        folder_uri: The attempt's folder.
        name: The file's name there.
        data: Its content.
        patience_s: How long a store that does not answer is waited for.

    Raises:
        TrialFailure: It has not answered for so long.
        OSError: It cannot be written for a reason that does not pass.
    """
    _with_store(lambda: _write(folder_uri, name, data), f"{folder_uri}/{name}", patience_s)
    return ArtifactInfo(name=name, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


def read_artifact(ref: ArtifactRef, patience_s: float = LIMIT_S) -> bytes:
    """Return a file in the store: one that another trial committed, or a given mask's.

    Args:
        ref: Which.
        patience_s: How long a store that does not answer is waited for.

    Raises:
        TrialFailure: It is missing, or is not what was committed, or the store does not answer.
    """
    shown = masked(ref.uri)
    trial = shown.rpartition("/attempts/")[0]
    again = "the trial that made it is run again" if trial else "it is made again"
    advice = f"Remove {trial or shown} and run the sweep again: {again}."
    try:
        data = _with_store(lambda: _read(ref.uri), ref.uri, patience_s)
    except FileNotFoundError:
        message = f"{shown}: the file is missing. {advice}"
        raise TrialFailure(FailureClass.USER_ERROR, message) from None
    found = hashlib.sha256(data).hexdigest()
    if found != ref.sha256:
        message = (
            f"{shown}: the file is damaged: its sha256 is {found[:12]}, "
            f"but {ref.sha256[:12]} was committed. {advice}"
        )
        raise TrialFailure(FailureClass.USER_ERROR, message)
    return data


def _with_store(action: Callable[[], T], place: str, patience_s: float) -> T:
    """Do something with the store, patiently; what it costs is less than a trained model."""
    try:
        return patiently(action, place, patience_s)
    except OSError as error:
        if not may_pass(error):
            raise
        message = (
            f"{masked(place)}: the store has not answered for {patience_s:g} s: "
            f"{masked(str(error))}. Check that this node reaches it."
        )
        raise TrialFailure(FailureClass.INFRASTRUCTURE, message) from error


def _write(folder_uri: str, name: str, data: bytes) -> None:
    if "://" not in folder_uri:
        path = Path(folder_uri) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    else:
        system, root = fs.FileSystem.from_uri(folder_uri)
        system.create_dir(root, recursive=True)
        with system.open_output_stream(f"{root}/{name}") as stream:
            stream.write(data)


def _read(uri: str) -> bytes:
    system, path = fs.FileSystem.from_uri(uri if "://" in uri else Path(uri).as_uri())
    with system.open_input_stream(path) as stream:
        return bytes(stream.read())
