"""The commands `tickets mask ...`: look at mask files, compare, convert and pack them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.arguments import AsJson
from orchestrator.console import make_console
from orchestrator.screens import show_mask, show_overlaps
from search_spaces.errors import UserError
from search_spaces.models import ModelSpecYaml, PrunableChoice, resolve_model

if TYPE_CHECKING:  # NumPy and Arrow; the other commands need neither
    from workers.mask import Mask

app = typer.Typer(
    help="Look at mask files; compare, convert and pack them. A trial's mask is the *.arrow file "
    "in its attempt's folder of the store, and an artifact of its MLflow run.",
    no_args_is_help=True,
)
MaskPath = Annotated[Path, typer.Argument(metavar="MASK", help="A mask file, *.arrow.")]
MaskPaths = Annotated[list[Path], typer.Argument(metavar="MASK...", help="Mask files, *.arrow.")]
TORCH = ".pt"
MASK, LINEAGE = "mask file", "packed lineage"


@app.command()
def show(file: MaskPath, as_json: AsJson = False) -> None:
    """Show a mask's sparsity, as a whole and of each matrix."""
    mask = read_mask_file(file)
    if as_json:
        typer.echo(mask.info().model_dump_json(indent=2))
        return
    show_mask(make_console(), str(file), mask.info())


@app.command()
def compare(files: MaskPaths, as_json: AsJson = False) -> None:
    """Show how far masks overlap: weights kept by both / weights kept by either."""
    from workers.mask_algebra import overlap

    if len(files) < 2:
        raise UserError("One mask cannot be compared. Give two mask files or more.")
    masks = [read_mask_file(file) for file in files]
    with mask_faults_told():
        found = [
            (str(one), str(other), overlap(first, second))
            for (one, first), (other, second) in combinations(zip(files, masks, strict=True), 2)
        ]
    if as_json:
        rows = [{"first": one, "second": other, "overlap": value} for one, other, value in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    show_overlaps(make_console(), found)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="*.arrow, or a mask.pt of BERT-Tickets.")],
    target: Annotated[Path, typer.Argument(help="The other one of the two; must not exist.")],
    model: Annotated[
        str | None, typer.Option(help="From *.pt: the model, as a sweep's 'source'.")
    ] = None,
    prunable: Annotated[
        PrunableChoice, typer.Option(help="From *.pt: what of the model the mask covers.")
    ] = "default",
) -> None:
    """Convert between our mask files and the mask.pt of the reference code (BERT-Tickets)."""
    if {source.suffix, target.suffix} != {".arrow", TORCH}:
        raise UserError(
            f"'{source}' to '{target}': one file must end in .arrow and the other in {TORCH}."
        )
    _refuse_existing(target)
    from workers.mask_file import write_mask
    from workers.reference_masks import mask_buffers, read_reference_mask

    if target.suffix == TORCH:
        import torch

        buffer = io.BytesIO()
        torch.save(mask_buffers(read_mask_file(source)), buffer)
        _write(target, buffer.getvalue())
    elif model is None:
        raise UserError("A mask.pt does not name its model: give it with --model.")
    else:
        facts = resolve_model(ModelSpecYaml(name=model, source=model, prunable=prunable))
        mask = read_reference_mask(source, facts.prunable)
        _write(target, write_mask(mask, {"theta0_sha256": facts.identity.theta0_sha256}))
    typer.echo(f"Wrote {target}")


@app.command()
def pack(
    target: Annotated[Path, typer.Argument(metavar="LINEAGE", help="Written; must not exist.")],
    files: MaskPaths,
) -> None:
    """Pack the masks of a lineage, in the order of its rounds, into one small file."""
    _refuse_existing(target)
    from workers.lineage_file import write_lineage

    with mask_faults_told():
        data = write_lineage([read_mask_file(file) for file in files], {})
    _write(target, data)
    before = sum(file.stat().st_size for file in files)
    typer.echo(f"Wrote {target}: {len(data):,} bytes for {before:,}")


@app.command()
def unpack(
    lineage: Annotated[Path, typer.Argument(help="A file that 'pack' wrote.")],
    folder: Annotated[Path, typer.Argument(help="Where to write round-00.arrow, ...")],
) -> None:
    """Write the mask of each round of a packed lineage to a file of its own."""
    from workers.lineage_file import read_lineage
    from workers.mask_file import write_mask

    with mask_faults_told():
        masks = read_lineage(_bytes_of(lineage, LINEAGE), None, str(lineage)).masks
    targets = [folder / f"round-{index:02}.arrow" for index in range(len(masks))]
    for target in targets:
        _refuse_existing(target)
    with _unwritable_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for target, mask in zip(targets, masks, strict=True):
        _write(target, write_mask(mask, {}))
        typer.echo(f"Wrote {target}: sparsity {mask.num_removed / mask.prunable.num_weights:.4f}")


def read_mask_file(file: Path) -> Mask:
    """Return the mask in a file; what is wrong with it is a UserError."""
    from workers.mask_file import read_mask

    with mask_faults_told():
        return read_mask(_bytes_of(file, MASK), None, str(file))


def _bytes_of(file: Path, wanted: str) -> bytes:
    """Return a file's bytes; refuse one that is of another kind, which is no damage."""
    from workers.arrow_file import column_names

    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}. Check the path.") from None
    names = column_names(data)
    if names is None:
        raise UserError(f"{file}: is no {wanted}: it is not an Arrow file. Check the path.")
    found = LINEAGE if "round_index" in names else MASK
    if names and found != wanted:
        also = " 'tickets mask unpack' writes its masks." if found == LINEAGE else ""
        raise UserError(f"{file}: is a {found}, not a {wanted}.{also} Check the path.")
    return data


def _write(target: Path, data: bytes) -> None:
    with _unwritable_told(target):
        target.write_bytes(data)


@contextmanager
def _unwritable_told(target: Path) -> Iterator[None]:
    """Turn a target that cannot be written into one message and exit code 2."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written: {error.strerror}. Name another place, or mend its "
            "folder's permissions."
        ) from None


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise UserError(f"{target}: exists already. Name a new file, or remove this one.")


@contextmanager
def mask_faults_told() -> Iterator[None]:
    """Turn what is wrong with masks into one message and exit code 2."""
    from workers.failures import TrialFailure
    from workers.lineage import LineageError
    from workers.lineage_file import LineageFileError
    from workers.mask import MaskMismatchError
    from workers.mask_file import MaskFileError

    known = (LineageError, LineageFileError, MaskFileError, MaskMismatchError, TrialFailure)
    try:
        yield
    except known as error:
        raise UserError(str(error)) from error
