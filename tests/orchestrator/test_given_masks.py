"""Transfers of masks from files: looked up, checked, copied into the store, and trained under."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.compare_sides import mask_ref
from orchestrator.requests import request_maker
from orchestrator.source_masks import source_overlaps
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from orchestrator.tracking_rows import lineage_rows
from orchestrator.transfer_judging import judge_transfers, transfer_cells
from search_spaces.errors import SpecError, UserError
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.trial import GivenMask, Trial
from tests.orchestrator.sweeps import make_source, write_data, write_sweep
from tests.workers.requests import make_model
from tests.workers.running import run_here
from workers.mask_file import write_mask
from workers.pruners import random_uniform

ATTEMPT = "a001-0000abcd"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a two-class task, and 'three': the same texts in three classes."""
    root = tmp_path_factory.mktemp("given")
    write_data(root)
    (root / "three").mkdir()
    for split in ("train", "dev"):
        rows = [
            json.loads(line)
            for line in (root / f"data/{split}.jsonl").read_text().split("\n")
            if line
        ]
        lines = [json.dumps({**row, "label": "abc"[i % 3]}) for i, row in enumerate(rows)]
        (root / f"three/{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def model(data: Path) -> ModelFacts:
    return resolve_model(ModelSpecYaml(name="tiny", source=f"{data}/model"))


def write_given(
    root: Path, model: ModelFacts, sparsity: float = 0.5, name: str = "mine", **metadata: str
) -> Path:
    """Write a random mask's file, with whatever it shall note."""
    count = round(sparsity * model.prunable.num_weights)
    file = root / f"{name}.arrow"
    file.write_bytes(write_mask(random_uniform(model.prunable, count, seed=5), metadata))
    return file


def given_sweep(root: Path, data: Path, *masks: Path | str, **changes: Any) -> Path:
    """Write a sweep of two tasks that transfers masks at 0.5; the first is called 'mine'."""
    tasks = [
        {"name": "toy", "source": make_source(data / "data"), "max_length": 24},
        {"name": "three", "source": make_source(data / "three"), "max_length": 24},
    ]
    names = ["mine", *(f"mine{number}" for number in range(2, 9))]
    sources = [{"name": n, "mask": str(mask)} for n, mask in zip(names, masks, strict=False)]
    transfer = {"sparsity": 0.5, "sources": ["toy", *sources], **changes.pop("transfer", {})}
    return write_sweep(root, "moves", data, **{"tasks": tasks, "transfer": transfer, **changes})


def given_trials(context: SweepContext) -> dict[tuple[str, int], Trial]:
    """Return the trials of source 'mine' by target and seed."""
    return {
        (role.task, role.seed): trial
        for trial in context.trials
        for role in trial.roles
        if role.source_task == "mine"
    }


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as end:
        SweepContext.open(path)
    return str(end.value)


def test_a_mask_file_is_a_row_of_trials_named_by_content(
    tmp_path: Path, data: Path, model: ModelFacts
) -> None:
    """One mask for all seeds and targets; where the file lies and what it notes is no part."""
    file = write_given(tmp_path, model)
    context = SweepContext.open(given_sweep(tmp_path, data, file))
    found = given_trials(context)
    assert set(found) == {(task, seed) for task in ("toy", "three") for seed in (1, 2)}
    masks = {trial.spec.mask for trial in found.values()}
    expected = random_uniform(model.prunable, round(0.5 * model.prunable.num_weights), seed=5)
    assert masks == {GivenMask(mask_sha256=expected.sha256, num_removed=expected.num_removed)}
    assert all(trial.spec.parents == () for trial in found.values())
    assert found["toy", 1].main_role.label == "transfer:mine>toy:given:0.5:s1"
    other = write_given(tmp_path, model, name="moved", theta0_sha256=model.identity.theta0_sha256)
    again = SweepContext.open(given_sweep(tmp_path, data, other))
    assert [trial.key for trial in again.trials] == [trial.key for trial in context.trials]


def test_a_cell_is_trained_under_the_copy_in_the_store(
    tmp_path: Path, data: Path, model: ModelFacts
) -> None:
    """The file may be gone; three classes under a mask of two; the table and overlaps show it."""
    file = write_given(tmp_path, model)
    context = SweepContext.open(given_sweep(tmp_path, data, file))
    spec, store = context.spec, Store(context.spec.store)
    make_request = request_maker(spec, context.models, context.tasks, store, context.cache)
    trial = given_trials(context)["three", 1]
    assert trial.spec.task.num_labels == 3
    with pytest.raises(UserError, match=r"no file of the given mask .* 'tickets run' of its sweep"):
        make_request(trial, ATTEMPT)
    assert mask_ref(store, trial.spec) is None
    context.given.keep(spec)
    context.given.keep(spec)
    file.unlink()
    results = {}
    for cell in (trial, given_trials(context)["three", 2]):
        results[cell.key] = run_here(make_request(cell, ATTEMPT))
        assert store.commit(results[cell.key], cell.spec)
    result = results[trial.key]
    assert isinstance(trial.spec.mask, GivenMask) and result.input_mask is not None
    assert result.input_mask.sha256 == trial.spec.mask.mask_sha256
    assert result.proof.num_masked_zero_in_model == trial.spec.num_removed
    (row,) = lineage_rows(trial.spec, result, store)
    assert row["mask_sha256"] == trial.spec.mask.mask_sha256
    cells = transfer_cells(spec, context.trials)["tiny"]
    assert cells.sources == ("toy", "mine") and cells.cells["mine", "three"][1] == trial.key
    table = judge_transfers(spec, context.trials, results)[0]
    cell_mean = table.matrix.cells["mine", "three"].mean
    assert cell_mean == pytest.approx(sum(r.primary("select") for r in results.values()) / 2)
    (overlaps,) = source_overlaps(spec, context.trials, store)
    at = overlaps.names.index("mine")
    assert overlaps.values[at][at] == 1.0


def test_a_damaged_copy_is_replaced(tmp_path: Path, data: Path, model: ModelFacts) -> None:
    context = SweepContext.open(given_sweep(tmp_path, data, write_given(tmp_path, model)))
    context.given.keep(context.spec)
    (copy,) = Path(context.spec.store, "given").glob("*.arrow")
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-9])
    context.given.keep(context.spec)
    assert copy.read_bytes() == whole
    assert len(list(Path(context.spec.store, "quarantine").iterdir())) == 1


def test_validate_says_what_a_mask_is(
    tmp_path: Path,
    data: Path,
    model: ModelFacts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_given(tmp_path, model)
    path = given_sweep(tmp_path, data, file)
    monkeypatch.setattr(sys, "argv", ["tickets", "validate", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = capsys.readouterr().out
    assert f"source mine: {file}: one mask for all seeds, " in told
    assert "theta_0 is not noted, so not checked" in told


def test_every_fault_is_told_at_once(tmp_path: Path, data: Path, model: ModelFacts) -> None:
    """Nothing there, damaged, another theta_0, another level in the schedule and out of it."""
    damaged = tmp_path / "damaged.arrow"
    damaged.write_bytes(b"no mask")
    other = write_given(tmp_path, model, name="other", theta0_sha256="0" * 64)
    sparse = write_given(tmp_path, model, 0.3, name="sparse")
    between = write_given(tmp_path, model, 0.4, name="between")
    sweep = given_sweep(tmp_path, data, "gone", damaged, other, sparse, between)
    told = refusal(sweep)
    lines = told.splitlines()
    assert len(lines) == 5
    field = f"{sweep}: transfer.sources"
    assert lines[0].startswith(f"{field}[1].mask: 'gone': no ticket is there. Give 'models:/NAME")
    assert lines[1].startswith(f"{field}[2].mask: {damaged}: the mask file is damaged")
    theta0 = f"is '{other}', a mask of theta_0 0000000000, but model 'tiny' has "
    assert f"{field}[3].mask: {theta0}" in told
    assert (
        f"[4].mask: is '{sparse}', at 0.3: it removes" in told
        and "Write transfer.sparsity: 0.3, a level of" in told
    )
    assert "the sweep transfers at 0.5, which is" in told
    assert f"[5].mask: is '{between}', at 0.3999: it removes" in told
    assert lines[-1].endswith(
        "The schedule's nearest level is 0.3. Give a mask that removes 2,048."
    )


def test_a_mask_that_fits_one_model_alone_names_the_other(
    tmp_path: Path, data: Path, model: ModelFacts
) -> None:
    """Another size is another prunable set; other weights of this size another theta_0."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=18,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    sources = {"small": make_model(tmp_path / "small", config=config)}
    sources["twin"] = make_model(tmp_path / "twin", seed=9)
    models = [{"name": name, "source": str(folder)} for name, folder in sources.items()]
    models.insert(0, {"name": "tiny", "source": f"{data}/model"})
    plain = given_sweep(tmp_path, data, write_given(tmp_path, model), models=models)
    told = refusal(plain).splitlines()
    assert len(told) == 1 and "on model 'small' has" in told[0] and "a mask over" in told[0]
    noted = write_given(tmp_path, model, theta0_sha256=model.identity.theta0_sha256)
    told = refusal(given_sweep(tmp_path, data, noted, models=models)).splitlines()
    assert ["'small'" in line for line in told] == [True, False] and "model 'twin' has" in told[1]


def test_planning_with_a_file_imports_neither_mlflow_nor_torch(
    tmp_path: Path, data: Path, model: ModelFacts
) -> None:
    path = given_sweep(tmp_path, data, write_given(tmp_path, model))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from orchestrator.sweep_context import SweepContext\n"
        f"context = SweepContext.open(Path({str(path)!r}))\n"
        "assert context.given.sources\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'transformers', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)
