"""Kill processes of real sweeps at seeded moments: ``python -m tests.chaos [--seed N ...]``."""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.chaos.table import endured, table
from tests.chaos.world import ended_with_us

NUM_SCHEDULES = 20
NUM_WORLDS = 2  # most of a sweep's time is waiting: for Ray, for imports, for a loss to be noticed


def main(arguments: Sequence[str] | None = None) -> int:
    """Endure schedules; return 0 if nothing was lost or run twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="may be given several times")
    parser.add_argument("--num", type=int, default=NUM_SCHEDULES, help="of seeds, from 0 on")
    parser.add_argument("--jobs", type=int, default=NUM_WORLDS, help="sweeps at once")
    parser.add_argument("--keep", action="store_true", help="keep stores, journals and logs")
    given = parser.parse_args(arguments)
    seeds = given.seed or list(range(given.num))
    parts = [part for n in range(given.jobs) if (part := seeds[n :: given.jobs])]
    root = Path(tempfile.mkdtemp(prefix="chaos"))
    context = multiprocessing.get_context("spawn")
    with ended_with_us(), context.Pool(len(parts)) as pool:
        found = pool.map(partial(endured, root), parts, chunksize=1)
    lines = sorted((line for part in found for line in part), key=lambda line: line.schedule.seed)
    print(table(lines))
    is_good = all(line.verdict.is_good for line in lines)
    if given.keep or not is_good:
        print(f"Stores, journals and logs are in {root}")
    else:
        shutil.rmtree(root)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
