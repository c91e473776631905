"""The real command in a process of its own, on sweeps of a tiny model that end in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from search_spaces.contracts import TrialState
from tests.workers.requests import make_model, make_task

PATIENCE_S = 300.0
_CODE = (
    # A shell's background jobs ignore Ctrl-C, and their children do too.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "import sys, orchestrator.cli as c\n"
    "try:\n    c.main()\n"
    "finally:\n    heavy = {'torch', 'ray', 'deepspeed', 'transformers'} & set(sys.modules)\n"
    "    print('HEAVY', sorted(heavy), file=sys.stderr)"
)


def tiny_inputs(root: Path) -> tuple[Path, str]:
    """Write a tiny model and a task's files; return the model, and the task's source as YAML."""
    model, data = make_model(root / "model"), make_task(root / "data", num_train=64)
    return model, (
        f"{{kind: files, train: {data}/train.jsonl, report: {data}/dev.jsonl, "
        "text: text, label: label, problem: classification}"
    )


def start(*arguments: str, cwd: Path, cluster: str | None = None) -> subprocess.Popen[str]:
    """Start a command as the leader of its own process group, as a shell does.

    Args:
        arguments: Of ``tickets``.
        cwd: Current folder, and the home of a local Ray's token.
        cluster: Address of a Ray of this process to use; None = the command starts its own.
    """
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(cwd),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    if cluster:
        environment["RAY_ADDRESS"] = cluster
        names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
        environment |= {name: os.environ[name] for name in names if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def ended(
    process: subprocess.Popen[str], patience_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end; one that does not come is interrupted, its Ray with it."""
    try:
        out, err = process.communicate(timeout=patience_s)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def tickets(
    *arguments: str, cwd: Path, cluster: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return ended(start(*arguments, cwd=cwd, cluster=cluster))


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of a condition."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.02)
    return value


def write_data(root: Path) -> None:
    """Write the model and the task that the sweeps of ``write_sweep`` name."""
    make_model(root / "model")
    make_task(root / "data", num_train=200)


def make_source(data: Path) -> dict[str, Any]:
    """Return the source of a task that ``make_task`` wrote."""
    return {"kind": "files", "train": f"{data}/train.jsonl", "report": f"{data}/dev.jsonl"}


def write_sweep(root: Path, name: str, data: Path, **changes: Any) -> Path:
    """Write a sweep with two seeds of dense, sparsity 0.3 and 0.5, one after the other.

    Args:
        root: Gets sweep file, store and MLflow database, all called ``name``.
        name: Of the sweep.
        data: Where ``write_data`` wrote.
        changes: Fields of the sweep.
    """
    sweep = {
        "name": name,
        "models": [{"name": "tiny", "source": f"{data}/model"}],
        "tasks": [{"name": "toy", "source": make_source(data / "data"), "max_length": 24}],
        "seeds": [1, 2],
        "schedule": {"kind": "levels", "levels": [0.3, 0.5]},
        "recipe": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "verdict": {"rule": "strict"},
        "resources": {"gangs": 1},
        "store": f"{root}/{name}-store",
        "tracking": {"uri": f"sqlite:///{root}/{name}.db", "experiment": name},
        "cache": f"{root}/cache",
        **changes,
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def states(sweep: Path) -> dict[str, tuple[TrialState, int, str]]:
    """Return state, attempts and message of every trial by key, as ``tickets status`` has them."""
    done = tickets("status", str(sweep), "--json", cwd=sweep.parent)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["trials"]
    return {r["key"]: (TrialState(r["state"]), r["attempts"], r["message"]) for r in rows}
