"""The tables of `tickets compare`, for people; programs use --json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.compare import MaskOverlap, MatrixPair, PairedScores
from orchestrator.report_text import (
    MINUS,
    show_interval,
    show_percent,
    show_score,
    show_signed,
)

MAX_MATRICES = 10


def show_scores(console: Console, first: str, second: str, found: Sequence[PairedScores]) -> None:
    """Print the scores seed by seed, and what their differences come to."""
    console.print(f"A  {first}\nB  {second}\n", markup=False, highlight=False, soft_wrap=True)
    for paired in found:
        table = _table(f"{paired.metric} on {paired.split}", "seed", "A", "B", f"A {MINUS} B")
        for seed, difference in paired.differences.items():
            scores = show_score(paired.first[seed]), show_score(paired.second[seed])
            table.add_row(str(seed), *scores, show_signed(difference))
        console.print(table)
        console.print(summary(paired), highlight=False, soft_wrap=True)
        for seed, why in paired.unpaired.items():
            told = f"Seed {seed} is left out: {why}."
            console.print(told, markup=False, highlight=False, soft_wrap=True)
        console.print()


def summary(paired: PairedScores) -> str:
    """Return the differences' mean, intervals and p-value in one line."""
    num = len(paired.differences)
    parts = [f"n = {num}: mean difference {show_signed(paired.mean)}"]
    lack = [(paired.interval, "95% t interval", 3), (paired.bootstrap, "95% bootstrap", 10)]
    parts += [f"{name} {show_interval(it)}" for it, name, _ in lack if it is not None]
    if paired.sign_flip_pvalue is not None:
        parts.append(f"sign-flip p = {paired.sign_flip_pvalue:.3g}, two-sided and exact")
    missing = [f"{name} from {least} seeds" for it, name, least in lack if it is None]
    missing += ["sign-flip test from 6 to 40"] if paired.sign_flip_pvalue is None else []
    return "; ".join(parts) + "." + (f" Not shown: {', '.join(missing)}." if missing else "")


def show_masks(
    console: Console, overlaps: Mapping[str, MaskOverlap], lacking: Sequence[str]
) -> None:
    """Print how far the masks overlap.

    Args:
        console: Where to print.
        overlaps: By what the row is called, such as a seed.
        lacking: Why other masks are not compared.
    """
    if overlaps:
        names = ("masks of", "overlap", "by chance", "at most")
        table = _table("weights kept by both / by either (IoU, Jaccard)", *names)
        for name, one in overlaps.items():
            numbers = (one.overlap, one.by_chance, one.at_most)
            table.add_row(escape(name), *(f"{number:.4f}" for number in numbers))
        console.print(table)
    for sentence in lacking:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def show_matrices(console: Console, pairs: Sequence[MatrixPair]) -> None:
    """Print the matrices whose sparsities differ most."""
    if not pairs:
        return
    if not any(pair.difference for pair in pairs):
        console.print("Each matrix is as sparse under A as under B, mean over the seeds.")
        return
    title = "sparsity of each matrix, mean over the seeds, largest differences first"
    table = _table(title, "matrix", "A", "B", f"A {MINUS} B")
    for pair in pairs[:MAX_MATRICES]:
        difference = f"{100 * pair.difference + 0:+.2f}".replace("-", MINUS) + " points"
        sparsities = show_percent(pair.first), show_percent(pair.second)
        table.add_row(escape(pair.name), *sparsities, difference)
    console.print(table)
    if len(pairs) > MAX_MATRICES:
        console.print(f"{len(pairs) - MAX_MATRICES} more differ less: --json has all.")


def _table(title: str, *columns: str) -> Table:
    """Return an empty table with its first column to the left and numbers to the right."""
    table = Table(
        title=escape(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table
