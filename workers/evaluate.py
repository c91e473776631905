"""Evaluation once over a whole split, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from search_spaces.contracts import SplitScore
from workers.engine import Engine
from workers.finetune import Shard
from workers.problems import Problem
from workers.tokens import TokenSplit

# What training keeps of one example for the backward pass weighs more than this many that are
# evaluated: only very small micro-batches make evaluation smaller too.
_PER_TRAINED = 16


def num_at_once(problem: Problem, shard: Shard) -> int:
    """Return the examples of a batch, fewer where memory forced the micro-batch below eight."""
    most = _PER_TRAINED * shard.micro_batch_size
    return min(problem.num_at_once, most) if most else problem.num_at_once


def evaluate(
    engine: Engine,
    split: TokenSplit,
    problem: Problem,
    names: tuple[str, ...],
    shard: Shard,
    key: int = 0,
    on_batch: Callable[[], None] = lambda: None,
) -> SplitScore:
    """Return all metrics of a split (method rule 12).

    Examples are sorted by length, so that a batch has few groups; what is scored is put back by
    example, gathered over ranks, and scored once.

    Args:
        engine: With the trained weights.
        split: The tokens.
        problem: The task's kind.
        names: Metrics.
        shard: This rank's part.
        key: Of what is hidden, for problems that hide something.
        on_batch: Told of each batch.
    """
    lengths = np.diff(split.offsets)
    mine = np.argsort(lengths, kind="stable")[shard.rank :: shard.num_ranks]
    engine.classifier.eval()
    parts, size = [], num_at_once(problem, shard)
    with torch.inference_mode():
        for begin in range(0, len(mine), size):
            on_batch()
            chosen = mine[begin : begin + size]  # sorted, as the batch will be
            batch = problem.batch(split, chosen, shard.layout, key).to(engine.device)
            parts.append(problem.rows(engine.scored(batch), batch, split))
    gathered = [(mine, np.concatenate(parts) if parts else None)]
    if shard.num_ranks > 1:
        own = gathered[0]
        gathered = [own] * shard.num_ranks
        torch.distributed.all_gather_object(gathered, own)
    first = next(values for _, values in gathered if values is not None)
    rows = np.full((len(split), first.shape[1]), np.nan, dtype=first.dtype)
    for indices, values in gathered:
        if values is not None:
            rows[indices] = values
    return problem.score(rows, split, names)
