"""What the packages hand each other: requests, results, and the protocols between them.

Plain data and protocols only, so that planning and reading never import torch or Ray.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from search_spaces.canonical import Frozen
from search_spaces.evidence import MaskInfo as MaskInfo
from search_spaces.evidence import Proof as Proof
from search_spaces.resuming import CheckpointPlan
from search_spaces.trial import Outputs, TrialSpec


class TrialState(StrEnum):
    """States of a trial. Values are added, never removed."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"
    BLOCKED = "BLOCKED"

    @property
    def is_finished(self) -> bool:
        """Whether the trial has ended, unless people reopen it."""
        return self not in (TrialState.PENDING, TrialState.RUNNING)


class FailureClass(StrEnum):
    """Why an attempt failed; each class has its own retry budget."""

    USER_ERROR = "user_error"  # the request itself is wrong: never retried
    DIVERGED = "diverged"  # NaN or infinite loss
    OUT_OF_MEMORY = "out_of_memory"
    PREEMPTED = "preempted"  # its node was taken away on purpose: drained, or a spot node reclaimed
    INFRASTRUCTURE = "infrastructure"  # a process, node, connection, store or disk failed
    HANG = "hang"  # alive, but without progress for longer than its phase's limit
    ERROR = "error"  # anything else that the trial raised


class ArtifactInfo(Frozen):
    """A file that a trial left in its attempt's folder."""

    name: str
    sha256: str
    num_bytes: int = Field(ge=0)


class MaskArtifact(Frozen):
    """A mask file and what is in it."""

    file: ArtifactInfo
    mask: MaskInfo


class NumericsClass(Frozen):
    """Bit equality is promised only within one of these (method rule 22)."""

    device: str = Field(description="'cpu' or the GPU's name.")
    dtype: str
    layout: str = Field(description="'unpadded' or 'padded'.")
    num_ranks: int
    micro_batch_size: int
    num_threads: int
    versions: dict[str, str] = Field(description="Of torch, transformers and deepspeed.")
    exchange: str = Field(
        default="",
        description="How the ranks of a gang share gradients and weights; '' for one rank and for "
        "results of before.",
    )

    def difference(self, other: NumericsClass) -> str:
        """Return in what another class differs, for people; "" where it is the same."""
        ours, theirs = self.model_dump(), other.model_dump()
        return ", ".join(
            f"{name} {ours[name]!r} instead of {theirs[name]!r}"
            for name in ours
            if ours[name] != theirs[name]
        )


class SplitScore(Frozen):
    """All metrics of one split, computed once over the whole split (method rule 12)."""

    metrics: dict[str, float]
    num_examples: int = Field(description="Examples, hidden tokens or questions scored.")
    constant_predictor: bool = Field(description="Whether all predictions were equal.")


class TrialResult(Frozen):
    """What a finished trial returns; small enough to travel."""

    trial_key: str
    attempt: str
    scores: dict[str, SplitScore] = Field(description="By split: 'select', 'report', ...")
    metric: str = Field(description="The primary metric's name.")
    losses: tuple[tuple[int, float], ...] = Field(description="(step, training loss), thinned.")
    num_steps: int
    num_train_tokens: int
    num_truncated: int = Field(description="Training examples cut at max_length.")
    input_mask: MaskInfo | None = None
    masks: dict[str, MaskArtifact] = Field(default_factory=dict, description="By artifact name.")
    artifacts: dict[str, ArtifactInfo] = Field(default_factory=dict, description="All files.")
    proof: Proof
    numerics: NumericsClass
    seconds: dict[str, float] = Field(
        description="load, train, evaluate, prune, total; training before a checkpoint is in both."
    )
    peak_memory_gib: float
    host: str
    started_at: str = Field(description="UTC, ISO 8601.")
    resumed_at_step: int = Field(
        default=0, description="After which the attempt went on from a checkpoint; 0 = the start."
    )
    restart_reason: str = Field(default="", description="Why a checkpoint could not be used.")

    def primary(self, split: str) -> float:
        """Return the primary metric on a split."""
        return self.scores[split].metrics[self.metric]


class ModelPlace(Frozen):
    """Where a model's files are; not part of any identity."""

    folder: str = Field(
        description="Folder, or URI of an input, with config.json, weights and tokenizer."
    )


class TaskPlace(Frozen):
    """Where a task's data are and how they are read; not part of any identity by itself."""

    name: str
    source: dict[str, Any] = Field(description="search_spaces.tasks.TaskSource as plain data.")
    select: dict[str, Any] = Field(description="search_spaces.splits.SelectRule as plain data.")


class ArtifactRef(Frozen):
    """A file in the store, with the hash it must have: another trial's, or a given mask."""

    uri: str
    sha256: str


class Compute(Frozen):
    """How a trial is run; decides speed and numerics class, never identity."""

    num_ranks: int = Field(default=1, ge=1)
    num_threads: int = Field(default=1, ge=1, description="CPU threads of each rank.")
    num_gpus_per_rank: float = Field(default=0, ge=0)
    micro_batch_size: int | None = Field(default=None, ge=1, description="None = whole share.")
    layout: Literal["unpadded", "padded"] = "unpadded"

    def same_gang(self, other: Compute) -> bool:
        """Whether one gang can serve both: they differ at most in the micro-batch."""
        return self.with_micro_batch(other.micro_batch_size) == other

    def with_micro_batch(self, size: int | None) -> Compute:
        """Return the same with so many examples at once on each rank."""
        return self.model_copy(update={"micro_batch_size": size})


class TrialRequest(Frozen):
    """Everything that a gang needs to run one attempt of one trial."""

    spec: TrialSpec
    label: str = Field(description="Readable name for dashboards.")
    attempt: str = Field(description="Fencing token: names the attempt's folder.")
    attempt_uri: str = Field(description="Folder in the store that this attempt writes to.")
    outputs: Outputs
    model: ModelPlace
    task: TaskPlace
    mask_file: ArtifactRef | None = Field(
        default=None, description="Of spec.mask_parent, or of a given mask."
    )
    carry_file: ArtifactRef | None = Field(default=None, description="Of spec.carry_from.")
    start_file: ArtifactRef | None = Field(default=None, description="Of spec.saved_start.")
    cache_folder: str = Field(description="Node-local folder of the token cache.")
    compute: Compute
    checkpoints: CheckpointPlan | None = Field(default=None, description="None = there are none.")


class Reporter(Protocol):
    """Told by rank 0 how a trial gets on."""

    def phase(self, name: str) -> None:
        """A phase begins: load, train, evaluate, prune; told again, it goes on."""

    def step(self, step: int, num_steps: int, loss: float) -> None:
        """Some optimizer steps have been taken."""


class SilentReporter:
    """A reporter that tells nobody."""

    def phase(self, name: str) -> None:
        """Do nothing."""

    def step(self, step: int, num_steps: int, loss: float) -> None:
        """Do nothing."""


class Progress(Frozen):
    """How far a running attempt is."""

    trial_key: str
    phase: str
    step: int
    num_steps: int
    loss: float


class Succeeded(Frozen):
    """An attempt returned its result; it is not yet committed."""

    trial_key: str
    attempt: str
    result: TrialResult


class Failed(Frozen):
    """An attempt ended without a result."""

    trial_key: str
    attempt: str
    failure: FailureClass
    message: str = Field(description="One sentence for people.")
    details: str = Field(default="", description="Remote traceback and log path.")


Outcome = Succeeded | Failed


class Executor(Protocol):
    """Runs attempts of trials somewhere.

    The contract, which one test class checks for every implementation: at most ``num_slots``
    attempts run at once; each ends in exactly one outcome, a cancelled one in none, and takes no
    other attempt with it; ``close`` ends everything, may be called twice, and leaves no process.
    """

    @property
    def num_slots(self) -> int:
        """Most attempts at once; fewer where some take larger gangs than others."""

    @property
    def description(self) -> str:
        """Where trials run, for people."""

    def has_room(self, compute: Compute) -> bool:
        """Whether an attempt that asks for such a gang can be submitted now."""

    def submit(self, request: TrialRequest) -> None:
        """Start an attempt; raises RuntimeError when no slot is free.

        Its micro-batch may be its own; a request for another gang raises ValueError.
        """

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcomes that are there, after at most ``timeout_s`` when there are none."""

    def progress(self) -> list[Progress]:
        """Return how far the running attempts are; never blocks."""

    def cancel(self, trial_key: str) -> None:
        """Give up a trial's running attempt, if there is one; it has no outcome any more."""

    def close(self) -> None:
        """End all attempts and free everything."""


class Clock(Protocol):
    """The outside world's time, faked in tests."""

    def __call__(self) -> float:
        """Return seconds since the epoch."""


def attempt_folder(store_uri: str, trial_key: str, attempt: str) -> str:
    """Return the URI of an attempt's folder: ``<store>/results/<key>/attempts/<attempt>``."""
    return below(_root(store_uri), f"results/{trial_key}/attempts/{attempt}")


def checkpoint_folder(store_uri: str, trial_key: str) -> str:
    """Return the URI of a trial's checkpoints: ``<store>/results/<key>/checkpoint``."""
    return below(_root(store_uri), f"results/{trial_key}/checkpoint")


def _root(store_uri: str) -> str:
    return store_uri if "://" in store_uri else str(Path(store_uri).absolute())


def below(uri: str, path: str) -> str:
    """Return the URI of something below a place; options after ``?`` stay at the end."""
    root, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{root.rstrip('/')}/{path}{mark}{options}"
