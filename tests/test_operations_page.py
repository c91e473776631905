"""The commands of docs/operations.md, run as they stand on two nodes of this machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.clusters import Cluster, bare_cluster, run, until
from tests.orchestrator.sweeps import write_data, write_sweep

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
_FENCE = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DASHBOARD = "http://127.0.0.1:8265"


def lines() -> list[str]:
    """Return every command of the page's blocks, in order."""
    return [line for block in _FENCE.findall(PAGE.read_text()) for line in block.splitlines()]


def test_the_page_sets_a_token_and_private_modes() -> None:
    """What the cluster below is given, the page tells its readers to make."""
    text = "\n".join(lines())
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in text
    assert "ray get-auth-token --generate" in text and "chmod 600" in text


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Head and worker, started by the page's two lines with this machine's ports."""
    head, worker = (shlex.split(line)[2:] for line in lines() if line.startswith("ray start"))
    with bare_cluster() as started:
        started.start_head(*_other_ports(head, started))
        started.start_worker(*_other_ports(worker, started))
        yield started


def _other_ports(options: list[str], cluster: Cluster) -> list[str]:
    """Leave out what a machine can have only once: the test names ports of its own."""
    taken = ("--port", "--dashboard-port", "--metrics-export-port", "--address")
    return [option for option in options if not option.startswith(taken)]


@pytest.mark.ray
@pytest.mark.slow
def test_commands_of_the_page(cluster: Cluster, tmp_path: Path) -> None:
    """Submit, look, stop and submit again, word for word; then everything is done."""
    write_data(tmp_path / "data")
    sweep = write_sweep(tmp_path, "sweep", tmp_path / "data")
    until(lambda: cluster.num_nodes() == 2, "two nodes", cluster)

    calls = [shlex.split(line)[1:] for line in lines() if line.startswith("tickets")]
    names = [call[0] for call in calls]
    assert names == ["submit", "status", "logs", "stop", "submit"]
    refused = run(cluster, "submit", sweep.name, "--address", cluster.url, cwd=tmp_path)
    assert refused.returncode == 2 and "--shared-store" in refused.stderr

    for call in calls:
        here = [cluster.url if word == _DASHBOARD else word for word in call]
        done = run(cluster, *here, cwd=tmp_path)
        if call[0] == "stop" and done.returncode == 2:  # on a fast machine it is done already
            assert "There is no run to stop" in done.stderr
        else:
            assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED 6" in done.stdout or "0 to run" in done.stdout  # again: done before the stop
