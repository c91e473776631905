"""The command that sends a sweep to a cluster, and how others look at it from outside."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.arguments import AsJson, SweepPath
from orchestrator.console import pasteable
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from cluster.job_state import JobState
    from cluster.jobs import Jobs

RECONNECT_S = 600.0  # how long a supervisor tries a head that does not answer
STOP_S = 90.0
_BEGIN_S = 10.0  # how long a run that has nothing to stop is given to begin or to end
_ASKED = 2  # times
_NO_JOURNAL = "there is no journal"  # as orchestrator.journal_reader says it

app = typer.Typer()
Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard, http://head:8265."
    ),
]
Where = Annotated[
    str | None,
    typer.Option("--address", help="Of a sweep that was submitted: the dashboard's URL."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Go on without a token beyond this machine: unsafe.")
]
Python = Annotated[
    str, typer.Option(help="Python interpreter on the cluster; default: the path of this one.")
]


@app.command()
def submit(
    sweep: SweepPath,
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its output to the end; exit as it does.")
    ] = False,
    supervise: Annotated[
        bool,
        typer.Option("--supervise", help="Follow, and submit again when the driver was lost."),
    ] = False,
    max_again: Annotated[
        int, typer.Option("--max-again", min=0, help="How often at most, with --supervise.")
    ] = 3,
    shared_store: Annotated[
        bool, typer.Option("--shared-store", help="All nodes mount the store's folder.")
    ] = False,
    insecure: Insecure = False,
    python: Python = sys.executable,
    as_json: AsJson = False,
) -> None:
    """Run a sweep on a Ray cluster as a job; data and models travel to its store, once.

    The job goes on when this command ends. The same command resumes a sweep that was stopped.
    """
    if as_json and (follow or supervise):
        raise UserError("tickets submit: --json tells the job's id; leave out --follow.")
    from cluster.tokens import open_to_others
    from orchestrator.submitting import prepare

    if said := " ".join(filter(None, open_to_others(os.environ))):
        _note(f"WARNING: {said}")
    jobs = _jobs(address, insecure)
    sent = prepare(sweep, jobs, python, shared_store, (_note if as_json else typer.echo))
    if supervise:
        raise typer.Exit(_supervised(sent.send, jobs, max_again, sweep))
    job_id = sent.send(0)
    if as_json:
        data = {"job": job_id, "plan": sent.plan_hash, "address": jobs.url}
        typer.echo(json.dumps(data, indent=2))
        return
    typer.echo(f"Job {job_id}: {len(sent.context.trials)} trials, submitted to {jobs.url}")
    if follow:
        raise typer.Exit(_followed(jobs, job_id, sweep))
    typer.echo(_next(sweep, jobs))


def show_status(sweep: Path, address: str, as_json: bool, insecure: bool, python: str) -> None:
    """Show a submitted sweep's newest job, then its trials as the cluster's journal has them."""
    from orchestrator.submitting import control, last_job

    jobs = _jobs(address, insecure)
    job = last_job(sweep, jobs)
    code, said = control(sweep, jobs, python, "status", *(["--json"] if as_json else []))
    is_early = code != 0 and not job.is_ended and _NO_JOURNAL in said
    if code and not is_early:
        raise UserError(f"{_line(job)}\n{said.rstrip()}\nIts output: {_logs(sweep, jobs)}")
    if as_json:
        trials = {"trials": []} if is_early else _decoded(said, jobs)
        typer.echo(json.dumps({"job": _as_data(job), **trials}, indent=2))
        return
    typer.echo(_line(job))
    typer.echo("The run has not begun: no trial is to be seen yet.\n" if is_early else said)


def show_logs(
    sweep: Path,
    trial: str | None,
    address: str,
    follow: bool,
    as_json: bool,
    insecure: bool,
    python: str,
) -> None:
    """Show what a submitted sweep's job has printed, or what its journal knows of a trial."""
    from orchestrator.submitting import control, last_job

    if (trial and follow) or (as_json and not trial):
        raise UserError(
            "tickets logs: --follow shows the output of a job: name no trial. --json shows one "
            "trial: name it."
        )
    jobs = _jobs(address, insecure)
    if trial:
        options = ["--json"] if as_json else []
        code, said = control(sweep, jobs, python, "logs", *options, "--", trial)
        if code:
            raise UserError(said.rstrip())
        typer.echo(json.dumps(_decoded(said, jobs), indent=2) if as_json else said.rstrip("\n"))
        return
    job = last_job(sweep, jobs)
    if follow:
        raise typer.Exit(_followed(jobs, job.job_id, sweep))
    _write(jobs.logs(job.job_id))
    typer.echo(_line(job))


def stop_job(sweep: Path, address: str, insecure: bool, python: str) -> None:
    """Ask a submitted sweep's run to end; where it does not, end its job."""
    from orchestrator.submitting import control, last_job

    jobs = _jobs(address, insecure)
    job = last_job(sweep, jobs)
    if job.is_ended:
        raise UserError(f"{sweep}: {_line(job)} There is no run to stop.")
    for _ in range(_ASKED):  # a run that only begins, or writes its report, refuses
        code, said = control(sweep, jobs, python, "stop")
        if _has_ended(jobs, job.job_id, STOP_S if code == 0 else _BEGIN_S):
            typer.echo(said.rstrip() if code == 0 else _line(jobs.state(job.job_id)))
            return
        if code == 0:
            break
    jobs.stop(job.job_id)
    if not _has_ended(jobs, job.job_id, STOP_S):
        raise UserError(f"{sweep}: job {job.job_id} does not end. See {jobs.url}.")
    typer.echo(
        f"The run did not answer, so its job was ended: {job.job_id}. What is committed stays."
    )


def _supervised(send: Callable[[int], str], jobs: Jobs, max_again: int, sweep: Path) -> int:
    from orchestrator.supervising import supervise

    def sent(number: int) -> str:
        job_id = send(number)
        typer.echo(f"Job {job_id}, number {number + 1} of this sweep, submitted to {jobs.url}")
        return job_id

    def followed(job_id: str) -> JobState:
        return jobs.follow(job_id, _write, RECONNECT_S)

    try:
        state = supervise(sent, followed, typer.echo, time.sleep, max_again)
    except KeyboardInterrupt:
        typer.echo(f"\nThe job goes on, but nobody supervises it.\n{_next(sweep, jobs)}")
        return 130
    typer.echo(_line(state))
    return state.exit_code


def _followed(jobs: Jobs, job_id: str, sweep: Path) -> int:
    try:
        state = jobs.follow(job_id, _write)
    except KeyboardInterrupt:
        typer.echo(f"\nThe job goes on.\n{_next(sweep, jobs)}")
        return 130
    typer.echo(_line(state))
    return state.exit_code


def _jobs(address: str, insecure: bool) -> Jobs:
    from cluster.jobs import Jobs

    if insecure:
        _note(
            "WARNING: --insecure: a cluster without a token runs whatever anybody sends it. "
            "See docs/security.md."
        )
    return Jobs(address, insecure)


def _has_ended(jobs: Jobs, job_id: str, patience_s: float) -> bool:
    deadline_s = time.monotonic() + patience_s
    while not jobs.state(job_id).is_ended:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.5)
    return True


def _decoded(said: str, jobs: Jobs) -> dict[str, object]:
    """Return the JSON object that a command has printed; warnings may stand around it."""
    try:
        data: dict[str, object] = json.JSONDecoder().raw_decode(said[said.index("{\n") :])[0]
    except ValueError as error:
        raise UserError(
            f"--address {jobs.url}: what the cluster's 'tickets' printed is no JSON. Install the "
            "same version of this project on both sides."
        ) from error
    return data


def _line(job: JobState) -> str:
    from orchestrator.supervising import reason

    since = datetime.fromtimestamp(job.started_at).isoformat(" ", "seconds")
    why = f", {reason(job)}" if job.status in ("FAILED", "LOST") else ""
    began = f", started {since}" if job.started_at else ""
    return f"Job {job.job_id}: {job.status}{why}{began}."


def _as_data(job: JobState) -> dict[str, object]:
    return {"id": job.job_id, "status": job.status, "exit_code": job.driver_exit_code}


def _next(sweep: Path, jobs: Jobs) -> str:
    where = f"{pasteable(sweep)} --address {jobs.url}"
    return (
        f"Look at it with: tickets status {where}\nFollow it with:  {_logs(sweep, jobs)} --follow\n"
        f"End it with:     tickets stop {where}"
    )


def _logs(sweep: Path, jobs: Jobs) -> str:
    return f"tickets logs {pasteable(sweep)} --address {jobs.url}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    typer.echo(text, err=True)
