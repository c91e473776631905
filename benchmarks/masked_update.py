"""Clipping, masking and AdamW alone: gradients are given, no model computes anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks import plain_steps
from benchmarks.measure import (
    OURS,
    Case,
    Goal,
    Report,
    Sample,
    interleave,
    per_step,
    timed,
    without,
)
from benchmarks.models import BERT_TINY, MINILM, Model, installed_models
from benchmarks.sentences import SST2
from benchmarks.workload import SEED, Workload, common_settings, single_rank, workload
from search_spaces.recipes import Recipe
from workers.engine import WORD_EMBEDDINGS, Engine

PRUNED, CAREFUL = "torch prune, AdamW loop", "masked_fill, fused AdamW"
SPARSITIES = (0.5, 0.7, 0.9)
GOALS = {0.7: Goal("cpu_s_per_step", 5.0, PRUNED, floor=2.6)}
GRADIENT_SIZE = 1e-3
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    model: Model
    num_steps: int
    num_rounds: int
    sparsities: tuple[float, ...] = SPARSITIES
    batch_size: int = 32


SMOKE = Size(BERT_TINY, num_steps=2, num_rounds=1, batch_size=4)


def full_size(quick: bool) -> Size:
    """Return the size of a real run."""
    if quick:
        return Size(BERT_TINY, 10, 2, sparsities=(0.7,))
    return Size(installed_models()[-1], 10, 5)


@dataclass(frozen=True)
class Update:
    """One way to take an optimizer step.

    Attributes:
        give: Puts gradients, by the task model's names, where backward would leave them.
        take: Takes the step; what is measured.
        weights: Returns the weights that the model would compute with, by name.
    """

    give: Callable[[Tensors], None]
    take: Callable[[], None]
    weights: Callable[[], Tensors]


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure optimizer steps at some sparsities."""
    size = SMOKE if smoke else full_size(quick)
    with single_rank():
        cases = tuple(_case(size, sparsity, is_judged=not smoke) for sparsity in size.sparsities)
        common = common_settings("none: gradients are random", size.batch_size, 0.0)
    del common["dropout"], common["sentences"]
    return Report(
        variants={
            PRUNED: "torch.nn.utils.prune as in the reference script: its forward pre-hooks (mask "
            "x weight) and their backward (mask x gradient), clip_grad_norm_, "
            "AdamW(foreach=False), schedule, zero_grad",
            CAREFUL: "masked_fill_ of each masked gradient in place, clip_grad_norm_, "
            "AdamW(fused=True), schedule, zero_grad",
            OURS: "collect and step of `workers/survivors.py`: survivors picked from the whole "
            "gradients, clipped by their norm, updated and put back; schedule inside",
        },
        settings={
            "engine": "none: DeepSpeed takes no part",
            "sampler": "none",
            "model": size.model.name,
            "gradients": f"normal(0, {GRADIENT_SIZE:g}), the same at each step and for all; that "
            f"of the word embedding has the rows of a batch of {size.batch_size} sentences. "
            "It is whole for the peers, and rows only for ours: filling the whole one is a part "
            "of backward, and not counted",
            **common,
            "ranks": "1",
            "rounds": f"{size.num_rounds} after 1 warm-up, of {size.num_steps} steps",
        },
        cases=cases,
    )


def _case(size: Size, sparsity: float, is_judged: bool) -> Case:
    samples = measure(size, sparsity)
    moved = ", ".join(f"{name} {rounds[-1]['moved']:.6g}" for name, rounds in samples.items())
    facts = (f"Distance of the weights from where they began, at the end: {moved}.",)
    is_judged = is_judged and size.model == MINILM and sparsity in GOALS
    goals = (GOALS[sparsity],) if is_judged else ()
    return Case(f"sparsity {sparsity:g}", without(samples, "moved"), facts, goals)


def measure(size: Size, sparsity: float) -> dict[str, list[Sample]]:
    """Return seconds per step, and how far the weights have moved, of each round by variant."""
    work = workload(
        size.model,
        SST2,
        batch_size=size.batch_size,
        sparsity=sparsity,
        train_steps=size.num_steps,
        learning_rate=1e-4,
    )
    engine = work.engine()
    work.rewind(engine, None)
    shapes = {name: w.shape for name, w in engine.classifier.model.named_parameters()}
    words = torch.from_numpy(work.split.ids[: work.split.offsets[size.batch_size]]).long()
    fixed = gradients(shapes, words)
    updates = {
        PRUNED: _pruned(work, engine),
        CAREFUL: _careful(work, engine),
        OURS: _ours(work, engine),
    }
    start = {name: values.clone() for name, values in updates[OURS].weights().items()}

    def variant(update: Update) -> Callable[[int], Sample]:
        def run_round(_number: int) -> Sample:
            total = {"cpu_s": 0.0, "wall_s": 0.0}
            for _ in range(size.num_steps):
                update.give({name: gradient.clone() for name, gradient in fixed.items()})
                _, seconds = timed(update.take)
                total = {quantity: total[quantity] + seconds[quantity] for quantity in total}
            return {**per_step(total, size.num_steps), "moved": distance(update.weights(), start)}

        return run_round

    return interleave({name: variant(update) for name, update in updates.items()}, size.num_rounds)


def gradients(shapes: Mapping[str, torch.Size], words: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return random gradients by name; the word embedding's is 0 but for the rows of words."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = {}
    for name, shape in shapes.items():
        drawn[name] = torch.randn(shape, generator=generator).mul_(GRADIENT_SIZE)
        if WORD_EMBEDDINGS in name:
            used, rows = torch.unique(words), torch.zeros(shape)
            drawn[name] = rows.index_copy_(0, used, drawn[name][used])
    return drawn


def distance(weights: Tensors, start: Tensors) -> float:
    """Return the Euclidean distance between two sets of weights."""
    parts = [torch.linalg.vector_norm(weights[name] - start[name]) for name in start]
    return float(torch.linalg.vector_norm(torch.stack(parts)))


def _pruned(work: Workload, engine: Engine) -> Update:
    recipe = work.spec.recipe
    model = plain_steps.pruned_copy(engine.classifier, work.mask, recipe)
    modules = {
        f"{engine.classifier.family.prefix}.{name}": plain_steps.module_of(
            model, engine.classifier, name
        )
        for name in work.mask.prunable.names
    }
    parameters = dict(model.named_parameters())
    finish = _finish(model, plain_steps.reference_adamw(model, recipe), recipe)
    given: dict[str, torch.Tensor] = {}

    def give(tensors: Tensors) -> None:
        given.clear()
        for name, gradient in tensors.items():
            if name in modules:
                given[name] = gradient
            else:
                parameters[name].grad = gradient

    def take() -> None:
        for module in modules.values():
            _apply_masks(module)
        masked = [modules[name].weight for name in given]
        torch.autograd.backward(masked, list(given.values()))  # type: ignore[arg-type]
        finish()

    def weights() -> Tensors:
        with torch.no_grad():
            for module in modules.values():
                _apply_masks(module)
        plain = {n: p.detach() for n, p in parameters.items() if not n.endswith("_orig")}
        masked = {name: torch.as_tensor(module.weight) for name, module in modules.items()}
        return plain | masked

    return Update(give, take, weights)


def _apply_masks(module: nn.Module) -> None:
    """Do what torch's pruning does before each forward pass."""
    for hook in module._forward_pre_hooks.values():
        hook(module, ())


def _careful(work: Workload, engine: Engine) -> Update:
    recipe = work.spec.recipe
    model = plain_steps.hooked_copy(engine.classifier, work.mask, recipe)
    parameters = dict(model.named_parameters())
    prefix = engine.classifier.family.prefix
    removed = {
        f"{prefix}.{name}": torch.from_numpy(~work.mask.matrix(name))
        for name in work.mask.prunable.names
    }
    finish = _finish(model, plain_steps.careful_adamw(model, recipe), recipe)

    def give(tensors: Tensors) -> None:
        for name, gradient in tensors.items():
            parameters[name].grad = gradient

    def take() -> None:
        for name, places in removed.items():
            gradient = parameters[name].grad
            assert gradient is not None
            gradient.masked_fill_(places, 0.0)
        finish()

    return Update(give, take, lambda: {n: p.detach() for n, p in parameters.items()})


def _finish(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> Callable[[], None]:
    """Return what both peers do with their masked gradients."""
    schedule = plain_steps.scheduler(optimizer, recipe)

    def finish() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        model.zero_grad()

    return finish


def _ours(work: Workload, engine: Engine) -> Update:
    work.rewind(engine, work.mask)
    parameters = dict(engine.classifier.model.named_parameters())

    def give(tensors: Tensors) -> None:
        for name, gradient in tensors.items():
            parameters[name].grad = _rows(gradient) if WORD_EMBEDDINGS in name else gradient

    def take() -> None:
        engine.optimizer.collect()
        engine.optimizer.step()

    return Update(give, take, lambda: {n: p.detach() for n, p in parameters.items()})


def _rows(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient as a sparse embedding leaves it: the rows of the batch."""
    rows = gradient.any(dim=1).nonzero()[:, 0]
    return torch.sparse_coo_tensor(
        rows[None], gradient[rows], gradient.shape, check_invariants=False
    )
