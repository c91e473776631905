"""Runs trials in this process, one after the other, without Ray."""

from __future__ import annotations

import logging
import os
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from cluster.attempts import (
    AttemptFailure,
    ConnectFunction,
    LatestProgress,
    TrialFunction,
    WarmTrials,
    check_gang,
    connect_rank,
    outcome_of,
    run_attempt,
)
from cluster.resources import device_of, rank_environment
from cluster.watchdog import Watchdog
from search_spaces.canonical import short
from search_spaces.contracts import Compute, Outcome, Progress, TrialRequest, TrialResult
from search_spaces.errors import UserError
from search_spaces.run_specs import HangLimits

if TYPE_CHECKING:
    from workers.ranks import RankEnv


_LOG = logging.getLogger(__name__)


class LocalExecutor:
    """An executor with one slot: a thread of this process that does all of the computing.

    All trials share that thread, because torch's thread count and DeepSpeed's groups belong to
    it. A thread cannot be killed: ``close`` ends a running trial at its next report, and one that
    hangs is only told of in the log, once; on Ray its gang would be ended and the trial retried.
    """

    def __init__(
        self,
        compute: Compute,
        trial_function: TrialFunction | None = None,
        connect_function: ConnectFunction | None = None,
        hang_limits: HangLimits | None = None,
    ) -> None:
        """Start nothing yet: torch is imported with the first trial.

        Args:
            compute: One rank and its threads.
            trial_function: What is run; None = ``workers.trial.TrialRunner``.
            connect_function: How the rank is prepared; None = ``workers.ranks.connect``.
            hang_limits: Time without progress after which the log says so.

        Raises:
            UserError: More than one rank is asked for.
        """
        if compute.num_ranks != 1:
            raise UserError(
                f"resources.ranks is {compute.num_ranks}, but without Ray a trial has one rank. "
                "Set it to 1, or run on Ray."
            )
        self._compute = compute
        self._trial_function = trial_function or WarmTrials()
        self._connect_function = connect_function
        self._uses_workers = connect_function is None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tickets-trial")
        self._added_variables: list[str] = []
        self._is_connected = False
        self._is_closed = False
        self._request: TrialRequest | None = None
        self._running: Future[TrialResult | AttemptFailure] | None = None
        self._reporter = LatestProgress()
        self._limits = hang_limits or HangLimits()
        self._watchdog: Watchdog | None = None

    @property
    def num_slots(self) -> int:
        """Always one."""
        return 1

    @property
    def description(self) -> str:
        """Where trials run, for people."""
        return f"this process, {self._compute.num_threads} thread(s), without Ray"

    def has_room(self, compute: Compute) -> bool:
        """Whether nothing runs."""
        return self._request is None

    def submit(self, request: TrialRequest) -> None:
        """Start an attempt on the computing thread.

        Raises:
            RuntimeError: An attempt is running, or the executor is closed.
            ValueError: The request asks for another shape.
        """
        if self._is_closed:
            raise RuntimeError("This executor is closed.")
        check_gang(request, self._compute)
        if self._request is not None:
            raise RuntimeError("All 1 slot(s) are taken: wait for an outcome.")
        self._request, self._reporter = request, LatestProgress()
        self._watchdog = Watchdog(self._limits, time.monotonic())
        self._running = self._thread.submit(self._run, request, self._reporter)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcome if it is there, after at most ``timeout_s`` when it is not."""
        if self._request is None or self._running is None:
            time.sleep(timeout_s)
            return []
        done, _ = wait([self._running], timeout=timeout_s)
        if not done:
            self._warn_of_hang(self._request)
            return []
        request, running = self._request, self._running
        self._request = self._running = None
        error = running.exception()
        return [outcome_of(request, AttemptFailure.of(error) if error else running.result())]

    def progress(self) -> list[Progress]:
        """Return how far the running attempt is; never blocks."""
        return [self._reporter.point.of_trial(self._request.spec.key)] if self._request else []

    def cancel(self, trial_key: str) -> None:
        """Give up the running attempt; what comes next waits until it has ended at a report."""
        if self._request is not None and self._request.spec.key == trial_key:
            self._reporter.cancel()
            self._request = self._running = None

    def close(self) -> None:
        """End the running trial at its next report and leave the process group."""
        if self._is_closed:
            return
        self._is_closed = True
        self._reporter.cancel()
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=True)
        self._request = self._running = None
        for name in self._added_variables:
            os.environ.pop(name, None)

    def _warn_of_hang(self, request: TrialRequest) -> None:
        stall = self._watchdog and self._watchdog.look(self._reporter.point, time.monotonic())
        if stall:
            self._watchdog = None  # once is enough
            _LOG.warning(
                "Trial %s %s. Without Ray it is a thread of this process, which cannot be ended "
                "alone: end the process (id %d) and start it again, or go on waiting.",
                short(request.spec.key),
                stall.text,
                os.getpid(),
            )

    def _run(self, request: TrialRequest, reporter: LatestProgress) -> TrialResult | AttemptFailure:
        if not self._is_connected:
            try:
                self._connect()
            except Exception as error:
                return AttemptFailure.of(error)
            self._is_connected = True
        return run_attempt(self._trial_function, request, reporter)

    def _connect(self) -> None:
        from workers.ranks import RankEnv

        for name, value in rank_environment(self._compute).items():
            if name not in os.environ:  # the user's own settings win in the user's own process
                os.environ[name] = value
                self._added_variables.append(name)
        if self._uses_workers:
            import torch

            torch.set_num_threads(self._compute.num_threads)  # of this thread
        connect_rank(self._connect_function, self._env(RankEnv))

    def _env(self, env_class: type[RankEnv]) -> RankEnv:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return env_class(
            rank=0,
            world_size=1,
            local_rank=0,
            master_addr="127.0.0.1",
            master_port=port,
            device=device_of(self._compute),
        )

    def _disconnect(self) -> None:
        if self._is_connected and self._uses_workers:
            from workers.ranks import disconnect

            disconnect()
