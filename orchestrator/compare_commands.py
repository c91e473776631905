"""The command `tickets compare`: two tickets, two sweeps, two trials or two masks side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestrator.arguments import AsJson
from orchestrator.compare import (
    MaskOverlap,
    MatrixPair,
    PairedScores,
    Side,
    compare_counts,
    masks_of,
    matrix_pairs,
    pair_scores,
    refuse_unlike,
)
from orchestrator.compare_screens import show_masks, show_matrices, show_scores
from orchestrator.compare_sides import (
    GRAMMAR,
    Found,
    Place,
    common,
    find,
    left_out,
    mask_ref,
    parse_selector,
)
from orchestrator.console import make_console
from orchestrator.mask_commands import mask_faults_told, read_mask_file
from orchestrator.store import Store
from search_spaces.errors import UserError
from search_spaces.places import masked

if TYPE_CHECKING:  # NumPy and Arrow; --help needs neither
    from workers.mask import Mask

app = typer.Typer()
MASK = ".arrow"
First = Annotated[str, typer.Argument(metavar="A", help=f"{GRAMMAR}; or a mask file, *.arrow.")]
Second = Annotated[str, typer.Argument(metavar="B", help="The other one, written the same way.")]


@app.command()
def compare(
    first: First,
    second: Second,
    store: Annotated[str | None, typer.Option(help="Where trials are looked up by key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare tickets seed by seed: scores, masks, and where the masks are sparse."""
    are_masks = [text.endswith(MASK) for text in (first, second)]
    if all(are_masks):
        _compare_files(Path(first), Path(second), as_json)
        return
    if any(are_masks):
        raise UserError(
            f"'{first}' and '{second}': a mask file compares with a mask file alone. "
            "A trial's mask is the *.arrow file in its attempt's folder of the store."
        )
    one, other = _found(first, second, store)
    pairs = common(one, other)
    for _, left, right in pairs:
        refuse_unlike(left, right)
    compared, lacking = _all_compared(one, other, pairs)
    if as_json:
        rows = [asdict(row) for row in compared]
        typer.echo(json.dumps({"compared": rows, "left_out": lacking}, indent=2))
        return
    _show(make_console(), compared, lacking)


@dataclass(frozen=True)
class Compared:
    """One ticket on both sides.

    Attributes:
        first: The first side's name.
        second: The second side's.
        scores: Paired scores of each split.
        overlaps: Of the masks, by seed.
        no_overlap: Why masks are not compared.
        matrices: Sparsity of each matrix, the largest difference first.
    """

    first: str
    second: str
    scores: tuple[PairedScores, ...]
    overlaps: Mapping[str, MaskOverlap]
    no_overlap: tuple[str, ...]
    matrices: tuple[MatrixPair, ...]


def _found(first: str, second: str, uri: str | None) -> tuple[Found, Found]:
    """Return both sides; a key without --store is looked up in the other side's store."""
    one, other = parse_selector(first), parse_selector(second)
    store = Store(uri) if uri else None
    if one.path is None and other.path is not None:
        right = find(other, store)
        return find(one, store or right.store), right
    left = find(one, store)
    return left, find(other, store or left.store)


def _all_compared(
    one: Found, other: Found, pairs: Sequence[tuple[Place, Side, Side]]
) -> tuple[list[Compared], list[str]]:
    """Return what was compared, and why the rest was not.

    Raises:
        UserError: Nothing can be compared.
    """
    compared, lacking = [], left_out(one, other, pairs)
    for _, left, right in pairs:
        try:
            compared.append(_compared(one.store, other.store, left, right))
        except UserError as error:
            if len(pairs) == 1:
                raise
            lacking.append(str(error))
    if not compared:
        raise UserError("\n".join(lacking))
    return compared, lacking


def _compared(first_store: Store, second_store: Store, first: Side, second: Side) -> Compared:
    scores = tuple(pair_scores(first, second))
    overlaps: dict[str, MaskOverlap] = {}
    lacking = []
    for seed in scores[0].differences if first.spec.mask and second.spec.mask else ():
        pair = _mask(first_store, first, seed), _mask(second_store, second, seed)
        if pair[0] is None or pair[1] is None:
            side = first if pair[0] is None else second
            lacking.append(f"Seed {seed}: the store keeps no file of the mask of {side.name}.")
        else:
            overlaps[str(seed)] = _overlap(pair[0], pair[1])
    matrices = tuple(matrix_pairs(masks_of(first), masks_of(second)))
    return Compared(first.name, second.name, scores, overlaps, tuple(lacking), matrices)


def _mask(store: Store, side: Side, seed: int) -> Mask | None:
    """Return the mask that a seed's trial was trained under; None where there is no file."""
    from workers.artifacts import read_artifact
    from workers.mask_file import read_mask

    ref = mask_ref(store, side.specs[seed])
    if ref is None:
        return None
    with mask_faults_told():
        return read_mask(read_artifact(ref), None, masked(ref.uri))


def _overlap(first: Mask, second: Mask) -> MaskOverlap:
    from workers.mask_algebra import num_common

    with mask_faults_told():
        both = num_common(first, second)
    return compare_counts(first.num_kept, second.num_kept, both, first.prunable.num_weights)


def _compare_files(first: Path, second: Path, as_json: bool) -> None:
    """Compare two masks alone."""
    left, right = read_mask_file(first), read_mask_file(second)
    overlap = _overlap(left, right)
    pairs = matrix_pairs({0: left.info()}, {0: right.info()})
    if as_json:
        data = {"first": str(first), "second": str(second), **asdict(overlap)}
        typer.echo(json.dumps({**data, "matrices": [asdict(pair) for pair in pairs]}, indent=2))
        return
    console = make_console()
    show_masks(console, {f"A {first}, B {second}": overlap}, [])
    show_matrices(console, pairs)


def _show(console: Console, compared: Sequence[Compared], lacking: Sequence[str]) -> None:
    for one in compared:
        show_scores(console, one.first, one.second, one.scores)
        show_masks(console, {f"seed {seed}": o for seed, o in one.overlaps.items()}, one.no_overlap)
        show_matrices(console, one.matrices)
    for sentence in lacking:
        console.print(f"Not compared: {sentence}", markup=False, highlight=False, soft_wrap=True)
