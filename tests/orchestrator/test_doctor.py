"""`tickets doctor`: what it looks at, what it says, and that it changes nothing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from orchestrator import doctor
from orchestrator.cli import main
from orchestrator.doctor import look_at_clock, look_at_folder, look_at_packages, look_at_python
from orchestrator.doctor_sweep import look_at_journal
from orchestrator.findings import Finding, within
from orchestrator.graph import TrialGraph
from orchestrator.journal import Journal, SweepInfo, Transition
from orchestrator.lease import lease_path
from orchestrator.lease_record import LeaseRecord
from orchestrator.storage import Storage
from orchestrator.store import Store
from orchestrator.store_survey import StoreSurvey
from search_spaces.contracts import TrialState
from tests.orchestrator.factories import finish, leave_artifacts, make_lineage, make_trial

Doctor = Callable[..., tuple[int, list[Finding], str]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path / "cache"))
    sweep = {
        "name": "toy",
        "models": [{"name": "tiny", "source": "nowhere"}],
        "tasks": [
            {"name": "t", "source": {"kind": "files", "train": "a.jsonl", "report": "b.jsonl"}}
        ],
        "seeds": [1, 2, 3],
        "schedule": {"kind": "levels", "levels": [0.5]},
        "recipe": {"epochs": 1, "learning_rate": 1e-3},
        "store": f"{tmp_path}/store",
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return tmp_path


@pytest.fixture
def examine(root: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command in this process; return exit code, findings and what was printed."""

    def run(*arguments: str) -> tuple[int, list[Finding], str]:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["tickets", "doctor", *arguments])
            main()
        said = capsys.readouterr()
        found = [Finding(**one) for one in json.loads(said.out)] if "--json" in arguments else []
        return int(ended.value.code or 0), found, said.out + said.err

    return run


def of(found: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in found if finding.check == check]


def tree(root: Path) -> dict[str, bytes]:
    """What lies there, but for what SQLite's readers leave beside a database."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p): p.read_bytes() for p in files if not p.name.endswith(("-shm", "-wal"))}


def test_a_machine_alone_is_looked_at_without_a_sweep(examine: Doctor) -> None:
    """Python, packages, cache, Ray and clock; all is well where the tests run."""
    code, found, said = examine("--json")
    assert [f.check for f in found] == ["python", "packages", "cache", "ray", "clock"], said
    assert code == 0 and {f.level for f in found} == {"ok"}, said


def test_a_new_sweep_is_well_and_nothing_is_made(examine: Doctor, root: Path) -> None:
    """No store, journal, lease or database yet: each is said to come, none is made."""
    before = tree(root)
    code, found, said = examine(str(root / "sweep.yaml"), "--json")
    assert code == 0, said
    assert of(found, "lease")[0].said == "nobody runs the sweep."
    assert "none yet; 'tickets run' makes it" in of(found, "journal")[0].said
    assert "none yet; 'tickets run' makes it" in of(found, "mlflow")[0].said
    assert tree(root) == before and not (root / "store").exists()
    code, _, said = examine(str(root / "sweep.yaml"))
    assert code == 0 and said.startswith("ok    python")


def test_what_is_wrong_is_found_and_left_as_it_is(examine: Doctor, root: Path) -> None:
    """Damaged markers, interrupted attempts, a journal that is behind, a lease elsewhere."""
    trials, store = make_lineage(num_rounds=3), Store(f"{root}/store")
    with Journal.open(
        root / "store/journals/toy.sqlite", SweepInfo("toy", "h", ""), time.time() - 900
    ) as journal:
        journal.rebuild(TrialGraph(trials), store, now=1.0)
        done = Transition(trials[2].key, TrialState.SUCCEEDED, "succeeded")
        started = Transition(trials[1].key, TrialState.RUNNING, "started")
        journal.record([done, started], now=2.0)
    store.commit(finish(store.uri, trials[0], "a1"), trials[0].spec)
    leave_artifacts(store.uri, trials[1], "a7")
    storage = Storage(store.uri)
    storage.replace(f"results/{trials[2].key}/COMMITTED.json", b"{")
    elsewhere = LeaseRecord.new(60).model_copy(update={"host": "node7", "machine": "node7"})
    storage.replace(lease_path("toy", "h" * 64), elsewhere.encode())
    before = tree(root)
    code, found, said = examine(str(root / "sweep.yaml"), "--json")
    assert code == 0, said
    counted, damaged = of(found, "markers")
    assert counted.said == "1 trials are committed."
    assert (damaged.level, damaged.todo[:21]) == ("warn", "The next 'tickets run")
    assert f"{trials[2].key}/COMMITTED.json: it is cut or not a marker" in damaged.said
    assert of(found, "attempts")[0].said.startswith("1 attempts (")
    assert "on node7 since" in of(found, "lease")[0].said
    sentences = [finding.said for finding in of(found, "journal")]
    assert "1 of 3 trials succeeded" in sentences[0]
    assert sentences[1] == "1 trials are in the store that the journal has not done."
    assert "1 trials succeeded by the journal, but the store has no whole marker" in sentences[2]
    assert "trials are RUNNING, but the last heartbeat is" in sentences[3]
    assert tree(root) == before


def test_what_would_fail_ends_with_exit_code_1(examine: Doctor, root: Path) -> None:
    """Another program's journal, and a store where a file lies; a damaged journal is mended."""
    journal = root / "store/journals/toy.sqlite"
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"no journal" * 99)
    code, found, said = examine(str(root / "sweep.yaml"), "--json")
    assert code == 0 and of(found, "journal")[0].level == "warn", said
    assert "it is not an SQLite database" in of(found, "journal")[0].said
    journal.unlink()
    with contextlib.closing(sqlite3.connect(journal)) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
    code, found, said = examine(str(root / "sweep.yaml"), "--json")
    assert code == 1
    assert "it is a database of another program" in of(found, "journal")[0].said, said
    journal.unlink()
    (root / "store/journals").rmdir()
    (root / "store").rmdir()
    (root / "store").write_text("a file")
    code, found, _ = examine(str(root / "sweep.yaml"), "--json")
    assert code == 1
    assert "fail" in {finding.level for finding in of(found, "store")}
    assert examine("none.yaml")[0] == 2


def test_a_look_that_hangs_or_breaks_is_a_finding() -> None:
    """The command ends all the same."""
    never = threading.Event()

    def hang() -> list[Finding]:
        never.wait(30)
        return []

    (late,) = within("slow", 0.05, hang, "Wait.")
    assert (late.level, late.said) == ("fail", "no answer within 0.05 s.")
    never.set()
    (broken,) = within("odd", 30, lambda: [Finding("x", "ok", str(1 // 0))], "Mend it.")
    assert broken.said.startswith("ZeroDivisionError: ")

    def leak() -> list[Finding]:
        raise RuntimeError("no route to postgresql://ada:secret@db/x")

    (told,) = within("db", 30, leak, "Mend it.")
    assert told.said == "RuntimeError: no route to postgresql://***@db/x"


def test_clocks_that_jump_or_lag_are_told() -> None:
    """Within this command, and against the store."""
    offset, now = time.time() - time.monotonic(), datetime.now(UTC)
    assert look_at_clock(offset, now).level == "ok"
    assert "jumped by +60.0 s" in look_at_clock(offset - 60, None).said
    ahead = look_at_clock(offset, now + timedelta(hours=1))
    assert ahead.level == "warn" and "the store has a commit of" in ahead.said


def test_versions_that_are_wrong_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with what is needed and how to get it."""
    assert look_at_python().level == "ok"
    monkeypatch.setattr(doctor, "_needed_python", lambda: ">=9")
    assert "but >=9 is needed" in look_at_python().said
    needed = [doctor.Requirement(text) for text in ("numpy<1", "no-such-package>=2", "numpy")]
    monkeypatch.setattr(doctor, "_needed_packages", lambda: needed)
    wrong, missing = look_at_packages()
    assert wrong.said.startswith("numpy is ") and "<1 is needed" in wrong.said
    assert missing.said == "no-such-package is missing; >=2 is needed."
    assert "make venv" in missing.todo


def test_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First as a warning, then as a failure."""
    assert look_at_folder("cache", tmp_path / "not" / "yet").said.startswith(str(tmp_path))
    for low, least, level in ((10**9, 0.0, "warn"), (10**9, 10**9, "fail")):
        monkeypatch.setattr(doctor, "LOW_GIB", low)
        monkeypatch.setattr(doctor, "LEAST_GIB", least)
        found = look_at_folder("cache", tmp_path)
        assert (found.level, found.todo) == (level, "Free some space there.")


def test_a_later_attempt_is_no_leftover(tmp_path: Path) -> None:
    """Attempts that any marker names are whole."""
    from orchestrator.store_survey import survey

    small, large = make_trial(prunes=(100,)), make_trial(prunes=(100, 200))
    store = Store(str(tmp_path / "store"))
    store.commit(finish(store.uri, small, "a1"), small.spec)
    store.commit(finish(store.uri, large, "a2"), large.spec)
    assert survey(store.uri, 60).num_open == 0
    assert survey(store.uri, -1).num_unseen == 1


def test_checkpoints_are_counted_and_those_left_behind_named(examine: Doctor, root: Path) -> None:
    """Of a trial that runs it is well; of one that is committed nobody needs it."""
    running, done = make_trial(seed=0), make_trial(seed=1)
    store = Store(f"{root}/store")
    storage = Storage(store.uri)
    storage.replace(f"results/{running.key}/checkpoint/MANIFEST.json", b"1234")
    _, found, _ = examine(str(root / "sweep.yaml"), "--json")
    (one,) = of(found, "checkpoints")
    assert one.level == "ok" and one.said.startswith("1 trials have one (4 bytes): they run now")
    store.commit(finish(store.uri, done, "a1"), done.spec)
    storage.replace(f"results/{done.key}/checkpoint/MANIFEST.json", b"12")
    _, found, _ = examine(str(root / "sweep.yaml"), "--json")
    (one,) = of(found, "checkpoints")
    assert one.level == "warn"
    assert "2 trials have one (6 bytes); 1 of these (2 bytes) are committed" in one.said
    assert "next 'tickets run' of a sweep with these trials deletes them" in one.todo


def test_checkpoints_that_only_people_can_give_up_are_named(tmp_path: Path) -> None:
    """Of a trial that failed, and of none of the sweep; not of one that runs or is committed."""
    runs, failed, done, other = (make_trial(seed=seed) for seed in range(4))
    sweep = SweepInfo(name="toy", sweep_hash="h", spec_yaml="")
    with Journal.open(tmp_path / "journal.db", sweep, now=1.0) as journal:
        graph, store = TrialGraph([runs, failed, done]), Store(str(tmp_path / "store"))
        journal.rebuild(graph, store, now=1.0)
        journal.record([Transition(runs.key, TrialState.RUNNING, "started")], time.time())
        journal.record([Transition(failed.key, TrialState.FAILED, "failed")], time.time())
    sizes = {runs.key: 1, failed.key: 2, done.key: 4, other.key: 8}
    seen = StoreSurvey(committed={done.key}, checkpoint_bytes=sizes)
    first, second = of(look_at_journal(tmp_path / "journal.db", seen), "checkpoints")
    assert first.said == (
        "1 (2 bytes) of trials that failed, were cancelled or left out: "
        f"results/{failed.key}/checkpoint"
    )
    assert second.said == f"1 (8 bytes) of no trial of this sweep: results/{other.key}/checkpoint"
