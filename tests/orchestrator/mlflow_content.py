"""All that an experiment holds, read from MLflow's own tables: every point, tag and file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any


def experiment_content(
    database: Path, experiment: str, files: Path | None = None
) -> list[dict[str, Any]]:
    """Return the active runs of an experiment, without what differs from one mirror to another.

    Args:
        database: MLflow's, on SQLite.
        experiment: Its name.
        files: Where a server keeps artifacts; None = files are not looked at.
    """
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        asked = "SELECT experiment_id FROM experiments WHERE name = ?"
        ((number,),) = opened.execute(asked, (experiment,)).fetchall()
        asked = (
            "SELECT run_uuid, name, status FROM runs "
            "WHERE experiment_id = ? AND lifecycle_stage = 'active'"
        )
        runs = opened.execute(asked, (number,)).fetchall()
        place = files and files / str(number)
        found = [_run(opened, place, *run) for run in runs]
    opened.close()
    return sorted(found, key=lambda run: (run["name"], sorted(run["tags"].items())))


def _run(
    database: sqlite3.Connection, files: Path | None, run_id: str, name: str, status: str
) -> dict[str, Any]:
    def rows(asked: str) -> list[tuple[Any, ...]]:
        return sorted(database.execute(asked, (run_id,)).fetchall(), key=repr)

    tags = dict(rows("SELECT key, value FROM tags WHERE run_uuid = ?"))
    time = "timestamp" if "trial_key" in tags else "0"  # verdicts have that of the writing
    own = files / run_id / "artifacts" if files else None
    return {
        "name": name,
        "status": status,
        "tags": {key: value for key, value in tags.items() if not key.startswith("mlflow.")},
        "params": rows("SELECT key, value FROM params WHERE run_uuid = ?"),
        "metrics": rows(f"SELECT key, step, value, {time} FROM metrics WHERE run_uuid = ?"),
        "inputs": rows(
            "SELECT d.name, d.digest FROM inputs i JOIN datasets d ON i.source_id = d.dataset_uuid "
            "WHERE i.destination_id = ?"
        ),
        "files": sorted(
            (str(path.relative_to(own)), path.stat().st_size)
            for path in (own.rglob("*") if own else ())
            if own and path.is_file()
        ),
    }
