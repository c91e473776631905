"""What is measured on a GPU runs on a CPU too, compares equal work, and says what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
WITHOUT = "import sys; sys.modules['ray'] = sys.modules['mlflow'] = None; "


def started(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process in which Ray and MLflow cannot be imported."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def test_the_measurements_run_on_a_cpu_without_ray_and_mlflow(tmp_path: Path) -> None:
    """Each model is measured on both tasks with and without dropout, then pruned; one JSON."""
    out = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--smoke", "--tests-exit-code", "0", "--out", str(out)]
    done = started(f"from benchmarks.gpu import main; main({arguments!r})")
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["is_complete"] and report["tests_exit_code"] == 0
    cases = [(case["lengths"], case["attention_dropout"]) for case in report["steps"]]
    tasks = ("SST-2-like", "MNLI-like")
    assert cases == [(task, dropout) for task in tasks for dropout in (0.1, 0.0)]
    for case in report["steps"]:
        assert len(case["times_ours"]) == 2 and min(case["times_ours"].values()) > 0
    (pruning,) = report["pruning"]
    assert pruning["num_prunable"] == 2 * (4 * 64 * 64 + 2 * 64 * 128) + 64 * 64
    assert pruning["mask_bytes"] > pruning["num_prunable"] / 8


def test_all_variants_of_the_step_train_the_same_model(tmp_path: Path) -> None:
    """Without dropout the last losses agree as far as bf16 does."""
    code = (
        "import json, pathlib; from benchmarks import gpu\n"
        "with gpu.one_rank('cpu'):\n"
        f"    world = gpu.open_world(gpu.SMOKE, pathlib.Path({str(tmp_path)!r}))\n"
        "    found = gpu.measure_steps(world, 'SST-2-like', 0.0, 0.0)['variants']\n"
        "print(json.dumps({name: one['last_loss'] for name, one in found.items()}))"
    )
    done = started(code)
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout.splitlines()[-1])
    assert len(losses) == 3
    assert max(losses.values()) - min(losses.values()) < 5e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_machine_without_gpu_is_refused(tmp_path: Path) -> None:
    """One sentence, and no file."""
    done = started(f"from benchmarks.gpu import main; main(['--out', {str(tmp_path / 'x')!r}])")
    assert done.returncode == 2
    assert "torch finds no CUDA device" in done.stderr
    assert not (tmp_path / "x").exists()


def test_what_is_missing_is_named_before_anything_runs(tmp_path: Path) -> None:
    """A Python without deepspeed gets its name and how to bring it along."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    bare.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "gpu.json")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHON": str(bare)},
    )
    assert done.returncode == 1
    for words in ("lacks torch", "deepspeed", "constraints.txt", "--no-index --no-deps"):
        assert words in done.stderr
    assert not (tmp_path / "gpu.json").exists()
