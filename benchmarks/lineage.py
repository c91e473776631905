"""A whole lineage, ten rounds of train, prune and rewind: the reference script's loop, and ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave, timed, without
from benchmarks.models import BERT_TINY
from benchmarks.plain_lineage import PlainLineage
from benchmarks.tasks import docstrings_task, made_up_task
from benchmarks.workload import common_settings, single_rank
from orchestrator.statistics import MIN_T_INTERVAL, t_interval
from search_spaces.contracts import (
    ArtifactRef,
    Compute,
    SilentReporter,
    TrialRequest,
    TrialResult,
    attempt_folder,
)
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.recipes import Recipe
from search_spaces.resolve import TaskFacts
from search_spaces.schedules import LinearSchedule, removed_counts
from search_spaces.trainer_version import code_version
from search_spaces.trial import (
    Outputs,
    PruneOutput,
    TrainedMask,
    TrialSpec,
)
from workers.engine import Engine
from workers.tokens import TokenSplit, token_splits
from workers.trial import TrialRunner

REFERENCE = "reference script"
GOAL = Goal("cpu_s", 10.0, REFERENCE)
CONFIDENCE, DELTA = 0.90, 0.01  # method rule 23


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        task: The real one or a small one.
        num_examples: Training examples.
        num_prunes: Each removes a tenth of all prunable weights; one round more is trained.
        num_steps: Optimizer steps of each round.
        num_seeds: Lineages, one a seed.
        dropout: Of both.
        batch_size: Of training.
    """

    task: Literal["docstrings", "made-up"]
    num_examples: int
    num_prunes: int
    num_steps: int
    num_seeds: int
    dropout: float = 0.1
    batch_size: int = 32


FULL = Size("docstrings", 3000, num_prunes=9, num_steps=24, num_seeds=3)
QUICK = Size("docstrings", 3000, num_prunes=1, num_steps=10, num_seeds=1)
SMOKE = Size("made-up", 64, num_prunes=2, num_steps=2, num_seeds=1, dropout=0.0, batch_size=8)


@dataclass(frozen=True)
class Round:
    """What one round of a lineage came to: score on the report split, last loss, seconds."""

    score: float
    loss: float
    phases: Mapping[str, float] = field(default_factory=dict)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure one lineage a seed, all on one task."""
    size = SMOKE if smoke else QUICK if quick else FULL
    with single_rank():
        samples = measure(size)
        common = common_settings(
            f"task {size.task}, {size.num_examples} examples", size.batch_size, size.dropout
        )
    goals = () if smoke or quick else (GOAL,)
    costs = without(samples, *(name for name in samples[OURS][0] if "_round_" in name))
    facts = (*score_facts(samples), phase_fact(samples[OURS]))
    return Report(
        variants={
            REFERENCE: "BERT-Tickets' rounds, written anew from their description: every step "
            "padded to 128, masks by torch.nn.utils.prune, AdamW(foreach=False); then accuracy on "
            "the report split, torch.save of model and masks, prune.global_unstructured, rewind",
            OURS: "TrialRunner of `workers/trial.py`, one trial after the other in a warm process: "
            "read the mask file, rewind, proofs, training, all metrics on the select and report "
            "splits, pruning, a durable mask file. No Ray, no MLflow",
        },
        settings={
            "engine": "ours: DeepSpeed on 1 rank; peer: PyTorch",
            "sampler": "random; both get the same batches, and the same fresh head each round",
            **common,
            "model": BERT_TINY.name,
            "schedule": f"{size.num_prunes + 1} rounds, from sparsity 0 to "
            f"{size.num_prunes / 10:g}, of {size.num_steps} steps each: shorter than a real "
            "search's, so that this ends in minutes; the fixed work of a round weighs the more",
            "counted": "all of the rounds; not the start of Python, reading the data and "
            "tokenising, which both have done before",
            "ranks": "1",
            "rounds": f"{size.num_seeds} lineages, one a seed, after a short trial to warm up",
        },
        cases=(Case(f"{BERT_TINY.name}, task {size.task}", costs, facts, goals),),
    )


def score_facts(samples: Mapping[str, Sequence[Sample]]) -> tuple[str, ...]:
    """Return how far the scores differ, paired over seeds."""
    rounds = [name for name in samples[OURS][0] if name.startswith("score_round_")]
    return tuple(
        _difference(samples, chosen, what)
        for chosen, what in (
            (rounds, "mean of all rounds"),
            (rounds[len(rounds) // 2 :][:1], f"round {len(rounds) // 2}"),
            (rounds[-1:], "last round"),
        )
    )


def phase_fact(lineages: Sequence[Sample]) -> str:
    """Return the share of each phase of our trials, over all lineages."""
    names = [name for name in lineages[0] if name.startswith("s_round_")]
    seconds = {n: sum(sample[n] for sample in lineages) for n in names}
    total = sum(seconds.values())
    shown = (f"{n.removeprefix('s_round_')} {own / total:.0%}" for n, own in seconds.items())
    return f"Phases of our trials, share of wall time: {', '.join(shown)}."


def _difference(samples: Mapping[str, Sequence[Sample]], names: list[str], what: str) -> str:
    means = {
        variant: [sum(sample[name] for name in names) / len(names) for sample in lineages]
        for variant, lineages in samples.items()
    }
    pairs = list(zip(means[OURS], means[REFERENCE], strict=True))
    differences = [own - theirs for own, theirs in pairs]
    shown = ", ".join(f"{own:.4f} - {theirs:.4f}" for own, theirs in pairs)
    text = f"Accuracy of ours - reference, {what}, by seed: {shown}"
    if len(differences) < MIN_T_INTERVAL:
        return f"{text}; too few seeds for an interval."
    low, high = t_interval(differences, CONFIDENCE)
    verdict = "inside" if low > -DELTA and high < DELTA else "not inside"
    return f"{text}; {CONFIDENCE:.0%} interval {low:+.4f} to {high:+.4f}, {verdict} ±{DELTA:g}."


def measure(size: Size) -> dict[str, list[Sample]]:
    """Return the seconds of each lineage, and each round's score and loss, by variant."""
    facts = resolve_model(ModelSpecYaml(name=BERT_TINY.name, source=BERT_TINY.source))
    with tempfile.TemporaryDirectory() as folder:
        lineages = Lineages(size, facts, Path(folder))
        lineages.warm_up()
        variants = {REFERENCE: lineages.reference, OURS: lineages.ours}
        return interleave(
            {name: partial(_sample, work) for name, work in variants.items()},
            size.num_seeds,
            num_warmups=0,
        )


def _sample(lineage: Callable[[int], list[Round]], number: int) -> Sample:
    rounds, seconds = timed(partial(lineage, number + 1))
    scores = {f"score_round_{k}": found.score for k, found in enumerate(rounds)}
    losses = {f"loss_round_{k}": found.loss for k, found in enumerate(rounds)}
    phases = {
        f"s_round_{name}": sum(found.phases[name] for found in rounds) for name in rounds[0].phases
    }
    return {**seconds, **scores, **losses, **phases}


class Lineages:
    """Both ways to search one lineage a seed, on one model and task."""

    def __init__(self, size: Size, facts: ModelFacts, folder: Path) -> None:
        self._size, self._facts, self._folder = size, facts, folder
        self._task = _task(size, folder)
        schedule = LinearSchedule(step=0.1, rounds=size.num_prunes, rounding="torch")
        self._counts = removed_counts(schedule, facts.prunable.num_weights)
        self._runner = TrialRunner()

    def warm_up(self) -> None:
        """Tokenise, and run a short dense trial, so that our engine is there."""
        self._runner(self._request(self._spec(0, None, num_steps=1), Outputs()), SilentReporter())

    def ours(self, seed: int) -> list[Round]:
        """Return the rounds of a lineage, each of them a trial."""
        rounds: list[Round] = []
        mask: TrainedMask | None = None
        file: ArtifactRef | None = None
        for count in (*self._counts, None):
            prunes = [PruneOutput(pruner="global-magnitude", num_removed=count)] if count else []
            spec = self._spec(seed, mask)
            request = self._request(spec, Outputs(prunes=tuple(prunes)), file)
            result = self._runner(request, SilentReporter())
            rounds.append(_round_of(result))
            if count:
                mask = TrainedMask(parent=spec.key, num_removed=count)
                made = result.artifacts[prunes[0].artifact]
                file = ArtifactRef(uri=f"{request.attempt_uri}/{made.name}", sha256=made.sha256)
        return rounds

    def reference(self, seed: int) -> list[Round]:
        """Return the rounds of the reference script's loop."""
        spec, splits = self._spec(seed, None), self._splits()
        engine = Engine(self._request(spec, Outputs()))  # for the weights that both start from
        engine.rewind(spec, None, None, splits["train"].words(engine.num_words))
        plain = PlainLineage(engine.classifier, self._facts.prunable, spec, splits, self._folder)
        engine.destroy()
        return [Round(score, loss) for score, loss in plain.rounds(self._counts)]

    def _splits(self) -> dict[str, TokenSplit]:
        model, folder = self._facts.identity, Path(self._facts.place.folder)
        cache = self._folder / "cache"
        return token_splits(model, folder, self._task.identity, self._task.place, cache)

    def _spec(self, seed: int, mask: TrainedMask | None, num_steps: int | None = None) -> TrialSpec:
        size = self._size
        recipe = Recipe(
            train_steps=num_steps or size.num_steps,
            lr_horizon_steps=num_steps or size.num_steps,
            batch_size=size.batch_size,
            learning_rate=5e-4,
            hidden_dropout=size.dropout,
            attention_dropout=size.dropout,
        )
        return TrialSpec(
            model=self._facts.identity,
            task=self._task.identity,
            recipe=recipe,
            seed=seed,
            mask=mask,
            code_version=code_version(self._facts.identity, self._task.identity, recipe),
        )

    def _request(
        self, spec: TrialSpec, outputs: Outputs, mask_file: ArtifactRef | None = None
    ) -> TrialRequest:
        return TrialRequest(
            spec=spec,
            label="benchmark",
            attempt="a001",
            attempt_uri=attempt_folder(str(self._folder / "store"), spec.key, "a001"),
            outputs=outputs,
            model=self._facts.place,
            task=self._task.place,
            mask_file=mask_file,
            cache_folder=str(self._folder / "cache"),
            compute=Compute(),
        )


def _task(size: Size, folder: Path) -> TaskFacts:
    if size.task == "docstrings":
        return docstrings_task(size.num_examples)
    return made_up_task(folder / "data", size.num_examples)


def _round_of(result: TrialResult) -> Round:
    phases = {name: s for name, s in result.seconds.items() if name != "total"}
    return Round(result.primary("report"), result.losses[-1][1], phases)
