"""From one trial to the next one's first step: a process for each trial, and a warm engine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.fresh_trial import prepare
from benchmarks.machine import ROOT
from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave, timed, without
from benchmarks.models import BERT_TINY, MINILM, Model, installed_models
from benchmarks.profiles import functions
from benchmarks.tasks import made_up_task
from benchmarks.workload import LAST_STEP, common_settings, single_rank
from search_spaces.contracts import ArtifactRef, Compute, TrialRequest
from search_spaces.models import ModelSpecYaml, resolve_model
from search_spaces.recipes import Recipe
from search_spaces.trial import TRAINING_CODE_VERSION, Outputs, TrainedMask, TrialSpec
from workers.artifacts import write_artifact
from workers.engine import Engines
from workers.mask_file import write_mask
from workers.pruners import random_uniform

FRESH = "process for each trial"
SPARSITY, BATCH_SIZE = 0.5, 32
GOALS = (Goal("wall_s", 50.0, FRESH), Goal("wall_s", 0.100))


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    models: tuple[Model, ...]
    num_rounds: int
    num_examples: int = 3000


SMOKE = Size((BERT_TINY,), num_rounds=1, num_examples=64)


def full_size(quick: bool) -> Size:
    """Return the size of a real run."""
    return Size(installed_models()[-1:] if quick else installed_models(), 1 if quick else 3)


def run(smoke: bool, quick: bool = False) -> Report:
    """Measure the way from a request to the first step."""
    size = SMOKE if smoke else full_size(quick)
    with single_rank():
        cases = tuple(_case(model, size, is_judged=not smoke) for model in size.models)
        common = common_settings("", BATCH_SIZE, 0.1)
    del common["sentences"], common["dropout"]
    return Report(
        variants={
            FRESH: "a new Python for each trial: start, imports, process group, DeepSpeed's "
            "engine, and then the same as ours; until just before the first forward pass, the "
            "process's end not counted",
            OURS: "a warm process: open the tokens, read the mask file, rewind, prove that every "
            "tensor equals theta_0 under the mask, make the first batch. Evaluation, pruning and "
            "publishing of the trial before belong to that trial",
        },
        settings={
            "engine": "DeepSpeed on 1 rank, both",
            "sampler": "random",
            "task": f"{size.num_examples} made-up sentences, tokenised before",
            "trials": f"sparsity {SPARSITY:g}, a mask file and a seed of its own in each round",
            **common,
            "ranks": "1",
            "rounds": f"{size.num_rounds} after 2 trials of ours as a warm-up",
        },
        cases=cases,
    )


def _case(model: Model, size: Size, is_judged: bool) -> Case:
    samples = measure(model, size)
    proved = samples[OURS][0]["num_proved"]
    facts = (
        f"{proved:g} tensors proved to start from theta_0 under the mask, in every round.",
        *((_profile(model, size),) if is_judged else ()),
    )
    goals = GOALS if is_judged and model == MINILM else ()
    return Case(model.name, without(samples, "num_proved"), facts, goals)


def measure(model: Model, size: Size) -> dict[str, list[Sample]]:
    """Return the seconds of each round, by variant."""
    with tempfile.TemporaryDirectory() as folder:
        requests = _requests(model, size, Path(folder))
        engines = Engines()
        for number in (0, 1):  # the second has an engine that is warm
            prepare(engines, requests(number))
        variants: dict[str, Callable[[int], Sample]] = {
            FRESH: partial(_fresh, requests, Path(folder)),
            OURS: partial(_warm, requests, engines),
        }
        return interleave(variants, size.num_rounds, num_warmups=0)


def _profile(model: Model, size: Size) -> str:
    with tempfile.TemporaryDirectory() as folder:
        requests, engines = _requests(model, size, Path(folder)), Engines()
        for number in range(2):
            prepare(engines, requests(number))
        return functions(partial(prepare, engines, requests(2)))


def _warm(requests: Callable[[int], TrialRequest], engines: Engines, number: int) -> Sample:
    num_proved, seconds = timed(partial(prepare, engines, requests(number)))
    return {**seconds, "num_proved": num_proved}


def _fresh(requests: Callable[[int], TrialRequest], folder: Path, number: int) -> Sample:
    path = folder / "request.json"
    path.write_text(requests(number).model_dump_json())
    start_s = time.perf_counter()  # CLOCK_MONOTONIC: the same for all processes
    command = [sys.executable, "-m", "benchmarks.fresh_trial", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ready = json.loads(done.stdout.splitlines()[-1])
    return {
        "cpu_s": ready["cpu_s"],
        "wall_s": ready["at_s"] - start_s,
        "num_proved": ready["num_proved"],
    }


def _requests(model: Model, size: Size, folder: Path) -> Callable[[int], TrialRequest]:
    """Return what makes the request of a round's trial, and its mask file."""
    facts = resolve_model(ModelSpecYaml(name=model.name, source=model.source))
    task = made_up_task(folder / "data", size.num_examples)
    num_removed = round(facts.prunable.num_weights * SPARSITY)

    def request(number: int) -> TrialRequest:
        mask = random_uniform(facts.prunable, num_removed, seed=number)
        file = write_artifact(str(folder / "store"), f"mask-{number}.arrow", write_mask(mask, {}))
        spec = TrialSpec(
            model=facts.identity,
            task=task.identity,
            recipe=Recipe(
                train_steps=100,
                lr_horizon_steps=LAST_STEP,
                batch_size=BATCH_SIZE,
                learning_rate=2e-5,
            ),
            seed=number,
            mask=TrainedMask(parent="0" * 64, num_removed=num_removed),
            code_version=TRAINING_CODE_VERSION,
        )
        return TrialRequest(
            spec=spec,
            label="benchmark",
            attempt="benchmark",
            attempt_uri=str(folder / "store"),
            outputs=Outputs(),
            model=facts.place,
            task=task.place,
            mask_file=ArtifactRef(uri=str(folder / "store" / file.name), sha256=file.sha256),
            cache_folder=str(folder / "cache"),
            compute=Compute(),
        )

    return request
