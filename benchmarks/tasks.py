"""Tasks for benchmarks that run whole trials: one that is made up, and the embedded real one."""

from __future__ import annotations

import json
import random
from pathlib import Path

from search_spaces.resolve import TaskFacts, resolve_task
from search_spaces.splits import HashSelect
from search_spaces.task_specs import TaskSpec
from search_spaces.tasks import BuiltinSource, FilesSource

WORDS = ("the", "a", "good", "bad", "fine", "poor", "film", "plot", "cast", "is", "was", "not")
LABELS = ("neg", "pos")


def made_up_task(folder: Path, num_examples: int) -> TaskFacts:
    """Write two-class sentences of a few words: whether 'good' or 'fine' occurs.

    Args:
        folder: For the files; made if it is not there.
        num_examples: Sentences of the training file; there are half as many to report on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    for name, num in (("train", num_examples), ("report", num_examples // 2)):
        lines = [_line(chance) for _ in range(num)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    source = FilesSource(
        train=str(folder / "train.jsonl"),
        report=str(folder / "report.jsonl"),
        text="text",
        label="label",
        problem="classification",
    )
    return resolve_task(TaskSpec(name="made-up", source=source, max_length=64), HashSelect())


def _line(chance: random.Random) -> str:
    words = chance.choices(WORDS, k=chance.randint(3, 25))
    label = LABELS[bool({"good", "fine"} & set(words))]
    return json.dumps({"text": " ".join(words), "label": label})


def docstrings_task(num_examples: int) -> TaskFacts:
    """Return the real task of examples/quickstart.yaml, which needs no download."""
    source = BuiltinSource(name="docstrings")
    spec = TaskSpec(name="docstrings", source=source, train_examples=num_examples, max_length=64)
    return resolve_task(spec, HashSelect())
