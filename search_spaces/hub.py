"""Load one split of a hub data set; every error becomes one sentence with the next step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from search_spaces.errors import Fault, SpecError


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
        SpecError: They cannot be loaded.
    """
    import datasets  # seconds to import, and only tasks from the hub need it

    try:
        return datasets.load_dataset(where, config, split=split, revision=revision)
    except Exception as error:
        # The library raises its own, huggingface_hub's, pyarrow's and fsspec's errors here.
        reason = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
        problem = f"cannot be loaded (split {split}): {reason}"
        raise SpecError([Fault(place, "", problem, hint)]) from error


def check_columns(rows: Any, names: Iterable[str], place: str) -> None:
    """Refuse a data set that lacks a column; errors as for ``load_hub``."""
    missing = [name for name in names if name and name not in rows.column_names]
    if missing:
        found = ", ".join(rows.column_names)
        problems = [f"has no column '{name}'; columns found: {found}." for name in missing]
        raise SpecError([Fault(place, "", problem) for problem in problems])
