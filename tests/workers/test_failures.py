"""Why a trial failed, read from what libraries raise."""

from __future__ import annotations

import pickle

import pytest

from search_spaces.contracts import FailureClass
from search_spaces.errors import UserError
from workers.failures import NotFiniteError, TrialFailure, classify, describe

GLOO = "[../third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (UserError("no such task"), FailureClass.USER_ERROR),
        (NotFiniteError("weights"), FailureClass.DIVERGED),
        (MemoryError(), FailureClass.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), FailureClass.OUT_OF_MEMORY),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 9 bytes. Error code 12"
            ),
            FailureClass.OUT_OF_MEMORY,
        ),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), FailureClass.OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), FailureClass.OUT_OF_MEMORY),
        (
            RuntimeError(f"{GLOO}unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"),
            FailureClass.HANG,
        ),
        (
            RuntimeError("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"),
            FailureClass.HANG,
        ),
        (RuntimeError(f"{GLOO}pair.cc:5] Connection reset by peer"), FailureClass.INFRASTRUCTURE),
        (TimeoutError("store"), FailureClass.INFRASTRUCTURE),
        (ConnectionError("store"), FailureClass.INFRASTRUCTURE),
        (OSError(28, "No space left on device"), FailureClass.INFRASTRUCTURE),
        (OSError("When reading: AWS Error NETWORK_CONNECTION"), FailureClass.INFRASTRUCTURE),
        (FileNotFoundError(2, "No such file or directory"), FailureClass.ERROR),
        (PermissionError(13, "Permission denied"), FailureClass.ERROR),
        (ValueError("timed out waiting, says a user"), FailureClass.ERROR),
        (ArithmeticError("1/0"), FailureClass.ERROR),
    ],
)
def test_class_of_an_exception(error: Exception, failure: FailureClass) -> None:
    assert classify(error) is failure


def test_a_failure_keeps_its_class_between_processes() -> None:
    failure = TrialFailure(FailureClass.DIVERGED, "loss is nan")
    travelled = pickle.loads(pickle.dumps(failure))
    assert classify(travelled) is FailureClass.DIVERGED
    assert describe(travelled) == "loss is nan"
    assert describe(ArithmeticError("1/0")) == "ArithmeticError: 1/0"
