"""Ways to run a request: on an executor, in this process, or on a gang whose ranks all answer."""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import pytest

from cluster.attempts import (
    AttemptFailure,
    LatestProgress,
    TrialFunction,
    WarmTrials,
    connect_rank,
    run_attempt,
)
from cluster.local_executor import LocalExecutor
from cluster.resources import rank_environment
from search_spaces.contracts import (
    ArtifactRef,
    Compute,
    Executor,
    Outcome,
    Succeeded,
    TrialRequest,
    TrialResult,
)
from workers.ranks import RankEnv

ANSWER_TIMEOUT_S = 300.0  # the first answer comes after the imports


def ends_of(executor: Executor, *wanted: TrialRequest) -> list[Outcome]:
    """Run requests at once, one on each slot, and return how they ended, in their order."""
    for request in wanted:
        executor.submit(request)
    ends: dict[tuple[str, str], Outcome] = {}
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    while len(ends) < len(wanted):
        assert time.monotonic() < deadline_s, f"only {ends} within {ANSWER_TIMEOUT_S} s"
        ends |= {(end.trial_key, end.attempt): end for end in executor.wait(1.0)}
    return [ends[request.spec.key, request.attempt] for request in wanted]


def end_of(executor: Executor, wanted: TrialRequest) -> Outcome:
    """Run one request and return how it ended."""
    return ends_of(executor, wanted)[0]


def results_of(executor: Executor, *wanted: TrialRequest) -> list[TrialResult]:
    """Run requests that must succeed at once, one on each slot."""
    results = []
    for outcome in ends_of(executor, *wanted):
        assert isinstance(outcome, Succeeded), outcome
        results.append(outcome.result)
    return results


def run(executor: Executor, wanted: TrialRequest) -> TrialResult:
    """Run one request that must succeed."""
    return results_of(executor, wanted)[0]


def run_here(wanted: TrialRequest) -> TrialResult:
    """Run one request that must succeed in this process, whatever its micro-batch."""
    executor = LocalExecutor(wanted.compute)
    try:
        return run(executor, wanted)
    finally:
        executor.close()


def artifact_ref(wanted: TrialRequest, result: TrialResult, name: str) -> ArtifactRef:
    """Return where a finished request left a file, for the trial that goes on from it."""
    return ArtifactRef(uri=f"{wanted.attempt_uri}/{name}", sha256=result.artifacts[name].sha256)


def losses_of(result: TrialResult) -> list[float]:
    """Return the reported losses without their steps."""
    return [loss for _, loss in result.losses]


class ProcessGang:
    """Warm processes that join by gloo and run one trial after the other together.

    They get the environment of a gang on Ray, and the request itself may ask for any micro-batch.
    """

    def __init__(self, num_ranks: int, trials: Callable[[], TrialFunction] = WarmTrials) -> None:
        self._num_ranks, self._trials = num_ranks, trials
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def __enter__(self) -> ProcessGang:
        spawn, port = multiprocessing.get_context("spawn"), free_port()
        with pytest.MonkeyPatch.context() as patch:  # children inherit it before torch is imported
            for name, value in rank_environment(Compute(num_ranks=self._num_ranks)).items():
                patch.setenv(name, value)
            for rank in range(self._num_ranks):
                ours, theirs = spawn.Pipe()
                env = RankEnv(rank=rank, world_size=self._num_ranks, master_port=port)
                process = spawn.Process(target=serve, args=(env, theirs, self._trials), daemon=True)
                process.start()
                self._pipes.append(ours)
                self._processes.append(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def resident_bytes(self) -> list[int]:
        """Return the memory that each process holds now."""
        pages = [
            int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            for process in self._processes
        ]
        return [num * resource.getpagesize() for num in pages]

    def ends(self, request: TrialRequest) -> list[TrialResult | AttemptFailure]:
        """Run a trial and return how it ended on each rank."""
        for pipe in self._pipes:
            pipe.send(request)
        ends = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(ANSWER_TIMEOUT_S), f"rank {rank} does not answer"
            ends.append(pipe.recv())
        return ends

    def run(self, request: TrialRequest) -> list[TrialResult]:
        """Run a trial that must succeed and return each rank's result."""
        results = []
        for end in self.ends(request):
            assert isinstance(end, TrialResult), end
            results.append(end)
        return results


def serve(env: RankEnv, pipe: Connection, make_trials: Callable[[], TrialFunction]) -> None:
    """Join the gang and answer requests until killed."""
    try:
        connect_rank(None, env)
        trials = make_trials()
        while True:
            pipe.send(run_attempt(trials, pipe.recv(), LatestProgress()))
    except BaseException:
        pipe.send(f"rank {env.rank} (process {os.getpid()}) died:\n{traceback.format_exc()}")
        raise


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
