"""Which processes a benchmark counts as strangers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BURNT_S = 0.4
# A benchmark, whose child starts a server and ends before it: is that one a stranger?
ADOPTING = """
import subprocess, sys
import psutil
from benchmarks.machine import adopt_orphans, strangers

child = (
    "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'],"
    " stdin=sys.stdin, stdout=subprocess.DEVNULL).pid)"
)
if sys.argv[1] == "adopts":
    adopt_orphans()
done = subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, check=True)
server = psutil.Process(int(done.stdout))
print(server in set(strangers()))
"""
WATCHING = """
import time
from benchmarks.machine import Machine

machine, since = Machine(), time.perf_counter()
print("watches", flush=True)
input()
print(machine.others_cpus() * (time.perf_counter() - since))
"""
BURNING = f"import time\nwhile time.process_time() < {BURNT_S}: pass"


@pytest.mark.parametrize(("how", "is_stranger"), [("adopts", False), ("does not", True)])
def test_a_server_that_outlives_its_starter_is_ours(how: str, is_stranger: bool) -> None:
    """Not adopted, Ray's processes would make every machine a busy one."""
    with subprocess.Popen(
        [sys.executable, "-c", ADOPTING, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as benchmark:
        told, _ = benchmark.communicate()  # its server ends with its input
    assert told.split() == [str(is_stranger)]


def test_what_others_burn_is_seen() -> None:
    """Also what has ended by then: its parent, which waited for it, is a stranger too."""
    with subprocess.Popen(
        [sys.executable, "-c", WATCHING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as benchmark:
        assert benchmark.stdout is not None and benchmark.stdout.readline() == "watches\n"
        subprocess.run([sys.executable, "-c", BURNING], check=True)
        told, _ = benchmark.communicate("\n")
    assert float(told) >= 0.9 * BURNT_S
