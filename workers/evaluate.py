"""Evaluation once over a whole split, whatever the number of ranks."""

from __future__ import annotations

import numpy as np
import torch

from search_spaces.contracts import SplitScore
from workers.batches import make_batch
from workers.engine import Engine
from workers.finetune import Shard
from workers.metrics import evaluate_metrics
from workers.tokens import TokenSplit

EVALUATION_BATCH = 128


def evaluate(
    engine: Engine, split: TokenSplit, problem: str, names: tuple[str, ...], shard: Shard
) -> SplitScore:
    """Return all metrics of a split (method rule 12).

    Examples are sorted by length, so that a batch has few groups; predictions are put back by
    example, gathered over ranks, and scored once.
    """
    lengths = np.diff(split.offsets)
    mine = np.argsort(lengths, kind="stable")[shard.rank :: shard.num_ranks]
    engine.classifier.eval()
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(mine), EVALUATION_BATCH):
            chosen = mine[begin : begin + EVALUATION_BATCH]  # sorted, as the batch will be
            batch = make_batch(split, chosen, problem, shard.layout)
            parts.append(engine.classifier(batch.to(engine.device)).cpu().numpy())
    gathered = [(mine, np.concatenate(parts) if parts else None)]
    if shard.num_ranks > 1:
        gathered = [gathered[0]] * shard.num_ranks
        own = (mine, np.concatenate(parts) if parts else None)
        torch.distributed.all_gather_object(gathered, own)
    width = next(values.shape[1] for _, values in gathered if values is not None)
    logits = np.full((len(split), width), np.nan, dtype=np.float32)
    for indices, values in gathered:
        if values is not None:
            logits[indices] = values
    labels = np.asarray(split.labels)  # stored as fp64, class indices too
    if problem == "regression":
        return evaluate_metrics(problem, logits[:, 0], labels, names)
    return evaluate_metrics(problem, logits, labels.astype(np.int64), names)
