"""A sweep without faults, and the command in this process that refuses those with one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from tests.search_spaces.makers import write_model

Sweep = dict[str, Any]


def good_sweep(root: Path) -> Sweep:
    """Return a sweep without faults, after writing its model and data."""
    write_model(root / "model")
    rows = [{"text": f"sentence {i}", "label": "ab"[i % 2], "score": i / 4} for i in range(40)]
    for name, some in (("train", rows), ("dev", rows[:20])):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    source = {"kind": "files", "train": f"{root}/train.jsonl", "report": f"{root}/dev.jsonl"}
    return {
        "name": "toy",
        "models": [{"name": "tiny", "source": f"{root}/model"}],
        "tasks": [{"name": "toy", "source": source}],
        "seeds": [1, 2, 3],
        "schedule": {"kind": "levels", "levels": [0.5]},
        "recipe": {"epochs": 1, "learning_rate": 1e-3},
        "store": f"{root}/store",
        "tracking": {"uri": f"sqlite:///{root}/mlflow.db"},
        "cache": f"{root}/cache",
    }


class Tickets:
    """Runs the command in this process: what it raises beyond SystemExit is a traceback."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self._capture = root, capture

    def write(self, sweep: Sweep) -> str:
        path = self.root / "sweep.yaml"
        path.write_text(yaml.safe_dump(sweep))
        return str(path)

    def __call__(self, *arguments: str) -> tuple[int | str | None, str]:
        """Return exit code and all that was printed."""
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["tickets", *arguments])
            main()
        said = self._capture.readouterr()
        return ended.value.code, said.out + said.err

    def refused(self, *arguments: str) -> str:
        """Return the message of a command that must end with exit code 2."""
        code, said = self(*arguments)
        assert code == 2, said
        assert "Traceback" not in said
        return said
