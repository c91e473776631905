"""Transfers of registered tickets: every reference to MLflow, and what a resumed sweep needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.judging import judge_sweep
from orchestrator.submit_inputs import local_inputs, upload
from orchestrator.submit_sweep import sweep_text, written
from orchestrator.sweep_context import SweepContext
from orchestrator.tickets import open_ticket
from orchestrator.tracking import MlflowTracker
from search_spaces.errors import SpecError, UserError
from search_spaces.trial import GivenMask
from tests.orchestrator.sweeps import write_sweep
from tests.orchestrator.ticket_worlds import BERT_TINY, World, make_world

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")
NAME = "tickets-bert-tiny-toy"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A registered sweep, 50% is version 1 and 70% version 2, with its trials and verdicts."""
    world = make_world(tmp_path_factory.mktemp("given_tickets"))
    world.register()
    tracker = MlflowTracker(world.uri, "tickets", world.spec.name, "hash")
    for trial in world.trials:
        if trial.main_role.seed == 1 and round(trial.main_role.sparsity, 4) in (0.0, 0.7):
            tracker.mirror(trial, world.results[trial.key], world.store)
    judged = judge_sweep(world.spec, world.trials, world.results)
    tracker.log_verdicts(judged, world.spec.verdict.rule, world.spec.replicate)
    return world


def moving(root: Path, world: World, *refs: str, uri: str = "", **changes: Any) -> Path:
    """Write a sweep that moves tickets of the world at 0.7 to its own task 'new'."""
    source = world.spec.tasks[0].source.model_dump(mode="json")
    sources = [{"name": f"mine{number}", "mask": ref} for number, ref in enumerate(refs)]
    fields = {
        "models": [{"name": "bert-tiny", "source": BERT_TINY}],
        "tasks": [{"name": "new", "source": source, "max_length": 16}],
        "schedule": {"kind": "levels", "levels": [0.5, 0.7]},
        "transfer": {"sparsity": 0.7, "sources": sources},
        "tracking": {"uri": uri or world.uri},
        **changes,
    }
    return write_sweep(root, "moves", root, **fields)


def masks_of(context: SweepContext) -> dict[tuple[str, int], str]:
    """Return the sha256 of each cell's mask by source and seed."""
    found = {}
    for trial in context.trials:
        for role in trial.roles:
            if role.kind == "transfer":
                assert isinstance(trial.spec.mask, GivenMask)
                found[role.source_task, role.seed] = trial.spec.mask.mask_sha256
    return found


def run_with(world: World, condition: str) -> str:
    client = MlflowClient(world.uri)
    experiment = client.get_experiment_by_name("tickets").experiment_id
    (run,) = client.search_runs([experiment], condition)
    return str(run.info.run_id)


def verdict_at(world: World, sparsity: float) -> str:
    rule = world.spec.verdict.rule
    tags = f"tags.kind = 'verdict' and tags.method = 'imp' and tags.rule = '{rule}'"
    return run_with(
        world,
        f"{tags} and metrics.sparsity > {sparsity - 0.01} and metrics.sparsity < {sparsity + 0.01}",
    )


def test_every_reference_leads_to_the_same_masks(tmp_path: Path, world: World) -> None:
    """Alias, version, run, a run's bare id, the verdict's, and the folder: a mask a seed."""
    client = MlflowClient(world.uri)
    run_id = client.get_model_version_by_alias(NAME, "s70").run_id
    folder = client.download_artifacts(run_id, "ticket", str(tmp_path))
    refs = [f"models:/{NAME}@sparsest-matching", f"models:/{NAME}/2", f"runs:/{run_id}/ticket"]
    refs += [run_id, verdict_at(world, 0.7), folder]
    refs += ["query:task=toy,method=imp,sparsity=0.7", "query: sparsity=0.7"]
    context = SweepContext.open(moving(tmp_path, world, *refs))
    info = open_ticket(refs[0], uri=world.uri).metadata
    assert info is not None
    expected = {mask.seed: mask.sha256 for mask in info.masks if mask.seed in (1, 2)}
    found = masks_of(context)
    for number in range(len(refs)):
        assert {seed: found[f"mine{number}", seed] for seed in (1, 2)} == expected
    told = list(context.given.sentences(context.spec))
    assert f"source mine0: {refs[0]}: masks of the seeds 1, 2, 3, 275,251 weights" in told[0]
    # Every source is the same masks, so each cell is trained once.
    keys = {t.key for t in context.trials if t.kind == "transfer"}
    assert len(keys) == 2


def test_references_travel_with_a_submission(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's are sent as they are; a folder's ticket is copied, nothing that lies beside it."""
    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path / "cache"))
    client = MlflowClient(world.uri)
    run_id = client.get_model_version_by_alias(NAME, "s70").run_id
    folder = Path(client.download_artifacts(run_id, "ticket", str(tmp_path)))
    (folder / "notes.txt").write_text("nobody's business")
    refs = [f"models:/{NAME}@sparsest-matching", f"runs:/{run_id}/ticket", run_id]
    sweep = moving(tmp_path, world, *refs, str(folder))
    context = SweepContext.open(sweep)
    said: list[str] = []
    paths = upload(local_inputs(context.spec), context.spec.store, said.append)
    assert [field for field in paths if field[0] == "transfer"] == [
        ("transfer", "sources", 3, "mask")
    ]
    shutil.rmtree(folder)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "sweep.yaml").write_text(sweep_text(context, written(sweep), paths))
    there = SweepContext.open(tmp_path / "job" / "sweep.yaml")
    assert there.spec.transfer is not None and there.spec.transfer.sources is not None
    assert [source.mask for source in there.spec.transfer.sources[:3]] == refs
    assert there.info.sweep_hash == context.info.sweep_hash
    assert masks_of(there) == masks_of(context)
    assert not list(Path(context.spec.store).rglob("notes.txt"))


def test_a_finals_run_is_one_mask_for_all_seeds(tmp_path: Path, world: World) -> None:
    run_id = run_with(world, "tags.kind = 'final' and tags.seed = '1' and tags.method = 'imp'")
    context = SweepContext.open(moving(tmp_path, world, run_id))
    assert len(set(masks_of(context).values())) == 1
    (told,) = context.given.sentences(context.spec)
    assert "one mask for all seeds" in told and "; theta_0 " in told
    ticket = open_ticket(run_id, uri=world.uri, model=BERT_TINY)
    assert ticket.mask.sha256 == masks_of(context)["mine0", 1]


def test_references_that_lead_nowhere_say_what_there_is(tmp_path: Path, world: World) -> None:
    """Model, alias, version, run, a run without a mask and a verdict without a ticket."""
    dense = run_with(world, "tags.kind = 'dense'")
    refs = ["models:/none@s70", f"models:/{NAME}@s99", f"models:/{NAME}/7", "0" * 32, dense]
    refs += [verdict_at(world, 0.85), f"models:/{NAME}@s50"]
    with pytest.raises(SpecError) as end:
        SweepContext.open(moving(tmp_path, world, *refs))
    told = [str(fault) for fault in end.value.faults]
    wanted = [
        f"no registered model 'none' is at {world.uri}; tickets there: tickets-bert-tiny-",
        "its aliases: @s50, @s70, @sparsest-matching",
        "Its versions: 1, 2",
        f"no run '{'0' * 32}' is at",
        "the run (dense) keeps no mask: only runs of finals do. Give",
        "the verdict's ticket is not registered, since it does not match",
        "at 0.5: it removes 196,608 weights; the sweep transfers at 0.7, which is 275,251",
    ]
    assert len(told) == len(wanted)
    for index, (line, part) in enumerate(zip(told, wanted, strict=True)):
        field = f"{tmp_path}/moves.yaml: transfer.sources[{index}].mask: "
        assert line.startswith(field) and part in line


def test_seeds_that_the_ticket_lacks_are_refused(tmp_path: Path, world: World) -> None:
    """Unless all seeds share one mask, the ticket's default."""
    ref = f"models:/{NAME}@s70"
    with pytest.raises(SpecError, match="has masks of the seeds 1, 2, 3, but none of 8: under"):
        SweepContext.open(moving(tmp_path, world, ref, seeds=[1, 8]))
    shared = moving(tmp_path, world, ref, seeds=[1, 8], replicate="finetune")
    found = masks_of(SweepContext.open(shared))
    assert set(found.values()) == {open_ticket(ref, uri=world.uri).mask.sha256}


def test_a_ticket_of_one_search_is_one_mask_for_all_seeds(tmp_path: Path, world: World) -> None:
    """It was judged over fine-tuning alone (method rule 2); its one mask has a search seed."""
    make_world(tmp_path, world.uri, task="shared", replicate="finetune").register("shared")
    ref = "models:/tickets-bert-tiny-shared@s70"
    context = SweepContext.open(moving(tmp_path, world, ref, seeds=[4, 5]))
    assert len(set(masks_of(context).values())) == 1
    (told,) = context.given.sentences(context.spec)
    assert f"{ref}: one mask for all seeds" in told


def test_a_swapped_mask_is_refused(tmp_path: Path, world: World) -> None:
    """What a folder holds must be what its ticket.json names."""
    run_id = MlflowClient(world.uri).get_model_version_by_alias(NAME, "s70").run_id
    folder = Path(MlflowClient(world.uri).download_artifacts(run_id, "ticket", str(tmp_path)))
    shutil.copy(folder / "mask-seed1.arrow", folder / "mask-seed2.arrow")
    with pytest.raises(SpecError, match=r"mask-seed2.arrow holds the mask .* Get the ticket again"):
        SweepContext.open(moving(tmp_path, world, str(folder)))


def test_a_sweep_that_ran_goes_on_without_mlflow_and_with_its_masks(
    tmp_path: Path, world: World
) -> None:
    """Even if the alias has moved: what it led to is fixed when the sweep first runs."""
    client, ref = MlflowClient(world.uri), f"models:/{NAME}@mine"
    client.set_registered_model_alias(NAME, "mine", "2")
    path = moving(tmp_path, world, ref)
    context = SweepContext.open(path)
    before = masks_of(context)
    context.given.keep(context.spec)
    client.set_registered_model_alias(NAME, "mine", "1")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from orchestrator.sweep_context import SweepContext\n"
        f"print(len(SweepContext.open(Path({str(path)!r})).trials), 'mlflow' in sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, timeout=300, capture_output=True
    )
    assert done.stdout.decode().split() == [str(len(context.trials)), "False"]
    again = SweepContext.open(path)
    assert masks_of(again) == before and again.given.files == {}
    (kept,) = Path(context.spec.store, "given").glob("*.json")
    kept.write_text("{")  # damaged: asked again
    with pytest.raises(SpecError, match=r"at 0.5: it removes"):
        SweepContext.open(path)


def test_planning_with_a_registered_ticket_imports_no_torch(tmp_path: Path, world: World) -> None:
    path = moving(tmp_path, world, f"models:/{NAME}@s70")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from orchestrator.sweep_context import SweepContext\n"
        f"SweepContext.open(Path({str(path)!r}))\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)


def test_a_run_id_needs_an_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"where is MLflow\?"):
        open_ticket("a" * 32)


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("query:task=toy", "2 registered tickets are like that: models:/"),
        ("query:task=toy,sparsity=0.65", "at 0.65; the nearest is at 0.7. There are 0.5, 0.7."),
        ("query:task=other", "no registered ticket is like that. 'tickets registry' lists them."),
        ("query:tsk=toy", "'tsk=toy' is no part of a query.*Did you mean 'task'"),
        ("query:task", "'task' is no part of a query. Write name=value"),
        ("query:sparsity=70", "sparsity is '70', but must be a fraction"),
    ],
)
def test_queries_lead_to_one_ticket_or_say_why_not(world: World, ref: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        open_ticket(ref, uri=world.uri)
