"""What a user sees: exit codes, all faults at once, and commands that stay light."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.console import make_console, pasteable
from orchestrator.store import Store
from tests.orchestrator.said import saying
from tests.orchestrator.sweeps import tickets
from tests.workers.requests import make_model, make_task

FIVE_FAULTS = """
name: bad
models: [{name: m, source: nowhere, colour: red}]
tasks: [{name: t, source: {kind: glue-folder, task: sst3, path: x}}]
seeds: [1, 2, 3]
schedule: {kind: geometric, rate: 1.5, rounds: 0}
recipe: {epochs: 1, learning_rate: fast}
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    model, data = make_model(root / "model"), make_task(root / "data", num_train=200)
    text = f"""
name: toy
models: [{{name: tiny, source: {model}}}]
tasks:
  - name: toy
    source: {{kind: files, train: {data}/train.jsonl, report: {data}/dev.jsonl,
              text: text, label: label, problem: classification}}
    max_length: 24
seeds: [1, 2, 3]
schedule: {{kind: levels, levels: [0.3, 0.5]}}
controls: [random-uniform]
recipe: {{epochs: 1, batch_size: 16, learning_rate: 1.0e-3}}
store: {root}/store
tracking: {{uri: 'sqlite:///{root}/mlflow.db', experiment: toy}}
"""
    path = root / "sweep.yaml"
    path.write_text(text)
    return path


def test_validate_prints_every_fault_and_exits_2(tmp_path: Path) -> None:
    """Five faults in one file give five lines, exit code 2 and no traceback."""
    (tmp_path / "bad.yaml").write_text(FIVE_FAULTS)
    done = tickets("validate", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    for field in ("colour", "sst3", "rate", "rounds", "learning_rate"):
        assert field in done.stderr
    assert "5 faults found" in done.stderr
    assert "Traceback" not in done.stderr


def test_validate_tells_programs_too(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json holds what was found, or each fault with its file, and the exit code stays."""
    say = saying("validate", monkeypatch, capsys)
    said = json.loads(say(sweep, "--json").out)
    assert (said["is_valid"], said["num_trials"], said["warnings"]) == (True, 15, [])
    assert said["tasks"]["toy"]["num_train"] == 180
    bad = sweep.with_name("bad.yaml")
    few = sweep.read_text().replace("max_length: 24", "max_length: 24\n    train_examples: 999")
    bad.write_text(few.replace("levels: [0.3, 0.5]", "levels: [0.3, 0.99999999]"))
    refused = say(bad, "--json")
    said = json.loads(refused.out)
    assert (refused.code, said["is_valid"]) == (2, False)
    assert [fault["place"] for fault in said["faults"]] == [f"{bad}: task 'toy'"]
    assert "only 180 remain" in said["faults"][0]["problem"]


def test_a_batch_larger_than_its_task_is_warned_of(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is allowed, but hardly meant."""
    large = sweep.with_name("large.yaml")
    large.write_text(sweep.read_text().replace("batch_size: 16", "batch_size: 200"))
    said = saying("validate", monkeypatch, capsys)(large)
    assert said.code == 0
    assert "warning: task toy: batch_size 200 is more than the 180 examples" in said.out


def test_the_next_command_can_be_pasted() -> None:
    """A path with a blank is quoted, for the shell."""
    assert pasteable(Path("my sweep.yaml")) == "'my sweep.yaml'"
    assert pasteable(Path("a/sweep.yaml")) == "a/sweep.yaml"


@pytest.mark.parametrize(("columns", "width"), [(None, 200), ("40", 80), ("120", 120)])
def test_no_column_is_lost(
    monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int
) -> None:
    """In a pipe a line stays one; a narrow terminal breaks lines instead of dropping columns."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == width


def test_a_missing_sweep_is_one_sentence(tmp_path: Path) -> None:
    """A file that is not there is named, with exit code 2."""
    done = tickets("plan", "none.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "none.yaml" in done.stderr and "Traceback" not in done.stderr


def test_light_commands_load_no_training_library(sweep: Path) -> None:
    """They answer without torch, Ray, transformers or DeepSpeed."""
    light = (["--help"], ["validate", str(sweep)], ["plan", str(sweep)])
    for arguments in (*light, ["simulate", str(sweep), "--cpus", "4", "--gantt", "run.html"]):
        done = tickets(*arguments, cwd=sweep.parent)
        assert done.returncode == 0, done.stderr
        assert "HEAVY []" in done.stderr


def test_plan_counts_and_explains(sweep: Path) -> None:
    """A new sweep: 3 dense, 3 x 2 finals and 3 x 2 controls, none of them done."""
    done = tickets("plan", str(sweep), "--json", cwd=sweep.parent)
    plan = json.loads(done.stdout)
    assert plan["num_run"] + plan["num_wait"] == 15
    assert plan["num_reuse"] == 0
    assert all(row["reason"] for row in plan["rows"])


def test_simulate_uses_the_sweeps_own_retries(sweep: Path) -> None:
    """Without a budget each trial that is hit is given up; with the default one it runs again."""
    text = sweep.read_text().replace("/store\n", "/empty\n")
    budgets = {"own": "retries: {infrastructure: 0}\n", "default": ""}
    found = {}
    for name, budget in budgets.items():
        path = sweep.with_name(f"{name}.yaml")
        path.write_text(text + budget)
        arguments = ("--cpus", "1", "--mtbf", "60s", "--repair", "0s", "--json")
        done = tickets("simulate", str(path), *arguments, cwd=sweep.parent)
        found[name] = json.loads(done.stdout)
    assert found["own"]["num_failures"] == found["own"]["num_failed"] > 0
    assert found["own"]["num_retries"] == 0 < found["default"]["num_retries"]


def test_a_chart_that_cannot_be_written_is_one_sentence(sweep: Path) -> None:
    """Its folder is a file: exit code 2, the place and the next step."""
    place = f"{sweep}/run.png"
    done = tickets("simulate", str(sweep), "--cpus", "4", "--gantt", place, cwd=sweep.parent)
    assert done.returncode == 2
    assert f"--gantt {place}: the chart cannot be written there" in done.stderr
    assert "Name another file" in done.stderr and "Traceback" not in done.stderr


def test_explain_key_names_the_difference(sweep: Path) -> None:
    """Two dense trials differ in their seed and in nothing else."""
    rows = json.loads(tickets("plan", str(sweep), "--json", cwd=sweep.parent).stdout)["rows"]
    keys = [row["key"] for row in rows if row["kind"] == "dense"]
    done = tickets("explain-key", str(sweep), keys[0], keys[1], "--json", cwd=sweep.parent)
    assert [row[0] for row in json.loads(done.stdout)] == ["seed"]


def test_status_before_the_first_run_says_what_to_do(sweep: Path) -> None:
    """Without a journal, status names the command that starts the sweep."""
    done = tickets("status", str(sweep), cwd=sweep.parent)
    assert done.returncode == 2
    assert "tickets run" in done.stderr


@pytest.mark.ray
def test_run_finishes_on_ray_and_a_second_run_trains_nothing(sweep: Path) -> None:
    """All 15 trials succeed on a real local Ray; afterwards the plan has nothing to run."""
    done = tickets("run", str(sweep), cwd=sweep.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED 15" in done.stdout
    assert_ends_well(done.stdout, sweep.parent)
    before = sorted(Store(str(sweep.parent / "store")).trial_keys())
    again = tickets("run", str(sweep), cwd=sweep.parent)
    assert "0 to run" in again.stdout and "HEAVY []" in again.stderr
    assert "vs dense" in again.stdout
    assert sorted(Store(str(sweep.parent / "store")).trial_keys()) == before
    uri = f"sqlite:///{sweep.parent}/mlflow.db"
    found = tickets("best", "--uri", uri, "--experiment", "toy", "--json", cwd=sweep.parent)
    assert found.returncode == 0 and "HEAVY []" in found.stderr, found.stderr
    assert isinstance(json.loads(found.stdout), list)
    chain = tickets(
        "lineage", before[0], "--uri", uri, "--experiment", "toy", "--json", cwd=sweep.parent
    )
    assert json.loads(chain.stdout)[0]["trial_key"] == before[0]
    status = json.loads(tickets("status", str(sweep), "--json", cwd=sweep.parent).stdout)
    assert {row["state"] for row in status["trials"]} == {"SUCCEEDED"}
    written = tickets("report", str(sweep), "--folder", "mine", "--json", cwd=sweep.parent)
    assert Path(json.loads(written.stdout)["report"]) == Path("mine/report.html")
    assert (sweep.parent / "mine" / "report.html").stat().st_size > 10_000


def assert_ends_well(said: str, root: Path) -> None:
    """The end of a run: the verdicts, where everything is, and commands that do work."""
    assert "tiny · toy · imp: dense" in said and "vs dense" in said
    assert "30%" in said and "50%" in said
    page = root / "reports" / "toy" / "report.html"
    assert f"Report:         {page}" in said and page.stat().st_size > 10_000
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    parent = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")[0]
    kept = {Path(one.path).name for one in client.list_artifacts(parent.info.run_id, "report")}
    assert {path.name for path in page.parent.glob("[!.]*")} == kept
    following = [line.split() for line in said.partition("Next:\n")[2].splitlines()]
    best, lineage = following[0], following[1]
    assert best[1] == "best" and lineage[1] == "lineage"
    for command in (best, lineage):
        done = tickets(*command[1:], cwd=root)
        assert done.returncode == 0, done.stderr
