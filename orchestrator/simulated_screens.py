"""What `tickets simulate` prints: a few lines for people, plain data for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.costs import MODELLED
from orchestrator.report_text import show_seconds
from orchestrator.simulated_figures import Figures


def told(figures: Figures, labels: Mapping[str, str]) -> list[str]:
    """Return the figures as lines.

    Args:
        figures: Of the schedule.
        labels: Readable names of trials, by key.
    """
    if not figures.num_attempts:
        return ["Nothing to run: every trial has its result or is left out."]
    slot = figures.slot
    return [
        f"makespan      {show_seconds(figures.makespan_s)} on "
        f"{counted(figures.num_slots, slot)}, {counted(figures.num_trials, 'trial')} done",
        f"utilisation   {figures.utilisation:.1%} of the {slot}s' time; "
        f"{figures.lost_share:.1%} lost, {_idle(figures):.1%} idle or down",
        f"lower bounds  {show_seconds(figures.work_bound_s)} (all work, no {slot} ever idle), "
        f"{show_seconds(figures.chain_s)} (critical path)",
        f"ratio         {figures.ratio:.3f} x the larger lower bound",
        f"lost work     {show_seconds(figures.lost_s)} of one {slot}",
        f"device time   {figures.device_hours:,.2f} {figures.device}-hours, lost work among them",
        f"attempts      {figures.num_attempts:,}: {figures.num_failures:,} hit by a failed node, "
        f"{figures.num_preemptions:,} preempted, {figures.num_retries:,} tried again",
        *_given_up(figures),
        f"critical path {counted(len(figures.chain), 'trial')}, {show_seconds(figures.chain_s)}:",
        *(f"  {labels[key]}" for key in figures.chain),
    ]


def figures_data(figures: Figures, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the figures for programs; shares and ratios among them."""
    derived = ("utilisation", "lost_share", "work_bound_s", "bound_s", "ratio")
    data = asdict(figures) | {name: getattr(figures, name) for name in derived}
    data["chain"] = [{"key": key, "label": labels[key]} for key in figures.chain]
    return data


def basis_line(bases: Mapping[str, int], kind: str) -> str:
    """Return what the durations were made from.

    Args:
        bases: Number of trials by basis, as the plan has them.
        kind: What modelled durations are for.
    """
    parts = [
        f"{num:,} {basis}" + (f" ({kind})" if basis == MODELLED else "")
        for basis, num in bases.items()
    ]
    return f"durations     {'; '.join(parts)}"


def counted(number: int, what: str) -> str:
    """Return a number of things, one or many."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _idle(figures: Figures) -> float:
    return max(0.0, 1 - figures.utilisation - figures.lost_share)


def _given_up(figures: Figures) -> Sequence[str]:
    if not figures.num_failed:
        return []
    return [
        f"given up      {counted(figures.num_failed, 'trial')} failed for good, "
        f"{figures.num_blocked:,} blocked behind; the bounds are of what was done"
    ]
