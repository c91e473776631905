"""The paper's whole study without a hub: its sweeps, expanded from published sizes, and its times.

Step times are modelled for an H200 in bf16, without padding (`orchestrator/step_model.py`), not
measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.costs import FLOP_PER_WEIGHT_AND_TOKEN
from orchestrator.step_model import StepWork, modelled_s
from search_spaces.contracts import Compute, ModelPlace, TaskPlace
from search_spaces.expand import expand
from search_spaces.loading import load_sweep
from search_spaces.models import ModelFacts
from search_spaces.prunable import PrunableSet, prunable_names
from search_spaces.task_facts import TaskFacts
from search_spaces.task_specs import TaskSpec
from search_spaces.tasks import primary_metric, problem_of
from search_spaces.trial import ModelIdentity, Role, TaskIdentity, Trial, TrialSpec

EXAMPLES = Path(__file__).parents[1] / "examples"
# Training examples; for SQuAD the windows and for MLM the blocks that its steps run over.
NUM_TRAIN = {
    "mnli": 392_702,
    "qqp": 363_846,
    "stsb": 5_749,
    "wnli": 635,
    "qnli": 104_743,
    "mrpc": 3_668,
    "rte": 2_490,
    "sst2": 67_349,
    "cola": 8_551,
    "squad": 88_524,
    "mlm": 230_000,
}
SHAPES = {"bert-base": (12, 768), "bert-large": (24, 1024)}  # layers, width
# Mean tokens of an example without padding; SST-2's and MNLI's were counted, others are guesses.
TOKENS = {
    "mnli": 38.7,
    "qqp": 30,
    "stsb": 31,
    "wnli": 37,
    "qnli": 50,
    "mrpc": 53,
    "rte": 70,
    "sst2": 13.3,
    "cola": 14,
    "squad": 170,
    "mlm": 512,
}
# Table 2's highest sparsity of each task: of all levels, the paper prints runs at this one.
PRINTED = {
    "mnli": 0.7,
    "qqp": 0.9,
    "stsb": 0.5,
    "wnli": 0.9,
    "qnli": 0.7,
    "mrpc": 0.5,
    "rte": 0.6,
    "sst2": 0.6,
    "cola": 0.5,
    "squad": 0.4,
    "mlm": 0.7,
}
FIGURE_SPARSITY, NUM_FIGURE_SEEDS = 0.7, 3
NUM_EMBEDDED = 30_522 + 512 + 2  # words, positions and segments of the uncased vocabulary


def model_facts(name: str) -> ModelFacts:
    """Return a published BERT's prunable set, its pooler included."""
    layers, width = SHAPES[name]
    names = prunable_names(layers, with_pooler=True)
    widths = {
        "intermediate.dense.weight": (4 * width, width),
        "output.dense.weight": (width, 4 * width),
    }
    shapes = tuple(
        next(
            (
                shape
                for end, shape in widths.items()
                if one.endswith(end) and "attention" not in one
            ),
            (width, width),
        )
        for one in names
    )
    prunable = PrunableSet(names=names, shapes=shapes)
    identity = ModelIdentity(
        family="bert",
        theta0_sha256=name,
        config_sha256=name,
        tokenizer_sha256="uncased",
        prunable_sha256=prunable.sha256,
        num_prunable=prunable.num_weights,
    )
    return ModelFacts(identity, ModelPlace(folder="/nowhere"), prunable, {})


def task_facts(task: TaskSpec) -> TaskFacts:
    """Return a task of its published size."""
    identity = TaskIdentity(
        problem=problem_of(task.source),
        num_labels=2,
        metric=primary_metric(task.source),
        data_sha256=task.name,
        select_sha256="report",
        num_train_examples=NUM_TRAIN[task.name],
        max_length=task.max_length,
    )
    place = TaskPlace(name=task.name, source={}, select={})
    return TaskFacts(identity, place, NUM_TRAIN[task.name], 1000, 1000, 100.0)


def trials_of(model: str, names: Iterable[str] = ("table2", "figure2")) -> list[Trial]:
    """Return one model's trials of the example sweeps, each once."""
    found: dict[str, Trial] = {}
    for name in names:
        spec = load_sweep(EXAMPLES / f"chen2020-{name}.yaml")
        models = {one.name: model_facts(one.name) for one in spec.models}
        trials = expand(spec, models, {task.name: task_facts(task) for task in spec.tasks})
        own = (trial for trial in trials if trial.main_role.model == model)
        found |= {trial.key: trial for trial in own}
    return list(found.values())


def printed(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials behind the numbers that the paper prints, and the searches before them.

    Controls have no errors in Table 2; one run each is assumed. Figure 2's diagonal is three runs
    of each task's own ticket at 70%.
    """
    return [trial for trial in trials if any(_is_printed(role) for role in trial.roles)]


def _is_printed(role: Role) -> bool:
    if role.kind in ("dense", "round", "transfer"):
        return True
    is_level = abs(role.sparsity - PRINTED[role.task]) < 0.01
    if role.kind == "control":
        return is_level and role.seed == 1
    is_figure = abs(role.sparsity - FIGURE_SPARSITY) < 0.01 and role.seed <= NUM_FIGURE_SEEDS
    return is_level or is_figure


def step_s(spec: TrialSpec, num_gpus: int = 1) -> float:
    """Return the modelled seconds of one step, data-parallel over some GPUs of one node.

    As `orchestrator.step_model` says, with the attention's arithmetic and the embeddings, which
    no mask covers, counted too.

    Args:
        spec: The trial.
        num_gpus: GPUs of its gang.
    """
    layers, width = SHAPES[spec.model.theta0_sha256]
    length = TOKENS[spec.task.data_sha256]
    dense = FLOP_PER_WEIGHT_AND_TOKEN * spec.model.num_prunable
    flop = (dense + 12 * length * width * layers) * length
    num_survivors = spec.model.num_prunable - spec.num_removed
    work = StepWork(
        flop=spec.recipe.batch_size * flop,
        num_moving=num_survivors + NUM_EMBEDDED * width,
        num_survivors=num_survivors if spec.num_removed else 0,
        dtype="bf16",
    )
    return modelled_s(work, Compute(num_ranks=num_gpus, num_gpus_per_rank=1))
