"""How far MLflow is behind: written beside the journal, shown by status and watch."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from orchestrator.cli import status
from orchestrator.mirror_lag import MirrorLag, describe_lag, lag_path, read_lag, write_lag
from orchestrator.watch import Watcher
from tests.orchestrator.frames import NOW, fill, shown
from tests.orchestrator.steered import CommandWorld

BEHIND = MirrorLag(NOW, num_mirrored=3, num_behind=2, oldest_at=NOW - 90)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A file that is damaged, or of another version, is as good as none."""
    path = lag_path(tmp_path / "journal.sqlite")
    assert read_lag(path) is None
    write_lag(path, BEHIND)
    assert read_lag(path) == BEHIND
    for damaged in ("", "[]", '{"at": 1}', "\x00"):
        path.write_text(damaged)
        assert read_lag(path) is None


def test_a_place_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    write_lag(lag_path(tmp_path / "absent" / "journal.sqlite"), BEHIND)


@pytest.mark.parametrize(
    ("lag", "said"),
    [
        (MirrorLag(NOW, 5, 0), "MLflow has all 5 committed trials."),
        (BEHIND, "MLflow is 2 trial(s) and 90.0 s behind."),
        (
            MirrorLag(NOW, 3, 2, NOW - 90, NOW - 60),
            "MLflow is 2 trial(s) and 90.0 s behind; it has been failing for 60.0 s. "
            "It is tried again; 'tickets sync' brings it up to date at any time.",
        ),
    ],
)
def test_a_lag_is_one_sentence(lag: MirrorLag, said: str) -> None:
    assert describe_lag(lag, NOW) == said


def test_a_driver_that_was_killed_had_committed_more_than_it_wrote_down() -> None:
    """What was in MLflow then is not called all."""
    before = MirrorLag(NOW, num_mirrored=3, num_behind=0)
    assert describe_lag(before, NOW, num_committed=3) == "MLflow has all 3 committed trials."
    said = describe_lag(before, NOW, num_committed=4)
    assert said.startswith("MLflow had 3 of the 4 committed trials") and "'tickets sync'" in said


def test_a_clock_that_was_set_back_makes_no_negative_lag() -> None:
    assert BEHIND.behind_s(NOW - 1000) == 0


def test_status_and_watch_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = CommandWorld(tmp_path)
    journal, *_ = fill(world)
    with journal:
        write_lag(lag_path(world.journal_path), BEHIND)
        frame = Watcher(journal).look(NOW)
        assert "MLflow is 2 trial(s) and 90.0 s behind." in shown(frame)
        status(world.sweep, as_json=True)
        told = json.loads(capsys.readouterr().out)["mirror"]
        assert (told["num_mirrored"], told["num_behind"]) == (3, 2)
        assert told["behind_s"] == pytest.approx(time.time() - NOW + 90, abs=600)
        status(world.sweep)
        assert "MLflow is 2 trial(s) and" in capsys.readouterr().out
