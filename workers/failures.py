"""Why a trial ended without a result, in classes that the scheduler budgets."""

from __future__ import annotations

from search_spaces.contracts import FailureClass
from search_spaces.errors import StoreAwayError, UserError


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


# Torch's allocators of GPU and CPU memory, cuBLAS, and the system (ENOMEM).
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
)
# What gloo and NCCL say when another rank has gone (gloo pair.cc, ProcessGroupNCCL).
_PEER_IS_GONE = (
    "connection reset by peer",
    "connection closed by peer",
    "nccl communicator was aborted",
)
# And when another rank does not come to a collective (gloo unbound_buffer.cc, NCCL's watchdog).
_PEER_IS_LATE = ("timed out waiting", "collective operation timeout")
_WRONG_PATHS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class NotFiniteError(ValueError):
    """Weights or predictions that came out of training are NaN or infinite."""


def classify(error: BaseException) -> FailureClass:
    """Return the class of an exception that a trial raised."""
    if isinstance(error, TrialFailure):
        return error.failure
    if isinstance(error, StoreAwayError):
        return FailureClass.INFRASTRUCTURE
    if isinstance(error, UserError):
        return FailureClass.USER_ERROR
    if isinstance(error, NotFiniteError):
        return FailureClass.DIVERGED
    if isinstance(error, MemoryError) or _says(error, *_NO_MEMORY):
        return FailureClass.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and _says(error, *_PEER_IS_LATE):
        return FailureClass.HANG
    if _is_lost_peer(error) or _is_of_the_system(error):
        return FailureClass.INFRASTRUCTURE
    return FailureClass.ERROR


def describe(error: BaseException) -> str:
    """Return one sentence for people; the traceback travels beside it."""
    text = str(error).strip()
    known = isinstance(error, TrialFailure | UserError | NotFiniteError)
    return text if known and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _is_lost_peer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _says(error, *_PEER_IS_GONE)


def _is_of_the_system(error: BaseException) -> bool:
    """Whether a store, a disk or a network failed: pyarrow's errors of a store are of this class.

    Where a path is wrong or forbidden, time mends nothing.
    """
    return isinstance(error, OSError) and not isinstance(error, _WRONG_PATHS)


def _says(error: BaseException, *signs: str) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in signs)
