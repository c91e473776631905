"""A warm DeepSpeed engine: made once for a model and head, rewound in place for each trial."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import deepspeed
import numpy as np
import numpy.typing as npt
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from search_spaces.canonical import short
from search_spaces.checkpoint import (
    backbone_entries,
    read_values,
    theta0_sha256,
    values_sha256,
    weights_state,
)
from search_spaces.contracts import TrialRequest
from search_spaces.errors import Fault, SpecError
from search_spaces.heads import iter_word_head
from search_spaces.trial import TrialSpec
from workers.arrays import Either, ParameterArrays, as_tensors
from workers.batches import PADDED_ID, Batch
from workers.classifier import Classifier, draw_head, head_parameters, theta0_values
from workers.devices import check_dtype, is_emulated
from workers.emulated import WideProducts
from workers.mask import Mask
from workers.seeds import stream
from workers.survivors import SurvivorAdamW

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
WORD_EMBEDDINGS = "embeddings.word_embeddings"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NUM_WARM = 2  # engines that a process keeps: a sweep over two tasks needs two heads


class Engine:
    """DeepSpeed's engine around a classifier, with the weights of one trial at a time.

    DeepSpeed runs backward and the step, at stage 0: the optimizer's state covers survivors only
    and ranks share out its update (docs/decisions/0005, 0016). Nothing of a trial is left after
    ``rewind``: weights, masters, moments, step, schedule, masks, dropout.

    Args:
        request: Whose model, head shape, dtype, layout and ranks it serves.

    Raises:
        TrialFailure: The device cannot compute in the recipe's dtype.
        SpecError: The files hold other weights than the trial was planned with.
    """

    def __init__(self, request: TrialRequest) -> None:
        device = torch.device(get_accelerator().current_device_name())
        dtype = request.spec.recipe.dtype
        check_dtype(dtype, device)
        self._products: AbstractContextManager[object] = nullcontext()
        if is_emulated(dtype, device):
            self._products = WideProducts()  # type: ignore[no-untyped-call]
        self._folder = Path(request.model.folder)
        self._files = weights_state(self._folder)
        _check_theta0(self._folder, request.spec.model.theta0_sha256)
        self.classifier = Classifier(self._folder, request.spec.task, request.compute.layout)
        self.classifier.to(DTYPES[dtype])
        self.optimizer = SurvivorAdamW(
            self.classifier.named_parameters(), request.compute.num_ranks
        )
        if request.compute.num_ranks > 1:  # DeepSpeed's own groups wait for minutes only
            deepspeed.comm.barrier()
        self._deepspeed, *_ = deepspeed.initialize(
            model=self.classifier,
            optimizer=self.optimizer,
            config={
                "train_micro_batch_size_per_gpu": 1,  # only counted: the loop has its own
                "managed_gradient_accumulation": False,
                "gradient_clipping": 0.0,  # within the optimizer
                "zero_optimization": {"stage": 0},
                "steps_per_print": 10**9,
            },
            dist_init_required=False,
        )
        self._deepspeed.enable_backward_allreduce = False  # the optimizer sums survivors only
        self._theta0 = theta0_values(self.classifier, self._folder)
        backbone = self.classifier.backbone_parameters()
        self.backbone = {name: backbone[name] for name in self._theta0}
        self.head = head_parameters(self.classifier, self._theta0)
        self._checkpoint_head = self._read_head(request)
        self._words = self.classifier.backbone.get_submodule(WORD_EMBEDDINGS)
        self._layout = request.compute.layout

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self._deepspeed.device)

    @property
    def num_words(self) -> int:
        """Rows of the word embedding."""
        return len(self._words.weight)

    def check_files(self, request: TrialRequest) -> None:
        """Read weight files anew that somebody wrote or replaced since they were read.

        What the engine starts trials from are views of these files. Ranks need not notice at the
        same trial, so nothing here waits for another one.

        Args:
            request: One that the engine serves.

        Raises:
            SpecError: They hold other weights now than the trial was planned with.
        """
        files = weights_state(self._folder)
        if files == self._files:
            return
        _check_theta0(self._folder, request.spec.model.theta0_sha256)
        self._theta0 = theta0_values(self.classifier, self._folder)
        self._checkpoint_head = self._read_head(request)
        self._files = files

    def rewind(
        self,
        spec: TrialSpec,
        mask: Mask | None,
        head: Mapping[str, npt.NDArray[np.float32]] | None,
        words: npt.NDArray[np.bool_],
        start: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> None:
        """Start a trial: theta_0 under its mask, its head, its recipe.

        Args:
            spec: The trial.
            mask: Its mask; None = dense.
            head: A carried or kept head; None = the checkpoint's where the task starts from it,
                else drawn from the trial's seed.
            words: Which rows of the word embedding its training data use, shape (vocabulary,).
            start: Another start than theta_0, by canonical name.
        """
        seed = stream(spec.seed, spec.task.data_sha256, "head") % 2**63
        first = draw_head(self.classifier, self.head, seed)
        if spec.task.head_sha256 and (spec.start is None or spec.start.kind != "reinit-all"):
            first = dict(self._checkpoint_head)
        if head is not None:
            first = {name: torch.from_numpy(head[name]) for name in self.head}
        given = self._theta0 if start is None else as_tensors(start)
        values = {parameter: given[name] for name, parameter in self.backbone.items()}
        values |= {parameter: first[name] for name, parameter in self.head.items()}
        survivors = {}
        if mask is not None:
            for name in mask.prunable.names:
                if name not in self.backbone:  # a pooler that the head does not read
                    continue
                places = np.flatnonzero(mask.matrix(name))
                survivors[self.backbone[name]] = torch.from_numpy(places)
        # a gradient that holds the batch's rows only; a GPU adds such ones in any order
        few_rows = not self.classifier.ties_words and not spec.recipe.weight_decay
        self._words.sparse = self.device.type == "cpu" and few_rows
        if self._words.sparse and self._layout == "padded" and self._words.padding_idx != PADDED_ID:
            words = words | (np.arange(len(words)) == PADDED_ID)  # it names that row too, with 0
        rows = {self._words.weight: torch.from_numpy(np.flatnonzero(words))}
        if self.classifier.ties_words:
            rows = {}
        self.classifier.set_dropout(spec.recipe)
        self.optimizer.begin(spec.recipe, values, survivors, rows, spec.steps_before)

    def _read_head(self, request: TrialRequest) -> dict[str, torch.Tensor]:
        """Return the checkpoint's head, where a trial starts from it and it is the planned one."""
        if not request.spec.task.head_sha256:
            return {}
        found = dict(iter_word_head(self._folder, request.spec.model.family))
        if values_sha256(found.items()) != request.spec.task.head_sha256 or set(found) != set(
            self.head
        ):
            problem = "the checkpoint's head is not the one that the trial was planned with."
            hint = "The weights changed: plan the sweep again."
            raise SpecError([Fault(str(self._folder), "", problem, hint)])
        return as_tensors(found)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return a batch's logits; the batch must be on the device."""
        with self._products:
            logits: torch.Tensor = self._deepspeed(batch)
        return logits

    def scored(self, batch: Batch) -> torch.Tensor:
        """Return what ``__call__`` does, for a batch that is not trained on."""
        with self._products:
            logits: torch.Tensor = self.classifier(batch)
        return logits

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a micro-batch's loss to the step."""
        with self._products:
            self._deepspeed.backward(loss)
        self.optimizer.collect()

    def step(self) -> None:
        """Update the weights by what ``backward`` has added up."""
        self._deepspeed.step()

    def masters(self, parameters: Mapping[str, nn.Parameter]) -> ParameterArrays:
        """Return fp32 masters by name, the removed ones +0.0; valid until the next step.

        In a gang all ranks must call the optimizer's ``share_masters`` first.
        """
        return ParameterArrays(parameters, self.optimizer.master)

    def ranked(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """Return the masters of the backbone, and theta_0's values of what the task model lacks.

        That is the pooler, which heads that read each token leave out: under the policy
        ``theta0-magnitude`` its weights compete as they are (method rule 10).
        """
        entries = backbone_entries(self._folder)
        absent = {name: at for name, at in entries.items() if name not in self.backbone}
        theirs = self.masters(self.backbone)
        return Either(dict(read_values(absent)), theirs) if absent else theirs

    def release(self) -> None:
        """Free what belongs to the trial."""
        self.optimizer.end()

    def destroy(self) -> None:
        """Free the engine and, as it refers to itself, its memory."""
        self.release()
        self._deepspeed.destroy()
        del self._deepspeed, self.classifier
        gc.collect()


class Engines:
    """The warm engines of one process; the one used longest ago makes room for a new one."""

    def __init__(self) -> None:
        self._by_shape: OrderedDict[tuple[object, ...], Engine] = OrderedDict()

    def engine(self, request: TrialRequest) -> Engine:
        """Return an engine that serves a request, which must be rewound before use.

        Raises:
            TrialFailure: As ``Engine``.
            SpecError: Likewise, also where the files changed since a warm engine read them.
        """
        shape = _shape(request)
        if shape in self._by_shape:
            self._by_shape[shape].check_files(request)
        else:
            while len(self._by_shape) >= NUM_WARM:
                self._by_shape.popitem(last=False)[1].destroy()
            self._by_shape[shape] = Engine(request)
        self._by_shape.move_to_end(shape)
        return self._by_shape[shape]

    def drop(self, request: TrialRequest) -> None:
        """Forget the engine of a trial that failed: nothing is known of its state."""
        if engine := self._by_shape.pop(_shape(request), None):
            engine.destroy()


def _check_theta0(folder: Path, expected: str) -> None:
    """Refuse other weights: the trial's key names these, and a folder may differ between nodes."""
    found = theta0_sha256(folder)
    if found != expected:
        problem = (
            f"holds theta_0 {short(found)}, but the trial was planned with {short(expected)}: the "
            "files changed, or this node sees others."
        )
        raise SpecError([Fault(str(folder), "", problem, "Mend them, or plan the sweep again.")])


def _shape(request: TrialRequest) -> tuple[object, ...]:
    """Return what an engine cannot change: model, head shape, dtype, layout, ranks."""
    spec, compute = request.spec, request.compute
    return (
        request.model.folder,
        spec.model.theta0_sha256,
        spec.model.config_sha256,
        spec.task.num_labels,
        spec.task.problem if spec.task.problem in ("masked-lm", "span") else "",
        spec.task.head_sha256,
        spec.recipe.dtype,
        compute.layout,
        compute.num_ranks,
    )
