"""How many gangs fit, and what their processes are told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.growth import grows
from cluster.resources import (
    NodeResources,
    Placement,
    cgroup_folders,
    plan_gangs,
    quota_cpus,
    rank_environment,
    usable_cpus,
)
from search_spaces.contracts import Compute
from search_spaces.errors import UserError

GPU_NODE = NodeResources(num_cpus=32, num_gpus=8)


@pytest.mark.parametrize(
    ("num_ranks", "num_threads", "num_gpus", "wanted", "nodes", "expected"),
    [
        (1, 1, 0, "auto", [NodeResources(2, 0)], Placement(2, "STRICT_PACK")),
        (1, 2, 0, "auto", [NodeResources(5, 0)], Placement(2, "STRICT_PACK")),
        (4, 4, 1, "auto", [GPU_NODE, GPU_NODE], Placement(4, "STRICT_PACK")),
        (4, 8, 1, "auto", [GPU_NODE, GPU_NODE], Placement(2, "STRICT_PACK")),  # CPUs bind
        (2, 1, 0.5, "auto", [NodeResources(8, 1)], Placement(1, "STRICT_PACK")),
        (16, 4, 1, "auto", [GPU_NODE, GPU_NODE], Placement(1, "PACK")),
        (6, 1, 1, 1, [GPU_NODE, GPU_NODE], Placement(1, "STRICT_PACK")),
        (4, 1, 0, 2, [NodeResources(4, 0), *[NodeResources(2, 0)] * 2], Placement(2, "PACK")),
        (1, 1, 0, 64, [NodeResources(2, 0)], Placement(2, "STRICT_PACK")),
    ],
)
def test_gangs_that_fit(
    num_ranks: int,
    num_threads: int,
    num_gpus: float,
    wanted: int,
    nodes: list[NodeResources],
    expected: Placement,
) -> None:
    """Whole ranks are counted per node; gangs span nodes only where that is needed."""
    compute = Compute(num_ranks=num_ranks, num_threads=num_threads, num_gpus_per_rank=num_gpus)
    assert plan_gangs(compute, wanted, nodes) == expected


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [
        ("auto", [], Placement(1, "PACK")),
        ("auto", [GPU_NODE], Placement(2, "STRICT_PACK")),
        (7, [GPU_NODE], Placement(7, "STRICT_PACK")),
        (3, [NodeResources(2, 2)], Placement(3, "PACK")),
    ],
)
def test_cluster_that_grows_is_asked_for_all(
    wanted: int, nodes: list[NodeResources], expected: Placement
) -> None:
    """What does not fit yet is demand for the autoscaler, not a mistake of the user's."""
    compute = Compute(num_ranks=4, num_threads=1, num_gpus_per_rank=1)
    assert plan_gangs(compute, wanted, nodes, grows=True) == expected


_WATCHED = {"node_93d6e0aa725e3196416135ef8875f4c06753ce192bc1c3499f94c4e1": 1}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, False),
        (b"", False),
        (b"no json", False),
        (b"[]", False),
        (b'{"autoscaler_report": null}', False),
        (json.dumps({"autoscaler_report": {"active_nodes": _WATCHED}}).encode(), False),
        (b'{"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}}', True),
        (b'{"autoscaler_report": {"pending_launches": {"gpu": 1}}}', True),
    ],
)
def test_cluster_with_an_autoscaler_is_known(status: bytes | None, expected: bool) -> None:
    """Ray's autoscaler reports from every head; only one with node types can add nodes."""
    assert grows(status, is_v2=False) is expected
    assert grows(status, is_v2=True)


@given(
    cpus=st.lists(st.integers(0, 64), min_size=1, max_size=6),
    num_ranks=st.integers(1, 8),
    num_threads=st.integers(1, 8),
    wanted=st.integers(1, 20),
)
def test_never_more_than_the_cluster_has(
    cpus: list[int], num_ranks: int, num_threads: int, wanted: int
) -> None:
    """All gangs together fit, at least one and at most the wanted number run, or it is refused."""
    compute = Compute(num_ranks=num_ranks, num_threads=num_threads)
    nodes = [NodeResources(count, 0) for count in cpus]
    room = sum(count // num_threads for count in cpus)
    if room < num_ranks:
        with pytest.raises(UserError, match="Not even one gang fits"):
            plan_gangs(compute, wanted, nodes)
        return
    placement = plan_gangs(compute, wanted, nodes)
    assert 1 <= placement.num_gangs <= wanted
    assert placement.num_gangs * num_ranks <= room
    assert placement.num_gangs == min(wanted, room // num_ranks)


def test_no_room_says_what_is_asked_what_there_is_and_what_to_change() -> None:
    """The message has the numbers of both sides and the names of the fields."""
    compute = Compute(num_ranks=4, num_threads=2, num_gpus_per_rank=1)
    message = (
        r"4 rank\(s\) of 2 CPU\(s\) and 1 GPU\(s\) each.* 1 node\(s\) have 16 CPU\(s\) and 2 "
        r"GPU\(s\) in all.*resources\.ranks, resources\.cpus_per_rank or resources\.gpus_per_rank"
    )
    with pytest.raises(UserError, match=message):
        plan_gangs(compute, "auto", [NodeResources(16, 2)])


def test_environment_follows_the_cpu_share() -> None:
    """Thread pools are as wide as the rank's share; only ranks without GPU hide the GPUs."""
    cpu = rank_environment(Compute(num_threads=3))
    assert {cpu[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"3"}
    assert (cpu["DS_ACCELERATOR"], cpu["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    gpu = rank_environment(Compute(num_threads=3, num_gpus_per_rank=1))
    assert "DS_ACCELERATOR" not in gpu and "CUDA_VISIBLE_DEVICES" not in gpu
    assert "HF_HUB_OFFLINE" not in cpu | gpu


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity_limits_the_cpus() -> None:
    """A process that is bound to one CPU counts one, however many the machine has."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", None),
        ("-1\n 100000\n", None),
        ("400000 100000\n", 4),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("25000 10000\n", 2),
    ],
)
def test_quota_in_whole_cpus(quota: str, expected: int | None) -> None:
    """A container's share of CPU time is rounded down, but to one CPU at least."""
    assert quota_cpus(quota) == expected


@pytest.mark.parametrize(
    ("membership", "expected"),
    [
        ("0::/\n", ["."]),
        ("0::/slice/job\n", ["slice/job", "slice", "."]),
        ("4:memory:/m\n3:cpuset:/s\n2:cpu,cpuacct:/job\n", ["cpu/job", "cpu"]),
        ("", []),
    ],
)
def test_control_groups_that_bind(membership: str, expected: list[str]) -> None:
    """The quota of every parent binds too, in both versions' trees."""
    root = Path("/root")
    assert cgroup_folders(membership, root) == [root / folder for folder in expected]


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="no control groups here")
@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "100000 100000\n"},
        {"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"},
    ],
)
def test_container_quota_limits_the_cpus(files: dict[str, str], tmp_path: Path) -> None:
    """A container with one CPU's time counts one, however many CPUs it may be scheduled on."""
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu").mkdir()
    for folder in (tmp_path, tmp_path / "cpu"):  # where version 2 and version 1 have them
        for name, text in files.items():
            (folder / name).write_text(text)
    assert usable_cpus(tmp_path) == 1
