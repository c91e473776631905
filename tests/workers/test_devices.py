"""What a recipe's dtype means on a device that does not compute in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import Compute, Failed, FailureClass
from tests.workers.requests import facts, request
from tests.workers.running import end_of, results_of
from workers import devices
from workers.devices import check_dtype, has_bf16
from workers.failures import TrialFailure

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the CPU have no bf16, and this process have said nothing of it."""
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    devices._warn_once.cache_clear()
    yield
    devices._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx2": True, "avx512_f": True}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": False}, False),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_a_cpu_has_bf16_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool], expected: bool
) -> None:
    """AVX512 alone is not enough, and ARM has a flag of its own."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(found))
    assert has_bf16(CPU) is expected


def test_emulated_bf16_is_said_once_and_trains(
    tmp_path: Path, cpu_without_bf16: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Two trials in bf16 on two engines: one warning, and numerics that name it."""
    model, task = facts(tmp_path)
    executor = LocalExecutor(Compute())
    regression = facts(tmp_path / "other", metric="pearson", problem="regression", label="score")[1]
    try:
        with caplog.at_level(logging.WARNING, logger="workers.devices"):
            results = [
                results_of(executor, request(tmp_path, model, one, dtype="bf16"))[0]
                for one in (task, regression)
            ]
    finally:
        executor.close()
    said = [record.getMessage() for record in caplog.records if record.name == "workers.devices"]
    assert len(said) == 1
    for words in (
        "recipe.dtype is bf16",
        "is emulated",
        "longer than in fp32",
        "Write dtype: fp32",
    ):
        assert words in said[0]
    assert [result.numerics.dtype for result in results] == ["bf16, emulated"] * 2


def test_nothing_is_said_of_fp32_or_of_native_bf16(
    cpu_without_bf16: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_dtype("fp32", CPU)
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    check_dtype("bf16", CPU)
    assert caplog.records == []


def test_a_gpu_without_bf16_is_a_user_error(
    tmp_path: Path, cpu_without_bf16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the field, the GPU and both ways out; fp32 is not refused."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    check_dtype("fp32", GPU)
    message = "recipe.dtype is bf16, but Tesla T4 does not .* Write dtype: fp32, or use .* 8.0"
    with pytest.raises(TrialFailure, match=message) as caught:
        check_dtype("bf16", GPU)
    assert caught.value.failure is FailureClass.USER_ERROR


def test_a_refused_device_ends_a_trial_before_it_loads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine asks first: the trial fails as a user error, and the next one runs."""

    def refused(dtype: str, device: torch.device) -> None:
        if dtype == "bf16":
            raise TrialFailure(FailureClass.USER_ERROR, f"no bf16 on {device}")

    monkeypatch.setattr("workers.engine.check_dtype", refused)
    executor = LocalExecutor(Compute())
    model, task = facts(tmp_path)
    try:
        end = end_of(executor, request(tmp_path, model, task, dtype="bf16"))
        assert isinstance(end, Failed)
        assert (end.failure, end.message) == (FailureClass.USER_ERROR, "no bf16 on cpu")
        assert results_of(executor, request(tmp_path, model, task))
    finally:
        executor.close()
