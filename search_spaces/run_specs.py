"""What a sweep says beside its trials: verdicts, resources, retries, tracking."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from search_spaces.canonical import Frozen

RuleName = Literal["noninferior", "subnetwork_std", "full_std", "overlap", "strict"]


class VerdictSpec(Frozen):
    """Which rule names a ticket matching (method rule 15)."""

    rule: RuleName = "noninferior"
    delta: float = Field(default=0.01, gt=0, lt=1, description="Fraction of the metric's range.")


class ResourcesSpec(Frozen):
    """What one gang is made of, and how many there are."""

    gangs: Literal["auto"] | int = Field(default="auto", description="Trials at once.")
    ranks: int = Field(default=1, ge=1, description="Processes of one gang.")
    cpus_per_rank: int = Field(default=1, ge=1)
    gpus_per_rank: float = Field(default=0, ge=0)
    micro_batch_size: int | None = Field(default=None, ge=1, description="Default: whole share.")
    layout: Literal["unpadded", "padded"] = Field(
        default="unpadded", description="padded: the reference, transformers' own forward; slower."
    )

    @field_validator("gangs", mode="before")
    @classmethod
    def _auto_or_number(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"is {value!r}, but must be 'auto' or a whole number >= 1")


class RetriesSpec(Frozen):
    """How often an attempt is repeated after each class of failure."""

    error: int = Field(default=1, ge=0)
    out_of_memory: int = Field(default=1, ge=0)
    diverged: int = Field(default=0, ge=0)
    infrastructure: int = Field(default=3, ge=0)


class TrackingSpec(Frozen):
    """Where results live for people."""

    uri: str = Field(default="sqlite:///mlflow.db", description="MLflow tracking URI.")
    experiment: str | None = Field(default=None, description="Default: the sweep's name.")


def check_batch(batch_size: int, resources: ResourcesSpec) -> None:
    """Check that ranks and micro-batches divide a batch.

    Raises:
        ValueError: They do not.
    """
    if batch_size % resources.ranks:
        raise ValueError(f"ranks is {resources.ranks}, but must divide the batch of {batch_size}")
    share, micro = batch_size // resources.ranks, resources.micro_batch_size
    if micro is not None and share % micro:
        raise ValueError(
            f"micro_batch_size is {micro}, but must divide each rank's share, {share} examples"
        )
