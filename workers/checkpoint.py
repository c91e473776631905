"""Checkpoints of one attempt's training: found, read, written, and agreed upon by all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from search_spaces.contracts import (
    ArtifactInfo,
    FailureClass,
    NumericsClass,
    TrialRequest,
    below,
)
from search_spaces.places import masked
from search_spaces.resuming import CheckpointsSpec
from workers import notice
from workers.checkpoint_file import (
    Manifest,
    Piece,
    UnusableError,
    delete_others,
    delete_uncounted,
    digest_of,
    folder_name,
    names_of,
    tensor_pieces,
    write_file,
    write_manifest,
)
from workers.checkpoint_ranks import at_most, differing_rank, gathered
from workers.checkpoint_reading import Found, find_checkpoint, inputs_of
from workers.checkpoint_state import RankState, random_tensors, random_values, restore_random
from workers.engine import Engine
from workers.failures import TrialFailure
from workers.finetune import Shard, SoFar

LOOK_S = 1.0  # how often ranks ask each other; one alone looks after every step
_MOST_STEPS = 1000  # between two such questions
_GOES_ON = "the next attempt goes on from there"
_log = logging.getLogger(__name__)


class Checkpoints:
    """Writes the state of a training now and then, and goes on from what another attempt wrote.

    All ranks make the same calls. Whether a checkpoint is due and worth it says rank 0's clock;
    the notice that a process will be taken away may come to any rank.

    Args:
        request: The attempt.
        engine: Rewound for it.
        shard: This rank's part.
        numerics: The class of this attempt.
        batches_per_epoch: Optimizer steps of one pass through the data.
        kept: Weights that the trial keeps on the way, by artifact name; grows.
        alive: Told of each piece that is written, which may take long.
        clock: Seconds; for tests.

    Attributes:
        resumed_at: The step after which the training went on; 0 = from its beginning.
        restart_reason: Why a checkpoint that there was could not be used.
        seconds_before: Of training, by earlier attempts.
    """

    def __init__(
        self,
        request: TrialRequest,
        engine: Engine,
        shard: Shard,
        numerics: NumericsClass,
        batches_per_epoch: int,
        kept: dict[str, ArtifactInfo],
        alive: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request, self._engine, self._shard = request, engine, shard
        self._numerics, self._batches_per_epoch = numerics, batches_per_epoch
        self._kept, self._alive, self._clock = kept, alive, clock
        plan = request.checkpoints
        self._rules = plan.rules if plan else CheckpointsSpec(when="never")
        self._uri = plan.uri if plan else ""
        self._begun = self._written = clock()
        self._next_look = 0
        self.resumed_at, self.restart_reason, self.seconds_before = 0, "", 0.0

    @property
    def are_kept(self) -> bool:
        """Whether there are any."""
        return self._rules.when != "never"

    def resumed(self) -> SoFar:
        """Put engine and random states where the newest checkpoint has them, if they can be.

        Returns:
            What was known then: all ranks go on from the same step, or all begin.
        """
        so_far = SoFar()
        if self.are_kept:
            found = self._find()
            step = found.rank.step if found else 0
            highest, lowest = self._at_most([step, -step])
            if found and highest == -lowest:
                self._go_on(found, so_far)
            elif found:
                self.restart_reason = "another rank could not read the checkpoint"
            if self.restart_reason:
                _log.warning("Training starts from its beginning: %s.", self.restart_reason)
        self._begun = self._written = self._clock()
        return so_far

    def at_boundary(self, so_far: SoFar) -> None:
        """Write a checkpoint after a step, if one is due or the process will be taken away.

        Raises:
            TrialFailure: The notice was given: class ``preempted``.
        """
        if not self.are_kept:
            if notice.is_given():
                raise _preempted(so_far.step, "no checkpoint is written of this trial")
            return
        if so_far.step < self._next_look:
            return
        is_told, is_due, is_worth_it, gap = self._at_most(self._wishes(so_far))
        self._next_look = so_far.step + gap
        if is_told:
            raise self._leave(so_far, bool(is_worth_it))
        if is_due and is_worth_it and so_far.step < self._request.spec.recipe.train_steps:
            self._write(so_far)

    def _wishes(self, so_far: SoFar) -> list[int]:
        """Return whether the notice was given; by rank 0 also what only its clock decides."""
        is_told = int(notice.is_given())
        if self._shard.rank != 0:
            return [is_told, 0, 0, 0]
        now = self._clock()
        num_done = so_far.step - max(self.resumed_at, self._request.spec.steps_before)
        step_s = (now - self._begun) / max(1, num_done)
        is_long = step_s * self._request.spec.num_steps >= self._rules.min_train_s
        is_worth_it = self._rules.when == "always" or is_long
        gap = 1 if self._shard.num_ranks == 1 else int(LOOK_S / max(step_s, LOOK_S / _MOST_STEPS))
        is_due = now - self._written >= self._rules.every_s
        return [is_told, int(is_due), int(is_worth_it), max(1, gap)]

    def _leave(self, so_far: SoFar, is_worth_it: bool) -> TrialFailure:
        """Write the last checkpoint of this attempt and return what ends it."""
        if not is_worth_it:
            said = "it trains too briefly for a checkpoint (checkpoints.min_train_s)"
            return _preempted(so_far.step, said)
        problem = self._write(so_far)
        (is_lost,) = self._at_most([int(bool(problem))])  # no rank leaves before it counts
        said = problem or "rank 0 could not write the checkpoint" if is_lost else _GOES_ON
        return _preempted(so_far.step, said)

    def _at_most(self, values: list[int]) -> list[int]:
        return at_most(values, self._shard.num_ranks, self._engine.device)

    def _find(self) -> Found | None:
        """Return this rank's part of the newest checkpoint, read and checked."""
        state, rank = self._engine.optimizer.state_tensors(), self._shard.rank
        try:
            return find_checkpoint(self._request, self._numerics, rank, state)
        except UnusableError as error:
            self.restart_reason = str(error)
            return None

    def _go_on(self, found: Found, so_far: SoFar) -> None:
        state = found.rank
        self._engine.optimizer.restore(found.state, state.num_taken)
        restore_random(found.random, state.random_of, self._engine.device)
        self._kept |= found.kept
        so_far.step, so_far.num_tokens = state.step, state.num_tokens
        so_far.losses = list(state.losses)
        self.resumed_at, self.seconds_before = state.step, state.train_s
        _log.warning("Training goes on after step %d.", state.step)

    def _write(self, so_far: SoFar) -> str:
        """Write a checkpoint and let it count; return why there is none, or ""."""
        problem = ""
        folder = below(self._uri, folder_name(self._request.attempt, so_far.step))
        try:
            files = self._write_parts(folder, so_far)
        except OSError as error:
            problem, files = _unwritten(error), []
        of_ranks = gathered(files, self._shard.num_ranks, self._engine.device)
        if of_ranks is None:
            problem = problem or "another rank could not write its part of the checkpoint"
        elif rank := differing_rank(of_ranks):
            raise _drifted(so_far.step, rank)
        elif self._shard.rank == 0:
            problem = self._publish(so_far.step, self._named(of_ranks))
        if problem:
            _log.warning("After step %d %s.", so_far.step, problem)
            if self._shard.rank == 0:
                delete_uncounted(self._uri)
        self._written = self._clock()
        return problem

    def _write_parts(self, folder: str, so_far: SoFar) -> list[ArtifactInfo]:
        """Write this rank's files and return them, after what is only compared with other ranks."""
        optimizer, names = self._engine.optimizer, names_of(self._shard.rank)
        common: Iterable[Piece] = []
        if self._shard.num_ranks > 1:
            common = self._told(tensor_pieces(optimizer.common_tensors()))
        parts = (
            self._told(tensor_pieces(optimizer.state_tensors())),
            tensor_pieces(random_tensors(self._engine.device)),
            [self._state(so_far).model_dump_json().encode()],
        )
        written = [write_file(folder, *part) for part in zip(names, parts, strict=True)]
        return [digest_of("common", common), *written]

    def _told(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield pieces and tell of each: a slow place is no training that hangs."""
        for piece in pieces:
            self._alive()
            yield piece

    def _state(self, so_far: SoFar) -> RankState:
        return RankState(
            rank=self._shard.rank,
            step=so_far.step,
            epoch=so_far.step // self._batches_per_epoch,
            batch=so_far.step % self._batches_per_epoch,
            num_taken=self._engine.optimizer.num_taken,
            losses=tuple(so_far.losses),
            num_tokens=so_far.num_tokens,
            train_s=self.seconds_before + self._clock() - self._begun,
            kept=self._kept,
            random_of=random_values(),
        )

    def _named(self, of_ranks: list[list[tuple[int, str]]]) -> tuple[ArtifactInfo, ...]:
        """Return the files of all ranks."""
        return tuple(
            ArtifactInfo(name=name, num_bytes=size, sha256=sha256)
            for rank, (_, *files) in enumerate(of_ranks)
            for name, (size, sha256) in zip(names_of(rank), files, strict=True)
        )

    def _publish(self, step: int, files: tuple[ArtifactInfo, ...]) -> str:
        request = self._request
        manifest = Manifest(
            trial_key=request.spec.key,
            attempt=request.attempt,
            step=step,
            numerics=self._numerics,
            inputs=inputs_of(request),
            files=files,
            written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            write_manifest(self._uri, manifest)
        except OSError as error:
            return _unwritten(error)
        delete_others(self._uri, keep=manifest.folder)
        return ""


def _unwritten(error: OSError) -> str:
    return f"no checkpoint could be written: {masked(str(error))}"


def _preempted(step: int, what: str) -> TrialFailure:
    message = f"This process is being taken away: training was left after step {step}; {what}."
    return TrialFailure(FailureClass.PREEMPTED, message)


def _drifted(step: int, rank: int) -> TrialFailure:
    message = (
        f"After step {step} rank {rank} has not the weights of rank 0: the ranks do not train the "
        "same model. Please report it, with the versions of torch and deepspeed."
    )
    return TrialFailure(FailureClass.ERROR, message)
