"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SweepPath = Annotated[Path, typer.Argument(metavar="SWEEP", help="The sweep's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
