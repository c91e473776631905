"""Sweeps that are killed, stopped, corrupted, or that fail: on real Ray, DeepSpeed and MLflow."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from cluster.session import Session
from search_spaces.contracts import TrialState
from tests.orchestrator.sweep_files import (
    committed,
    flip_a_bit,
    living,
    max_removed,
    ranks_in,
    results_of,
    runs_of,
    store_of,
)
from tests.orchestrator.sweeps import (
    ended,
    make_source,
    start,
    states,
    tickets,
    wait_until,
    write_data,
    write_sweep,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # kills in `make test`: tests/chaos
Done = subprocess.CompletedProcess[str]
NUM_TRIALS = 6  # two seeds of dense, 0.3 and 0.5
# One lineage for both seeds, so that a search that fails costs one trial.
SHAPE = {"replicate": "finetune", "retries": {"diverged": 1}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    write_data(root)
    return root


@pytest.fixture(scope="module")
def cluster(ray_session: Session) -> str:
    """The address of a Ray that the commands share, because starting one takes its time."""
    return str(ray.get_runtime_context().gcs_address)


@dataclass(frozen=True)
class Hurt:
    """What happened to one sweep, in this order.

    Attributes:
        sweep: The sweep's file.
        refused: A second run while the first was running.
        first_pid: Of the first run.
        after_kill: Markers when the first run had been killed.
        stopped: The second run, which was interrupted as by Ctrl-C.
        after_stop: Markers then.
        states_after_stop: What ``tickets status`` said then.
        finished: The third run.
    """

    sweep: Path
    refused: Done
    first_pid: int
    after_kill: dict[str, int]
    stopped: Done
    after_stop: dict[str, int]
    states_after_stop: dict[str, tuple[TrialState, int, str]]
    finished: Done


@pytest.fixture(scope="module")
def hurt(root: Path, cluster: str) -> Iterator[Hurt]:
    """One sweep that is run twice at once, killed, stopped, and then left in peace."""
    sweep = write_sweep(root, "hurt", root, **SHAPE)
    journal = root / "hurt-store" / "journals" / "hurt.sqlite"
    first = start("run", str(sweep), cwd=root)
    try:
        wait_until(journal.exists, "the first run has the journal")
        refused = tickets("run", str(sweep), cwd=root)
        wait_until(lambda: committed(sweep), "a trial is committed")
        first.kill()
        first.wait()  # and not for the ends of its pipes, which its Ray holds
        after_kill = committed(sweep)
        wait_until(lambda: not ranks_in(first.pid), "the killed run's ranks end")
    finally:
        if living(first.pid):
            os.killpg(first.pid, signal.SIGKILL)
    second = start("run", str(sweep), cwd=root, cluster=cluster)
    wait_until(lambda: committed(sweep).keys() - after_kill.keys(), "one more is committed")
    os.killpg(second.pid, signal.SIGINT)
    stopped, after_stop = ended(second), committed(sweep)
    stood = states(sweep)
    finished = tickets("run", str(sweep), cwd=root, cluster=cluster)
    yield Hurt(sweep, refused, first.pid, after_kill, stopped, after_stop, stood, finished)


@pytest.fixture(scope="module")
def wild(root: Path, cluster: str) -> tuple[Path, Done]:
    """The same sweep undisturbed, beside a task whose search cannot but diverge."""
    source = make_source(root / "data")
    tasks = [
        {"name": "toy", "source": source, "max_length": 24},
        {
            "name": "wild",
            "source": source,
            "max_length": 24,
            "search_recipe": {"learning_rate": 1e30},
        },
    ]
    sweep = write_sweep(root, "wild", root, tasks=tasks, **SHAPE)
    return sweep, tickets("run", str(sweep), cwd=root, cluster=cluster)


class TestTwoAtOnce:
    def test_the_second_names_the_first(self, hurt: Hurt) -> None:
        """A sweep that is running is refused with its process, in one sentence and exit code 2."""
        said = hurt.refused.stderr
        assert hurt.refused.returncode == 2, said
        assert "this sweep is being run by process" in said
        assert f"process {hurt.first_pid} on" in said
        assert "tickets status" in said and "Traceback" not in said


class TestKilledRun:
    def test_it_was_killed_in_mid_sweep(self, hurt: Hurt) -> None:
        """The kill came after the first and before the last trial."""
        assert 1 <= len(hurt.after_kill) < NUM_TRIALS

    def test_what_was_committed_is_never_run_again(self, hurt: Hurt) -> None:
        """Markers of the killed and of the stopped run stay untouched, down to the nanosecond."""
        now = committed(hurt.sweep)
        assert hurt.after_kill.items() <= hurt.after_stop.items() <= now.items()
        assert len(now) == NUM_TRIALS
        attempts = {key: row[1] for key, row in states(hurt.sweep).items()}
        assert {attempts[key] for key in hurt.after_kill} == {1}

    def test_no_trial_is_twice_in_mlflow(self, hurt: Hurt) -> None:
        """Three runs of the command give one MLflow run for each trial, and one parent."""
        assert hurt.finished.returncode == 0, hurt.finished.stdout + hurt.finished.stderr
        runs = runs_of(hurt.sweep, "tags.trial_key LIKE '%'")
        counts = Counter(run.data.tags["trial_key"] for run in runs)
        assert counts == dict.fromkeys(committed(hurt.sweep), 1)
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert len(runs_of(hurt.sweep, "tags.kind = 'sweep'")) == 1

    def test_masks_and_scores_are_those_of_an_undisturbed_sweep(
        self, hurt: Hurt, wild: tuple[Path, Done]
    ) -> None:
        """Every mask is equal to the bit, and every score and loss to the last digit."""
        disturbed, peaceful = results_of(hurt.sweep), results_of(wild[0])
        assert disturbed.keys() == peaceful.keys()
        for key, result in disturbed.items():
            same = peaceful[key]
            assert [m.mask.sha256 for m in result.masks.values()] == [
                m.mask.sha256 for m in same.masks.values()
            ]
            assert (result.input_mask, result.scores, result.losses) == (
                same.input_mask,
                same.scores,
                same.losses,
            )
        assert sum(bool(result.masks) for result in disturbed.values()) == 2


class TestStoppedRun:
    def test_ctrl_c_says_how_to_go_on(self, hurt: Hurt) -> None:
        """Exit code 130 and the command that continues; no traceback."""
        said = hurt.stopped.stdout + hurt.stopped.stderr
        assert hurt.stopped.returncode == 130, said
        assert f"Go on with: tickets run {hurt.sweep}" in said
        assert "Traceback" not in said

    def test_nothing_that_was_committed_is_lost(self, hurt: Hurt) -> None:
        """What is in the store is SUCCEEDED, what is not is CANCELLED."""
        assert len(hurt.after_kill) < len(hurt.after_stop)
        stood = {key: row[0] for key, row in hurt.states_after_stop.items()}
        done = {key for key, state in stood.items() if state is TrialState.SUCCEEDED}
        assert done == hurt.after_stop.keys()
        assert set(stood.values()) <= {TrialState.SUCCEEDED, TrialState.CANCELLED}

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_stop_before_the_first_trial_says_it_too(
        self, root: Path, number: signal.Signals, code: int
    ) -> None:
        """While Ray is still starting, the same message, and an exit code as later."""
        name = f"early-{code}"
        sweep = write_sweep(root, name, root)
        process = start("run", str(sweep), cwd=root)
        wait_until((root / f"{name}-store" / "journals" / f"{name}.sqlite").exists, "it begins")
        os.killpg(process.pid, number)
        done = ended(process)
        assert done.returncode == code, done.stderr
        assert f"Go on with: tickets run {sweep}" in done.stdout
        assert "Traceback" not in done.stderr
        wait_until(lambda: not living(process.pid), "its Ray ends")


class TestFinishedSweep:
    def test_running_it_again_starts_nothing(self, hurt: Hurt) -> None:
        """No trial, no attempt and no Ray: the command does not even import it."""
        assert hurt.finished.returncode == 0
        before = committed(hurt.sweep), states(hurt.sweep)
        again = tickets("run", str(hurt.sweep), cwd=hurt.sweep.parent)
        assert again.returncode == 0, again.stderr
        assert "0 to run" in again.stdout and f"{NUM_TRIALS} reused" in again.stdout
        assert "HEAVY []" in again.stderr
        assert (committed(hurt.sweep), states(hurt.sweep)) == before

    def test_plan_has_nothing_to_run(self, hurt: Hurt) -> None:
        """Every trial is reused."""
        plan = tickets("plan", str(hurt.sweep), cwd=hurt.sweep.parent)
        assert "0 to run" in plan.stdout and f"{NUM_TRIALS} reused" in plan.stdout


class TestFailingTrial:
    def test_exit_code_and_message(self, wild: tuple[Path, Done]) -> None:
        """The run ends with exit code 1 and says where the reason is."""
        sweep, done = wild
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"tickets status {sweep}" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr

    def test_it_is_retried_and_its_descendants_are_blocked(self, wild: tuple[Path, Done]) -> None:
        """Two attempts as the sweep allows, then FAILED; what needs its mask is BLOCKED by it."""
        rows = states(wild[0])
        ((attempts, message),) = [row[1:] for row in rows.values() if row[0] is TrialState.FAILED]
        assert attempts == 2
        assert "The training loss is nan" in message and "Lower recipe.learning_rate" in message
        blocked = [row[1:] for row in rows.values() if row[0] is TrialState.BLOCKED]
        assert len(blocked) == 5  # one more round, and two seeds at both levels
        for attempts, cause in blocked:
            assert attempts == 0
            assert cause == f"round:wild:imp:r0:s1 failed: {message}"

    def test_the_other_task_finishes(self, wild: tuple[Path, Done]) -> None:
        """All trials of the healthy task succeed."""
        counts = Counter(row[0] for row in states(wild[0]).values())
        assert counts[TrialState.SUCCEEDED] == NUM_TRIALS

    def test_status_shows_it(self, wild: tuple[Path, Done]) -> None:
        """People see the states and the message."""
        shown = tickets("status", str(wild[0]), cwd=wild[0].parent).stdout
        assert "FAILED 1" in shown and "BLOCKED 5" in shown and "loss is nan" in shown

    def test_its_levels_are_undecided(self, wild: tuple[Path, Done]) -> None:
        """A level without scores matches under no rule; the other task's levels are judged."""
        runs = runs_of(wild[0], "tags.kind = 'verdict' and tags.task = 'wild'")
        assert {run.data.tags["outcome"] for run in runs} == {"undecided"}
        assert {round(run.data.metrics["sparsity"], 3) for run in runs} == {0.3, 0.5}
        healthy = runs_of(wild[0], "tags.kind = 'verdict' and tags.task = 'toy'")
        assert "undecided" not in {run.data.tags["rule.strict"] for run in healthy}


class TestDamagedMask:
    def test_it_is_never_used_and_the_remedy_works(self, hurt: Hurt, cluster: str) -> None:
        """A flipped bit fails the child by file and remedy; following it makes all whole again."""
        sweep, store, before = hurt.sweep, store_of(hurt.sweep), results_of(hurt.sweep)
        child = next(r.spec for r in store.records() if r.spec.num_removed == max_removed(store))
        assert child.mask_parent is not None
        parent = child.mask_parent.parent
        (name,) = before[parent].masks
        mask = Path(store.artifact(parent, name).uri)
        flip_a_bit(mask)
        shutil.rmtree(Path(store.uri) / "results" / child.key)

        failed = tickets("run", str(sweep), cwd=sweep.parent, cluster=cluster)
        assert failed.returncode == 1, failed.stdout + failed.stderr
        assert child.key not in committed(sweep)
        state, _, message = states(sweep)[child.key]
        assert state is TrialState.FAILED
        assert f"{mask}: the file is damaged" in message
        remedy = f"{store.uri}/results/{parent}"
        assert f"Remove {remedy} and run the sweep again" in message

        shutil.rmtree(remedy)
        mended = tickets("run", str(sweep), cwd=sweep.parent, cluster=cluster)
        assert mended.returncode == 0, mended.stdout + mended.stderr
        after = results_of(sweep)
        assert after.keys() == before.keys()
        assert after[parent].masks[name].mask == before[parent].masks[name].mask
        assert after[child.key].input_mask == before[child.key].input_mask
        assert after[child.key].scores == before[child.key].scores
