"""Copies a sweep's local data, models and masks into its store, each content once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.storage import Storage
from search_spaces.datafiles import files_of
from search_spaces.errors import Fault, SpecError
from search_spaces.inputs import INPUTS, MANIFEST, InputManifest, is_uri, manifest_of
from search_spaces.models import ModelSpecYaml
from search_spaces.sources import HUB_PATTERNS, PACKAGE_PREFIX, model_folder
from search_spaces.sweep import SweepSpec
from search_spaces.task_specs import TaskSpec
from search_spaces.tasks import FilesSource, GlueFolderSource, GlueHubSource, report_splits
from search_spaces.ticket_info import INFO_FILE
from search_spaces.token_sources import SquadSource, TextSource

_TWO_FILES = (FilesSource, TextSource, SquadSource)


@dataclass(frozen=True)
class LocalInput:
    """One thing that a sweep names and that only this machine has.

    Attributes:
        field: Path of the field that names it, for example ``("tasks", 0, "source", "train")``.
        files: Its files, by their path within the input.
        file: The one that the field names; "" where it names their folder.
    """

    field: tuple[str | int, ...]
    files: Mapping[str, Path]
    file: str = ""


def local_inputs(spec: SweepSpec) -> list[LocalInput]:
    """Return all that a sweep names by a path of this machine, or takes from the models' hub.

    Models of the hub are among it, so that no node of a cluster needs the hub for them; what
    installed packages bring along is not.

    Raises:
        SpecError: Something cannot be had, or a model of the hub has no revision.
    """
    faults: list[Fault] = []
    found: list[LocalInput] = []
    for index, model in enumerate(spec.models):
        try:
            found += _of_model(index, model)
        except SpecError as error:
            faults += error.faults
    for index, task in enumerate(spec.tasks):
        found += _of_task(index, task)
    if faults:
        raise SpecError(faults)
    return found + _of_transfer(spec)


def upload(
    inputs: list[LocalInput], store_uri: str, say: Callable[[str], None]
) -> dict[tuple[str | int, ...], str]:
    """Copy into a store what it lacks; return the path within it by the field that names it.

    Args:
        inputs: What to copy; equal content is copied once.
        store_uri: The store.
        say: Told what was copied.

    Raises:
        SpecError: A file cannot be read, or changed while it was.
        UserError: The store cannot be written.
    """
    storage, paths = Storage(store_uri), {}
    num_bytes = num_files = 0
    for one in inputs:
        manifest = manifest_of(one.files)
        folder = f"{INPUTS}/{manifest.id}"
        if _copy_in(storage, folder, manifest, one.files):
            num_files += len(manifest.files)
            num_bytes += sum(file.num_bytes for file in manifest.files)
        paths[one.field] = f"{folder}/{one.file}" if one.file else folder
    new = f"{num_files} file(s), {num_bytes / 1e6:.1f} MB, copied there" if num_files else "no new"
    say(f"Inputs: {len(set(paths.values()))} in the store {storage.shown(INPUTS)}, {new}")
    return paths


def _copy_in(
    storage: Storage, folder: str, manifest: InputManifest, files: Mapping[str, Path]
) -> bool:
    """Copy an input unless it is there whole; return whether it was not."""
    text = manifest.model_dump_json(indent=1).encode()
    paths = [f"{folder}/{file.path}" for file in manifest.files]
    sizes = [file.num_bytes for file in manifest.files]
    if storage.read(f"{folder}/{MANIFEST}") == text and storage.sizes(paths) == sizes:
        return False
    for file, path in zip(manifest.files, paths, strict=True):
        sha256 = storage.copy_in(path, files[file.path])
        if sha256 != file.sha256:
            problem = "changed while it was copied into the store."
            hint = "Let it alone and submit again."
            raise SpecError([Fault(str(files[file.path]), "", problem, hint)])
    storage.replace(f"{folder}/{MANIFEST}", text)  # last: what has none is no input
    return True


def _of_model(index: int, model: ModelSpecYaml) -> list[LocalInput]:
    place, at = f"model '{model.name}'", model.files or model.source
    if at.startswith(PACKAGE_PREFIX) or is_uri(at):
        return []
    is_local = Path(os.path.expanduser(at)).is_dir()
    if not is_local and model.revision is None:
        problem = f"is not given, but '{at}' is a model of the hub, which may change."
        hint = "Pin the commit: revision: <40 hex digits>."
        raise SpecError([Fault(place, "revision", problem, hint)])
    folder = model_folder(at, model.revision, place)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    wanted = [name for name in names if any(fnmatch(name, one) for one in HUB_PATTERNS)]
    return [LocalInput(("models", index, "files"), {name: folder / name for name in wanted})]


def _of_task(index: int, task: TaskSpec) -> list[LocalInput]:
    source, field = task.source, ("tasks", index, "source")
    if isinstance(source, _TWO_FILES):
        pairs = {"train": source.train, "report": source.report}
        return [
            LocalInput(
                (*field, split), {safe_name(path): Path(os.path.expanduser(path))}, safe_name(path)
            )
            for split, path in pairs.items()
            if not is_uri(path)
        ]
    if isinstance(source, GlueFolderSource | GlueHubSource) and source.path:
        if is_uri(source.path):
            return []
        splits = ("train", *report_splits(source))
        paths = [path for split in splits for path in files_of(source, split)]
        return [LocalInput((*field, "path"), _named(source, paths))]
    return []


def _named(source: GlueFolderSource | GlueHubSource, paths: list[Path]) -> dict[str, Path]:
    """Return a task's files under the names that they have in a folder of that kind."""
    if isinstance(source, GlueFolderSource):
        return {path.name: path for path in paths}
    return {f"{source.task}/{path.name}": path for path in paths}


def _of_transfer(spec: SweepSpec) -> list[LocalInput]:
    from orchestrator.ticket_files import find_ticket, is_local

    found = []
    for index, one in enumerate((spec.transfer.sources if spec.transfer else None) or ()):
        if one.mask is None or is_uri(one.mask) or not is_local(one.mask):
            continue
        path = Path(os.path.expanduser(one.mask))
        field = ("transfer", "sources", index, "mask")
        if path.is_dir():
            # What lies beside a ticket stays here: nobody has asked to copy that.
            names = {INFO_FILE, *(mask.file for mask in find_ticket(one.mask).info().masks)}
            found.append(LocalInput(field, {name: path / name for name in names}))
        else:
            found.append(LocalInput(field, {safe_name(path.name): path}, safe_name(path.name)))
    return found


def safe_name(path: str) -> str:
    """Return a file's name as it may be called in a store; its suffix stays."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(path).name).lstrip(".-") or "file"
