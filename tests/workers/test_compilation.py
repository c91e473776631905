"""What joining a gang leaves out: DeepSpeed's compilation (by a private table), and MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONNECT = """
import socket, sys
from workers.ranks import RankEnv, connect, disconnect
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
connect(RankEnv(master_port=port))
import deepspeed.comm, deepspeed.ops, torch, workers.trial
assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__, "the table has another form now"
assert "mlflow" not in sys.modules, "each rank loads the tracking client, and never uses it"
import mlflow
mlflow.MlflowClient  # it can be loaded still
deepspeed.comm.all_reduce(torch.ones(3))
disconnect()
print("connected")
"""


def test_joining_a_gang_compiles_nothing_and_loads_no_tracking(tmp_path: Path) -> None:
    """DeepSpeed's shared-memory op is not built, and its autotuning finds no MLflow."""
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    done = subprocess.run(
        [sys.executable, "-c", CONNECT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.endswith("connected\n"), done.stderr
    assert not (tmp_path / "extensions").exists()
