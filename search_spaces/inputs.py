"""Inputs of a sweep that lie in a store: named by their content, copied to each node once.

Layout below a store's URI::

    inputs/<id>/<file>       data files, or a model's
    inputs/<id>/INPUT.json   their names, sizes and sha256, written last; its hash is the id

A path in a sweep may be such a URI. Whoever reads it gets a copy in the cache of its own node,
whose every byte was checked against the id.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pydantic import Field, ValidationError

from search_spaces.canonical import Frozen, content_key
from search_spaces.errors import Fault, SpecError, StoreAwayError
from search_spaces.outages import may_pass, patiently
from search_spaces.places import cache_folder, masked

if TYPE_CHECKING:
    from pyarrow import fs

INPUTS = "inputs"
MANIFEST = "INPUT.json"
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # as the store's names: no folder above, nothing hidden
_PATH = rf"{_NAME}(/{_NAME})*"
_URI = re.compile(rf"(?P<folder>.+/{INPUTS}/(?P<id>[0-9a-f]{{64}}))(/(?P<path>{_PATH}))?")
_CHUNK_BYTES = 1 << 20
_PATIENCE_S = 60.0  # with a store that does not answer: somebody may wait for a plan


class InputFile(Frozen):
    """One file of an input, by its path below the input's folder."""

    path: str = Field(pattern=f"^{_PATH}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    num_bytes: int = Field(ge=0)


class InputManifest(Frozen):
    """All files of an input, sorted by path."""

    files: tuple[InputFile, ...]

    @property
    def id(self) -> str:
        """What the input is called: the hash of its files' names and contents."""
        return content_key(self)


def is_uri(path: str) -> bool:
    """Return whether a path of a sweep is a URI, not a place of this machine."""
    return "://" in path


def file_sha256(path: Path) -> tuple[str, int]:
    """Return the sha256 of a file, and its bytes."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return digest.hexdigest(), num_bytes


def manifest_of(files: Mapping[str, Path]) -> InputManifest:
    """Return what an input of these files is; keys are the paths below its folder.

    Raises:
        SpecError: A file cannot be read, or its name is none for a store.
    """
    entries = []
    for name, path in sorted(files.items()):
        try:
            sha256, num_bytes = file_sha256(path)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}."
            raise SpecError([Fault(str(path), "", problem, "Check the path.")]) from error
        if not re.fullmatch(_PATH, name):
            problem = f"is called '{name}', which is no name in a store."
            hint = "Use letters, digits, '_', '-' and '.', not first."
            raise SpecError([Fault(str(path), "", problem, hint)])
        entries.append(InputFile(path=name, sha256=sha256, num_bytes=num_bytes))
    return InputManifest(files=tuple(entries))


def local_path(path: str) -> Path:
    """Return where a file or folder that a sweep names lies on this machine.

    Args:
        path: A path, or the URI of an input of a store, which is copied here first.

    Raises:
        SpecError: It is another URI, or the store does not hold what the URI names.
        StoreAwayError: The store has not answered for a minute.
    """
    if not is_uri(path):
        return Path(os.path.expanduser(path))
    uri, mark, options = path.partition("?")
    found = _URI.fullmatch(uri)
    if found is None:
        hint = f"Give a path, or <store>/{INPUTS}/<id>/<file> as 'tickets submit' writes it."
        raise SpecError([Fault(masked(path), "", "is not the URI of an input.", hint)])
    folder = cache_folder() / INPUTS / found["id"]
    if not folder.is_dir():
        _fetch(f"{found['folder']}{mark}{options}", found["id"], folder)
    return folder / found["path"] if found["path"] else folder


def _fetch(uri: str, input_id: str, folder: Path) -> None:
    """Copy an input into ``folder``, which appears whole."""
    from pyarrow.lib import ArrowException  # only a submitted sweep has inputs in its store

    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=f".{input_id[:10]}-", dir=folder.parent))
    try:
        patiently(lambda: _copy_all(uri, input_id, partial), uri, _PATIENCE_S)
        os.replace(partial, folder)
    except (OSError, ArrowException) as error:
        if not folder.is_dir():  # else another process of this node was quicker
            if may_pass(error):
                raise StoreAwayError(
                    f"{masked(uri)}: the store does not answer: {masked(str(error))}. Check that "
                    "this node reaches it."
                ) from error
            hint = "Check that this node reaches the store, or submit the sweep again."
            problem = f"cannot be copied from the store: {masked(str(error))}."
            raise SpecError([Fault(masked(uri), "", problem, hint)]) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_all(uri: str, input_id: str, folder: Path) -> None:
    from pyarrow import fs

    filesystem, root = fs.FileSystem.from_uri(uri)
    for file in _manifest(filesystem, root, input_id, uri).files:
        _copy(filesystem, f"{root}/{file.path}", folder / file.path, file, uri)


def _manifest(filesystem: fs.FileSystem, root: str, input_id: str, uri: str) -> InputManifest:
    with filesystem.open_input_stream(f"{root}/{MANIFEST}") as stream:
        data = bytes(stream.read())
    try:
        manifest = InputManifest.model_validate_json(data)
    except ValidationError:
        manifest = None
    if manifest is None or manifest.id != input_id:
        raise _damaged(uri, MANIFEST)
    return manifest


def _copy(filesystem: fs.FileSystem, source: str, target: Path, file: InputFile, uri: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(source) as stream, target.open("wb") as out:
        _pump(stream, out, digest)
    if digest.hexdigest() != file.sha256:
        raise _damaged(uri, file.path)


def _pump(stream: IO[bytes], out: IO[bytes], digest: hashlib._Hash) -> None:
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
        out.write(chunk)


def _damaged(uri: str, name: str) -> SpecError:
    problem = f"holds a {name} that is not what its id names: it was damaged or changed."
    hint = "Delete that folder of the store and submit the sweep again."
    return SpecError([Fault(masked(uri), "", problem, hint)])
