"""A rank's own bookkeeping, without Ray."""

from __future__ import annotations

from cluster.attempts import ProgressPoint
from cluster.rank import Rank, resident_gib
from search_spaces.contracts import Reporter, TrialRequest, TrialResult
from tests.cluster.scripted import make_request, scripted_trial


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


def test_held_memory_is_seen() -> None:
    """Memory that a trial leaves behind shows in what the rank reports."""
    before = resident_gib()
    held = bytearray(b"x") * (256 * 2**20)
    assert 0.2 < resident_gib() - before < 0.4
    assert len(held) == 256 * 2**20
