"""What a sweep says beside its trials: verdicts, resources, retries, tracking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from search_spaces.canonical import Frozen
from search_spaces.places import at_home, store_problem, tracking_problem

RuleName = Literal["noninferior", "subnetwork_std", "full_std", "overlap", "strict"]
Place = Annotated[str, AfterValidator(at_home)]  # where a sweep keeps things


def _understood(store: str) -> str:
    if problem := store_problem(store):
        raise ValueError(problem)
    return store


StorePlace = Annotated[Place, AfterValidator(_understood)]


def _auto_or_count(value: Any) -> Any:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if value == "auto" or (type(number) is int and number >= 1):
        return number  # a variable of the environment comes as text
    raise ValueError(f"is {value!r}, but must be 'auto' or a whole number >= 1")


AutoOrCount = Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_count)]


class VerdictSpec(Frozen):
    """Which rule names a ticket matching (method rule 15)."""

    rule: RuleName = "noninferior"
    delta: float = Field(default=0.01, gt=0, lt=1, description="Fraction of the metric's range.")


class TaskResources(Frozen):
    """In what a task's gangs differ from the sweep's.

    GPUs of a rank and layout are the whole sweep's.
    """

    ranks: AutoOrCount | None = Field(default=None, description="Processes of one gang.")
    cpus_per_rank: int | None = Field(default=None, ge=1)
    micro_batch_size: int | None = Field(default=None, ge=1)


class ResourcesSpec(Frozen):
    """What one gang is made of, and how many there are."""

    gangs: AutoOrCount = Field(default="auto", description="Trials at once.")
    ranks: AutoOrCount = Field(
        default=1,
        description="Processes of one gang; auto: chosen for each lineage and for each set of "
        "trials that are compared, so that the longest chain does not hold up the run.",
    )
    max_ranks: int = Field(default=8, ge=1, description="The most that ranks: auto chooses.")
    cpus_per_rank: int = Field(default=1, ge=1)
    gpus_per_rank: float = Field(default=0, ge=0, description="Whole, or a share of one.")
    micro_batch_size: int | None = Field(default=None, ge=1, description="Default: whole share.")
    layout: Literal["unpadded", "padded"] = Field(
        default="unpadded", description="padded: the reference, transformers' own forward; slower."
    )
    max_gpus: float | None = Field(
        default=None, gt=0, validate_default=True, description="Most GPUs of all gangs together."
    )
    idle_release_s: float = Field(
        default=300, ge=0, description="Gangs without a trial are given back after this."
    )
    priority: float = Field(
        default=1, gt=0, le=1000, description="Weight beside other sweeps on a full cluster."
    )

    def of_task(self, own: TaskResources | None) -> ResourcesSpec:
        """Return what a task's gangs are made of: what it says itself, else as the sweep says."""
        return self.model_copy(update=own.model_dump(exclude_none=True)) if own else self

    @field_validator("gpus_per_rank")
    @classmethod
    def _whole_or_a_share(cls, value: float, info: ValidationInfo) -> float:
        if problem := shared_gpu_problem(info.data.get("ranks", 1), value):
            raise ValueError(problem)
        if value > 1 and not value.is_integer():
            raise ValueError(
                f"is {value:g}, but must be a whole number, or less than 1: Ray shares one GPU, "
                "never several"
            )
        return value

    @field_validator("max_gpus")
    @classmethod
    def _at_least_one_gang(cls, value: float | None, info: ValidationInfo) -> float | None:
        ranks, each = info.data.get("ranks"), info.data.get("gpus_per_rank")
        if value is None or ranks is None or each is None:
            return value
        if not each:
            raise ValueError(f"is {value:g}, but gangs take no GPU; write gangs to limit them")
        takes = least_ranks(ranks) * each
        if value < takes:
            raise ValueError(f"is {value:g}, but one gang takes {takes:g}: ranks x gpus_per_rank")
        return value


class HangLimits(Frozen):
    """Seconds without progress after which an attempt counts as hanging, by its phase."""

    start: float = Field(default=1800, ge=1, description="A warm process imports its libraries.")
    load: float = Field(default=3600, ge=1, description="Weights are read, text is tokenised.")
    train: float = Field(
        default=900, ge=1, description="Without a micro-batch, or a tensor of a checkpoint."
    )
    evaluate: float = Field(default=1800, ge=1, description="Without a new batch.")
    prune: float = Field(default=1800, ge=1, description="Masks are made and written.")

    def of(self, phase: str) -> float:
        """Return the limit of a phase; one that has no name here gets the longest."""
        limits: dict[str, float] = dict(self)
        return limits.get(phase, max(limits.values()))


class RetriesSpec(Frozen):
    """How often a trial is tried again after each class of failure, and how soon.

    Each class has its own budget. Only after the classes that time can mend - ``preempted``,
    ``infrastructure``, ``hang`` - is there a wait: ``backoff_s``, doubled each time up to
    ``backoff_limit_s``, and varied by the share ``jitter`` so that trials do not return at once.
    A store that does not answer fails no trial: results wait for it, up to ``store_s``.
    """

    error: int = Field(default=1, ge=0)
    out_of_memory: int = Field(default=3, ge=0, description="Each time with half the micro-batch.")
    diverged: int = Field(default=0, ge=0, description="fail (= 0), retry (= 1), or a number.")
    infrastructure: int = Field(default=3, ge=0)
    preempted: int = Field(default=100, ge=0, description="Nodes drained or reclaimed.")
    hang: int = Field(default=1, ge=0)
    hang_after_s: HangLimits = HangLimits()
    backoff_s: float = Field(default=5, ge=0)
    backoff_limit_s: float = Field(default=300, ge=0, validate_default=True)
    jitter: float = Field(default=0.1, ge=0, lt=1)
    store_s: float = Field(
        default=600, ge=0, description="A store that does not answer is waited for this long."
    )
    strict_numerics: bool = Field(
        default=False, description="true: never another micro-batch (method rule 22)."
    )

    @field_validator("diverged", mode="before")
    @classmethod
    def _word_or_number(cls, value: Any) -> Any:
        words = {"fail": 0, "retry": 1}
        if isinstance(value, str) and value in words:
            return words[value]
        if type(value) is int and value >= 0:
            return value
        raise ValueError(f"is {value!r}, but must be 'fail', 'retry' or a whole number >= 0")

    @field_validator("backoff_limit_s")
    @classmethod
    def _not_below_the_first(cls, value: float, info: ValidationInfo) -> float:
        first = info.data.get("backoff_s", 0)
        if value < first:
            raise ValueError(f"is {value:g}, but must be at least backoff_s, {first:g}")
        return value


class TrackingSpec(Frozen):
    """Where results live for people."""

    uri: Place = Field(default="sqlite:///mlflow.db", description="MLflow tracking URI.")
    experiment: str | None = Field(default=None, description="Default: the sweep's name.")

    @field_validator("uri")
    @classmethod
    def _can_be_one(cls, uri: str) -> str:
        if problem := tracking_problem(uri):
            raise ValueError(problem)
        return uri


def least_ranks(ranks: Literal["auto"] | int) -> int:
    """Return how many processes a gang has at least: one where the size is left open."""
    return 1 if ranks == "auto" else ranks


def shared_gpu_problem(ranks: Literal["auto"] | int, gpus_per_rank: float) -> str:
    """Return what is wrong with ranks of one gang that get a share of a GPU each; "" = nothing."""
    if least_ranks(ranks) == 1 or not 0 < gpus_per_rank < 1:
        return ""
    return (
        f"is {gpus_per_rank:g}, but with {ranks} ranks must be a whole number: NCCL refuses two "
        "ranks of a gang on one GPU"
    )


def check_batch(batch_size: int, resources: ResourcesSpec) -> None:
    """Check that ranks and micro-batches divide a batch.

    Raises:
        ValueError: They do not.
    """
    ranks = least_ranks(resources.ranks)
    if batch_size % ranks:
        raise ValueError(f"ranks is {ranks}, but must divide the batch of {batch_size}")
    share, micro = batch_size // ranks, resources.micro_batch_size
    if micro is not None and share % micro:
        raise ValueError(
            f"micro_batch_size is {micro}, but must divide each rank's share, {share} examples"
        )


def task_problems(task: str, batch_sizes: Iterable[int], resources: ResourcesSpec) -> list[str]:
    """Return what is wrong with a task's own gangs.

    Args:
        task: Its name, for people.
        batch_sizes: Of its recipes.
        resources: As ``ResourcesSpec.of_task`` returns them.
    """
    problems = []
    for size in batch_sizes:
        try:
            check_batch(size, resources)
        except ValueError as error:
            problems.append(f"of task '{task}': {error}")
    if problem := shared_gpu_problem(resources.ranks, resources.gpus_per_rank):
        problems.append(f"of task '{task}': gpus_per_rank {problem}")
    takes, most = least_ranks(resources.ranks) * resources.gpus_per_rank, resources.max_gpus
    if most is not None and takes > most:
        problem = f"one gang takes {takes:g} GPUs, ranks x gpus_per_rank, but max_gpus is {most:g}"
        problems.append(f"of task '{task}': {problem}")
    return problems
