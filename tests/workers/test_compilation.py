"""Nothing of DeepSpeed's is compiled on a CPU (the pinned version's private table is used)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONNECT = """
import deepspeed.ops, torch
assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__, "the table has another form now"
from workers.ranks import RankEnv, connect, disconnect
import socket
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
connect(RankEnv(master_port=port))
import deepspeed.comm
deepspeed.comm.all_reduce(torch.ones(3))
disconnect()
print("connected")
"""


def test_joining_a_gang_compiles_nothing(tmp_path: Path) -> None:
    """DeepSpeed's shared-memory op is never built: its folder of extensions stays empty."""
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
