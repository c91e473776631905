"""A command in this process: its exit code, and what it said where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from orchestrator.cli import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Say = Callable[..., Said]


def saying(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Say:
    """Return what runs a command of ``tickets`` with the words that it is given."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["tickets", command, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Said(int(str(ended.value.code or 0)), printed.out, printed.err)

    return run
