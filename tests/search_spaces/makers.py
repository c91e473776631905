"""Small hand-made models, tasks, sweeps and their trials for the tests of search_spaces."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from search_spaces.contracts import ModelPlace, TaskPlace
from search_spaces.errors import SpecError
from search_spaces.expand import expand
from search_spaces.models import ModelFacts
from search_spaces.prunable import backbone_names, prunable_names, prunable_set
from search_spaces.resolve import TaskFacts, resolve_sweep
from search_spaces.sweep import SweepSpec
from search_spaces.trial import ModelIdentity, TaskIdentity, Trial

HIDDEN, INNER, NUM_LAYERS = 4, 8, 2
NUM_PRUNABLE = NUM_LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)  # 256

MINIMAL: dict[str, Any] = {
    "name": "small",
    "models": [{"name": "tiny", "source": "package:cognition/model"}],
    "tasks": [{"name": "rte", "source": {"kind": "glue-hub", "task": "rte"}}],
    "seeds": [1, 2, 3],
    "schedule": {"kind": "levels", "levels": [0.5, 0.75]},
    "recipe": {"epochs": 2, "learning_rate": 1e-4},
}
SHORTER = {"epochs": 1}  # makes the search recipe differ from the final one


def sweep(**changes: Any) -> SweepSpec:
    """Return the minimal sweep with some fields changed."""
    return SweepSpec.model_validate({**MINIMAL, **changes})


def data_folder() -> Path:
    """Return the folder with real data sets, or skip the test."""
    folder = Path(os.environ.get("TICKETS_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets in {folder}; set TICKETS_DATA to their folder")
    return folder


def matrices(num_layers: int = NUM_LAYERS, pooler: bool = False) -> dict[str, tuple[int, ...]]:
    """Return canonical names and shapes of the prunable matrices of a toy encoder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in prunable_names(num_layers, pooler):
        out = INNER if "intermediate" in name else HIDDEN
        inner = (
            INNER if name.endswith("output.dense.weight") and "attention" not in name else HIDDEN
        )
        shapes[name] = (out, inner)
    return shapes


def toy_tensors(
    prefix: str = "bert.", pooler: bool = False, seed: int = 0
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return a toy checkpoint: a whole backbone, without a pooler's bias."""
    shapes: dict[str, tuple[int, ...]] = matrices(pooler=pooler)
    for name in backbone_names(NUM_LAYERS, projects_embeddings=False) - shapes.keys():
        width = INNER if name.endswith("intermediate.dense.bias") else HIDDEN
        shapes[name] = (11, width) if "_embeddings." in name else (width,)
    random = np.random.default_rng(seed)
    return {
        prefix + name: random.standard_normal(shapes[name]).astype(np.float32)
        for name in sorted(shapes)
    }


def write_model(
    folder: Path,
    tensors: Mapping[str, Any] | None = None,
    tokenizer: str = "{}",
    **config: Any,
) -> Path:
    """Write a toy model's files into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(toy_tensors() if tensors is None else tensors), folder / "model.safetensors")
    base = {"model_type": "bert", "num_hidden_layers": NUM_LAYERS, "hidden_size": HIDDEN}
    (folder / "config.json").write_text(json.dumps({**base, **config}))
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def model_facts(name: str = "m") -> ModelFacts:
    """Return facts of a model that has no files."""
    identity = ModelIdentity(
        family="bert",
        theta0_sha256=name * 64,
        config_sha256="c" * 64,
        tokenizer_sha256="t" * 64,
        prunable_sha256="p" * 64,
        num_prunable=1000,
    )
    prunable = prunable_set(matrices(), NUM_LAYERS, with_pooler=False)
    return ModelFacts(identity, ModelPlace(folder="/nowhere"), prunable, {})


def task_facts(name: str = "rte", num_train: int = 100) -> TaskFacts:
    """Return facts of a task that has no files."""
    identity = TaskIdentity(
        problem="classification",
        num_labels=2,
        metric="accuracy",
        data_sha256=name.encode().hex().ljust(64, "0"),
        select_sha256="5" * 64,
        num_train_examples=num_train,
        max_length=128,
    )
    place = TaskPlace(name=name, source={}, select={})
    return TaskFacts(identity, place, num_train, 10, 20, 50.0)


def trials_of(**changes: Any) -> list[Trial]:
    """Return the trials of the minimal sweep with some fields changed."""
    spec = sweep(**changes)
    models = {model.name: model_facts(model.name[0]) for model in spec.models}
    tasks = {task.name: task_facts(task.name) for task in spec.tasks}
    return expand(spec, models, tasks)


def sweep_of(model: Path, source: dict[str, Any], max_length: int = 20, **more: Any) -> SweepSpec:
    """Return a sweep of one model and one task."""
    task = {"name": "own", "source": source, "max_length": max_length}
    models = [{"name": "tiny", "source": str(model)}]
    return SweepSpec.model_validate({**MINIMAL, "models": models, "tasks": [task], **more})


def faults_of(model: Path, source: dict[str, Any], max_length: int = 20) -> list[str]:
    """Return what is said of a source that is refused when the sweep is planned."""
    with pytest.raises(SpecError) as error:
        resolve_sweep(sweep_of(model, source, max_length))
    return [str(fault) for fault in error.value.faults]
