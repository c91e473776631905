"""A sweep file is refused with all of its faults at once, in sentences a user can act on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.errors import SpecError
from search_spaces.loading import load_sweep, parse_sweep, show
from search_spaces.presets import PRESETS
from search_spaces.splits import HashSelect
from tests.search_spaces.makers import MINIMAL

TEXT = yaml.safe_dump(MINIMAL, sort_keys=False)


def faults_of(text: str) -> list[str]:
    with pytest.raises(SpecError) as raised:
        parse_sweep(text, "sweep.yaml")
    return [str(fault) for fault in raised.value.faults]


def fault_of(**changes: Any) -> str:
    found = faults_of(yaml.safe_dump({**MINIMAL, **changes}))
    assert len(found) == 1, found
    return found[0]


def own_gangs(name: str, **resources: Any) -> dict[str, Any]:
    return {**MINIMAL["tasks"][0], "name": name, "resources": resources}


def test_a_minimal_sweep_has_the_default_protocol(tmp_path: Path) -> None:
    """Lineage replicates, hash-held select split, the noninferior rule at 0.01, IMP."""
    path = tmp_path / "sweep.yaml"
    path.write_text(TEXT)
    spec = load_sweep(path)
    assert (spec.replicate, spec.methods, spec.controls) == ("lineage", ("imp",), ())
    assert spec.splits.select == HashSelect()
    assert (spec.verdict.rule, spec.verdict.delta) == ("noninferior", 0.01)
    search = spec.search_recipe_of(spec.tasks[0])
    assert (search.epochs, search.head, search.rng) == (2, "fresh", "restart")


def test_five_faults_of_five_kinds_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TICKETS_NO_SUCH", raising=False)
    text = """
name: five
modles: []
models: [{name: tiny, source: x, prunable: decoder}]
tasks: [{name: sst2, source: {kind: glue-foder, task: sst2}}]
seeds: [1, 2, 3]
schedule: {kind: linear, step: 0.1, rounds: 0}
recipe: {epochs: 3, learning_rate: fast}
store: ${TICKETS_NO_SUCH}/runs
"""
    assert sorted(faults_of(text)) == [
        "sweep.yaml: models[0].prunable: is 'decoder', but must be one of default, encoder, "
        "encoder+pooler. Did you mean 'encoder'?",
        "sweep.yaml: modles: is no known field. Did you mean 'models'?",
        "sweep.yaml: recipe.learning_rate: is 'fast', but must be a number.",
        "sweep.yaml: schedule.rounds: is 0, but must be >= 1.",
        "sweep.yaml: store: uses ${TICKETS_NO_SUCH}, but the environment has no TICKETS_NO_SUCH. "
        "Run: export TICKETS_NO_SUCH=...",
        "sweep.yaml: tasks[0].source.kind: is 'glue-foder', but must be one of glue-hub, "
        "glue-folder, files, builtin, text, builtin-words, text-hub, squad, squad-hub. "
        "Did you mean 'glue-folder'?",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1, 2]}, "seeds: has the seed 1 more than once, but each must differ."),
        ({"seeds": [1, 2, -3]}, "seeds: has the seed -3, but seeds must be >= 0."),
        (
            {"seeds": [1, 2**63, 3]},
            "seeds: has the seed 9223372036854775808, but seeds must be < 9223372036854775808 (2^6",
        ),
        (
            {"search_seed": 2**63, "replicate": "finetune"},
            "search_seed: is 9223372036854775808, but must be < 9223372036854775808 (2^63).",
        ),
        ({"seeds": [1, "a", 2]}, "seeds[1]: is 'a', but must be a whole number."),
        ({"seeds": [1.5, 2, 3]}, "seeds[0]: is 1.5, but must be a whole number."),
        ({"seeds": 1}, "seeds: is 1, but must be a list."),
        (
            {"seeds": [1, 2]},
            "verdict: rule noninferior needs at least 3 seeds, but seeds has 2.",
        ),
        (
            {"seeds": [1], "verdict": {"rule": "overlap"}},
            "verdict: rule overlap needs at least 2 seeds, but seeds has 1.",
        ),
        ({"models": []}, "models: is empty, but must have at least one entry."),
        ({"models": MINIMAL["models"] * 2}, "models: has the name 'tiny' more than once"),
        ({"tasks": MINIMAL["tasks"] * 2}, "tasks: has the name 'rte' more than once"),
        ({"name": "a b"}, "name: is 'a b', but must fit the pattern ^[A-Za-z0-9]"),
        ({"recipe": 3}, "recipe: is 3, but must be fields with values."),
        ({"recipe": {"epochs": 1}}, "recipe.learning_rate: is missing."),
        (
            {"recipe": {"learning_rate": 1, "epochs": 1, "train_steps": 1}},
            "recipe: has both epochs and train_steps, but only one may be written.",
        ),
        (
            {"recipe": {"learning_rate": 1}},
            "recipe: has neither epochs nor train_steps: write one of them.",
        ),
        (
            {"recipe": {"learning_rate": 1, "epochs": 3, "lr_horizon_epochs": 2}},
            "recipe: trains for 3, but its learning rate is 0 from 2 on: the horizon must not be",
        ),
        (
            {"recipe": {"learning_rate": 1, "epochs": 1, "adam_beta1": 1}},
            "recipe.adam_beta1: is 1, but must be < 1.",
        ),
        ({"schedule": {"step": 0.1}}, "schedule.kind: is missing; it must be one of linear, geom"),
        (
            {"schedule": {"kind": "levels", "levels": [0.5, 1.5]}},
            "schedule.levels: is [0.5, 1.5], but every level must lie between 0 and 1.",
        ),
        (
            {"schedule": {"kind": "linear", "step": 0.5, "rounds": 2}},
            "schedule: 2 rounds of 0.5 remove everything, but step x rounds must be < 1.",
        ),
        ({"methods": ["impp"]}, "methods[0]: is 'impp', but must be one of imp, layerwise-imp"),
        ({"methods": ["imp", "imp"]}, "methods: has the method 'imp' more than once"),
        (
            {"methods": ["one-shot"], "controls": ["random-layerwise"]},
            "controls: has random-layerwise, made from the imp mask: add imp",
        ),
        (
            {"methods": ["one-shot"], "search_recipe": {"head": "carry"}},
            "methods: are ['one-shot'], but search_recipe carries head or rng from round to round",
        ),
        ({"search_seed": 3}, "search_seed: is set, but under 'replicate: lineage' every seed"),
        ({"resources": {"ranks": 3}}, "resources: ranks is 3, but must divide the batch of 32."),
        (
            {"resources": {"ranks": "many"}},
            "resources.ranks: is 'many', but must be 'auto' or a whole number >= 1.",
        ),
        (
            {"resources": {"ranks": "auto", "micro_batch_size": 5}},
            "resources: micro_batch_size is 5, but must divide each rank's share, 32 examples.",
        ),
        (
            {"resources": {"ranks": "auto", "gpus_per_rank": 4, "max_gpus": 2}},
            "resources.max_gpus: is 2, but one gang takes 4: ranks x gpus_per_rank.",
        ),
        (
            {"resources": {"ranks": "auto"}, "retries": {"strict_numerics": True}},
            "retries: strict_numerics is true, but ranks is auto in resources, which may be "
            "another number on another cluster: write the number of ranks.",
        ),
        ({"resources": {"max_ranks": 0}}, "resources.max_ranks: is 0, but must be >= 1."),
        (
            {"resources": {"ranks": 2, "micro_batch_size": 5}},
            "resources: micro_batch_size is 5, but must divide each rank's share, 16 examples.",
        ),
        (
            {"resources": {"gangs": 0}},
            "resources.gangs: is 0, but must be 'auto' or a whole number >= 1.",
        ),
        (
            {"resources": {"gpus_per_rank": 4, "ranks": 2, "max_gpus": 6}},
            "resources.max_gpus: is 6, but one gang takes 8: ranks x gpus_per_rank.",
        ),
        (
            {"resources": {"max_gpus": 6}},
            "resources.max_gpus: is 6, but gangs take no GPU; write gangs to limit them.",
        ),
        (
            {"tasks": [own_gangs("a", ranks=3), own_gangs("b", ranks=2, micro_batch_size=5)]},
            "resources: of task 'a': ranks is 3, but must divide the batch of 32; of task 'b': "
            "micro_batch_size is 5, but must divide each rank's share, 16 examples.",
        ),
        (
            {
                "tasks": [own_gangs("a", ranks=4)],
                "resources": {"gpus_per_rank": 1, "max_gpus": 2},
            },
            "resources: of task 'a': one gang takes 4 GPUs, ranks x gpus_per_rank, but max_gpus is",
        ),
        (
            {"tasks": [own_gangs("a", ranks=0)]},
            "tasks[0].resources.ranks: is 0, but must be 'auto' or a whole number >= 1.",
        ),
        (
            {"tasks": [own_gangs("a", gpus_per_rank=1)]},
            "tasks[0].resources.gpus_per_rank: is no known field.",
        ),
        (
            {"resources": {"gpus_per_rank": 1.5}},
            "resources.gpus_per_rank: is 1.5, but must be a whole number, or less than 1: Ray sh",
        ),
        (
            {"resources": {"gpus_per_rank": 0.5, "ranks": 2}},
            "resources.gpus_per_rank: is 0.5, but with 2 ranks must be a whole number: NCCL ref",
        ),
        (
            {"tasks": [own_gangs("a", ranks=2)], "resources": {"gpus_per_rank": 0.5}},
            "resources: of task 'a': gpus_per_rank is 0.5, but with 2 ranks must be a whole numb",
        ),
        ({"resources": {"max_gpus": 0}}, "resources.max_gpus: is 0, but must be > 0."),
        ({"resources": {"priority": 0}}, "resources.priority: is 0, but must be > 0."),
        ({"resources": {"priority": 1e4}}, "resources.priority: is 10000.0, but must be <= 1000."),
        ({"resources": {"idle_release_s": -1}}, "resources.idle_release_s: is -1, but must be >="),
        (
            {"preset": "chen"},
            "preset: is 'chen', but must be one of chen2020-code, chen2020-paper, ",
        ),
        ({"retries": {"eror": 1}}, "retries.eror: is no known field. Did you mean 'error'?"),
        (
            {"retries": {"diverged": "always"}},
            "retries.diverged: is 'always', but must be 'fail', 'retry' or a whole number >= 0.",
        ),
        (
            {"retries": {"diverged": True}},
            "retries.diverged: is True, but must be 'fail', 'retry' or a whole number >= 0.",
        ),
        (
            {"checkpoints": {"every": 60}},
            "checkpoints.every: is no known field. Did you mean 'every_s'?",
        ),
        ({"checkpoints": {"every_s": 0}}, "checkpoints.every_s: is 0, but must be > 0."),
        (
            {"checkpoints": {"when": "often"}},
            "checkpoints.when: is 'often', but must be one of auto, always, never.",
        ),
        ({"retries": {"preempted": -1}}, "retries.preempted: is -1, but must be >= 0."),
        ({"retries": {"jitter": 1}}, "retries.jitter: is 1, but must be < 1."),
        ({"retries": {"store_s": -1}}, "retries.store_s: is -1, but must be >= 0."),
        (
            {"retries": {"backoff_s": 600}},
            "retries.backoff_limit_s: is 300, but must be at least backoff_s, 600.",
        ),
        (
            {"retries": {"hang_after_s": {"train": 0}}},
            "retries.hang_after_s.train: is 0, but must be >= 1.",
        ),
        (
            {"retries": {"hang_after_s": {"training": 9}}},
            "retries.hang_after_s.training: is no known field. Did you mean 'train'?",
        ),
        ({"tracking": {"x": 1}}, "tracking.x: is no known field. Known: uri, experiment."),
        ({"splits": {"select": "hsh"}}, "splits.select.kind: is 'hsh', but must be one of hash, r"),
        ({"store": 3}, "store: is 3, but must be text."),
        (
            {"store": "foo://x"},
            "store: is 'foo://x', but must be a folder, or a URI that begins with s3://, gs://,",
        ),
        ({"store": "s3://"}, "store: is 's3://', but must name a bucket: s3://BUCKET/FOLDER."),
        ({"store": "gs://me@/runs"}, "store: is 'gs://***@/runs', but must name a bucket: gs:"),
        ({"store": "file://runs"}, "store: is 'file://runs', but must have the whole path of a"),
        ({"store": "runs\0"}, "store: is 'runs\\x00', but must have no NUL character."),
        (
            {"name": "a" * 101},
            "name: has 101 characters, but must have at most 100. Write a shorter one.",
        ),
        ({"verdict": {"delta": ".nan"}}, "verdict.delta: is '.nan', but must be a number."),
    ],
)
def test_each_fault_names_field_given_and_allowed(changes: dict[str, Any], message: str) -> None:
    assert fault_of(**changes).startswith(f"sweep.yaml: {message}")


def test_files_sources_are_checked_inside_the_sweep() -> None:
    source = {"kind": "files", "train": "a.csv", "report": "b.csv", "metric": "pearson"}
    found = fault_of(tasks=[{"name": "own", "source": source}])
    assert found.startswith("sweep.yaml: tasks[0].source: metric is 'pearson', but a class")


def test_a_fault_of_the_recipe_is_not_repeated_for_recipes_completed_from_it() -> None:
    task = {**MINIMAL["tasks"][0], "recipe": {"batch_size": 16}}
    recipe = {"epochs": 1, "learning_rate": "fast"}
    found = fault_of(recipe=recipe, search_recipe={"head": "carry"}, tasks=[task])
    assert found == "sweep.yaml: recipe.learning_rate: is 'fast', but must be a number."


def test_a_task_s_own_recipe_fault_is_shown_where_it_was_written() -> None:
    task = {**MINIMAL["tasks"][0], "recipe": {"batch_size": -1}}
    found = fault_of(tasks=[task])
    assert found == "sweep.yaml: tasks[0].recipe.batch_size: is -1, but must be > 0."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1, column 8: is no YAML"),
        ("", "holds no fields. Start with 'name: my-sweep'."),
        ("- a", "holds no fields"),
        (f"{TEXT}name: again\n", "name: is written again in line"),
    ],
)
def test_yaml_faults(text: str, message: str) -> None:
    assert message in faults_of(text)[0]


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(TEXT)
    with pytest.raises(SpecError, match=r"does not exist\. Did you mean 'sweep\.yaml'"):
        load_sweep(tmp_path / "sweeep.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_sweep(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        load_sweep(tmp_path / "latin.yaml")


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/data")
    monkeypatch.setenv("RANKS", "2")
    data = {**MINIMAL, "store": "${WHERE}/runs", "resources": {"ranks": "${RANKS}"}}
    spec = parse_sweep(yaml.safe_dump(data))
    assert (spec.store, spec.resources.ranks) == ("/data/runs", 2)


def test_exponents_without_a_point_are_numbers() -> None:
    """YAML 1.1 reads 2e-5 as text."""
    text = TEXT.replace("learning_rate: 0.0001", "learning_rate: 2e-5")
    assert parse_sweep(text).recipe.learning_rate == 2e-5


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_the_shown_sweep_reads_back_as_itself(preset: str | None) -> None:
    """`show` is the whole sweep, so that a published one needs no defaults of this version."""
    task = {**MINIMAL["tasks"][0], "recipe": {"train_steps": 7}, "delta": 0.02}
    data = {**MINIMAL, "tasks": [task], "search_recipe": {"learning_rate": 5e-4}}
    spec = parse_sweep(yaml.safe_dump(data | ({"preset": preset} if preset else {})))
    assert parse_sweep(show(spec)) == spec
    assert "max_grad_norm: 1.0" in show(spec)
