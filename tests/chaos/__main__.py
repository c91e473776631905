"""Kill processes of real sweeps at seeded moments: ``python -m tests.chaos [--seed N ...]``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.schedules import schedule_of
from tests.chaos.table import Line, table
from tests.chaos.world import world

NUM_SCHEDULES = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Endure schedules one after the other; return 0 if nothing was lost or run twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="may be given several times")
    parser.add_argument("--num", type=int, default=NUM_SCHEDULES, help="of seeds, from 0 on")
    parser.add_argument("--keep", action="store_true", help="keep stores, journals and logs")
    given = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="chaos"))
    lines: list[Line] = []
    with world(root) as shared:
        print(f"Undisturbed: {len(shared.quiet)} trials in {shared.quiet_s:.0f} s", flush=True)
        for seed in given.seed or range(given.num):
            schedule = schedule_of(seed)
            lines.append(Line(schedule, *shared.endure(schedule)))
            print(lines[-1].text, flush=True)
    print(table(lines))
    is_good = all(line.verdict.is_good for line in lines)
    if given.keep or not is_good:
        print(f"Stores, journals and logs are in {root}")
    else:
        shutil.rmtree(root)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
