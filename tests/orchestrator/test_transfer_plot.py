"""The transfer table as a figure: what stands in its cells, and that nothing is cut off."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from matplotlib.image import imread

from orchestrator.transfer import TransferCell, TransferMatrix, TransferScores, judge_transfer
from orchestrator.transfer_plot import cell_text, draw_overlap, draw_transfer
from tests.orchestrator.transfer_tables import FIGURE2, published, seeded, table


def matrix_of_means() -> TransferMatrix:
    """Return Figure 2 as published, in fractions as the project's own scores are."""
    targets = tuple(FIGURE2["targets"])
    cells = {pair: seeded(mean / 100) for pair, mean in published().items()}
    dense = {target: seeded(0) for target in targets}
    scores = TransferScores(
        (*targets, "theta_0"), targets, cells, dense, dict.fromkeys(targets, 0.01)
    )
    return judge_transfer(scores)


def of_one_source() -> TransferMatrix:
    """Return theta0 alone on two tasks, whose own masks are rows beside it."""
    made = table(own_only=frozenset({"a", "b"}))
    kept = {pair: made.cells[pair] for pair in made.cells if pair not in {("a", "b"), ("b", "a")}}
    return judge_transfer(replace(made, cells=kept))


def smallest() -> TransferMatrix:
    cells = {("a", "a"): seeded(0.9, 0.91)}
    return judge_transfer(TransferScores(("a",), ("a",), cells, {}, {"a": 0.01}))


@pytest.mark.parametrize(
    "matrix",
    [
        judge_transfer(table()),
        judge_transfer(table(cells={})),
        matrix_of_means(),
        smallest(),
        of_one_source(),
    ],
    ids=["small", "not run", "published", "one cell", "one source"],
)
def test_a_table_of_any_size_is_drawn_whole(matrix: TransferMatrix) -> None:
    """No letter reaches the edge of the picture, where it would be cut."""
    is_whole(draw_transfer(matrix))


def test_overlaps_are_drawn_whole_and_names_are_no_formulas() -> None:
    """A name with dollar signs is written as it is; an unknown pair is a dash."""
    names = ("a long name of a mask", "$x$", "c")
    is_whole(draw_overlap(names, [[1.0, 0.5, None], [0.5, 1.0, 0.0], [None, 0.0, 1.0]]))


def test_an_overlap_of_one_is_dark_also_as_a_whole_number() -> None:
    assert draw_overlap(("a",), [[1]]) == draw_overlap(("a",), [[1.0]])


def is_whole(png: bytes) -> None:
    pixels = imread(io.BytesIO(png), format="png")[:, :, :3]
    assert pixels.min() < 0.5
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 1).all()


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (TransferCell("a", "b", "not_run", 0), "–"),
        (TransferCell("a", "b", "undecided", 2), "open"),
        (TransferCell("a", "b", "lost_futility", 1, difference_dense=-0.3), "−30.00\nn=1"),
        (TransferCell("a", "b", "judged", 1, difference_dense=-0.0000001), "0.00"),
        (
            TransferCell("a", "b", "judged", 3, difference_dense=0.012, difference_std=0.004),
            "+1.20\n±0.40",
        ),
        (TransferCell("a", "b", "judged", 3, mean=0.9), "–"),
    ],
)
def test_a_cell_says_its_difference_in_points(cell: TransferCell, text: str) -> None:
    """With the deviation where there is one, and what it lacks otherwise."""
    assert cell_text(cell) == text
