"""What a trial costs: measured from results where there are any, else by a FLOP model.

The model counts 6 FLOP for each prunable weight and token (forward and backward), the attention
left out: it adds 3% at 128 tokens for BERT-base. Embeddings and heads are looked up or tiny.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.step_model import StepWork, modelled_s
from search_spaces.contracts import Compute, TrialResult
from search_spaces.trial import Trial, TrialSpec

FLOP_PER_WEIGHT_AND_TOKEN = 6  # Kaplan et al. 2020, arXiv 2001.08361, section 2.1
TYPICAL_FILL = 0.3  # real tokens / max_length; MNLI-like lengths at 128 tokens, SST-2 has 0.1
FILLS = {"masked-lm": 1.0, "span": 0.5}  # blocks are full; of windows a guess
OVERHEAD_S = 5.0  # load, evaluate and prune, where nothing was measured; a guess
_ONE_THREAD = Compute()
_OTHER_SIZES = (1, 2, 4, 8, 16)  # of gangs, that a trial's own size is scaled from
MODELLED = "modelled from FLOP: nothing measured yet"  # an estimate's basis

ComputeFor = Callable[[Trial], Compute]  # what a trial runs on
SpeedClass = tuple[str, str, int, int, str, str, bool, int, int]


@dataclass(frozen=True)
class Speed:
    """How fast trials of one speed class ran.

    Attributes:
        step_s: Seconds of one optimizer step, median over results.
        overhead_s: Seconds of loading, evaluating and pruning, median over results.
        num_results: Number of results that the medians are over.
    """

    step_s: float
    overhead_s: float
    num_results: int


@dataclass(frozen=True)
class Estimate:
    """What one trial will take.

    Attributes:
        seconds: Wall seconds of the trial.
        basis: What the estimate was made from, for people.
    """

    seconds: float
    basis: str


def step_flops(spec: TrialSpec) -> float:
    """Return the FLOP of one optimizer step at a typical fill."""
    fill = FILLS.get(spec.task.problem, TYPICAL_FILL)
    num_tokens = spec.recipe.batch_size * spec.task.max_length * fill
    return FLOP_PER_WEIGHT_AND_TOKEN * spec.model.num_prunable * num_tokens


def trial_flops(spec: TrialSpec) -> float:
    """Return the FLOP of a whole trial's training."""
    return spec.num_steps * step_flops(spec)


def trial_length(spec: TrialSpec, compute: Compute) -> float:
    """Return the FLOP of each device of a trial's gang: what lasts longer has more.

    A gang counts for as many devices of one rank as, by the model, it is quicker than one rank.
    """
    if compute.num_ranks == 1:
        return trial_flops(spec) / num_devices(compute)
    alone = compute.model_copy(update={"num_ranks": 1})
    share = modelled_step_s(spec, compute) / modelled_step_s(spec, alone)
    return trial_flops(spec) / num_devices(alone) * share


def modelled_step_s(spec: TrialSpec, compute: Compute) -> float:
    """Return the modelled seconds of one optimizer step, its weights the prunable ones."""
    num_moving = spec.model.num_prunable - spec.num_removed
    num_survivors = num_moving if spec.num_removed else 0
    work = StepWork(step_flops(spec), num_moving, num_survivors, spec.recipe.dtype)
    return modelled_s(work, compute)


def modelled_trial_s(spec: TrialSpec, compute: Compute) -> float:
    """Return the modelled seconds of a whole trial."""
    return spec.num_steps * modelled_step_s(spec, compute) + OVERHEAD_S


def measure(results: Iterable[tuple[TrialSpec, TrialResult]]) -> dict[SpeedClass, Speed]:
    """Return the measured speed of every class that the results are of."""
    steps: dict[SpeedClass, list[float]] = defaultdict(list)
    overheads: dict[SpeedClass, list[float]] = defaultdict(list)
    for spec, result in results:
        train_s, total_s = result.seconds.get("train"), result.seconds.get("total")
        if train_s is None or total_s is None:
            continue
        where = _class_of_result(spec, result)
        steps[where].append(train_s / max(1, result.num_steps))
        overheads[where].append(total_s - train_s)
    return {
        where: Speed(
            statistics.median(steps[where]), statistics.median(overheads[where]), len(steps[where])
        )
        for where in steps
    }


def estimate(spec: TrialSpec, compute: Compute, speeds: Mapping[SpeedClass, Speed]) -> Estimate:
    """Return what a trial will take, measured if its speed class is known.

    Where it is known for gangs of another size alone, the model says how much quicker a step is.

    Args:
        spec: The trial.
        compute: What one trial runs on.
        speeds: What `measure` returned.
    """
    speed = speeds.get(speed_class(spec, compute))
    if speed:
        basis = f"measured in {_results(speed)}"
        return Estimate(spec.num_steps * speed.step_s + speed.overhead_s, basis)
    for num_ranks in _OTHER_SIZES if speeds else ():
        other = compute.model_copy(update={"num_ranks": num_ranks})
        if speed := speeds.get(speed_class(spec, other)):
            share = modelled_step_s(spec, compute) / modelled_step_s(spec, other)
            basis = f"scaled from {_results(speed)} on {num_ranks} rank{'s' * (num_ranks > 1)}"
            return Estimate(spec.num_steps * speed.step_s * share + speed.overhead_s, basis)
    return Estimate(modelled_trial_s(spec, compute), MODELLED)


def _results(speed: Speed) -> str:
    return f"{speed.num_results} result{'s' * (speed.num_results > 1)}"


def speed_class(spec: TrialSpec, compute: Compute) -> SpeedClass:
    """Return what decides the seconds of a step, as far as it is known before the run."""
    on_gpu = compute.num_gpus_per_rank > 0
    return (
        *_workload(spec),
        compute.layout,
        on_gpu,
        compute.num_ranks,
        0 if on_gpu else compute.num_threads,
    )


def num_devices(compute: Compute) -> float:
    """Return the GPUs, or on CPU the cores, that a gang occupies."""
    return compute.num_ranks * (compute.num_gpus_per_rank or compute.num_threads)


def any_compute(trial: Trial) -> Compute:
    """Return one thread, for whatever trial: where all gangs are alike, only that counts."""
    return _ONE_THREAD


def device_hours(seconds: float, compute: Compute) -> float:
    """Return the GPU-hours, or on CPU the core-hours, that some seconds of a trial occupy."""
    return seconds * num_devices(compute) / 3600


def _class_of_result(spec: TrialSpec, result: TrialResult) -> SpeedClass:
    numerics = result.numerics
    on_gpu = numerics.device != "cpu"
    num_threads = 0 if on_gpu else numerics.num_threads
    return (*_workload(spec), numerics.layout, on_gpu, numerics.num_ranks, num_threads)


def _workload(spec: TrialSpec) -> tuple[str, str, int, int, str]:
    task, recipe = spec.task, spec.recipe
    model = spec.model.theta0_sha256
    return model, task.data_sha256, recipe.batch_size, task.max_length, recipe.dtype
