"""The report's transfer tables: their figures, their cells in words, a sentence for each source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.judging import SELECT
from orchestrator.report_pictures import Picture, picture_name
from orchestrator.report_text import show_percent
from orchestrator.transfer import DarkCount, TransferCell, TransferMatrix
from orchestrator.transfer_judging import SourceOverlaps, TransferTable, scored_split
from orchestrator.transfer_plot import draw_overlap, draw_transfer
from search_spaces.sweep import SweepSpec

STATE_WORDS = {
    "diagonal": "own ticket",
    "lost_futility": "stopped after one seed",
    "undecided": "undecided: a seed has no score",
    "not_run": "not run",
    "not_asked": "",
}
DARK_WORDS = {True: "dark", False: "not dark", None: "undecided: no own ticket to compare with"}
_NUMBERS = "the numbers are in the table below."


@dataclass(frozen=True)
class TransferSplit:
    """One judged table on the page.

    Attributes:
        table: What was judged.
        picture: Its figure.
        sentences: One for each source.
    """

    table: TransferTable
    picture: Picture
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class TransferSection:
    """One model's transfer: its tables on both splits, and how far the sources' masks overlap.

    Attributes:
        model: The model's name in the sweep.
        num_removed: K, equal in all cells.
        same_split: Targets that are chosen and reported on the same examples.
        splits: Select first.
        overlaps: None where no mask exists yet, or nobody looked.
        overlap_picture: Their figure.
    """

    model: str
    num_removed: int
    same_split: tuple[str, ...]
    splits: tuple[TransferSplit, ...]
    overlaps: SourceOverlaps | None
    overlap_picture: Picture | None

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All figures, in the order of the page."""
        tables = tuple(one.picture for one in self.splits)
        return (*tables, self.overlap_picture) if self.overlap_picture else tables


def transfer_sections(
    spec: SweepSpec, tables: Sequence[TransferTable], overlaps: Sequence[SourceOverlaps]
) -> list[TransferSection]:
    """Return a section for each model; none where the sweep has no transfer.

    Args:
        spec: The sweep.
        tables: Its judged tables.
        overlaps: Of its sources' masks, of those models where they are known.
    """
    models = list(dict.fromkeys(table.model for table in tables))
    return [
        _section(spec, [t for t in tables if t.model == model], overlaps, number)
        for number, model in enumerate(models, 1)
    ]


def cell_word(cell: TransferCell) -> str:
    """Return in words what a cell is: dark or not, or why that is not said."""
    return DARK_WORDS[cell.dark] if cell.state == "judged" else STATE_WORDS[cell.state]


def count_text(count: DarkCount) -> str:
    """Return a source's count: '3 of 4', 'at least 1 of 4' while cells are open."""
    if not count.num_targets:
        return ""
    at_least = "at least " if count.num_known < count.num_targets else ""
    return f"{at_least}{count.num_dark} of {count.num_targets}"


def source_sentence(matrix: TransferMatrix, source: str) -> str:
    """Return which targets a source serves, for example 'a: 1 of 2 other tasks: b; stopped: c.'."""
    count, dark, stopped, open_cells = matrix.counts[source], [], [], []
    for target in matrix.targets:
        cell = matrix.cells[source, target]
        if source == target:
            continue
        if cell.state == "lost_futility":
            stopped.append(target)
        elif cell.dark is None:
            open_cells.append(target)
        elif cell.dark:
            dark.append(target)
    word = "other task" if source in matrix.targets else "task"
    text = f"{source}: {count_text(count)} {word}{'s' if count.num_targets > 1 else ''}"
    text += f": {', '.join(dark)}" if dark else ""
    for name, targets in (("stopped after one seed", stopped), ("undecided", open_cells)):
        text += f"; {name}: {', '.join(targets)}" if targets else ""
    return f"{text}."


def _section(
    spec: SweepSpec, own: Sequence[TransferTable], overlaps: Sequence[SourceOverlaps], number: int
) -> TransferSection:
    model, targets = own[0].model, own[0].matrix.targets
    found = next((one for one in overlaps if one.model == model), None)
    return TransferSection(
        model=model,
        num_removed=own[0].num_removed,
        same_split=tuple(name for name in targets if scored_split(spec, name, SELECT) != SELECT),
        splits=tuple(_split(table, number) for table in own),
        overlaps=found,
        overlap_picture=_overlap(found, number) if found else None,
    )


def _split(table: TransferTable, number: int) -> TransferSplit:
    matrix = table.matrix
    text = (
        f"Transfer table of {table.model} on {table.split} at {show_percent(table.sparsity)} "
        f"sparsity: masks of {', '.join(matrix.sources)} on {', '.join(matrix.targets)}; {_NUMBERS}"
    )
    name = picture_name("transfer", number, table.model, table.split)
    sources = [source for source in matrix.sources if matrix.counts[source].num_targets]
    sentences = tuple(source_sentence(matrix, source) for source in sources)
    return TransferSplit(table, Picture(name, draw_transfer(matrix), text), sentences)


def _overlap(overlaps: SourceOverlaps, number: int) -> Picture:
    text = (
        f"Overlap of the masks of {', '.join(overlaps.names)} for {overlaps.model}: weights that "
        f"two masks both keep / that either keeps, mean over the seeds; {_NUMBERS}"
    )
    png = draw_overlap(overlaps.names, overlaps.values)
    return Picture(picture_name("overlap", number, overlaps.model), png, text)
