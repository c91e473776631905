"""What a checkpoint within a trial costs: torch.save of model and optimizer, and ours."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertModel

from benchmarks import plain_steps
from benchmarks.measure import OURS, Case, Report, Sample, interleave, timed
from benchmarks.models import Model
from benchmarks.sentences import SST2
from benchmarks.workload import SEED, Workload, single_rank, workload
from search_spaces.resuming import CheckpointPlan, CheckpointsSpec
from workers.checkpoint import Checkpoints
from workers.checkpoint_file import digest_of, tensor_pieces
from workers.engine import Engine
from workers.finetune import SoFar
from workers.trial import numerics_of

TORCH = "torch.save"
SPARSITY, WEIGHT_DECAY, GRADIENT_SIZE = 0.7, 0.01, 1e-3
RULES = CheckpointsSpec(when="always", every_s=1e-9)  # one is due after every step
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """A BERT, whose weights are drawn at random."""

    name: str
    num_layers: int
    hidden: int
    inner: int
    num_words: int = 30_522

    def save(self, folder: Path) -> Model:
        """Write the model below a folder."""
        torch.manual_seed(SEED)
        config = BertConfig(
            vocab_size=self.num_words,
            hidden_size=self.hidden,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.hidden // 32,
            intermediate_size=self.inner,
        )
        BertModel(config).save_pretrained(str(folder))
        (folder / "tokenizer.json").write_text("{}")  # no text is read
        return Model(self.name, str(folder))


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    shapes: tuple[Shape, ...]
    num_rounds: int
    num_warmups: int = 1


FULL = Size((Shape("MiniLM-L6", 6, 384, 1536), Shape("BERT-base", 12, 768, 3072)), num_rounds=3)
QUICK = Size(FULL.shapes[:1], num_rounds=1)
SMOKE = Size((Shape("tiny", 2, 32, 64, num_words=12_000),), num_rounds=1, num_warmups=0)


@dataclass(frozen=True)
class Way:
    """One way to keep a training and to go on from it.

    Attributes:
        write: Writes what stands after a step; given its number.
        read: Puts it back.
        tensors: What it keeps, the training's own.
        folder: Where it lies.
    """

    write: Callable[[int], None]
    read: Callable[[], object]
    tensors: Callable[[], Tensors]
    folder: Path


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure writing a training under a 70% mask, and reading it back."""
    size = SMOKE if smoke else QUICK if quick else FULL
    logging.getLogger("workers.checkpoint").setLevel(logging.ERROR)  # each reading is a warning
    with single_rank():
        cases = tuple(_case(shape, size) for shape in size.shapes)
    return Report(
        variants={
            TORCH: "torch.save of model.state_dict() and optimizer.state_dict(), AdamW over all "
            "weights, whose masked gradients are zeroed; then fsync. Back: "
            "torch.load(weights_only=True) and both load_state_dict. No hash, one file that is "
            "overwritten, no random state",
            OURS: "`Checkpoints` of `workers/checkpoint.py`: masters and moments of survivors, "
            "random states, losses; sha256 of every file, fsync, manifest, and the one before "
            "deleted. Back: every byte checked, then restored",
        },
        settings={
            "models": "random weights in these shapes",
            "weight decay": f"{WEIGHT_DECAY:g}: without it, ours leaves out the rows of words that "
            "the task has not",
            "mask": f"sparsity {SPARSITY:g}, uniform at random",
            "files": "in the temporary folder; read from a warm page cache",
            "dtype": "fp32",
            "device": "CPU",
            "threads": "1",
            "rounds": f"{size.num_rounds} after {size.num_warmups} warm-up",
        },
        cases=cases,
    )


def _case(shape: Shape, size: Size) -> Case:
    samples = measure(shape, size)
    seconds = statistics.median(sample["write_wall_s"] for sample in samples[OURS])
    every_s = CheckpointsSpec().every_s
    facts = (
        "After each reading every tensor had the bits that were written, of both.",
        f"Written every {every_s:g} s (`checkpoints.every_s`), ours takes "
        f"{seconds / every_s:.2%} of the time.",
    )
    return Case(shape.name, samples, facts)


def measure(shape: Shape, size: Size) -> dict[str, list[Sample]]:
    """Return seconds and megabytes of each round, by variant."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = shape.save(folder / "model")
        options = {"sparsity": SPARSITY, "train_steps": 1000, "weight_decay": WEIGHT_DECAY}
        work = workload(model, SST2, batch_size=4, **options)
        engine = work.engine()
        ways = {
            TORCH: _plain(work, engine, folder / "torch"),
            OURS: _ours(work, engine, folder / "ours"),
        }
        rounds = {name: partial(_round_trip, way) for name, way in ways.items()}
        return interleave(rounds, size.num_rounds, size.num_warmups)


def _round_trip(way: Way, number: int) -> Sample:
    """Write and read, and check that each bit came back."""
    before = digest_of("", tensor_pieces(way.tensors()))
    _, writing = timed(lambda: way.write(number + 1))
    with torch.no_grad():
        for tensor in way.tensors().values():
            tensor.zero_()
    _, reading = timed(way.read)
    assert digest_of("", tensor_pieces(way.tensors())) == before
    sample = {f"write_{quantity}": value for quantity, value in writing.items()}
    sample |= {f"read_{quantity}": value for quantity, value in reading.items()}
    return sample | {"file_mb": _num_bytes(way.folder) / 1e6}


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _plain(work: Workload, engine: Engine, folder: Path) -> Way:
    recipe = work.spec.recipe
    work.rewind(engine, None)
    model = plain_steps.hooked_copy(engine.classifier, work.mask, recipe)
    optimizer = plain_steps.careful_adamw(model, recipe)
    _give_gradients(model)
    optimizer.step()
    optimizer.zero_grad()
    folder.mkdir()
    path = folder / "checkpoint.pt"

    def write(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def read() -> None:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def tensors() -> Tensors:
        found = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for name, parameter in model.named_parameters():
            state = optimizer.state[parameter]
            found |= {f"{kind}/{name}": value for kind, value in state.items()}
        return found

    return Way(write, read, tensors, folder)


def _ours(work: Workload, engine: Engine, folder: Path) -> Way:
    work.rewind(engine, work.mask)
    _give_gradients(engine.classifier.model)
    engine.optimizer.collect()
    engine.optimizer.step()
    plan = CheckpointPlan(uri=str(folder), rules=RULES)
    request = work.request().model_copy(update={"checkpoints": plan})
    shard, per_epoch = work.shard(), len(work.split)
    numerics = numerics_of(request, shard, engine.device)
    checkpoints = partial(Checkpoints, request, engine, shard, numerics, per_epoch, {})
    return Way(
        write=lambda step: checkpoints().at_boundary(SoFar(step=step)),
        read=lambda: checkpoints().resumed(),
        tensors=engine.optimizer.state_tensors,
        folder=folder,
    )


def _give_gradients(model: nn.Module) -> None:
    """Put random gradients where backward would leave them."""
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).mul_(GRADIENT_SIZE)
