"""How many gangs a cluster has room for, and the environment that each of their ranks gets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from search_spaces.contracts import Compute
from search_spaces.errors import UserError

Strategy = Literal["PACK", "STRICT_PACK"]
_ROUNDING = 1e-9  # GPUs may be given away by tenths
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


# glibc gives every large tensor back to the kernel and faults its pages in again at each step:
# keep freed memory in the process instead (docs/decisions/0004).
_KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
}


@dataclass(frozen=True)
class NodeResources:
    """What one living node of the cluster has in total.

    Attributes:
        num_cpus: Logical CPUs that Ray may give away.
        num_gpus: GPUs that Ray may give away.
    """

    num_cpus: float
    num_gpus: float

    def num_ranks(self, compute: Compute) -> int:
        """Return how many ranks of this shape fit on the node."""
        by_cpu = self.num_cpus / compute.num_threads
        by_gpu = (
            self.num_gpus / compute.num_gpus_per_rank if compute.num_gpus_per_rank else math.inf
        )
        return math.floor(min(by_cpu, by_gpu) + _ROUNDING)

    def without(self, compute: Compute, num_ranks: int) -> NodeResources:
        """Return what is left when some ranks of this shape are on the node."""
        return NodeResources(
            self.num_cpus - num_ranks * compute.num_threads,
            self.num_gpus - num_ranks * compute.num_gpus_per_rank,
        )


@dataclass(frozen=True)
class Placement:
    """How many gangs run at once, and whether each of them stays within one node."""

    num_gangs: int
    strategy: Strategy


def plan_gangs(
    compute: Compute,
    wanted: Literal["auto"] | int,
    nodes: Sequence[NodeResources],
    grows: bool = False,
) -> Placement:
    """Return how many gangs run at once on these nodes.

    A gang stays within one node where as many gangs as wanted fit that way, because its ranks
    exchange every gradient; otherwise gangs may span nodes. A cluster that grows is asked for all
    that are wanted, and for one where "auto" finds no room yet: they wait as demand.

    Args:
        compute: Shape of one gang.
        wanted: Number of gangs, or "auto" for as many as fit.
        nodes: Total resources of each living node.
        grows: Whether an autoscaler may add nodes.

    Returns:
        At most ``wanted`` gangs and at least one.

    Raises:
        UserError: Not even one gang fits, and the cluster does not grow.
    """
    ranks = [node.num_ranks(compute) for node in nodes]
    within_nodes = sum(count // compute.num_ranks for count in ranks)
    across_nodes = sum(ranks) // compute.num_ranks
    if grows:
        num_asked = max(within_nodes, 1) if wanted == "auto" else wanted
        return Placement(num_asked, "STRICT_PACK" if within_nodes else "PACK")
    if across_nodes == 0:
        raise UserError(_no_room(compute, nodes))
    if within_nodes >= (1 if wanted == "auto" else min(wanted, across_nodes)):
        return Placement(_capped(wanted, within_nodes), "STRICT_PACK")
    return Placement(_capped(wanted, across_nodes), "PACK")


def num_room(compute: Compute, nodes: Sequence[NodeResources]) -> int:
    """Return how many gangs of one sweep alone fit these nodes; 0 = none."""
    try:
        return plan_gangs(compute, "auto", nodes).num_gangs
    except UserError:
        return 0


def _capped(wanted: Literal["auto"] | int, room: int) -> int:
    return room if wanted == "auto" else min(wanted, room)


def _no_room(compute: Compute, nodes: Sequence[NodeResources]) -> str:
    cpus = sum(node.num_cpus for node in nodes)
    gpus = sum(node.num_gpus for node in nodes)
    return (
        f"Not even one gang fits the cluster: {compute.num_ranks} rank(s) of "
        f"{compute.num_threads} CPU(s) and {compute.num_gpus_per_rank:g} GPU(s) each are asked "
        f"for, but {len(nodes)} node(s) have {cpus:g} CPU(s) and {gpus:g} GPU(s) in all, and a "
        "rank does not span nodes. Lower resources.ranks, resources.cpus_per_rank or "
        "resources.gpus_per_rank, of the sweep or of the task that asks for it, or add nodes."
    )


def rank_environment(compute: Compute) -> dict[str, str]:
    """Return the variables a rank's process must have before torch is imported.

    Threads follow the rank's CPU share, since every library would otherwise start one per core
    of the node. Freed memory is kept for the next step. A rank without GPU hides all GPUs and
    tells DeepSpeed not to look for one.
    """
    environment = dict.fromkeys(_THREAD_VARIABLES, str(compute.num_threads))
    environment |= {"TOKENIZERS_PARALLELISM": "false", **_KEEP_FREED_MEMORY}
    if not compute.num_gpus_per_rank:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return environment


def device_of(compute: Compute) -> Literal["cpu", "cuda"]:
    """Return the kind of device that the ranks compute on."""
    return "cuda" if compute.num_gpus_per_rank else "cpu"


def usable_cpus(cgroup_root: Path = _CGROUP_ROOT) -> int:
    """Return the number of CPUs that this process may use, which can be fewer than exist.

    Args:
        cgroup_root: Where the kernel shows control groups.

    Returns:
        The CPUs that the process may be scheduled on or, where that is less, its container's
        share of CPU time in whole CPUs.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    membership = _text(Path("/proc/self/cgroup")) or ""
    quotas = (_quota(folder) for folder in cgroup_folders(membership, cgroup_root))
    return min([bound or 1, *(quota for quota in quotas if quota)])


def cgroup_folders(membership: str, root: Path) -> list[Path]:
    """Return the folders whose CPU quota binds a process: its control group's and its parents'.

    Args:
        membership: Text of ``/proc/<pid>/cgroup``; version 2 is the line ``0::/path``. In a
            container the path may be the host's: then only the root is the container's own.
        root: Where the kernel shows control groups.
    """
    folders = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        own = PurePosixPath(path)
        folders += [top / str(at).lstrip("/") for at in (own, *own.parents)]
    return folders


def quota_cpus(quota: str) -> int | None:
    """Return the whole CPUs, at least one, of a quota; None means no limit.

    Args:
        quota: Microseconds of CPU time and the period that they are for, as in version 2's
            ``cpu.max``: ``150000 100000`` is one and a half CPUs. ``max`` and version 1's ``-1``
            are no limit.
    """
    time_us, period_us = quota.split()
    if time_us in ("max", "-1"):
        return None
    return max(1, int(time_us) // int(period_us))


def _quota(folder: Path) -> int | None:
    quota = _text(folder / "cpu.max")
    if quota is None:  # version 1 has the two numbers in two files
        time_us, period_us = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        quota = f"{time_us} {period_us}" if time_us and period_us else None
    return quota_cpus(quota) if quota else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except OSError:  # no such control group, or no Linux
        return None
