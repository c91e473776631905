"""Looking at submitted sweeps and ending them, with jobs whose answers are written by the test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.job_state import JobState
from cluster.jobs import JobOrder
from orchestrator import submit_commands
from orchestrator.cli import main
from orchestrator.submitting import Submission, identity, last_job
from orchestrator.sweep_context import SweepContext
from search_spaces.errors import UserError
from search_spaces.loading import load_sweep
from tests.orchestrator.sweeps import write_sweep

URL = "http://127.0.0.1:8265"
RUN = JobState("run-1", "RUNNING", started_at=1.0)
NO_JOURNAL = "/s/x.sqlite: there is no journal. Start the sweep with 'tickets run'.\n"


@dataclass
class Jobs:
    """The jobs of a cluster that is not there.

    Attributes:
        runs: Of the sweep, oldest first.
        answers: What commands on the head end with, one after the other: exit code and text.
        orders: What was submitted.
        stopped: Which jobs were ended by force; a run that is, has ended.
        ends_when_asked: Whether the run ends once a command was answered with 0.
    """

    runs: list[JobState]
    answers: list[tuple[int | None, str]] = field(default_factory=list)
    orders: list[JobOrder] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    ends_when_asked: bool = True
    url: str = URL

    def with_metadata(self, **wanted: str) -> list[JobState]:
        """Return the runs, whatever is asked."""
        return list(self.runs)

    def submit(self, order: JobOrder) -> str:
        """Note an order."""
        self.orders.append(order)
        return order.job_id

    def follow(
        self,
        job_id: str,
        write: Callable[[str], None],
        patience_s: float = 1,
        limit_s: float = math.inf,
    ) -> JobState:
        """Answer a command of the head, or show a run's output."""
        if job_id in [run.job_id for run in self.runs]:
            write(self.logs(job_id))
            return JobState(job_id, "FAILED", 1)
        code, text = self.answers.pop(0)
        write("Running entrypoint for job x: y\n")
        write(text)
        if code is None:
            return JobState(job_id, "RUNNING")
        if code == 0 and self.ends_when_asked:
            self._end("FAILED", 130)
        return JobState(job_id, "FAILED" if code else "SUCCEEDED", code)

    def state(self, job_id: str) -> JobState:
        """Return how a run gets on."""
        return next(run for run in self.runs if run.job_id == job_id)

    def logs(self, job_id: str) -> str:
        """Return a run's output."""
        return f"output of {job_id}\n"

    def stop(self, job_id: str) -> None:
        """Note it, and end the runs."""
        self.stopped.append(job_id)
        self._end("STOPPED", None)

    def _end(self, status: str, code: int | None) -> None:
        self.runs = [
            run if run.is_ended else replace(run, status=status, driver_exit_code=code)
            for run in self.runs
        ]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep, and no time to wait for runs that do not end."""
    monkeypatch.setattr(submit_commands, "STOP_S", 0.0)
    monkeypatch.setattr(submit_commands, "_BEGIN_S", 0.0)
    return write_sweep(tmp_path, "sent", tmp_path)


@dataclass
class Told:
    """How a command ended, and what it printed."""

    code: Any
    out: str
    err: str


@pytest.fixture
def tickets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sweep: Path
) -> Callable[..., Told]:
    """Run a command on the sweep, as from a shell."""

    def call(jobs: Jobs, command: str, *arguments: str) -> Told:
        monkeypatch.setattr(submit_commands, "_jobs", lambda *given: jobs)
        monkeypatch.setattr(
            "sys.argv", ["tickets", command, str(sweep), "--address", URL, *arguments]
        )
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Told(caught.value.code or 0, out, err)

    return call


Tickets = Callable[..., Told]


def test_the_job_that_runs_is_the_last(sweep: Path) -> None:
    """Of two submitted at once the later one was refused by the lease; the other is the run."""
    refused = JobState("run-2", "FAILED", 2, started_at=2.0)
    assert last_job(sweep, Jobs([RUN, refused])).job_id == "run-1"
    ended = replace(RUN, status="SUCCEEDED")
    assert last_job(sweep, Jobs([ended, refused])).job_id == "run-2"
    with pytest.raises(UserError, match="no job of this sweep and store is known"):
        last_job(sweep, Jobs([]))


def test_a_sweep_that_runs_is_not_sent_again(sweep: Path) -> None:
    """It is looked again right before: copying may take long. A supervisor follows the run."""
    jobs = Jobs([])
    context = SweepContext(load_sweep(sweep), {}, {}, ())
    sent = Submission(jobs, context, "text", "/opt/my python", identity(sweep))
    first = sent.send(0)
    assert jobs.orders[0].entrypoint.startswith("exec '/opt/my python' -m orchestrator.cli run ")
    assert "--take-over" not in jobs.orders[0].entrypoint
    assert sent.send(1) != first and jobs.orders[1].entrypoint.endswith("--take-over")
    jobs.runs = [RUN]
    with pytest.raises(UserError, match="sent: this sweep runs there already, as job run-1"):
        sent.send(0)
    assert sent.send(1) == "run-1" and len(jobs.orders) == 2


@pytest.mark.parametrize(("code", "text"), [(127, "not found\n"), (1, "No module named x\n")])
@pytest.mark.parametrize("command", ["status", "stop"])
def test_interpreter_without_the_project(
    tickets: Tickets, command: str, code: int, text: str
) -> None:
    """A command that cannot run there says so; it neither hides it nor ends the run for it."""
    jobs = Jobs([RUN], [(code, text)])
    told = tickets(jobs, command)
    assert told.code == 2 and told.out == "" and not jobs.stopped
    assert f"'tickets {command}' cannot run there (exit code {code}): {text.strip()}" in told.err
    assert "--python" in told.err


def test_command_that_hangs_is_ended(tickets: Tickets) -> None:
    """Not the run, but the job that looks at it."""
    jobs = Jobs([RUN], [(None, "")])
    told = tickets(jobs, "status")
    assert told.code == 2 and "'tickets status' has not ended within 300 s" in told.err
    assert jobs.stopped == [jobs.orders[0].job_id]


def test_status_in_json(tickets: Tickets) -> None:
    """Warnings that libraries print do not spoil it, nor does a run that has not begun."""
    text = 'W: {odd}\n{\n "trials": [1]\n}\nW: late\n'
    told = tickets(Jobs([RUN], [(0, text)], ends_when_asked=False), "status", "--json")
    assert told.code == 0 and json.loads(told.out)["trials"] == [1]
    assert json.loads(told.out)["job"] == {"id": "run-1", "status": "RUNNING", "exit_code": None}
    told = tickets(Jobs([RUN], [(2, NO_JOURNAL)]), "status", "--json")
    assert told.code == 0 and json.loads(told.out)["trials"] == []
    told = tickets(Jobs([RUN], [(0, "nothing")]), "status", "--json")
    assert told.code == 2 and "is no JSON" in told.err and told.out == ""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_status_that_fails(tickets: Tickets, options: tuple[str, ...]) -> None:
    """Why is said on stderr, with exit code 2, and never as if the run had not begun."""
    told = tickets(Jobs([RUN], [(2, "the environment has no SECRET.\n")]), "status", *options)
    assert told.code == 2 and told.out == "" and "the environment has no SECRET." in told.err
    ended = replace(RUN, status="FAILED", driver_exit_code=2)
    told = tickets(Jobs([ended], [(2, NO_JOURNAL)]), "status", *options)
    assert told.code == 2 and told.out == ""
    assert "Job run-1: FAILED, exit code 2" in told.err and "tickets logs" in told.err


def test_stop_asks_first(tickets: Tickets) -> None:
    """A run that ends as it is asked is not ended by force."""
    jobs = Jobs([RUN], [(0, "Stopped: 3 trials\n")])
    told = tickets(jobs, "stop")
    assert told.code == 0 and told.out == "Stopped: 3 trials\n" and not jobs.stopped


def test_stop_of_a_run_that_begins(tickets: Tickets) -> None:
    """It is asked twice before its job is ended: it may have begun, or end, meanwhile."""
    jobs = Jobs([RUN], [(2, NO_JOURNAL), (0, "Stopped\n")])
    assert tickets(jobs, "stop").out == "Stopped\n" and not jobs.stopped
    jobs = Jobs([RUN], [(2, NO_JOURNAL), (2, NO_JOURNAL)])
    told = tickets(jobs, "stop")
    assert told.code == 0 and "its job was ended: run-1" in told.out and jobs.stopped == ["run-1"]
    told = tickets(jobs, "stop")
    assert told.code == 2 and "Job run-1: STOPPED" in told.err and "no run to stop" in told.err


def test_logs_of_a_job(tickets: Tickets) -> None:
    """What it has printed, while it runs or when it has ended; --follow exits as it does."""
    told = tickets(Jobs([RUN]), "logs")
    assert told.code == 0 and told.out.startswith("output of run-1\nJob run-1: RUNNING, started")
    told = tickets(Jobs([RUN]), "logs", "--follow")
    assert told.code == 1 and told.out == "output of run-1\nJob run-1: FAILED, exit code 1.\n"
    told = tickets(Jobs([]), "logs")
    assert told.code == 2 and "no job of this sweep" in told.err


def test_logs_of_a_trial(tickets: Tickets) -> None:
    """Its journal is on the head; a name that begins with a dash is no option there."""
    jobs = Jobs([RUN], [(0, "events:\n")], ends_when_asked=False)
    assert tickets(jobs, "logs", "dense:toy:s1").out == "events:\n"
    assert jobs.orders[0].entrypoint.endswith("logs sweep.yaml -- dense:toy:s1")
    assert jobs.orders[0].metadata["kind"] == "control"
    jobs.answers = [(0, '{\n "row": 1\n}\n')]
    assert json.loads(tickets(jobs, "logs", "abc; rm", "--json").out) == {"row": 1}
    assert jobs.orders[1].entrypoint.endswith("logs sweep.yaml --json -- 'abc; rm'")
    jobs.answers = [(2, "'zz': no trial is meant.\n")]
    told = tickets(jobs, "logs", "zz")
    assert told.code == 2 and told.err == "'zz': no trial is meant.\n"


@pytest.mark.parametrize("arguments", [("dense:toy:s1", "--follow"), ("--json",)])
def test_logs_that_make_no_sense(tickets: Tickets, arguments: tuple[str, ...]) -> None:
    """A trial has no end to follow, and a job's output is no JSON."""
    told = tickets(Jobs([RUN]), "logs", *arguments)
    assert told.code == 2 and "--follow shows the output of a job" in told.err


def test_metadata_hold_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who may see jobs see them."""
    monkeypatch.setenv("SECRET", "pa55word")
    jobs, uri = Jobs([]), "http://me:${SECRET}@mlflow:5000"
    path = write_sweep(
        tmp_path, "m", tmp_path, store="s3://key:${SECRET}@b/x", tracking={"uri": uri}
    )
    context = SweepContext(load_sweep(path), {}, {}, ())
    Submission(jobs, context, "text", "python", identity(path)).send(0)
    [order] = jobs.orders
    metadata: Mapping[str, str] = order.metadata
    assert "pa55word" not in json.dumps(dict(metadata)) + order.entrypoint
    assert metadata["store"] == "s3://***@b/x"
