"""Laws of the update that ranks share out: real processes over gloo, without a model."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cluster.resources import rank_environment
from search_spaces.contracts import Compute
from tests.workers.requests import recipe
from tests.workers.running import free_port
from tests.workers.test_survivors import Toy, batches, begin, loss_of, removed_of
from workers.owners import owners_of
from workers.ranks import RankEnv, connect, disconnect
from workers.survivors import SurvivorAdamW

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
SHAPES = {
    "words.weight": (300, 32),
    "unused.weight": (7, 5),  # never has a gradient
    "pruned.weight": (96, 32),
    "pruned.bias": (96,),
    "LayerNorm.weight": (33,),
    "emptied.weight": (8, 4),  # all of it is removed
    "head.weight": (64, 96),
}
NUM_STEPS, BAD_STEP, BAD_RANK = 6, 3, 1


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_every_tensor_has_one_owner_and_no_rank_much_more_than_its_part(
    sizes: list[int], num_ranks: int
) -> None:
    """At most the mean and the largest tensor."""
    owners = owners_of(sizes, num_ranks)
    assert len(owners) == len(sizes) and set(owners) <= set(range(num_ranks))
    for rank in range(num_ranks):
        load = sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank)
        assert load <= sum(sizes) / num_ranks + max(sizes, default=0)


def test_ties_go_by_order_and_to_the_lowest_rank() -> None:
    assert owners_of([5, 9, 5, 5], 3) == [1, 0, 2, 1]


@pytest.fixture(scope="module")
def forks() -> Iterator[Any]:
    """Makes processes that all share one import of torch and DeepSpeed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in rank_environment(Compute(num_ranks=2)).items():
            patch.setenv(name, value)
        yield context


def on_ranks(forks: Any, num_ranks: int, work: Callable[[RankEnv], Arrays]) -> list[Arrays]:
    """Return what each rank of a new gang finds."""
    port = free_port()
    envs = [RankEnv(rank, num_ranks, master_port=port) for rank in range(num_ranks)]
    with ProcessPoolExecutor(num_ranks, mp_context=forks) as pool:
        return list(pool.map(partial(joined, work), envs))


def joined(work: Callable[[RankEnv], Arrays], env: RankEnv) -> Arrays:
    torch.set_num_threads(1)
    connect(env)
    try:
        return work(env)
    finally:
        disconnect()


class Training:
    """Tensors under an optimizer, with gradients that are drawn for each step and rank."""

    def __init__(self, num_ranks: int, dtype: torch.dtype, decay: float, clip: float) -> None:
        generator = torch.Generator().manual_seed(1)
        values = {n: torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}
        self.named = {name: nn.Parameter(value.to(dtype)) for name, value in values.items()}
        self.optimizer = SurvivorAdamW(self.named.items(), num_ranks)
        places = (torch.rand(96 * 32, generator=generator) < 0.3).nonzero()[:, 0]
        self.optimizer.begin(
            recipe(weight_decay=decay, max_grad_norm=clip, learning_rate=1e-2, warmup_steps=0),
            {self.named[name]: value for name, value in values.items()},
            {
                self.named["pruned.weight"]: places,
                self.named["emptied.weight"]: torch.arange(0),
            },
            {self.named["words.weight"]: torch.arange(0, 300, 3)},
        )

    def take(self, step: int, rank: int, is_summed_before: bool = False) -> None:
        """Take a step of two micro-batches, one of which may be bad on one rank."""
        generator = torch.Generator().manual_seed(100 * step + rank)
        for name, parameter in self.named.items():
            parts = [torch.randn(SHAPES[name], generator=generator) / 8 for _ in range(2)]
            if name == "head.weight" and (step, rank) == (BAD_STEP, BAD_RANK):
                parts[0][3, 3] = torch.inf
            if name != "unused.weight":
                parameter.grad = sum(parts) if is_summed_before else parts[0].to(parameter.dtype)
                if is_summed_before:
                    torch.distributed.all_reduce(parameter.grad)
                else:
                    self.optimizer.collect()
                    parameter.grad = parts[1].to(parameter.dtype)
        self.optimizer.collect()
        self.optimizer.step()

    def masters(self) -> Arrays:
        return {
            name: self.optimizer.master(parameter).clone().numpy()
            for name, parameter in self.named.items()
        }

    def model(self) -> Arrays:
        return {name: one.detach().float().numpy() for name, one in self.named.items()}


def are_equal(one: Arrays, other: Arrays) -> bool:
    """Return whether all bits are."""
    assert one.keys() == other.keys()
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def both_ways(decay: float, clip: float, env: RankEnv) -> Arrays:
    """Train in the gang, and beside it with sums over all ranks and the whole update on each."""
    shared, alone = (Training(num, torch.float32, decay, clip) for num in (env.world_size, 1))
    for step in range(NUM_STEPS):
        shared.take(step, env.rank)
        alone.take(step, env.rank, is_summed_before=True)
    found = {f"shared {name}": values for name, values in shared.masters().items()}
    found |= {f"alone {name}": values for name, values in alone.masters().items()}
    moments = {**alone.optimizer.state_tensors(), **shared.optimizer.state_tensors()}
    same = [torch.equal(moments[n], t) for n, t in alone.optimizer.state_tensors().items()]
    return found | {"same": np.array(same), "skipped": shared.optimizer.num_skipped.numpy()}


@pytest.mark.parametrize(("decay", "clip"), [(0.0, 1.0), (0.1, 0.5), (0.1, 0.0)])
def test_two_ranks_have_the_bits_of_the_whole_update_on_each(
    forks: Any, decay: float, clip: float
) -> None:
    """In fp32 masters and moments of an all-reduce; a step that is not finite moves nothing."""
    for found in on_ranks(forks, 2, partial(both_ways, decay, clip)):
        shared, alone = (
            {name: found[f"{kind} {name}"] for name in SHAPES} for kind in ("shared", "alone")
        )
        assert are_equal(shared, alone)
        assert found["same"].all()
        assert found["skipped"] == 1
        assert not shared["emptied.weight"].any()


def in_bf16(env: RankEnv) -> Arrays:
    """Train for some steps, go on from there in another optimizer, and tell of all that is held."""
    first = Training(env.world_size, torch.bfloat16, decay=0.1, clip=1.0)
    for step in range(4):
        first.take(step, env.rank)
    state = {name: tensor.clone() for name, tensor in first.optimizer.state_tensors().items()}
    with pytest.raises(AssertionError, match="master before share_masters"):
        first.masters()
    model = first.model()
    first.optimizer.share_masters()
    masters = first.masters()
    again = Training(env.world_size, torch.bfloat16, decay=0.1, clip=1.0)
    again.optimizer.restore(state, first.optimizer.num_taken)
    restored = again.masters()
    for training in (first, again):
        training.take(4, env.rank)
        training.optimizer.share_masters()
    found = {"num_moving": np.array(first.optimizer.num_moving)}
    for kind, arrays in (
        ("model", model),
        ("master", masters),
        ("restored", restored),
        ("own", {name: tensor.numpy() for name, tensor in state.items()}),
        ("undisturbed", first.masters()),
        ("gone on", again.masters()),
    ):
        found |= {f"{kind}:{name}": values for name, values in arrays.items()}
    return found


def test_in_bf16_masters_are_their_owners_and_moments_are_nowhere_else(forks: Any) -> None:
    """Weights are equal at each step, masters when shared; a restored gang takes the same steps."""
    ranks = on_ranks(forks, 2, in_bf16)
    first, second = (
        {
            kind: {n.partition(":")[2]: a for n, a in found.items() if n.startswith(f"{kind}:")}
            for kind in ("model", "master", "restored", "own", "undisturbed", "gone on")
        }
        for found in ranks
    )
    for kind in ("model", "master", "restored", "undisturbed", "gone on"):
        assert are_equal(first[kind], second[kind])
    assert are_equal(first["master"], first["restored"])
    assert are_equal(first["undisturbed"], first["gone on"])
    rounded = {n: torch.from_numpy(a).bfloat16().float() for n, a in first["master"].items()}
    assert are_equal({name: tensor.numpy() for name, tensor in rounded.items()}, first["model"])
    assert not are_equal(first["master"], first["model"])
    assert first["own"].keys() & second["own"].keys() == {"num_skipped"}
    for kind in ("master", "exp_avg", "exp_avg_sq"):
        sizes = [
            sum(values.size for name, values in rank["own"].items() if name.startswith(f"{kind}/"))
            for rank in (first, second)
        ]
        assert sum(sizes) == ranks[0]["num_moving"] and min(sizes) > 0
    for own in (first["own"], second["own"]):
        for name in ("head.weight", "LayerNorm.weight"):
            if f"master/{name}" in own:
                assert own[f"master/{name}"].tobytes() == first["master"][name].tobytes()


def train_toy(env: RankEnv) -> Arrays:
    """Return the toy's losses and weights; each rank computes its part of every batch."""
    toy = Toy(0)
    optimizer = begin(toy, recipe(), removed_of(0, 0.5), {}, env.world_size)
    losses = []
    for ((ids, labels),) in batches():
        part = slice(env.rank * 8 // env.world_size, (env.rank + 1) * 8 // env.world_size)
        loss = loss_of(toy, ids[part], labels[part])
        loss.backward()
        optimizer.collect()
        optimizer.step()
        total = loss.detach()
        if env.world_size > 1:
            torch.distributed.all_reduce(total)
        losses.append(float(total))
    return {name: one.detach().numpy() for name, one in toy.named_parameters()} | {
        "losses": np.array(losses)
    }


def test_four_ranks_train_as_one(forks: Any) -> None:
    """Losses of each step and weights at the end, but for rounding (fp32)."""
    alone, gang = train_toy(RankEnv()), on_ranks(forks, 4, train_toy)
    assert all(are_equal(gang[0], found) for found in gang)
    assert len(set(alone["losses"])) == len(alone["losses"])
    for name, values in alone.items():
        np.testing.assert_allclose(gang[0][name], values, atol=1e-5, rtol=0)
    start = {name: p.detach().numpy() for name, p in Toy(0).named_parameters()}
    assert not np.allclose(gang[0]["head.weight"], start["head.weight"], atol=1e-3)
