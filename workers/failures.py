"""Why a trial ended without a result, in classes that the scheduler budgets."""

from __future__ import annotations

from search_spaces.contracts import FailureClass
from search_spaces.errors import UserError


class TrialFailure(Exception):
    """A trial could not go on for a reason that it knows itself.

    Attributes:
        failure: The class that decides whether it is tried again.
    """

    def __init__(self, failure: FailureClass, message: str) -> None:
        self.failure = failure
        super().__init__(message)

    def __reduce__(self) -> tuple[type[TrialFailure], tuple[FailureClass, str]]:
        """Keep the class of the failure when it travels between processes."""
        return type(self), (self.failure, str(self))


class NotFiniteError(ValueError):
    """Weights or predictions that came out of training are NaN or infinite."""


def classify(error: BaseException) -> FailureClass:
    """Return the class of an exception that a trial raised."""
    if isinstance(error, TrialFailure):
        return error.failure
    if isinstance(error, UserError):
        return FailureClass.USER_ERROR
    if isinstance(error, NotFiniteError):
        return FailureClass.DIVERGED
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return FailureClass.OUT_OF_MEMORY
    if isinstance(error, ConnectionError | TimeoutError) or _is_lost_peer(error):
        return FailureClass.INFRASTRUCTURE
    return FailureClass.ERROR


def describe(error: BaseException) -> str:
    """Return one sentence for people; the traceback travels beside it."""
    text = str(error).strip()
    known = isinstance(error, TrialFailure | UserError | NotFiniteError)
    return text if known and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _is_lost_peer(error: BaseException) -> bool:
    # What gloo and NCCL say when another rank has gone (gloo pair.cc, ProcessGroupNCCL).
    lost = (
        "connection reset by peer",
        "connection closed by peer",
        "nccl communicator was aborted",
    )
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in lost)
