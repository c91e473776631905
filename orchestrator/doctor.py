"""Whether a sweep could run here: this machine, its places, the sweep's memory and its services.

Changes nothing, but for one small file that it writes and deletes where a store is a URI.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.disks import network_file_system
from orchestrator.doctor_services import look_at_mlflow, look_at_ray
from orchestrator.doctor_sweep import keys_of, look_at_journal, look_at_lease, look_at_store
from orchestrator.findings import Finding, Level, within
from orchestrator.storage import Storage
from orchestrator.store_survey import StoreSurvey
from orchestrator.sweep_context import journal_path
from search_spaces.errors import UserError
from search_spaces.places import cache_folder
from search_spaces.sweep import SweepSpec

PATIENCE_S = 10.0  # for each thing that may not answer
LOW_GIB, LEAST_GIB = 5.0, 0.2  # of free space: look at it; a run would fail
_DISTRIBUTION = "bert-tickets"
_MOST_JUMP_S = 0.5
_MOST_AHEAD = timedelta(minutes=5)


def examine(spec: SweepSpec | None, patience_s: float = PATIENCE_S) -> list[Finding]:
    """Look at everything that a sweep needs.

    Args:
        spec: The sweep; None = only this machine and its Ray address.
        patience_s: Longest time in seconds for each thing that may not answer.
    """
    offset = time.time() - time.monotonic()
    found = [look_at_python(), *look_at_packages()]
    cache = Path(spec.cache) if spec and spec.cache else cache_folder()
    found.append(look_at_folder("cache", cache))
    seen = StoreSurvey()
    if spec is not None:
        found += _look_at_sweep(spec, seen, patience_s)
    todo = "Check that the name in RAY_ADDRESS can be resolved, or unset it."
    # A name that is looked up knows no time limit; the rest has one of its own, three times.
    found += within("ray", 4 * patience_s, lambda: look_at_ray(os.environ, patience_s), todo)
    return [*found, look_at_clock(offset, seen.latest)]


def _look_at_sweep(spec: SweepSpec, seen: StoreSurvey, patience_s: float) -> list[Finding]:
    todo = "Check 'store' and that this machine reaches it."
    stages: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("store", lambda: [look_at_place(spec.store)]),
        ("store", lambda: look_at_store(spec.store, seen, patience_s / 2)),
        ("lease", lambda: look_at_lease(spec.store, spec.name)),
    ]
    found: list[Finding] = []
    for name, look in stages:
        found += within(name, patience_s, look, todo)
        if any(one.level == "fail" for one in found):
            break  # the later ones would only say the same once more
    journal = journal_path(spec)
    found.append(look_at_journals(journal.parent))
    found += look_at_journal(journal, seen)
    return found + look_at_mlflow(spec, seen.committed & keys_of(journal), patience_s)


def look_at_python() -> Finding:
    """Compare this Python with what the project needs."""
    version, needed = ".".join(map(str, sys.version_info[:3])), _needed_python()
    if SpecifierSet(needed).contains(version):
        return Finding("python", "ok", f"{version} at {sys.executable}.")
    todo = "Make a new virtual environment with such a Python: make venv."
    return Finding("python", "fail", f"{version}, but {needed} is needed.", todo)


def look_at_packages() -> list[Finding]:
    """Compare the installed packages with what the project needs."""
    needed, problems = _needed_packages(), []
    for one in needed:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{one.name} is missing; {one.specifier} is needed.")
            continue
        if not one.specifier.contains(version, prereleases=True):
            problems.append(f"{one.name} is {version}, but {one.specifier} is needed.")
    todo = "Install the project again: make venv, or pip install -c constraints.txt -e ."
    if problems:
        return [Finding("packages", "fail", problem, todo) for problem in problems]
    return [Finding("packages", "ok", f"{len(needed)} of {len(needed)} as needed.")]


def look_at_place(uri: str) -> Finding:
    """Look whether a store can be written, without making a folder for it."""
    if "://" not in uri:
        return look_at_folder("store", Path(uri))
    try:
        Storage(uri).check_writable()
    except UserError as error:
        return Finding("store", "fail", str(error), "See the sentence before.")
    return Finding("store", "ok", "it can be written.")


def look_at_folder(check: str, folder: Path) -> Finding:
    """Look at the free space and the permissions of a folder, or of the one it will lie in."""
    place = folder.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-"):
            free_gib = shutil.disk_usage(place).free / 2**30
    except OSError as error:
        said = f"{folder} cannot be written: {error.strerror}."
        return Finding(check, "fail", said, "Mend its permissions, or name another place.")
    said = f"{folder} can be written; {free_gib:,.1f} GiB are free."
    level: Level = "ok" if free_gib >= LOW_GIB else "warn" if free_gib >= LEAST_GIB else "fail"
    return Finding(check, level, said, "" if level == "ok" else "Free some space there.")


def look_at_journals(folder: Path) -> Finding:
    """Look at the folder of journals, and whether other machines may read them there."""
    found = look_at_folder("journal's folder", folder)
    if found.level == "fail" or not (kind := network_file_system(folder)):
        return found
    said = f"{found.said} It is on {kind}: journals are written without a write-ahead log there."
    return replace(found, said=said)


def look_at_clock(offset: float, latest: datetime | None) -> Finding:
    """Look whether the wall clock runs evenly, and whether the store knows a later time.

    Args:
        offset: Wall clock minus monotonic clock a while ago, in seconds.
        latest: Latest commit in the store, by its committer's clock.
    """
    jump_s = time.time() - time.monotonic() - offset
    if abs(jump_s) > _MOST_JUMP_S:
        said = f"the wall clock jumped by {jump_s:+.1f} s while this command ran."
        return Finding("clock", "warn", said, "See that the machine's time service is steady.")
    now = datetime.now(UTC)
    if latest and latest - now > _MOST_AHEAD:
        said = f"the store has a commit of {latest:%Y-%m-%d %H:%M} UTC, but it is {now:%H:%M} here."
        todo = "Set the clock of this machine or of the one that committed; times in reports lie."
        return Finding("clock", "warn", said, todo)
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC, running evenly.")


def _needed_python() -> str:
    try:
        return metadata.metadata(_DISTRIBUTION)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return str(_project()["requires-python"])


def _needed_packages() -> list[Requirement]:
    """Return what the installed project requires; run from a folder, what that folder says."""
    try:
        texts = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        texts = list(_project()["dependencies"])
    needed = [Requirement(text) for text in texts]
    return [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _project() -> dict[str, Any]:
    """Return the table [project] of the pyproject.toml beside the packages."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8"))["project"])
    except (OSError, ValueError, KeyError):
        return {"requires-python": "", "dependencies": []}
