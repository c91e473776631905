"""What an examination finds: one line for each thing looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from search_spaces.places import masked

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """How one thing stands.

    Attributes:
        check: What was looked at, in a word or two.
        level: ``ok``, ``warn`` (a run works, but look at it) or ``fail`` (a run would not work).
        said: What was found, in one sentence.
        todo: What to do about it; empty when there is nothing to do.
    """

    check: str
    level: Level
    said: str
    todo: str = ""


def within(
    check: str, patience_s: float, look: Callable[[], list[Finding]], todo: str
) -> list[Finding]:
    """Return what a look finds, or that it took too long: it then goes on in the background.

    Args:
        check: What is looked at.
        patience_s: Longest time in seconds.
        look: Is run in a thread of its own.
        todo: What to do when it takes too long or breaks.
    """
    found: list[Finding] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            found.extend(look())
        except Exception as error:  # whatever a library raises: it is what we are here to tell
            errors.append(error)

    thread = threading.Thread(target=run, name=f"look-at-{check}", daemon=True)
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        return [Finding(check, "fail", f"no answer within {patience_s:g} s.", todo)]
    if errors:
        problem = masked((str(errors[0]).splitlines() or [""])[0])
        return [Finding(check, "fail", f"{type(errors[0]).__name__}: {problem}", todo)]
    return found
