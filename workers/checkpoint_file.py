"""Files of a checkpoint: safetensors written piece by piece, and the manifest that counts them.

Layout below the folder that all attempts of a trial share::

    MANIFEST.json                           names the newest whole checkpoint; written last
    <attempt>-<step>/state-<r>.safetensors  masters and moments of what one rank owns
    <attempt>-<step>/rank-<r>.safetensors   random states of one rank
    <attempt>-<step>/rank-<r>.json          the rest of one rank
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from pyarrow import fs
from pydantic import ValidationError

from search_spaces.canonical import Frozen
from search_spaces.contracts import ArtifactInfo, NumericsClass, below
from search_spaces.outages import patiently
from search_spaces.places import masked

SCHEMA = 3
MANIFEST = "MANIFEST.json"
Piece: TypeAlias = bytes | memoryview
_TYPES = {  # safetensors' names
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _TYPES.items()}


class UnusableError(Exception):
    """A checkpoint that does not count; the message is half a sentence that says why."""


class Manifest(Frozen):
    """What is known of a checkpoint before its files are read.

    Attributes:
        trial_key: The trial.
        attempt: Which wrote it.
        step: The optimizer step after which it was written.
        numerics: Within which it is exact.
        inputs: sha256 of the files that the training began with, by what they are.
        files: All of them, by their name in the checkpoint's folder.
        written_at: UTC, ISO 8601.
    """

    trial_key: str
    attempt: str
    step: int
    numerics: NumericsClass
    inputs: dict[str, str]
    files: tuple[ArtifactInfo, ...]
    written_at: str

    @property
    def folder(self) -> str:
        """Name of the folder with its files."""
        return folder_name(self.attempt, self.step)

    def file(self, name: str) -> ArtifactInfo:
        """Return a file's size and hash.

        Raises:
            UnusableError: There is no such file.
        """
        for info in self.files:
            if info.name == name:
                return info
        raise UnusableError(f"it has no {name}")


class _Sink(Protocol):
    def write(self, piece: Any) -> Any: ...


def folder_name(attempt: str, step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"{attempt}-{step:08d}"


def names_of(rank: int) -> tuple[str, str, str]:
    """Return the names of a rank's files: state, random states, the rest."""
    return f"state-{rank}.safetensors", f"rank-{rank}.safetensors", f"rank-{rank}.json"


def tensor_pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[Piece]:
    """Yield a safetensors file of tensors, one at a time: none is copied but from a GPU.

    Args:
        tensors: fp32, bf16, int64 or uint8.
    """
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def tensors_of(data: bytearray) -> dict[str, torch.Tensor]:
    """Return the tensors of a file that ``tensor_pieces`` made; they share its memory.

    No tensor is copied: going on from a checkpoint needs its bytes once beside the engine.
    """
    (length,) = struct.unpack_from("<Q", data)
    first, found = 8 + length, {}
    for name, item in json.loads(data[8:first]).items():
        begin, end = item["data_offsets"]
        dtype = _DTYPES[item["dtype"]]
        flat = torch.empty(0, dtype=dtype)  # what torch makes of no bytes is an error
        if begin < end:
            count = (end - begin) // dtype.itemsize
            flat = torch.frombuffer(data, dtype=dtype, count=count, offset=first + begin)
        found[name] = flat.reshape(item["shape"])
    return found


def digest_of(name: str, pieces: Iterable[Piece]) -> ArtifactInfo:
    """Return what a file of these pieces would be, without writing it."""
    return _drain(name, pieces, None)


def write_file(folder_uri: str, name: str, pieces: Iterable[Piece]) -> ArtifactInfo:
    """Write a file that appears whole under its name, durable before this returns.

    Raises:
        OSError: It cannot be written; pyarrow's errors of a store are of this class too.
    """
    if "://" not in folder_uri:
        return _write_here(Path(folder_uri), name, pieces)
    system, root = fs.FileSystem.from_uri(folder_uri)
    system.create_dir(root, recursive=True)
    with system.open_output_stream(f"{root}/{name}", compression=None) as stream:
        return _drain(name, pieces, stream)


def read_file(folder_uri: str, info: ArtifactInfo) -> bytearray:
    """Return a checked file.

    Raises:
        UnusableError: It is missing, or is not what was written.
    """
    data = _read(folder_uri, info.name)
    if data is None:
        raise UnusableError(f"its file {info.name} is missing")
    if len(data) != info.num_bytes or hashlib.sha256(data).hexdigest() != info.sha256:
        raise UnusableError(f"its file {info.name} is damaged")
    return data


def write_manifest(uri: str, manifest: Manifest) -> None:
    """Let a checkpoint count: the one before does not any more.

    Raises:
        OSError: It cannot be written.
    """
    body = manifest.model_dump(mode="json")
    envelope = {"schema": SCHEMA, "sha256": _sha256(body), "body": body}
    write_file(uri, MANIFEST, [json.dumps(envelope, indent=1).encode()])


def read_manifest(uri: str) -> Manifest | None:
    """Return the newest checkpoint's manifest; None where there is no checkpoint.

    Raises:
        UnusableError: It is damaged, or of another version.
    """
    data = _read(uri, MANIFEST)
    if data is None:
        return None
    try:
        envelope = json.loads(data)
        schema, body = envelope["schema"], envelope["body"]
        is_whole = envelope["sha256"] == _sha256(body)
    except (ValueError, TypeError, KeyError) as error:
        raise UnusableError("its manifest is cut or damaged") from error
    if not is_whole:
        raise UnusableError("its manifest is cut or damaged")
    try:
        if schema == SCHEMA:
            return Manifest.model_validate(body)
    except ValidationError as error:
        raise UnusableError("another version wrote it") from error
    raise UnusableError("another version wrote it")


def delete_others(uri: str, keep: str = "") -> None:
    """Delete all checkpoints but one; what cannot be deleted stays, as it does not count.

    Args:
        uri: Folder of the trial's checkpoints.
        keep: Name of the folder that stays.
    """
    with contextlib.suppress(OSError):
        system, root = _place(uri)
        selector = fs.FileSelector(root, allow_not_found=True)
        for info in system.get_file_info(selector):
            if info.type == fs.FileType.Directory and info.base_name != keep:
                system.delete_dir(info.path)


def delete_uncounted(uri: str) -> None:
    """Delete what a write that failed has left, so that no place is full of it.

    The checkpoint that counts stays; where its manifest cannot be read, so does everything.

    Args:
        uri: Folder of the trial's checkpoints.
    """
    with contextlib.suppress(UnusableError):
        manifest = read_manifest(uri)
        delete_others(uri, keep=manifest.folder if manifest else "")


def delete_all(uri: str) -> None:
    """Delete a trial's checkpoints and their manifest; what cannot be deleted stays."""
    with contextlib.suppress(OSError):
        system, root = _place(uri)
        system.delete_dir(root)


def _write_here(folder: Path, name: str, pieces: Iterable[Piece]) -> ArtifactInfo:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.{os.getpid()}.partial"
    try:
        with partial.open("wb") as file:
            info = _drain(name, pieces, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the name is durable too
    finally:
        os.close(descriptor)
    return info


def _drain(name: str, pieces: Iterable[Piece], sink: _Sink | None) -> ArtifactInfo:
    digest, num_bytes = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        num_bytes += len(piece)
        if sink is not None:
            sink.write(piece)
    return ArtifactInfo(name=name, sha256=digest.hexdigest(), num_bytes=num_bytes)


def _read(folder_uri: str, name: str) -> bytearray | None:
    """Return a file's content; None where it is not there."""
    place = below(folder_uri, name)
    try:
        return patiently(lambda: _content(place), place)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableError(f"its file {name} cannot be read ({masked(str(error))})") from error


def _content(uri: str) -> bytearray:
    system, path = _place(uri)
    with system.open_input_file(path) as file:
        data = bytearray(file.size())
        del data[file.readinto(data) :]
    return data


def _place(uri: str) -> tuple[Any, str]:
    system, path = fs.FileSystem.from_uri(uri if "://" in uri else Path(uri).as_uri())
    return system, path


def _sha256(body: Any) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
