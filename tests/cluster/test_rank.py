"""A rank's own bookkeeping, without Ray."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from cluster.attempts import AttemptFailure, ProgressPoint
from cluster.rank import Rank, resident_gib
from search_spaces.contracts import FailureClass, Reporter, TrialRequest, TrialResult
from tests.cluster.scripted import make_request, scripted_trial
from workers import notice


def test_rank_is_readable_in_lists() -> None:
    """Ray shows actors by their repr: the gang, then the rank."""
    assert repr(Rank("gang-3", 1, 2, "cpu")) == "Rank(gang-3/1)"


def test_progress_of_the_last_trial_is_not_taken_for_the_next() -> None:
    """Asked about an attempt that has not begun, a warm rank does not answer with the old one."""

    def report(request: TrialRequest, reporter: Reporter) -> TrialResult:
        reporter.phase("train")
        reporter.step(10, 10, 0.25)
        return scripted_trial(request, reporter)

    rank = Rank("gang-0", 0, 1, "cpu", report)
    request = make_request("return:")
    assert isinstance(rank.run(request).end, TrialResult)
    assert rank.progress(request.attempt) == ProgressPoint("train", 10, 10, 0.25, 2)
    assert rank.progress("the next attempt") == ProgressPoint()


@pytest.fixture
def ended(sigterms: list[int]) -> Iterator[list[int]]:
    """What a process does at SIGTERM when no rank is there: here it notes the signal."""
    yield sigterms
    notice.withdraw()


def test_first_signal_to_end_is_a_notice_to_the_trial(ended: list[int]) -> None:
    """The second one ends the process, and so does the first where no trial runs."""

    def trial(request: TrialRequest, reporter: Reporter) -> TrialResult:
        signal.raise_signal(signal.SIGTERM)
        assert notice.is_given() and not ended
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
        return scripted_trial(request, reporter)

    rank = Rank("gang-0", 0, 1, "cpu", trial)
    assert isinstance(rank.run(make_request("return:")).end, TrialResult)
    signal.raise_signal(signal.SIGTERM)
    assert len(ended) == 2


def test_signal_after_the_notice_of_a_drain_does_not_end_the_trial(ended: list[int]) -> None:
    """It may be writing its checkpoint: the first signal is no second one."""

    def trial(request: TrialRequest, reporter: Reporter) -> TrialResult:
        notice.give()
        signal.raise_signal(signal.SIGTERM)
        assert not ended
        return scripted_trial(request, reporter)

    rank = Rank("gang-0", 0, 1, "cpu", trial)
    assert isinstance(rank.run(make_request("return:")).end, TrialResult)
    signal.raise_signal(signal.SIGTERM)
    assert ended == [signal.SIGTERM]


def test_rank_that_was_given_notice_starts_no_trial(ended: list[int]) -> None:
    rank = Rank("gang-0", 1, 2, "cpu", scripted_trial)
    rank.give_notice()
    end = rank.run(make_request("return:")).end
    assert isinstance(end, AttemptFailure) and end.failure is FailureClass.PREEMPTED
    assert end.message == "Rank(gang-0/1) is being taken away: it starts no trial any more."
    signal.raise_signal(signal.SIGTERM)
    assert ended == [signal.SIGTERM]


def test_held_memory_is_seen() -> None:
    """Memory that a trial leaves behind shows in what the rank reports."""
    before = resident_gib()
    held = bytearray(b"x") * (256 * 2**20)
    assert 0.2 < resident_gib() - before < 0.4
    assert len(held) == 256 * 2**20
