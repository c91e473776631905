"""Read a pre-trained checkpoint's backbone from safetensors, without torch (method rule 7)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from search_spaces.canonical import canonical_json
from search_spaces.errors import Fault, SpecError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

_PREFIX = re.compile(r"^(bert|roberta|electra)\.")
_BACKBONE = ("embeddings.", "embeddings_project.", "encoder.", "pooler.")
_BUFFERS = frozenset(("embeddings.position_ids", "embeddings.token_type_ids"))
_OLD_NAMES = ((re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias"))
FileStates: TypeAlias = tuple[tuple[int, ...], ...]
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor of a checkpoint lies.

    Attributes:
        file: The safetensors file.
        dtype: Its type as safetensors writes it, for example ``F32``.
        shape: Its shape.
        start: First byte within the file.
        end: Byte after the last one.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def canonical_name(name: str) -> str | None:
    """Return a backbone parameter's name without model prefix, or None for heads and buffers.

    ``bert.encoder.layer.0.output.LayerNorm.gamma`` becomes
    ``encoder.layer.0.output.LayerNorm.weight``; ``cls.predictions.bias`` is no backbone.
    """
    name = _PREFIX.sub("", name)
    if not name.startswith(_BACKBONE) or name in _BUFFERS:
        return None
    return modern_name(name)


def modern_name(name: str) -> str:
    """Return a name with LayerNorm's parameters as they are called now."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def read_header(folder: Path) -> dict[str, TensorEntry]:
    """Return every tensor of a checkpoint by its stored name.

    Args:
        folder: Holds ``model.safetensors``, or ``model.safetensors.index.json`` and its shards.

    Raises:
        SpecError: There are no safetensors weights, or a file is damaged.
    """
    entries: dict[str, TensorEntry] = {}
    for file in _weight_files(folder):
        entries |= _read_file_header(file)
    return entries


def weights_state(folder: Path) -> FileStates:
    """Return what differs once somebody writes or replaces a weight file; no weight is read.

    The time of the last change of state is among it, as copies may bring an old modification time.

    Raises:
        SpecError: There are no safetensors weights.
    """
    found = [file.stat() for file in _weight_files(folder)]
    return tuple(
        (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        for stat in found
    )


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not index.is_file():
        raise _no_weights(folder)
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        raise _fault(index, "is no index of safetensors files.", "Copy the model again.") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        problem = f"names files that do not exist: {', '.join(missing)}."
        raise _fault(index, problem, "Copy the whole model.")
    return [folder / name for name in names]


def _no_weights(folder: Path) -> SpecError:
    if not folder.is_dir():
        return _fault(folder, "does not exist.", "Give the model's folder.")
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        problem = f"holds {pickled[0]} but no {SINGLE_FILE}; pickled weights are not read."
        hint = "Convert it: load it with transformers and call save_pretrained(folder)."
        return _fault(folder, problem, hint)
    return _fault(folder, f"holds no {SINGLE_FILE}.", "Give the folder that has the weights.")


def _read_file_header(file: Path) -> dict[str, TensorEntry]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise _fault(file, "is no safetensors file, or is cut off.", "Copy it again.")
        raw = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        entries = {
            name: _entry(file, 8 + length, item)
            for name, item in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _fault(file, "has a damaged header.", "Copy it again.") from None
    if any(entry.end > size for entry in entries.values()):
        raise _fault(file, "is no safetensors file, or is cut off.", "Copy it again.")
    return entries


def _entry(file: Path, base: int, item: dict[str, Any]) -> TensorEntry:
    start, end = item["data_offsets"]
    return TensorEntry(file, item["dtype"], tuple(item["shape"]), base + start, base + end)


def backbone_entries(folder: Path) -> dict[str, TensorEntry]:
    """Return the backbone's parameters by canonical name, sorted.

    Raises:
        SpecError: As ``read_header``; or no tensor belongs to a known backbone, or two are one
            parameter.
    """
    stored = [(canonical_name(name), name, at) for name, at in read_header(folder).items()]
    by_name: dict[str, tuple[str, TensorEntry]] = {}
    for canonical, name, entry in stored:
        if canonical in by_name:
            raise _twice(folder, canonical, [by_name[canonical][0], name])
        if canonical:
            by_name[canonical] = name, entry
    found = {name: by_name[name][1] for name in sorted(by_name)}
    if not found:
        problem = "holds no parameters of a BERT-family backbone (embeddings.*, encoder.*)."
        raise _fault(folder, problem, "Give a BERT-family model.")
    return found


def _twice(folder: Path, canonical: str, names: list[str]) -> SpecError:
    problem = f"holds the parameter {canonical} twice, as {' and as '.join(sorted(names))}."
    return _fault(folder, problem, "Load the model with transformers and save it again.")


def iter_parameters(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield ``(canonical name, values)`` of every backbone parameter, sorted by name.

    Values are little-endian fp32 in the stored shape, read-only where the file holds F32 (they
    are views of the mapped file, so that a large model is never in memory as a whole).

    Raises:
        SpecError: As ``read_header``; or a parameter has another type than F32, F16 or BF16.
    """
    yield from read_values(backbone_entries(folder))


def read_values(
    entries: Mapping[str, TensorEntry],
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield names and values of some tensors; values and errors as for ``iter_parameters``."""
    maps: dict[Path, npt.NDArray[np.uint8]] = {}
    for name, entry in entries.items():
        if entry.file not in maps:
            maps[entry.file] = np.memmap(entry.file, dtype=np.uint8, mode="r")
        yield name, _as_float32(name, maps[entry.file][entry.start : entry.end], entry)


def _as_float32(
    name: str, data: npt.NDArray[np.uint8], entry: TensorEntry
) -> npt.NDArray[np.float32]:
    if entry.dtype not in _DTYPES:
        problem = f"parameter {name} has the type {entry.dtype}, but F32, F16 or BF16 is read."
        raise _fault(entry.file, problem, "Convert the model with save_pretrained.")
    values = np.frombuffer(data, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "BF16":  # the upper half of an fp32
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype("<f4", copy=False)


def theta0_sha256(folder: Path) -> str:
    """Return theta_0: the sha256 over sorted (name, shape, little-endian fp32 bytes).

    It does not depend on the task class that saved the checkpoint, on sharding, on the spelling
    of LayerNorm parameters, or on whether the file stores fp32 or an exact narrower copy.
    """
    return values_sha256(iter_parameters(folder))


def values_sha256(parameters: Iterable[tuple[str, npt.NDArray[np.float32]]]) -> str:
    """Return the sha256 over (name, shape, little-endian fp32 bytes) of tensors in their order."""
    digest = hashlib.sha256()
    for name, values in parameters:
        digest.update(canonical_json([name, list(values.shape)]).encode() + b"\n")
        digest.update(np.ascontiguousarray(values).data.cast("B"))
    return digest.hexdigest()


def _fault(path: Path, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(str(path), "", problem, hint)])
