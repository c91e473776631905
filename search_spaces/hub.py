"""Load one split of a hub data set; every error becomes one sentence with the next step."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from search_spaces.errors import Fault, SpecError
from search_spaces.reach import ask_anew, cache_only, first_line, hub_fault


def load_hub(
    where: str, config: str | None, split: str, revision: str | None, place: str, hint: str
) -> Any:
    """Return a ``datasets.Dataset``.

    Args:
        where: The repository, or a local folder with a copy of it.
        config: The repository's configuration.
        split: The split's name there.
        revision: Commit; None for a local folder.
        place: Names the data in faults.
        hint: What to do when they cannot be had.

    Raises:
        SpecError: They cannot be loaded. Where the hub is out of reach and they are not in the
            local cache, its first fault is the hub's: the same for all sources.
    """
    import datasets  # seconds to import, and only tasks from the hub need it

    trouble = hub_fault() if revision else None
    try:
        with cache_only() if trouble else nullcontext():
            rows = datasets.load_dataset(where, config, split=split, revision=revision)
    except Exception as error:
        # The library raises its own, huggingface_hub's, pyarrow's and fsspec's errors here.
        if trouble:
            problem = f"cannot be loaded (split {split}): it is not in the local cache."
            raise SpecError([trouble, Fault(place, "", problem, hint)]) from error
        ask_anew()
        problem = f"cannot be loaded (split {split}): {first_line(error)}."
        raise SpecError([Fault(place, "", problem, hint)]) from error
    if revision:
        _check_revision(rows, revision, place, hint)
    return rows


def _check_revision(rows: Any, revision: str, place: str, hint: str) -> None:
    """Refuse a copy of another commit: without the hub the library takes its newest copy.

    The name of a copy's folder is its commit.
    """
    found = {Path(file["filename"]).parent.name for file in getattr(rows, "cache_files", ())}
    others = sorted(found - {revision})
    if others:
        problem = f"the newest copy in the local cache is of {others[0]}, not of {revision}."
        raise SpecError([Fault(place, "", problem, hint)])


def check_columns(rows: Any, names: Iterable[str], place: str) -> None:
    """Refuse a data set that lacks a column; errors as for ``load_hub``."""
    missing = [name for name in names if name and name not in rows.column_names]
    if missing:
        found = ", ".join(rows.column_names)
        problems = [f"has no column '{name}'; columns found: {found}." for name in missing]
        raise SpecError([Fault(place, "", problem) for problem in problems])
