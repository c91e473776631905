"""What the numbers were measured on, and whether others used the machine meanwhile."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from cluster.resources import usable_cpus

LIBRARIES = ("torch", "transformers", "deepspeed", "numpy", "pyarrow")
BUSY_ABOVE_CPUS = 0.1
ROOT = Path(__file__).parents[1]
_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_S = 10.0  # until a server that was told to stop has ended
_STAYS = "multiprocessing.resource_tracker"  # a child that lives as long as we do


class Machine:
    """Facts of this machine; watches from its making on what other processes use of it."""

    def __init__(self) -> None:
        self._since, self._busy_s, self._own_s = time.perf_counter(), _busy_s(), _own_s()

    def facts(self) -> dict[str, str]:
        """Return hardware, versions, date and code."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        return {
            "date": datetime.now(UTC).isoformat(timespec="minutes"),
            "commit": _commit(),
            "hardware": f"{_cpu_name()}, {usable_cpus()} CPUs, {pages / 2**30:.0f} GiB",
            "versions": f"Python {platform.python_version()}, {versions}",
        }

    def others_cpus(self) -> float:
        """Return how many CPUs other processes kept busy on average; finished children are ours."""
        _wait_for_orphans()
        wall_s = time.perf_counter() - self._since
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return max(0.0, others_s / wall_s)


def adopt_orphans() -> None:
    """Let a server that outlives the child which started it become our own child (Linux).

    Ray's workers stay strangers: their parent lets them go unread, and their time with them.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _wait_for_orphans() -> None:
    """Wait for children that have been adopted: only then is their time counted as ours."""
    deadline_s = time.monotonic() + _ORPHANS_S
    while left := [one for one in psutil.Process().children() if not _stays(one)]:
        if (patience_s := deadline_s - time.monotonic()) <= 0:
            return
        psutil.wait_procs(left, patience_s)  # theirs are adopted then


def _stays(process: psutil.Process) -> bool:
    try:
        return any(_STAYS in argument for argument in process.cmdline())
    except psutil.Error:  # it has ended
        return False


def _busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent neither idle nor waiting."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    user, nice, system, _idle, _wait, *interrupts_and_steal = fields
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpu_fingerprint() -> str:
    """Return a digest of what libraries choose their kernels by: equal ones may give equal bits."""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "cache size", "flags")
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    fields = [line for line in first if line.split("\t")[0].strip(": ") in wanted]
    return hashlib.sha256("\n".join(fields).encode()).hexdigest()


def _commit() -> str:
    """Return the commit of the working tree, marked where code differs from it."""
    own = (":!benchmarks/results", ":!docs/benchmarks.md")
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if changes else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
