"""Two drivers on one real cluster, a head that dies, and a cluster that grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.programs import run_program, told_by

pytestmark = [pytest.mark.ray, pytest.mark.slow]


# Of Ray with a head that is silent, in place of its 60 s; a driver has two thirds of it.
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "30"}


def _order(folder: Path, *drivers: str) -> list[str]:
    """Return the order in which the drivers' trials began, and the drivers ended."""
    said = run_program("two_drivers", "start", folder, *drivers)
    assert f"codes {[0] * len(drivers)}" in said
    return (folder / "order").read_text().splitlines()


def test_two_sweeps_halve_a_cluster(tmp_path: Path) -> None:
    """Both want both CPUs, and the first goes on until the second has ended.

    So the second gets its CPU although the first never ends, and then neither begins more than
    twice as many trials as the other: with equal shares and trials it is as many.
    """
    order = _order(tmp_path, "one:2:1:0:1", "two:2:1:6:1")
    first, last = order.index("two"), len(order) - 1 - order[::-1].index("two")
    shared = order[first : last + 1]
    assert shared.count("two") == 6
    assert 2 <= shared.count("one") <= 2 * 6 + 2


def test_gangs_that_need_the_whole_cluster_take_turns(tmp_path: Path) -> None:
    """Each gang takes both CPUs: halves of two would wait for each other forever.

    The first goes on until the second has ended, and has turns of its own meanwhile.
    """
    order = _order(tmp_path, "one:1:2:0:1", "two:1:2:8:1")
    assert order.count("two") == 8
    first, last = order.index("two"), len(order) - 1 - order[::-1].index("two")
    assert "one" in order[first:last]


def _end_of_driver(folder: Path, way: str, **variables: str) -> tuple[int, dict[str, object]]:
    code, said = told_by("lost_head", folder, way, **variables)
    return code["code"], said


def test_head_that_comes_back_costs_nothing(tmp_path: Path) -> None:
    """Its table is on disk: all trials end, in the same driver."""
    code, said = _end_of_driver(
        tmp_path, "back", RAY_gcs_storage="rocksdb", RAY_gcs_storage_path="{folder}/table"
    )
    assert (code, said) == (0, {"ends": 30, "said": ""})


def test_head_that_is_gone_ends_the_driver_with_words(tmp_path: Path) -> None:
    """The driver says so and how to go on, before Ray would end it without a word.

    Trials that ended meanwhile on gangs that live on are taken in all the same.
    """
    code, said = _end_of_driver(tmp_path, "gone", **IMPATIENT)
    assert code == 75 and int(str(said["ends"])) > 1
    assert "has not answered for" in str(said["said"])
    assert str(said["said"]).endswith("then go on with the same 'tickets run' command.")


def test_sweep_goes_on_after_its_head_was_lost(tmp_path: Path) -> None:
    """`tickets run` ends with the command that resumes, and that command ends the sweep."""
    lost, resumed = told_by("lost_sweep", tmp_path, **IMPATIENT)
    assert lost["code"] == 75 and "counts as lost" in lost["said"][0]
    assert lost["said"][1] == (
        f"Stopped; nothing is lost. Go on with: tickets run {tmp_path}/toy.yaml"
    )
    assert resumed["code"] == 0


def test_cluster_grows_by_what_waits(tmp_path: Path) -> None:
    """The autoscaler sees waiting gangs, brings a node for one, and goes on seeing the other."""
    [said] = told_by("growing", tmp_path)
    assert said["asked"] and said["answer"] == "grown"
    assert said["left"] == [[5.0]] * 8
    assert said["phases"] == ["waiting for resources"]
