"""The console that commands print on."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rich.console import Console

LEAST_WIDTH = 80  # of tables: a narrower terminal breaks their lines, but loses no column
PIPED_WIDTH = 200  # of what goes to a file or a pipe, where a line must stay one


def make_console(is_live: bool = False) -> Console:
    """Return the console of a command.

    Args:
        is_live: It redraws what it showed, so it must keep to the terminal's width.
    """
    console = Console(emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(emoji=False, width=PIPED_WIDTH)
    return console if is_live else Console(emoji=False, width=max(console.width, LEAST_WIDTH))


def pasteable(path: Path) -> str:
    """Return a path as it is typed in a shell, in quotes where it needs them."""
    return shlex.quote(str(path))
