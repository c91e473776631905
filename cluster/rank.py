"""One process of a gang: the actor that Ray starts for each rank."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import ray

from cluster.attempts import (
    AttemptFailure,
    ConnectFunction,
    LatestProgress,
    ProgressPoint,
    TrialFunction,
    WarmTrials,
    connect_rank,
    run_attempt,
)
from search_spaces.contracts import FailureClass, TrialRequest, TrialResult
from workers import notice

PROGRESS_GROUP = "io"  # concurrency group: answers while a trial runs in the default group


@dataclass(frozen=True)
class RankPlace:
    """Where a rank's process is, so that its death can be explained afterwards."""

    pid: int
    node_ip: str
    log_path: str
    node_id: str = ""


@dataclass(frozen=True)
class RankReply:
    """What a rank returns from one call.

    Attributes:
        end: None after connecting, the result or the failure otherwise.
        num_trials: Trials that this process has run.
        resident_gib: Memory that this process holds now.
    """

    place: RankPlace
    end: TrialResult | AttemptFailure | None
    num_trials: int
    resident_gib: float


class Rank:
    """One rank of a gang; lives from the gang's first trial to its last."""

    def __init__(
        self,
        gang: str,
        rank: int,
        num_ranks: int,
        device: Literal["cpu", "cuda"],
        trial_function: TrialFunction | None = None,
        connect_function: ConnectFunction | None = None,
    ) -> None:
        self._gang = gang
        self._rank = rank
        self._num_ranks = num_ranks
        self._device = device
        self._trial_function = trial_function or WarmTrials()
        self._connect_function = connect_function
        self._attempt = ""
        self._progress = LatestProgress()
        self._num_trials = 0
        self._is_running = self._is_told_to_end = False
        self._heed_the_end()

    def __repr__(self) -> str:
        return f"Rank({self._gang}/{self._rank})"

    def address(self) -> tuple[str, int]:
        """Return the IP of this process's own node and a free port on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def connect(self, address: tuple[str, int]) -> RankReply:
        """Join the gang whose rank 0 listens at ``address``."""
        from workers.ranks import RankEnv

        env = RankEnv(
            rank=self._rank,
            world_size=self._num_ranks,
            local_rank=0,  # Ray shows each process only its own device
            master_addr=address[0],
            master_port=address[1],
            device=self._device,
        )
        try:
            connect_rank(self._connect_function, env)
        except Exception as error:
            cause = AttemptFailure.of(error)
            message = f"{self!r} could not join its gang: {cause.message}"
            return self._reply(AttemptFailure(FailureClass.INFRASTRUCTURE, message, cause.details))
        return self._reply(None)

    def run(self, request: TrialRequest) -> RankReply:
        """Run this rank's part of a trial."""
        self._progress, self._attempt = LatestProgress(), request.attempt
        if notice.is_given():
            message = f"{self!r} is being taken away: it starts no trial any more."
            return self._reply(AttemptFailure(FailureClass.PREEMPTED, message))
        self._num_trials += 1
        self._is_running = True
        try:
            return self._reply(run_attempt(self._trial_function, request, self._progress))
        finally:
            self._is_running = False

    def give_notice(self) -> None:
        """Let the trial leave in good order; called in the group ``io`` when the node drains."""
        notice.give()

    def progress(self, attempt: str) -> ProgressPoint:
        """Return how far an attempt is; called in the group ``io``, so even before it begins."""
        return self._progress.point if attempt == self._attempt else ProgressPoint()

    def stacks(self) -> str:
        """Return what each thread is doing; called in the group ``io`` when a trial hangs."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"Thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
            for ident, frame in sys._current_frames().items()
        )

    def _heed_the_end(self) -> None:
        """Let a trial that runs leave in good order after SIGTERM; a second one ends the process.

        Where the node drains, the trial may know already and be writing its checkpoint.
        Ray makes an actor in the main thread, where alone signals can be heeded, and runs its
        methods in others.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        end = signal.getsignal(signal.SIGTERM)

        def heed(number: int, frame: FrameType | None) -> None:
            if self._is_running and not self._is_told_to_end:
                self._is_told_to_end = True
                notice.give()
            elif callable(end):
                end(number, frame)
            else:
                signal.signal(number, end)
                signal.raise_signal(number)

        signal.signal(signal.SIGTERM, heed)

    def _reply(self, end: TrialResult | AttemptFailure | None) -> RankReply:
        # asking for the context would start a Ray where there is none
        node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        place = RankPlace(os.getpid(), ray.util.get_node_ip_address(), log_path(), node_id)
        return RankReply(place, end, self._num_trials, resident_gib())


def log_path() -> str:
    """Return the file that this process's standard error goes to, or an empty string."""
    try:
        return os.readlink("/proc/self/fd/2")
    except OSError:  # no Linux
        return ""


def resident_gib() -> float:
    """Return the memory that this process holds; its peak where the system tells no more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return pages * resource.getpagesize() / 2**30
