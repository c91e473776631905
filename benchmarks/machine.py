"""What the numbers were measured on, and whether others used the machine meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from cluster.resources import usable_cpus

LIBRARIES = ("torch", "transformers", "deepspeed", "numpy", "pyarrow")
BUSY_ABOVE_CPUS = 0.1
ROOT = Path(__file__).parents[1]
_PR_SET_CHILD_SUBREAPER = 36
_KERNEL = 2  # kthreadd, parent of the kernel's threads on Linux


class Machine:
    """Facts of this machine; watches from its making on what other programs use of it."""

    def __init__(self) -> None:
        self._since, self._strangers_s, self._stolen_s = time.perf_counter(), _used_s(), _stolen_s()

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
        """Return how many CPUs other programs, and a hypervisor, took on average.

        The kernel's own threads count for nobody: they write for whoever asked.
        """
        wall_s = time.perf_counter() - self._since
        others_s = _used_s() - self._strangers_s + _stolen_s() - self._stolen_s
        return max(0.0, others_s / wall_s)


def adopt_orphans() -> None:
    """Let what outlives the child that started it become our own child (Linux): no stranger."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def strangers() -> Iterator[psutil.Process]:
    """Yield all processes but the kernel's, our own and whatever that started."""
    me = psutil.Process()
    ours = {me.pid, *(child.pid for child in me.children(recursive=True))}
    for process in psutil.process_iter():
        try:
            is_kernel = _KERNEL in (process.pid, process.ppid())
        except psutil.Error:  # it has ended
            continue
        if process.pid not in ours and not (is_kernel and sys.platform == "linux"):
            yield process


def _used_s() -> float:
    """Return the CPU seconds of strangers and of their children that have ended."""
    used_s = 0.0
    for process in strangers():
        with contextlib.suppress(psutil.Error):  # it has ended
            used_s += sum(process.cpu_times()[:4])  # user, system, and both of children
    return used_s


def _stolen_s() -> float:
    """Return the CPU seconds that a hypervisor gave to others; 0 where that is not known."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


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
