"""docs/registry.md, run: its commands and its Python, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.sweeps import tickets
from tests.orchestrator.ticket_worlds import make_world

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "registry.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/ holds a registered sweep of the quickstart's model and task."""
    place = tmp_path_factory.mktemp("page")
    make_world(place / "runs", task="docstrings").register()
    return place


def test_the_commands_work(place: Path) -> None:
    calls = re.findall(r"^tickets ([^#\n]+)", PAGE, re.MULTILINE)
    assert len(calls) == 3
    told = [tickets(*shlex.split(call), cwd=place) for call in calls]
    assert [done.returncode for done in told] == [0, 0, 0], [done.stderr for done in told]
    assert all("HEAVY []" in done.stderr for done in told)
    assert "@sparsest-matching" in told[0].stdout
    assert "Ticket: bert-tiny for docstrings at 70% sparsity" in told[1].stdout
    assert '"sparsity": 0.5' in told[2].stdout


def test_the_code_works(place: Path) -> None:
    """It fine-tunes, keeps the zeros and prints the sparsity."""
    found = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert found is not None
    done = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(ROOT), "HOME": str(place), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(round(0.7 * 393216))
