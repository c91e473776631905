"""IN WHAT ORDER trials run, and what came out: graph, scheduler, store, tracking, verdicts, CLI.

``from orchestrator import load_ticket`` is how other programs get at what came out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.tickets import load_ticket, open_ticket

__all__ = ["load_ticket", "open_ticket"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: commands do not need it and start sooner."""
    if name in __all__:
        from orchestrator import tickets

        return getattr(tickets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
