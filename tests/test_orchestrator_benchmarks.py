"""Benchmarks of the orchestrator on real Ray: what they count is right; nothing goes by seconds."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import driver_killed, graph_overhead, hand_over, journal_rate
from benchmarks.__main__ import main
from benchmarks.diary import Diary, Interval, percentile
from benchmarks.measure import OURS
from benchmarks.sleeping import Search
from orchestrator.graph import TrialGraph


def test_lineages_are_chains_of_pruning_rounds() -> None:
    """Each round waits for the one before, which leaves its mask; seeds tell lineages apart."""
    trials = Search(num_lineages=3, num_rounds=4, trial_s=1.0, num_slots=2).trials()
    graph = TrialGraph(trials)
    assert len(graph.trials) == 12
    assert [len(trial.waits_for) for trial in trials] == [0, 1, 1, 1] * 3
    for trial in trials:
        for parent in map(graph.__getitem__, trial.waits_for):
            (mask,) = parent.outputs.prunes
            assert mask.num_removed == trial.spec.num_removed


def test_a_diary_pairs_beginnings_with_ends(tmp_path: Path) -> None:
    """A trial may begin twice; a run that never ended has no end."""
    lines = ["meet - 7 0.5", "begin a 7 1.0", "end a 7 2.0", "begin b 7 2.5", "begin a 8 3.0"]
    (tmp_path / "diary").write_text("\n".join([*lines, "end a 8 4.0", "end"]))
    assert Diary(str(tmp_path / "diary")).intervals() == [
        Interval("a", 7, 1.0, 2.0),
        Interval("b", 7, 2.5, None),
        Interval("a", 8, 3.0, 4.0),
    ]
    assert Diary(str(tmp_path / "none")).intervals() == []


def test_overhead_is_what_lies_between_trials() -> None:
    """Two slots from the moment both run: 4.4 s for 8 s of work is 10% over ideal."""
    first = [
        Interval("a", 1, 9.0, 10.0),
        Interval("b", 1, 10.0, 12.0),
        Interval("c", 1, 12.4, 14.4),
    ]
    second = [Interval("d", 2, 10.0, 12.0), Interval("e", 2, 12.2, 14.2)]
    cost = graph_overhead.costs([*first, *second], called_s=8.0, num_slots=2)
    assert cost["overhead_percent"] == pytest.approx(10.0)
    assert (cost["start_s"], cost["num_processes"]) == (2.0, 2)
    assert cost["wall_s"] == pytest.approx(4.4)
    assert cost["gap_p50_ms"] == pytest.approx(200) and cost["gap_p99_ms"] == pytest.approx(400)


def test_a_slot_that_never_had_a_process_is_overhead() -> None:
    """One process for two slots: the wall is twice the ideal from the first trial on."""
    only = [Interval("a", 1, 10.0, 11.0), Interval("b", 1, 11.0, 12.0)]
    assert graph_overhead.costs(only, 9.0, 2)["overhead_percent"] == pytest.approx(100.0)


PIECES = st.tuples(st.floats(0, 5), st.floats(0.1, 5))  # a wait, then a trial, in seconds


@given(st.lists(st.lists(PIECES, min_size=2, max_size=6), min_size=1, max_size=4))
def test_no_search_is_quicker_than_ideal(processes: list[list[tuple[float, float]]]) -> None:
    """With a process for each slot, the overhead is never negative, however trials lie."""
    runs: list[Interval] = []
    for pid, pieces in enumerate(processes):
        at_s = 0.0
        for wait_s, trial_s in pieces:
            runs.append(Interval(f"{len(runs)}", pid, at_s + wait_s, at_s + wait_s + trial_s))
            at_s += wait_s + trial_s
    runs.sort(key=lambda one: one.begin_s)
    assert graph_overhead.costs(runs, 0.0, len(processes))["overhead_percent"] >= -1e-9


def test_what_ran_again_is_told_from_what_was_in_flight() -> None:
    """Killed at 3: a had ended and ran again, b was in flight, c had ended for good."""
    runs = [
        Interval("a", 1, 0.0, 1.0),
        Interval("c", 2, 0.0, 1.0),
        Interval("b", 1, 2.5, None),
        Interval("b", 3, 5.0, 6.0),
        Interval("a", 4, 5.0, 6.0),
        Interval("d", 4, 6.0, 7.0),
    ]
    assert driver_killed.recovered(runs, killed_s=3.0) == {
        "runs": 6,
        "ended": 2,
        "in_flight": 1,
        "again": 1,
    }


def test_children_wait_for_their_own_parent() -> None:
    """A root has no parent; another lineage's end does not count."""
    runs = [
        Interval("0/0", 1, 0.0, 1.0),
        Interval("1/0", 2, 0.0, 2.0),
        Interval("0/1", 1, 1.25, 3.0),
        Interval("1/1", 2, 2.5, 3.0),
    ]
    assert hand_over.waits(runs, {"0/1": "0/0", "1/1": "1/0"}) == [0.25, 0.5]


def test_percentiles_are_values_that_were_measured() -> None:
    """The median of an odd number is its middle one, and the 99th of few the largest."""
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == percentile([3.0, 1.0, 2.0], 1.0) == 3.0


def test_all_journals_hold_what_was_written() -> None:
    """The benchmark itself reads every trial back; all three are measured at one size."""
    (case,) = journal_rate.run(smoke=True).cases
    assert set(case.samples) == {OURS, journal_rate.PLAIN_SQLITE, journal_rate.LINES}
    assert case.facts[0].startswith("Durable transitions a second: SQLite as it comes ")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["graph_overhead", "hand_over", "driver_killed"])
def test_each_runs_on_a_real_ray(
    name: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours and its peer end every trial, and ours repeats nothing but what was in flight."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for variable in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(variable, raising=False)
    main(["--smoke", name])
    printed = capfd.readouterr().out
    peer = hand_over.BY_HAND if name == "hand_over" else graph_overhead.TUNE
    assert f"| {peer} | ours |" in printed
    if name == "driver_killed":
        told = re.search(r"- ours: (\d+) trials had ended .* and (\d+) of them ran again", printed)
        assert told and int(told[1]) >= 5
        assert int(told[2]) <= 2  # one in each slot may have ended a moment before
