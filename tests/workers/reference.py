"""A training in plain PyTorch, on padded batches, that trials are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import BertForSequenceClassification

from search_spaces.contracts import TrialRequest
from search_spaces.models import ModelFacts
from search_spaces.recipes import learning_rate_factor
from tests.workers.requests import start_weights
from workers.classifier import Classifier
from workers.finetune import global_batches
from workers.seeds import stream
from workers.tokens import token_splits


def reference_losses(
    root: Path,
    wanted: TrialRequest,
    model: ModelFacts,
    removed: dict[str, torch.Tensor],
    head: Mapping[str, np.ndarray] | None = None,
    first_epoch: int = 0,
    norms: list[float] | None = None,
) -> list[float]:
    """Train the same trial with plain PyTorch on padded batches of transformers' own forward.

    Starts from ``head`` where one is given, else from the fresh one of the trial's seed; the
    gradients' norms before clipping are appended to ``norms``.
    """
    spec, folder = wanted.spec, Path(wanted.model.folder)
    ours = Classifier(folder, spec.task)
    start_weights(ours, folder, stream(spec.seed, spec.task.data_sha256, "head") % 2**63)
    config = ours.model.config
    config._attn_implementation = "eager"
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    plain = BertForSequenceClassification(config).train()
    plain.load_state_dict(ours.model.state_dict())
    if head is not None:
        loaded = dict(plain.named_parameters())
        with torch.no_grad():
            for name, values in head.items():
                loaded[name.removeprefix("model.")].copy_(torch.from_numpy(values))
    weights = dict(plain.bert.named_parameters())
    with torch.no_grad():
        for name, where in removed.items():
            weights[name].masked_fill_(where, 0.0)
    named = list(plain.named_parameters())
    no_decay, decay = ("bias", "LayerNorm.weight"), spec.recipe.weight_decay
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if not n.endswith(no_decay)], "weight_decay": decay},
            {"params": [p for n, p in named if n.endswith(no_decay)], "weight_decay": 0.0},
        ],
        lr=spec.recipe.learning_rate,
        eps=spec.recipe.adam_epsilon,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, spec.recipe)
    )
    tokens = token_splits(spec.model, folder, spec.task, wanted.task, Path(wanted.cache_folder))[
        "train"
    ]
    losses = []
    for indices in global_batches(spec, tokens, first_epoch):
        rows = [tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]] for i in indices]
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        attention = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.from_numpy(row.astype(np.int64))
            attention[at, : len(row)] = 1
        labels = torch.from_numpy(tokens.labels[indices]).long()
        loss = plain(input_ids=ids, attention_mask=attention, labels=labels).loss
        loss.backward()
        for name, where in removed.items():
            weights[name].grad.masked_fill_(where, 0.0)
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), spec.recipe.max_grad_norm)
        if norms is not None:
            norms.append(float(norm))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses
