"""Sends a sweep to a cluster as a Ray job, and finds the jobs of a sweep there."""

from __future__ import annotations

import secrets
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.job_state import JobState
from cluster.jobs import JobOrder, Jobs
from orchestrator.storage import Storage
from orchestrator.submit_inputs import local_inputs, upload
from orchestrator.submit_sweep import SWEEP_FILE, control_text, sweep_text, written
from orchestrator.sweep_context import SweepContext
from search_spaces.canonical import content_key, short
from search_spaces.errors import Fault, SpecError, UserError
from search_spaces.loading import load_sweep
from search_spaces.places import masked
from search_spaces.sweep import SweepSpec

KIND_RUN, KIND_CONTROL = "run", "control"
_SHARED = (
    "Name a URI such as s3://bucket/tickets. If all nodes and this machine mount that folder at "
    "the same place, add --shared-store; the run looks at every node."
)
_STATUS_S = 120.0  # for a job that only looks at a sweep or steers it


@dataclass(frozen=True)
class Submission:
    """A sweep that is ready to be sent, as often as need be.

    Attributes:
        jobs: The cluster.
        context: The sweep as this machine sees it.
        text: The sweep as the cluster reads it.
        python: The interpreter there; a bare ``python`` would be the PATH's.
    """

    jobs: Jobs
    context: SweepContext
    text: str
    python: str

    @property
    def plan_hash(self) -> str:
        """Names the sweep's trials: equal here and there, or the job refuses to run."""
        return self.context.info.sweep_hash

    def send(self, number: int) -> str:
        """Start the n-th job of this submission, counted from 0; return its id.

        Later ones take over from their forerunner, which the cluster lost.
        """
        options = ["--expect-plan", self.plan_hash] + (["--take-over"] if number else [])
        spec = self.context.spec
        metadata = {
            **_metadata(self.context.spec.name, self.context.spec.store),
            "kind": KIND_RUN,
            "plan_hash": self.plan_hash,
            "trials": str(len(self.context.trials)),
            "mlflow": spec.tracking.uri,
            "experiment": spec.tracking.experiment or spec.name,
            "version": _version(),
            "attempt": str(number + 1),
        }
        job_id = f"tickets-{spec.name}-{short(self.plan_hash)}-{secrets.token_hex(4)}"
        command = [self.python, "-m", "orchestrator.cli", "run", SWEEP_FILE, *options]
        return _send(self.jobs, job_id, command, self.text, metadata)


def prepare(
    sweep: Path, jobs: Jobs, python: str, is_shared: bool, say: Callable[[str], None]
) -> Submission:
    """Open a sweep, copy its inputs into its store, and make it ready to be sent.

    Args:
        sweep: The sweep's file.
        jobs: The cluster.
        python: The interpreter there.
        is_shared: Whether the user says that all nodes see the store's folder.
        say: Told what was copied.

    Raises:
        UserError: Anything is wrong with the sweep, nodes would not see its store, or it runs
            there already.
    """
    places = written(sweep)
    context = SweepContext.open(sweep)
    if not is_shared:
        refuse_local_places(sweep, context.spec, jobs)
    running = [job for job in jobs_of(sweep, jobs) if not job.is_ended]
    if running:
        raise UserError(
            f"{sweep}: this sweep runs there already, as job {running[-1].job_id}. See 'tickets "
            f"status {sweep} --address {jobs.url}', or end it with 'tickets stop'."
        )
    inputs = upload(local_inputs(context.spec), context.spec.store, say)
    return Submission(jobs, context, sweep_text(context, places, inputs), python)


def refuse_local_places(sweep: Path, spec: SweepSpec, jobs: Jobs) -> None:
    """Make sure that a store or database of one machine is not used by several.

    Raises:
        SpecError: It would be.
    """
    num_nodes, place = jobs.num_nodes(), str(sweep)
    if num_nodes < 2:
        return
    faults, folder = [], Storage(spec.store).folder
    if folder is not None:
        problem = (
            f"'{folder}' is a folder, but the cluster has {num_nodes} nodes, whose trials all read "
            "and write it."
        )
        faults.append(Fault(place, "store", problem, _SHARED))
    if spec.tracking.uri.startswith("sqlite:"):
        problem = f"is a database file, but the cluster has {num_nodes} nodes."
        hint = "Name an MLflow server, http://host:5000, or add --shared-store likewise."
        faults.append(Fault(place, "tracking.uri", problem, hint))
    if faults:
        raise SpecError(faults)


def jobs_of(sweep: Path, jobs: Jobs) -> list[JobState]:
    """Return the jobs that ran a sweep on a cluster, oldest first."""
    spec = load_sweep(sweep)
    return jobs.with_metadata(**_metadata(spec.name, spec.store), kind=KIND_RUN)


def last_job(sweep: Path, jobs: Jobs) -> JobState:
    """Return the newest job that ran a sweep.

    Raises:
        UserError: There is none.
    """
    found = jobs_of(sweep, jobs)
    if not found:
        raise UserError(
            f"{sweep}: no job of this sweep and store is known at {jobs.url}. Submit it: tickets "
            f"submit {sweep} --address {jobs.url}"
        )
    return found[-1]


def control(sweep: Path, jobs: Jobs, python: str, *arguments: str) -> tuple[int, str]:
    """Run another command on a sweep where its journal is: on the cluster's head.

    Returns:
        Its exit code, and what it printed.
    """
    spec = load_sweep(sweep)
    job_id = f"tickets-{spec.name}-{arguments[0]}-{secrets.token_hex(4)}"
    command = [python, "-m", "orchestrator.cli", arguments[0], SWEEP_FILE, *arguments[1:]]
    metadata = {**_metadata(spec.name, spec.store), "kind": KIND_CONTROL}
    _send(jobs, job_id, command, control_text(sweep), metadata)
    said: list[str] = []
    state = jobs.follow(job_id, said.append, _STATUS_S)
    lines = "".join(said).splitlines(keepends=True)
    return state.exit_code, "".join(line for line in lines if not _is_of_ray(line))


def _is_of_ray(line: str) -> bool:
    return "Running entrypoint for job" in line or "\tINFO " in line


def _send(jobs: Jobs, job_id: str, command: list[str], text: str, metadata: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory(prefix="tickets-job-") as folder:  # mode 0700
        (Path(folder) / SWEEP_FILE).write_text(text, encoding="utf-8")
        # exec: what is signalled is the driver, not a shell around it
        return jobs.submit(JobOrder(job_id, f"exec {shlex.join(command)}", Path(folder), metadata))


def _metadata(name: str, store: str) -> dict[str, str]:
    """Return what tells a sweep's jobs from others, also where stores differ in credentials."""
    return {"sweep": name, "store": masked(store), "store_key": short(content_key(store))}


def _version() -> str:
    try:
        return version("bert-tickets")
    except PackageNotFoundError:
        return "unknown"
