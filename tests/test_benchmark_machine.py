"""Whose CPU seconds a benchmark counts as its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BURNT_S = 0.4  # a starved machine takes seconds for it, and orphans are waited for 10 s
# A benchmark, whose child starts a server and ends before it.
SCRIPT = f"""
import os, subprocess, sys
from benchmarks.machine import Machine, adopt_orphans

server = "import time\\nwhile time.process_time() < {BURNT_S}: pass"
child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {{server!r}}])"
if sys.argv[1] == "adopts":
    adopt_orphans()
machine = Machine()
subprocess.run([sys.executable, "-c", child], check=True)
machine.others_cpus()
times = os.times()
print(times.children_user + times.children_system)
"""


def children_s(how: str) -> float:
    """Return the CPU seconds of finished children that a benchmark knows of."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return float(done.stdout)


def test_a_server_that_outlives_its_starter_counts_as_ours() -> None:
    """Without being adopted it would count as a stranger on a busy machine."""
    assert children_s("adopts") >= BURNT_S > children_s("does not")
