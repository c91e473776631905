"""`tickets compare`: what a user sees of two sweeps, trials and masks, and every message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.compare import compare_counts
from orchestrator.compare_sides import parse_selector
from orchestrator.statistics import bootstrap_interval, t_interval
from orchestrator.sweep_context import SweepContext
from tests.orchestrator.committed_sweeps import SEEDS, commit
from tests.orchestrator.said import Said, Say, saying
from tests.orchestrator.sweeps import make_source, tickets, write_data, write_sweep
from tests.workers.requests import make_model, make_task
from workers.mask_file import write_mask
from workers.pruners import random_uniform


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sweeps one and two of ten seeds, few of two; three of other data, four of another model."""
    root = tmp_path_factory.mktemp("compare")
    write_data(root)
    methods = {"methods": ["imp", "one-shot-theta0"], "controls": ["random-uniform"]}
    recipe = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3}
    more = {"kind": "levels", "levels": [0.3, 0.6]}
    commit(write_sweep(root, "one", root, seeds=SEEDS, **methods), 0.0)
    commit(write_sweep(root, "two", root, seeds=SEEDS, recipe=recipe, schedule=more), 0.01)
    commit(write_sweep(root, "few", root, recipe=recipe, seeds=[1, 2, 11]), 0.0, seeds=[1])
    make_task(root / "other", num_train=150)
    tasks = [{"name": "toy", "source": make_source(root / "other"), "max_length": 24}]
    commit(write_sweep(root, "three", root, tasks=tasks), 0.0)
    make_model(root / "large", seed=5)
    models = [{"name": "tiny", "source": f"{root}/large"}]
    commit(write_sweep(root, "four", root, models=models), 0.0)
    write_sweep(root, "none", root, recipe=recipe)
    return root


@pytest.fixture
def say(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(world)
    return saying("compare", monkeypatch, capsys)


def rows(said: Said) -> list[dict[str, Any]]:
    assert said.code == 0, said.err
    found: list[dict[str, Any]] = json.loads(said.out)["compared"]
    return found


def test_ten_seeds_get_every_number(say: Say) -> None:
    """Gains of 0.01, 0.02 and 0.03: the differences and intervals are those of statistics.py."""
    (row,) = rows(say("two.yaml:toy/imp@0.3", "one.yaml:toy/imp@0.3", "--json"))
    select, report = row["scores"]
    gains = [0.01 * (1 + seed % 3) for seed in SEEDS]
    assert (select["split"], report["split"], select["metric"]) == ("select", "report", "accuracy")
    assert list(select["differences"].values()) == pytest.approx(gains)
    assert report["mean"] == pytest.approx(sum(gains) / 10)
    assert select["interval"] == pytest.approx(t_interval(gains))
    assert select["bootstrap"] == pytest.approx(bootstrap_interval(gains, 0), abs=1e-9)
    assert select["sign_flip_pvalue"] == 2 / 2**10
    assert select["unpaired"] == {}
    back = rows(say("one.yaml:toy/imp@0.3", "two.yaml:toy/imp@0.3", "--json"))[0]["scores"][0]
    assert back["mean"] == pytest.approx(-select["mean"])
    assert back["sign_flip_pvalue"] == select["sign_flip_pvalue"]


def test_people_see_a_table_seed_by_seed(say: Say) -> None:
    """Scores, the mean with its intervals, the masks' overlap and the matrices."""
    said = say("two.yaml:toy/imp@0.3", "one.yaml:toy/imp@0.3")
    assert said.code == 0, said.err
    text = " ".join(said.out.replace("─", "").split())
    assert "A two: tiny · toy · imp at 30% B one: tiny · toy · imp at 30%" in text
    assert "accuracy on select seed A B A − B 1 0.8910 0.8710 +0.0200" in text
    assert "n = 10: mean difference +0.0200; 95% t interval [+0.01" in text
    assert "sign-flip p = 0.00195, two-sided and exact." in text
    assert "weights kept by both / by either (IoU, Jaccard)" in text
    assert "seed 1 1.0000 0.53" in text
    assert "Each matrix is as sparse under A as under B, mean over the seeds." in text
    other = say("one.yaml:toy/imp@0.5", "one.yaml:toy/imp@0.3").out
    assert "largest differences first" in other and "more differ less: --json has all" in other


def test_masks_overlap_as_their_bits_do_between_chance_and_nesting(say: Say) -> None:
    """Random masks of one seed are nested, so 0.5 and 0.7 kept overlap by 5 / 7."""
    (row,) = rows(say("one.yaml:toy/imp@0.5", "one.yaml:toy/imp@0.3", "--json"))
    assert list(row["overlaps"]) == [str(seed) for seed in SEEDS]
    found = row["overlaps"]["1"]
    assert found["overlap"] == pytest.approx(found["at_most"]) == pytest.approx(5 / 7, abs=1e-3)
    assert found["by_chance"] == pytest.approx(0.35 / 0.85, abs=1e-3)
    spread = [abs(matrix["difference"]) for matrix in row["matrices"]]
    assert spread == sorted(spread, reverse=True)
    first = row["matrices"][0]
    assert first["difference"] == pytest.approx(first["first"] - first["second"])


def test_two_sweeps_compare_in_what_both_have(say: Say) -> None:
    """Dense and imp at 30%; levels and methods that one side lacks are named."""
    said = say("one.yaml", "two.yaml", "--json")
    assert [row["first"] for row in rows(said)] == [
        "one: tiny · toy · dense",
        "one: tiny · toy · imp at 30%",
    ]
    left_out = json.loads(said.out)["left_out"]
    assert (
        "one: tiny · toy · imp at 50%: 'two.yaml' has no such ticket; the nearest level is 60%."
        in left_out
    )
    assert "one: tiny · toy · random-uniform at 30%: 'two.yaml' has no such ticket." in left_out
    assert rows(said)[0]["overlaps"] == {} and rows(said)[0]["matrices"] == []
    assert "Not compared: one: tiny · toy · imp at 50%" in say("one.yaml", "two.yaml").out


def test_two_methods_compare_at_each_level_and_a_control_keeps_no_mask(say: Say) -> None:
    """Parts that both name may differ; the store has no file of a random mask."""
    found = rows(say("one.yaml:toy/imp", "one.yaml:tiny/toy/one-shot-theta0", "--json"))
    assert [row["second"] for row in found] == [
        "one: tiny · toy · one-shot-theta0 at 30%",
        "one: tiny · toy · one-shot-theta0 at 50%",
    ]
    assert len(found[0]["overlaps"]) == 10
    said = say("one.yaml:toy/imp@0.3", "one.yaml:toy/random-uniform@0.3")
    told = "Seed 1: the store keeps no file of the mask of one: tiny · toy · random-uniform at 30%."
    assert told in said.out


def test_seeds_that_do_not_pair_are_named(say: Say) -> None:
    """Of 1, 2 and 11 one has a result on both sides; nothing is tested on it."""
    (row,) = rows(say("two.yaml:@0.3", "few.yaml:toy/imp@0.3", "--json"))
    select = row["scores"][0]
    assert list(select["differences"]) == ["1"]
    assert select["interval"] is select["sign_flip_pvalue"] is select["bootstrap"] is None
    few, two = "few: tiny · toy · imp at 30%", "two: tiny · toy · imp at 30%"
    assert select["unpaired"]["2"] == f"{few} has no result"
    assert select["unpaired"]["3"] == f"{few} has no such seed"
    assert select["unpaired"]["11"] == f"{two} has no such seed; {few} has no result"
    text = say("two.yaml:@0.3", "few.yaml:toy/imp@0.3").out
    assert "Not shown: 95% t interval from 3 seeds, 95% bootstrap from 10 seeds, sign-flip" in text
    assert f"Seed 2 is left out: {few} has no result." in text


def test_trials_compare_by_the_first_characters_of_their_keys(say: Say, world: Path) -> None:
    """In the other side's store, or in the one that --store names."""
    trials = SweepContext.open(world / "one.yaml").trials
    finals = [t.key for t in trials if t.main_role.kind == "final" and t.main_role.seed == 1]
    store = f"{world}/one-store"
    (row,) = rows(say(finals[0][:12], finals[1][:12], "--store", store, "--json"))
    assert list(row["scores"][0]["differences"]) == ["1"]
    (row,) = rows(say(finals[0][:12], "one.yaml:toy/imp@0.5", "--json"))
    assert row["first"] == f"trial {finals[0][:10]}"


def test_mask_files_compare_without_scores(say: Say, world: Path) -> None:
    """Overlap and matrices alone; the files are those that the store holds."""
    (facts,) = SweepContext.open(world / "one.yaml").models.values()
    for name, num in (("a", 100), ("b", 400)):
        mask = random_uniform(facts.prunable, num, 3)
        (world / f"{name}.arrow").write_bytes(write_mask(mask, {}))
    said = json.loads(say("a.arrow", "b.arrow", "--json").out)
    assert said["overlap"] == said["at_most"] > said["by_chance"]
    assert len(said["matrices"]) == len(facts.prunable.names)
    assert "A a.arrow, B b.arrow" in say("a.arrow", "b.arrow").out


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("gone.yaml", "one.yaml", "gone.yaml"),
        ("one.yaml:toy/imp@0.45", "two.yaml", "no level 0.45; the nearest is 0.5"),
        ("one.yaml:toy/imp@70%", "two.yaml", "level '70%' must be a fraction in [0, 1), such as"),
        ("one.yaml:toy/imp@1", "two.yaml", "level '1' must be a fraction in [0, 1)"),
        ("one.yaml:a/b/c/d", "two.yaml", "'a/b/c/d' has 4 parts. Write SWEEP.yaml"),
        ("one.yaml:toi", "two.yaml", "the sweep has no task 'toi' there. Did you mean 'toy'?"),
        ("one.yaml:toy/x", "two.yaml", "no method 'x' there. It has dense, imp, one-shot-theta0"),
        ("one.yaml:a/toy/imp", "two.yaml", "the sweep has no model 'a' there. It has tiny."),
        ("one.yaml:@0.5", "two.yaml:toy/imp", "no model, task, method and level in common"),
        ("one.yaml", "three.yaml", "have different data: "),
        ("one.yaml", "four.yaml", "have different models (theta_0): "),
        ("two.yaml:toy/imp@0.3", "none.yaml:toy/imp@0.3", "no seed with a result on both sides"),
        ("two.yaml", "none.yaml", "2 (no result). Scores pair on the seed"),
        ("abcdef", "fedcba", "is a trial's key: name its store with --store"),
        ("00000000", "one.yaml:toy/imp@0.3", "no committed trial begins with it in the store"),
        ("a.arrow", "one.yaml", "a mask file compares with a mask file alone"),
        ("here.arrow", "there.arrow", "here.arrow: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_compared_is_told(say: Say, first: str, second: str, told: str) -> None:
    """One message that names the next step, exit code 2, no traceback."""
    said = say(first, second)
    assert said.code == 2, said.out
    assert told in said.err, said.err
    assert "Traceback" not in said.err


def test_a_damaged_mask_is_told(say: Say, world: Path) -> None:
    """The file's bytes are not those that were committed."""
    few = world / "few-store" / "results"
    path = next(few.rglob("mask-global-magnitude-*.arrow"))
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    said = say("few.yaml:toy/imp", "few.yaml:toy/imp", "--json")
    path.write_bytes(kept)
    assert "the file is damaged: its sha256" in said.err + said.out
    assert "Traceback" not in said.err


def test_comparing_needs_no_training_library(world: Path) -> None:
    """Scores and masks are read without torch."""
    done = tickets("compare", "one.yaml:toy/imp@0.3", "two.yaml:toy/imp@0.3", cwd=world)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr


@given(st.integers(1, 50), st.data())
def test_an_overlap_is_read_between_its_limits(num: int, data: st.DataObject) -> None:
    """No overlap is above the nested one, nor is chance; equal masks overlap by 1."""
    first, second = (data.draw(st.integers(0, num)) for _ in range(2))
    both = data.draw(st.integers(max(0, first + second - num), min(first, second)))
    found = compare_counts(first, second, both, num)
    assert 0 <= found.overlap <= found.at_most + 1e-12 <= 1 + 1e-12
    assert found.by_chance <= found.at_most + 1e-12
    assert compare_counts(first, first, first, num).overlap == 1.0


def test_a_selector_is_taken_apart_without_reading_a_file() -> None:
    """Model, task, method and level, from the right."""
    whole = parse_selector("dir/s.yaml:tiny/sst2/imp@0.7")
    assert (str(whole.path), whole.model, whole.task) == ("dir/s.yaml", "tiny", "sst2")
    assert (whole.method, whole.level) == ("imp", 0.7)
