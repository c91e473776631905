"""IN WHAT ORDER trials run, and what came out: graph, scheduler, store, tracking, verdicts, CLI.

``from orchestrator import load_ticket`` is how other programs get at what came out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.tickets import load_ticket

__all__ = ["load_ticket"]


def __getattr__(name: str) -> Any:
    """Import ``load_ticket`` when it is asked for: commands do not need it and start sooner."""
    if name == "load_ticket":
        from orchestrator.tickets import load_ticket

        return load_ticket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
