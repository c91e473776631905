"""Laws of a trial on a CUDA device: one rank over NCCL, without Ray."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.contracts import Compute, SilentReporter, TrialRequest, TrialResult
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import Outputs, PruneOutput, RandomMask
from tests.workers.backbones import TASK, pairs_of_segments, save_backbone
from tests.workers.reference import reference_losses
from tests.workers.requests import facts, request, start_weights
from tests.workers.running import losses_of
from workers import attention
from workers.batches import Layout, make_batch
from workers.classifier import Classifier
from workers.pruners import random_uniform
from workers.ranks import RankEnv, connect, disconnect
from workers.seeds import stream
from workers.trial import TrialRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
K = 1000
ON_GPU = Compute(num_gpus_per_rank=1)
OUTPUT = PruneOutput(pruner="global-magnitude", num_removed=2 * K)
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
NEAR = {"fp32": 1e-3, "bf16": 2e-2}  # losses of the toy task, against plain fp32 on the CPU
LENGTHS = (40, 7, 96, 7, 61, 2)


@pytest.fixture(scope="module")
def rank() -> Iterator[None]:
    """Join a process group of one rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connect(RankEnv(master_port=port, device="cuda"))
    yield
    disconnect()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def toy(root: Path) -> tuple[ModelFacts, TaskFacts]:
    return facts(root)


@pytest.fixture
def varlen_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of examples of each call of the kernel for variable lengths."""
    calls: list[int] = []

    def counted(query: Any, key: Any, value: Any, starts: Any, *rest: Any, **named: Any) -> Any:
        calls.append(len(starts) - 1)
        return original(query, key, value, starts, *rest, **named)

    original = attention.varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", counted)
    return calls


def wanted_of(
    root: Path, toy: tuple[ModelFacts, TaskFacts], attempt: str, seed: int = 1, **changes: Any
) -> TrialRequest:
    """Return a trial under a random mask that prunes further."""
    mask, outputs = RandomMask(num_removed=K, seed=3), Outputs(prunes=(OUTPUT,))
    options = {"mask": mask, "outputs": outputs, "compute": ON_GPU, "seed": seed}
    return request(root, *toy, attempt=attempt, **options, **changes)


def mask_file_of(runner: TrialRunner, wanted: TrialRequest) -> str:
    """Run a trial and return the sha256 of the mask file that it leaves."""
    return runner(wanted, SilentReporter()).artifacts[OUTPUT.artifact].sha256


def check_equal(shas: list[str], work: Callable[[], object]) -> None:
    """Check that runs were bit-equal; where a GPU's kernels cannot be, name them."""
    if len(set(shas)) == 1:
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.use_deterministic_algorithms(False)
    said = {str(one.message).split("\n")[0] for one in caught}
    named = sorted(text for text in said if "deterministic" in text)
    assert named, f"mask files differ, and torch names no kernel that could be why: {shas}"
    pytest.xfail(f"not deterministic on {torch.cuda.get_device_name()}: {named}")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_trial_trains_prunes_and_proves_itself(
    rank: None, root: Path, toy: tuple[ModelFacts, TaskFacts], dtype: str
) -> None:
    """Losses follow plain PyTorch on the CPU; rewind and zeros are exact in model and masters."""
    model, task = toy
    wanted = wanted_of(root, toy, "a001-00000001", dtype=dtype)
    done: TrialResult = TrialRunner()(wanted, SilentReporter())
    mask = random_uniform(model.prunable, K, stream(3, task.identity.data_sha256, "random_mask"))
    removed = {n: torch.from_numpy(~mask.matrix(n)) for n in model.prunable.names}
    expected = reference_losses(root, wanted, model, removed)
    assert losses_of(done) == pytest.approx(expected, abs=NEAR[dtype])
    assert done.numerics.device == torch.cuda.get_device_name()
    assert done.numerics.dtype == dtype
    assert done.proof.num_start_tensors_equal_theta0 > 0
    assert done.proof.num_masked_zero_in_model == K
    assert done.proof.num_masked_zero_in_masters == K
    assert done.masks[OUTPUT.artifact].mask.num_removed == 2 * K


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_same_seed_leaves_the_same_mask_file(
    rank: None, root: Path, toy: tuple[ModelFacts, TaskFacts], dtype: str
) -> None:
    """Two fresh engines, with dropout; another seed gives another file."""
    numbers = iter(range(100))

    def mask_file(seed: int) -> str:
        attempt = f"a002-{dtype}{next(numbers):04}"
        wanted = wanted_of(root, toy, attempt, seed, dtype=dtype, **DROPOUT)
        return mask_file_of(TrialRunner(), wanted)

    shas = [mask_file(1), mask_file(1)]
    assert mask_file(2) not in shas
    check_equal(shas, lambda: mask_file(1))


def test_a_warm_engine_equals_a_fresh_one(
    rank: None, root: Path, toy: tuple[ModelFacts, TaskFacts]
) -> None:
    """After another trial, dense and with other dropout, nothing of it is left."""
    warm = TrialRunner()
    changes: dict[str, Any] = {"dtype": "bf16", **DROPOUT}
    other = request(root, *toy, compute=ON_GPU, attempt="a003-00000001", dtype="bf16", seed=9)
    warm(other, SilentReporter())
    shas = [
        mask_file_of(warm, wanted_of(root, toy, "a003-00000002", **changes)),
        mask_file_of(TrialRunner(), wanted_of(root, toy, "a003-00000003", **changes)),
    ]
    again = wanted_of(root, toy, "a003-00000004", **changes)
    check_equal(shas, lambda: mask_file_of(warm, again))


def wide_classifier(folder: Path, layout: Layout) -> Classifier:
    """Return a BERT of two heads of 64 in bf16 on the GPU."""
    size = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 128}
    save_backbone(folder, "bert", **size, initializer_range=0.1)
    classifier = Classifier(folder, TASK, layout)
    start_weights(classifier, folder, seed=1)
    return classifier.to("cuda", torch.bfloat16).eval()


def test_the_kernel_for_variable_lengths_equals_padded_attention(
    tmp_path: Path, varlen_calls: list[int]
) -> None:
    """In bf16, hidden states of every real token within 2% of the largest."""
    split, indices = pairs_of_segments(2, LENGTHS), np.arange(len(LENGTHS))
    hidden = {}
    for layout in ("unpadded", "padded"):
        classifier = wide_classifier(tmp_path / layout, layout)
        batch = make_batch(split, indices, "classification", layout).to(torch.device("cuda"))
        with torch.no_grad():
            states = classifier.encode(batch)
        hidden[layout] = states if batch.attention is None else states[batch.attention.bool()]
        assert varlen_calls == [len(LENGTHS)] * 2  # one call for each layer, none when padded
    differences = (hidden["unpadded"] - hidden["padded"]).float().abs()
    assert hidden["unpadded"].shape == (sum(LENGTHS), 128)
    assert float(differences.max()) <= 2e-2 * float(hidden["padded"].abs().max())


def test_attention_dropout_is_never_left_out(tmp_path: Path, varlen_calls: list[int]) -> None:
    """With dropout the kernel, which has none, is not used; what is used really drops."""
    classifier = wide_classifier(tmp_path, "unpadded").train()
    for name, module in classifier.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5 if name.endswith("attention.self.dropout") else 0.0
    split = pairs_of_segments(2, LENGTHS)
    batch = make_batch(split, np.arange(len(LENGTHS)), "classification").to(torch.device("cuda"))

    def states(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return classifier.encode(batch)

    first, again, other = states(1), states(1), states(2)
    assert varlen_calls == []
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    classifier.eval()
    assert not torch.equal(first, states(1))
    assert varlen_calls == [len(LENGTHS)] * 2
