"""Files that a trial reads from and leaves in the store, checked by sha256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pyarrow import fs

from search_spaces.contracts import ArtifactInfo, ArtifactRef, FailureClass
from search_spaces.places import masked
from workers.failures import TrialFailure


def write_artifact(folder_uri: str, name: str, data: bytes) -> ArtifactInfo:
    """Write one file of an attempt, durable before this returns.

    An attempt's folder counts only once its trial is committed, so files need no other guard.
    """
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
    return ArtifactInfo(name=name, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


def read_artifact(ref: ArtifactRef) -> bytes:
    """Return a file in the store: one that another trial committed, or a given mask's.

    Raises:
        TrialFailure: It is missing, or is not what was committed.
    """
    system, path = fs.FileSystem.from_uri(ref.uri if "://" in ref.uri else Path(ref.uri).as_uri())
    shown = masked(ref.uri)
    trial = shown.rpartition("/attempts/")[0]
    again = "the trial that made it is run again" if trial else "it is made again"
    advice = f"Remove {trial or shown} and run the sweep again: {again}."
    try:
        with system.open_input_stream(path) as stream:
            data: bytes = stream.read()
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
