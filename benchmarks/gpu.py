"""Training steps and pruning on a GPU, against peers in plain PyTorch; see gpu.sh.

Models are random: seconds do not depend on weights. Every variant gets the same batches in the
same round, starts from the same masked weights, and does the whole step: batch, transfer, forward,
backward, clipping, optimizer.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_models import (
    MAX_LENGTH,
    SIZES,
    SMOKE,
    TASKS,
    Size,
    World,
    masked_model,
    open_world,
    padded,
    sentences,
)
from search_spaces.trial import TrialSpec
from workers.finetune import Shard, finetune, global_batches
from workers.mask import Mask
from workers.mask_file import read_mask, write_mask
from workers.proof import prove_zeros
from workers.pruners import global_magnitude
from workers.ranks import RankEnv, connect, disconnect
from workers.tokens import TokenSplit

REFERENCE, DYNAMIC, OURS = "pad to 128, torch prune, fp32", "dynamic padding, bf16", "ours, bf16"


def measure_steps(
    world: World, task: str, attention_dropout: float, hidden_dropout: float = 0.1
) -> dict[str, Any]:
    """Measure all variants in turn; return milliseconds a step and tokens a second of each round.

    Tokens are real ones, padding not counted; the round before the first is a warm-up.
    """
    size, engine, split = world.size, world.engine, sentences(task)
    spec = world.spec(attention_dropout, hidden_dropout)
    engine.rewind(spec, world.mask, None, split.words(engine.num_words))
    rounds: dict[str, Callable[[int], float]] = {
        REFERENCE: _peer_round(world, spec, split, is_reference=True),
        DYNAMIC: _peer_round(world, spec, split, is_reference=False),
        OURS: partial(_our_round, world, spec, split),
    }
    found: dict[str, Any] = {name: {"step_ms": [], "tokens_per_s": []} for name in rounds}
    for number in range(size.num_rounds + 1):
        batches = list(global_batches(spec, split, number))
        lengths = np.diff(split.offsets)
        num_tokens = sum(int(lengths[batch].sum()) for batch in batches)
        first = number % len(rounds)  # each is first in turn
        for name in [*rounds][first:] + [*rounds][:first]:
            loss, seconds = timed(engine.device, partial(rounds[name], number))
            found[name]["last_loss"] = loss
            if number:
                found[name]["step_ms"].append(1000 * seconds / size.num_steps)
                found[name]["tokens_per_s"].append(num_tokens / seconds)
    engine.release()
    ours = np.array(found[OURS]["step_ms"])
    return {
        "model": size.name,
        "lengths": task,
        "attention_dropout": attention_dropout,
        "variants": found,
        "times_ours": {
            name: float(np.median(np.array(found[name]["step_ms"]) / ours))
            for name in (REFERENCE, DYNAMIC)
        },
    }


def _our_round(world: World, spec: TrialSpec, split: TokenSplit, number: int) -> float:
    shard = Shard(micro_batch_size=world.size.batch_size)
    position = (number, number * world.size.num_steps)
    trained = finetune(world.engine, spec, split, shard, lambda step, loss: None, position)
    return trained.losses[-1][1]


def _peer_round(
    world: World, spec: TrialSpec, split: TokenSplit, is_reference: bool
) -> Callable[[int], float]:
    """Return a round of a plain loop on transformers' own model, masked by torch's pruning."""
    device, recipe = world.engine.device, spec.recipe
    model = masked_model(world, spec)
    fast: dict[str, Any] = {"foreach": False} if is_reference else {"fused": True}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, **fast
    )

    def run(number: int) -> float:
        for indices in global_batches(spec, split, number):
            inputs = padded(split, indices, MAX_LENGTH if is_reference else None, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=not is_reference):
                loss: torch.Tensor = model(**inputs).loss
            loss.backward()  # type: ignore[no-untyped-call]
            if is_reference:
                loss.item()  # as the script does, at every step
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return run


def measure_pruning(world: World) -> dict[str, Any]:
    """Measure what a trial does beside its steps, from a dense model and under a mask."""
    engine, prunable = world.engine, world.facts.prunable
    spec, words = world.spec(0.1), np.ones(engine.num_words, dtype=np.bool_)
    found: dict[str, Any] = {"model": world.size.name, "num_prunable": prunable.num_weights}
    for name, mask in (("dense", None), ("masked", world.mask)):
        _, rewind_s = timed(engine.device, partial(engine.rewind, spec, mask, None, words))
        before = mask or Mask.ones(prunable)
        weights = engine.masters(engine.backbone)
        num_removed = round(prunable.num_weights * 0.7)
        pruned, prune_s = timed(
            engine.device, partial(global_magnitude, weights, before, num_removed)
        )
        assert pruned.mask.num_removed == num_removed
        _, proof_s = timed(engine.device, partial(prove_zeros, weights, mask, "masters"))
        found[name] = {"rewind_s": rewind_s, "global_prune_s": prune_s, "prove_zeros_s": proof_s}
    data, write_s = timed(engine.device, partial(write_mask, pruned.mask, {}))
    again, read_s = timed(engine.device, partial(read_mask, data, prunable, "mask"))
    assert again.sha256 == pruned.mask.sha256
    engine.release()
    return found | {"mask_bytes": len(data), "write_mask_s": write_s, "read_mask_s": read_s}


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work`` returns, and the seconds until the device has done it."""
    _wait_for(device)
    begun = time.perf_counter()
    value = work()
    _wait_for(device)
    return value, time.perf_counter() - begun


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measurements(sizes: tuple[Size, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all measurements; attention without dropout takes the kernel for variable lengths."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            world = open_world(size, Path(folder))
            for task in TASKS:
                for attention_dropout in (0.1, 0.0):
                    yield "steps", measure_steps(world, task, attention_dropout)
            yield "pruning", measure_pruning(world)
            world.engine.destroy()


def main(arguments: list[str] | None = None) -> None:
    """Measure within the given time, and write what was measured even when it ran out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=300, help="begin nothing after these")
    parser.add_argument("--tests-exit-code", type=int, help="kept in the file")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "benchmarks.gpu: torch finds no CUDA device. Run it where there is one.\n")
    begun = time.monotonic()
    report: dict[str, Any] = {"machine": machine(options.device), "is_complete": False}
    report |= {"tests_exit_code": options.tests_exit_code, "steps": [], "pruning": []}
    with one_rank(options.device):
        for kind, result in measurements((SMOKE,) if options.smoke else SIZES):
            report[kind].append(result)
            print(json.dumps(result), flush=True)
            options.out.write_text(json.dumps(report, indent=1))
            if time.monotonic() - begun > options.seconds:
                break
        else:
            report["is_complete"] = True
    options.out.write_text(json.dumps(report, indent=1))


@contextmanager
def one_rank(device: Literal["cpu", "cuda"]) -> Iterator[None]:
    """Be in a process group of one rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connect(RankEnv(master_port=port, device=device))
    try:
        yield
    finally:
        disconnect()


def machine(device: str) -> dict[str, str]:
    """Return what the numbers were measured on."""
    names = ("torch", "transformers", "deepspeed")
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "fp32 matrix products": torch.get_float32_matmul_precision(),
        **{name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
