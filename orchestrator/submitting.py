"""Sends a sweep to a cluster as a Ray job, and finds the jobs of a sweep there."""

from __future__ import annotations

import secrets
import shlex
import tempfile
from collections.abc import Callable, Mapping
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
from search_spaces.places import absolute, masked
from search_spaces.sweep import SweepSpec

KIND_RUN, KIND_CONTROL = "run", "control"
_SHARED = (
    "Name a URI such as s3://bucket/tickets. If all nodes and this machine mount that folder at "
    "the same place, add --shared-store; the run looks at every node."
)
_PATIENCE_S = 120.0  # with a cluster that does not answer, while another command runs there
_LIMIT_S = 300.0  # for that command, which only looks at a sweep or steers it
_ANSWERS = (0, 2)  # exit codes by which it says that it has run


@dataclass(frozen=True)
class Submission:
    """A sweep that is ready to be sent, as often as need be.

    Attributes:
        jobs: The cluster.
        context: The sweep as this machine sees it.
        text: The sweep as the cluster reads it.
        python: The interpreter there; a bare ``python`` would be the PATH's.
        identity: Metadata that only jobs of this sweep have.
    """

    jobs: Jobs
    context: SweepContext
    text: str
    python: str
    identity: Mapping[str, str]

    @property
    def plan_hash(self) -> str:
        """Names the sweep's trials: equal here and there, or the job refuses to run."""
        return self.context.info.sweep_hash

    def send(self, number: int) -> str:
        """Start the n-th job of this submission, counted from 0; return its id.

        Later ones take over from their forerunner, which the cluster lost. Where the sweep runs
        by then, as after a submission whose answer was lost, that job is the n-th.

        Raises:
            UserError: The cluster refuses, or the first job finds that the sweep runs already.
        """
        if number and (running := _running(self.jobs, self.identity)):
            return running[-1].job_id
        _refuse_running(self.context.spec.name, self.jobs, self.identity)
        options = ["--expect-plan", self.plan_hash] + (["--take-over"] if number else [])
        spec = self.context.spec
        metadata = {
            **self.identity,
            "kind": KIND_RUN,
            "plan_hash": self.plan_hash,
            "trials": str(len(self.context.trials)),
            "mlflow": masked(spec.tracking.uri),
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
    own = identity(sweep)
    _refuse_running(str(sweep), jobs, own)  # again when it is sent: copying may take long
    inputs = upload(local_inputs(context.spec), absolute(context.spec.store), say)
    return Submission(jobs, context, sweep_text(context, places, inputs), python, own)


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


def identity(sweep: Path) -> dict[str, str]:
    """Return the metadata that tell a sweep's jobs from others: its name and its store.

    A store counts as the sweep writes it, ``${NAME}`` unreplaced: no credentials are in it, nor a
    hash of them, against which they could be guessed.

    Raises:
        SpecError: The sweep is faulty, or its store cannot be named so.
    """
    spec = load_sweep(sweep)
    store = masked(absolute(spec.store))
    key = short(content_key([written(sweep)["store"], store]))
    return {"sweep": spec.name, "store": store, "store_key": key}


def _running(jobs: Jobs, own: Mapping[str, str]) -> list[JobState]:
    return [job for job in jobs.with_metadata(**own, kind=KIND_RUN) if not job.is_ended]


def _refuse_running(name: str, jobs: Jobs, own: Mapping[str, str]) -> None:
    if running := _running(jobs, own):
        raise UserError(
            f"{name}: this sweep runs there already, as job {running[-1].job_id}. See 'tickets "
            f"status SWEEP --address {jobs.url}', or end it with 'tickets stop'."
        )


def last_job(sweep: Path, jobs: Jobs) -> JobState:
    """Return the newest job of a sweep that runs, else the newest that ran.

    Of two submitted at once the later one ends at once, refused by the lease.

    Raises:
        UserError: There is none.
    """
    found = jobs.with_metadata(**identity(sweep), kind=KIND_RUN)
    if not found:
        raise UserError(
            f"{sweep}: no job of this sweep and store is known at {jobs.url}. Submit it: tickets "
            f"submit {sweep} --address {jobs.url}"
        )
    return ([job for job in found if not job.is_ended] or found)[-1]


def control(sweep: Path, jobs: Jobs, python: str, *arguments: str) -> tuple[int, str]:
    """Run another command on a sweep where its journal is: on the cluster's head.

    Returns:
        Its exit code, 0 or 2, and what it printed.

    Raises:
        UserError: It cannot run there, or does not end.
    """
    spec = load_sweep(sweep)
    job_id = f"tickets-{spec.name}-{arguments[0]}-{secrets.token_hex(4)}"
    command = [python, "-m", "orchestrator.cli", arguments[0], SWEEP_FILE, *arguments[1:]]
    metadata = {**identity(sweep), "kind": KIND_CONTROL}
    _send(jobs, job_id, command, control_text(sweep), metadata)
    said: list[str] = []
    state = jobs.follow(job_id, said.append, _PATIENCE_S, _LIMIT_S)
    lines = "".join(said).splitlines(keepends=True)
    text = "".join(line for line in lines if not _is_of_ray(line))
    if not state.is_ended:
        jobs.stop(job_id)
    if not state.is_ended or state.exit_code not in _ANSWERS:
        raise _unanswered(jobs, arguments[0], state, text)
    return state.exit_code, text


def _unanswered(jobs: Jobs, verb: str, state: JobState, text: str) -> UserError:
    """Return why a command could not be run on a cluster; the sweep's run is left alone."""
    why = f"has not ended within {_LIMIT_S:g} s"
    if state.is_ended:
        last = (text.strip() or state.message.strip() or state.status).splitlines()[-1]
        why = f"cannot run there (exit code {state.exit_code}): {last.rstrip('.')}"
    return UserError(
        f"--address {jobs.url}: 'tickets {verb}' {why}. Check that the interpreter that --python "
        "names has this project on the cluster's head, and that the head is not overloaded."
    )


def _is_of_ray(line: str) -> bool:
    return "Running entrypoint for job" in line or "\tINFO " in line


def _send(jobs: Jobs, job_id: str, command: list[str], text: str, metadata: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory(prefix="tickets-job-") as folder:  # mode 0700
        (Path(folder) / SWEEP_FILE).write_text(text, encoding="utf-8")
        # exec: what is signalled is the driver, not a shell around it
        return jobs.submit(JobOrder(job_id, f"exec {shlex.join(command)}", Path(folder), metadata))


def _version() -> str:
    try:
        return version("bert-tickets")
    except PackageNotFoundError:
        return "unknown"
