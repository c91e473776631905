"""How many select and report texts of SST-2 are contained in a training text (docs/method.md).

TICKETS_DATA=/path/to/data python -m benchmarks.overlap
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from search_spaces.datafiles import read_task
from search_spaces.examples import Examples
from search_spaces.splits import HashSelect, make_splits
from search_spaces.tasks import GlueFolderSource


def words(text: str) -> str:
    """Return a text's words between single spaces, so that only whole words are found in it."""
    return f" {' '.join(text.lower().split())} "


def share_contained(texts: Iterable[str], among: Sequence[str]) -> float:
    """Return the share of texts that stand, as whole words, within one of ``among``."""
    everything = "\n".join(map(words, among))
    found = [words(text) in everything for text in texts]
    return sum(found) / len(found)


def main() -> None:
    """Print the shares at 8,000 training examples and at all of them."""
    folder = Path(os.environ["TICKETS_DATA"]) / "sst2"
    splits = read_task(GlueFolderSource(task="sst2", path=str(folder))).splits
    train, report = splits["train"], splits["report"]
    for num in (8000, None):
        chosen, held_out = make_splits(train, HashSelect(), num)
        among = _texts(train, chosen)
        select = share_contained(_texts(train, held_out), among)
        told = share_contained(report.texts, among)
        print(f"{len(chosen)} training texts: select {select:.3f}, report {told:.3f}")


def _texts(examples: Examples, places: Sequence[int]) -> list[str]:
    return [examples.texts[place] for place in places]


if __name__ == "__main__":
    main()
