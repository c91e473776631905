"""The command `tickets transfer`: does a mask found on one task serve another."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrator.arguments import AsJson, SweepPath
from orchestrator.console import make_console
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.errors import UserError


def transfer(
    sweep: SweepPath,
    split: Annotated[str, typer.Option(help="select, which decides, or report.")] = "select",
    as_json: AsJson = False,
) -> None:
    """Show the sweep's transfer table, source by target, and how far its masks overlap."""
    from orchestrator.source_masks import source_overlaps
    from orchestrator.transfer_judging import judge_transfers
    from orchestrator.transfer_rows import transfer_data
    from orchestrator.transfer_screens import show_source_overlaps, show_transfer

    if split not in ("select", "report"):
        raise UserError(f"split '{split}' is not known. Use select or report.")
    context = SweepContext.open(sweep)
    if context.spec.transfer is None:
        raise UserError(
            f"{sweep}: the sweep has no transfer. Add one, for example:\n"
            "transfer: {sparsity: 0.5}\nand run it again; what is done is reused."
        )
    store = Store(context.spec.store)
    found = {trial.key: store.read(trial.key) for trial in context.trials}
    results = {key: result for key, result in found.items() if result is not None}
    tables = judge_transfers(context.spec, context.trials, results)
    overlaps = source_overlaps(context.spec, context.trials, store)
    if as_json:
        typer.echo(json.dumps(transfer_data(tables, overlaps), indent=2))
        return
    for table in tables:
        if table.split == split:
            show_transfer(make_console(), table)
    for one in overlaps:
        show_source_overlaps(make_console(), one)
