"""Transfers as a sweep writes them: whose masks are trained on which tasks (method rule 20)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from pydantic import Field, field_validator, model_validator

from search_spaces.canonical import Frozen
from search_spaces.errors import did_you_mean

THETA0 = "theta0"  # the row of masks pruned from theta_0, which belong to no task


class TransferSource(Frozen):
    """A row of the table: a task of the sweep, ``theta0``, or a mask that exists already."""

    name: str = Field(min_length=1, description="A task's name, theta0, or a name for the mask.")
    mask: str | None = Field(
        default=None,
        description="A mask file, a ticket's folder, models:/NAME@ALIAS, runs:/ID/ticket, or the "
        "id of a run in MLflow.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class TransferSpec(Frozen):
    """Trains the masks of some sources on all targets, at one sparsity and with equal seeds."""

    sparsity: float = Field(gt=0, lt=1, description="A level of the schedule, to 3 digits.")
    method: str = Field(default="imp", description="Of the sources' tickets, and of T on T.")
    sources: tuple[TransferSource, ...] | None = Field(
        default=None, min_length=1, description="Default: all tasks."
    )
    targets: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Tasks; default: all."
    )
    adaptive: bool = Field(
        default=False, description="Stop a cell after one seed where it is clearly lost."
    )

    @field_validator("sources")
    @classmethod
    def _distinct(cls, sources: tuple[TransferSource, ...] | None) -> Any:
        names = Counter(source.name for source in sources or ())
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"has {twice[0]!r} more than once, but each name must differ")
        return sources


def check_transfer(
    transfer: TransferSpec, tasks: Collection[str], methods: Collection[str], is_rewound: bool
) -> None:
    """Check a transfer against the sweep around it.

    Args:
        transfer: The transfer.
        tasks: Names of the sweep's tasks.
        methods: The sweep's methods.
        is_rewound: Whether tickets start from theta_0.

    Raises:
        ValueError: Names are unknown, or the sweep has no such tickets.
    """
    if not is_rewound:
        raise ValueError(
            "moves masks to other tasks at theta_0, but rewind leaves tickets elsewhere: "
            "write rewind: theta0, or finals: theta0 beside its kind"
        )
    if THETA0 in tasks:
        raise ValueError(
            f"has a row '{THETA0}' for masks pruned from theta_0, but a task of the sweep has that "
            "name too: rename the task"
        )
    if transfer.method not in methods:
        near = f"must be one of the sweep's methods, {', '.join(methods)}"
        raise ValueError(f"has method '{transfer.method}', but {near}")
    for name in transfer.targets or ():
        if name not in tasks:
            known = f"must be a task of the sweep: {', '.join(tasks)}"
            raise ValueError(
                f"has the target '{name}', but it {known}. {did_you_mean(name, tasks)}"
            )
    for source in transfer.sources or ():
        is_known = source.name in tasks or source.name == THETA0
        if source.mask is None and not is_known:
            known = f"must be {THETA0}, a task of the sweep ({', '.join(tasks)}), or have a mask"
            near = did_you_mean(source.name, [*tasks, THETA0])
            raise ValueError(f"has the source '{source.name}', but it {known}. {near}")
        if source.mask is not None and is_known:
            raise ValueError(
                f"has a mask for the source '{source.name}', which is {THETA0} or a task of the "
                "sweep: give the mask another name"
            )
