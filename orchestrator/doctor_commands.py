"""The command that looks whether a sweep could run here: `tickets doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from orchestrator.arguments import AsJson
from orchestrator.console import make_console
from search_spaces.loading import load_sweep

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    sweep: Annotated[
        Path | None,
        typer.Argument(metavar="[SWEEP]", help="The sweep's YAML file; else only this machine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look whether a sweep could run here, and say what to do; exit code 1 if it could not."""
    from orchestrator.doctor import examine

    found = examine(load_sweep(sweep) if sweep else None)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in found], indent=2))
    else:
        console = make_console()
        for one in found:
            level = f"[{_STYLES[one.level]}]{one.level:<4}[/]"
            text = f"{level}  {one.check:<16}  {escape(one.said)}"
            console.print(text, highlight=False, soft_wrap=True)
            if one.todo:
                console.print(f"{'':24}{escape(one.todo)}", highlight=False, soft_wrap=True)
    if any(finding.level == "fail" for finding in found):
        raise typer.Exit(1)
