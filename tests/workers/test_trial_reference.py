"""A trial trains as plain PyTorch does on padded batches, losses within 1e-6."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import Compute
from search_spaces.models import ModelFacts
from search_spaces.resolve import TaskFacts
from search_spaces.trial import CARRY_ARTIFACT, Outputs, RandomMask
from tests.workers.reference import reference_losses
from tests.workers.requests import request
from tests.workers.running import artifact_ref, run
from workers.carry import Carried
from workers.pruners import random_uniform
from workers.seeds import stream

K = 1000


@pytest.fixture(scope="module")
def padding_executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(Compute(layout="padded"))
    yield executor
    executor.close()


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("layout", ["unpadded", "padded"])
@pytest.mark.parametrize(
    ("limit", "decay"),
    [(1.0, 0.01), (0.01, 1.0), (1.0, 0.0)],
    ids=["mild", "clipped", "used rows only"],
)
def test_losses_equal_plain_padded_pytorch(
    root: Path,
    toy: tuple[ModelFacts, TaskFacts],
    executor: LocalExecutor,
    padding_executor: LocalExecutor,
    masked: bool,
    limit: float,
    decay: float,
    layout: Literal["unpadded", "padded"],
) -> None:
    """DeepSpeed in either layout and padded plain PyTorch give the same losses (fp32, no dropout).

    Clipping and decay are strong enough in one case that the losses could not do without them:
    every gradient is too long, and epsilon is too large for Adam to undo the clipping.
    """
    model, task = toy
    mask_of = RandomMask(num_removed=K, seed=3) if masked else None
    changes: dict[str, Any] = {"max_grad_norm": limit, "weight_decay": decay, "adam_epsilon": 1e-3}
    compute = Compute(layout=layout)
    wanted = request(root, model, task, mask=mask_of, compute=compute, **changes)
    removed = {}
    if masked:
        seed = stream(3, task.identity.data_sha256, "random_mask")
        mask = random_uniform(model.prunable, K, seed)
        removed = {n: torch.from_numpy(~mask.matrix(n)) for n in model.prunable.names}
    norms: list[float] = []
    done = run(executor if layout == "unpadded" else padding_executor, wanted)
    expected = reference_losses(root, wanted, model, removed, norms=norms)
    assert [step for step, _ in done.losses] == list(range(1, 9))
    assert [loss for _, loss in done.losses] == pytest.approx(expected, abs=1e-6)
    assert done.numerics.layout == layout
    if limit == 0.01 and layout == "unpadded":
        assert min(norms) > 2 * limit
        for weaker in ({"max_grad_norm": 1e9}, {"weight_decay": 0.0}):
            other = request(root, model, task, mask=mask_of, **(changes | weaker))
            assert (
                max(np.abs(np.subtract(reference_losses(root, other, model, removed), expected)))
                > 1e-5
            )


def test_a_round_may_begin_with_its_parents_trained_head(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """`head: carry`: survivors rewind to theta_0, the head goes on as the parent left it."""
    model, task = toy
    first = request(root, model, task, outputs=Outputs(carry=True), attempt="a001-0000000c")
    ref = artifact_ref(first, run(executor, first), CARRY_ARTIFACT)
    bare = request(root, model, task, mask=RandomMask(num_removed=K, seed=3), head="carry")
    wanted = bare.model_copy(
        update={
            "spec": bare.spec.model_copy(update={"carry_from": first.spec.key}),
            "carry_file": ref,
        }
    )
    done = run(executor, wanted)
    mask = random_uniform(model.prunable, K, stream(3, task.identity.data_sha256, "random_mask"))
    removed = {n: torch.from_numpy(~mask.matrix(n)) for n in model.prunable.names}
    head = Carried.from_bytes(Path(ref.uri.removeprefix("file://")).read_bytes()).head
    expected = reference_losses(root, wanted, model, removed, head)
    assert [loss for _, loss in done.losses] == pytest.approx(expected, abs=1e-6)
    fresh = reference_losses(root, wanted, model, removed)
    assert abs(done.losses[0][1] - fresh[0]) > 1e-4
    assert done.proof.num_start_tensors_equal_theta0 > 0


def test_a_round_may_continue_its_parents_random_streams(
    root: Path, toy: tuple[ModelFacts, TaskFacts], executor: LocalExecutor
) -> None:
    """`rng: continue`: batches go on at the epoch after the parent's last; the head is fresh."""
    model, task = toy
    first = request(root, model, task, outputs=Outputs(carry=True), attempt="a001-0000000e")
    ref = artifact_ref(first, run(executor, first), CARRY_ARTIFACT)
    bare = request(root, model, task, rng="continue", attempt="a001-0000000f")
    spec = bare.spec.model_copy(update={"carry_from": first.spec.key})
    wanted = bare.model_copy(update={"spec": spec, "carry_file": ref})
    losses = [loss for _, loss in run(executor, wanted).losses]
    epochs = 2  # 8 steps of 16 on 63 examples are two epochs of 4 steps
    carried = Carried.from_bytes(Path(ref.uri.removeprefix("file://")).read_bytes())
    assert (carried.epoch, carried.step) == (epochs, 8)
    assert losses == pytest.approx(
        reference_losses(root, wanted, model, {}, first_epoch=epochs), abs=1e-6
    )
    for other in (0, epochs - 1, epochs + 1):
        elsewhere = reference_losses(root, wanted, model, {}, first_epoch=other)
        assert abs(losses[0] - elsewhere[0]) > 1e-5
