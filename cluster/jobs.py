"""Sweeps as jobs of a Ray cluster: submitted, looked at, followed to their end, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.job_state import JobState, Printed
from cluster.tokens import NEXT_STEP, checked_url, find_token, require_token
from search_spaces.errors import UserError
from search_spaces.places import masked

PATIENCE_S = 60.0  # with a cluster that answered before
_PROBE_TIMEOUT_S = 10.0
_TIMEOUT_S = 60.0  # for one answer of a cluster that may be busy
_QUIET_S = 60.0  # without output: the connection may be dead, which only a new one shows
_RETRY_S = 2.0
_NOT_YET = "No available agent to submit job"  # Ray's words: nothing was submitted
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client prefers them to its argument
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
_FAILURES = (OSError, RuntimeError, aiohttp.ClientError, ray.exceptions.RayError)
# No proxy of the environment, which would get the token: the first question went without one.
_DIRECT = {"http": None, "https": None, "all": None}


class _Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
    """Ray's client, but it does not wait without end, and asks nobody else than was named."""

    def _do_request(self, *args: Any, **options: Any) -> Any:
        # With an auth of our own nothing of ~/.netrc takes the place of the token.
        ours = {"timeout": _TIMEOUT_S, "allow_redirects": False, "proxies": dict(_DIRECT)}
        return super()._do_request(*args, **ours, auth=lambda request: request, **options)


@dataclass(frozen=True)
class JobOrder:
    """What is to run on a cluster.

    Attributes:
        job_id: Never used before on that cluster.
        entrypoint: Shell command, run in a copy of ``folder``.
        folder: Everything that the command reads beside what is installed there.
        metadata: Shown in Ray's dashboard; no secrets.
    """

    job_id: str
    entrypoint: str
    folder: Path
    metadata: Mapping[str, str]


class Jobs:
    """The jobs of one cluster.

    Args:
        address: URL of its dashboard.
        is_insecure: Go on without a token also beyond this machine.

    Raises:
        UserError: The address is none, nothing answers there, or it refuses this user; every
            method may.
    """

    def __init__(self, address: str, is_insecure: bool = False) -> None:
        self.url = checked_url(address)
        token = find_token(os.environ)
        require_token(self.url, token, is_insecure)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._get("/api/version")
        with self._explained(), _without(_OVERRIDES):
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = _Client(self.url, headers=dict(self._headers))

    def num_nodes(self) -> int:
        """Return the number of living nodes."""
        found = self._get("/api/v0/nodes?limit=10000&detail=0")
        with self._explained():
            nodes = found["data"]["result"]["result"]
            return sum(node["state"] == "ALIVE" for node in nodes)

    def submit(self, order: JobOrder, patience_s: float = PATIENCE_S) -> str:
        """Start a job; return its id.

        Args:
            order: What is to run.
            patience_s: How long a cluster that has just begun, or is busy, is tried again.
        """
        deadline_s = time.monotonic() + patience_s
        while True:
            try:
                return self._submitted(order)
            except UserError as error:
                if _NOT_YET not in str(error) or time.monotonic() > deadline_s:
                    raise
            time.sleep(_RETRY_S)

    def _submitted(self, order: JobOrder) -> str:
        with self._explained():
            job_id: str = self._client.submit_job(
                entrypoint=order.entrypoint,
                submission_id=order.job_id,
                runtime_env={"working_dir": str(order.folder), "excludes": ["__pycache__"]},
                metadata={name: masked(value) for name, value in order.metadata.items()},
            )
        return job_id

    def state(self, job_id: str) -> JobState:
        """Return how a job gets on."""
        with self._explained():
            try:
                return _state(self._client.get_job_info(job_id))
            except RuntimeError as error:
                if "status code 404" in str(error) and "does not exist" in str(error):
                    return JobState(job_id, "LOST", message="The cluster does not know it.")
                raise

    def with_metadata(self, **wanted: str) -> list[JobState]:
        """Return the jobs whose metadata have these values, oldest first."""
        with self._explained():
            jobs = [_state(job) for job in self._client.list_jobs() if job.submission_id]
        chosen = [job for job in jobs if wanted.items() <= dict(job.metadata or {}).items()]
        return sorted(chosen, key=lambda job: job.started_at)

    def follow(
        self,
        job_id: str,
        write: Callable[[str], None],
        patience_s: float = PATIENCE_S,
        limit_s: float = math.inf,
    ) -> JobState:
        """Pass on what a job prints until it has ended; return how.

        Args:
            job_id: The job.
            write: Gets the text, with its line ends; what it raises ends the following.
            patience_s: How long a cluster that does not answer is tried again.
            limit_s: After how long the state is returned though it has not ended.
        """
        printed, until_s = Printed(write), time.monotonic() + limit_s
        while True:
            quiet_s = min(_QUIET_S, until_s - time.monotonic())
            asyncio.run(self._tail(job_id, printed, quiet_s))
            state = self._patiently(lambda: self.state(job_id), patience_s)
            if state.is_ended:
                self._write_rest(job_id, printed)
            if state.is_ended or time.monotonic() > until_s:
                return state
            time.sleep(_RETRY_S / 4)

    def logs(self, job_id: str) -> str:
        """Return all that a job has printed."""
        with self._explained():
            text: str = self._client.get_job_logs(job_id)
        return text

    def stop(self, job_id: str) -> None:
        """End a job's processes, without a chance to say good-bye beyond a few seconds."""
        with self._explained():
            self._client.stop_job(job_id)

    async def _tail(self, job_id: str, printed: Printed, quiet_s: float) -> None:
        """Pass on what comes, until the connection ends or nothing has come for a while."""
        printed.begin()
        texts = self._client.tail_job_logs(job_id)
        while True:
            try:
                text = await asyncio.wait_for(anext(texts), quiet_s)
            except (StopAsyncIteration, *_FAILURES):
                return
            printed.take(text)

    def _write_rest(self, job_id: str, printed: Printed) -> None:
        try:
            text = self.logs(job_id)
        except UserError:  # with the node that had them
            return
        printed.rest(text)

    def _patiently(self, ask: Callable[[], JobState], patience_s: float) -> JobState:
        deadline_s = time.monotonic() + patience_s
        while True:
            try:
                return ask()
            except UserError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(_RETRY_S)

    def _get(self, path: str) -> Any:
        """Ask the dashboard once, within a time; redirections are not followed with the token."""
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        try:
            connection = kind(str(parts.hostname), parts.port, timeout=_PROBE_TIMEOUT_S)
            with contextlib.closing(connection):
                connection.request("GET", parts.path + path, headers=self._headers)
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            raise self._silent(error) from error
        if status in (401, 403):
            raise self._refused(status)
        try:
            return json.loads(body)
        except ValueError as error:
            raise UserError(
                f"--address {self.url}: what answers there is not a Ray dashboard (status "
                f"{status}). Give its URL, such as http://head:8265."
            ) from error

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise self._refused(401 if "required" in str(error) else 403) from error
        except OSError as error:  # of the network; those of requests are among them
            raise self._silent(error) from error
        except (RuntimeError, ray.exceptions.RayError, aiohttp.ClientError) as error:
            raise UserError(
                f"--address {self.url}: the cluster refuses: {_last_line(error)}. See its "
                "dashboard and the logs of its head."
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"--address {self.url}: what answers there is not the dashboard of Ray "
                f"{ray.__version__}: its answers have another form. Check the address, and install "
                "the same version of Ray on both sides."
            ) from error

    def _refused(self, status: int) -> UserError:
        if self._headers and status == 403:
            return UserError(
                f"--address {self.url}: the cluster refuses the token, which is another "
                f"cluster's. {NEXT_STEP}."
            )
        return UserError(f"--address {self.url}: the cluster asks for a token. {NEXT_STEP}.")

    def _silent(self, error: Exception) -> UserError:
        said = masked(str(error).splitlines()[0] if str(error) else type(error).__name__)
        return UserError(
            f"--address {self.url}: no Ray dashboard answers: {said}. Check that the cluster is up "
            "and that this machine reaches it, for example by an SSH tunnel: "
            "ssh -L 8265:127.0.0.1:8265 HEAD."
        )


def _last_line(error: Exception) -> str:
    """Return the end of what may be a traceback of the head, after which Ray writes a full stop."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    return masked(next((line for line in reversed(lines) if line), type(error).__name__))


def _state(job: JobDetails) -> JobState:
    return JobState(
        job_id=job.submission_id or "",
        status=job.status.value,
        driver_exit_code=job.driver_exit_code,
        message=masked(job.message or ""),
        metadata=job.metadata or {},
        started_at=(job.start_time or 0) / 1000,
    )


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Hide variables of the environment for a while."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
