"""`load_ticket` and `open_ticket`: every form of reference, and every message."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from orchestrator import load_ticket, open_ticket
from orchestrator.ticket_files import find_ticket
from search_spaces.errors import SpecError, UserError
from tests.orchestrator.ticket_worlds import BERT_TINY, NAME, World, make_world
from tests.workers.requests import make_model
from workers.ticket import masked_parameters

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")


@pytest.fixture
def world(registered: World) -> World:
    return registered


def edited(folder: Path, **changes: object) -> Path:
    """Change top-level fields of a folder's ticket.json."""
    told = json.loads((folder / "ticket.json").read_text())
    (folder / "ticket.json").write_text(json.dumps({**told, **changes}))
    return folder


def test_every_form_of_reference_leads_to_the_same_ticket(world: World, folder: Path) -> None:
    """Alias, version, run and folder: the same mask, the same weights, the same metadata."""
    run_id = MlflowClient(world.uri).get_model_version_by_alias(NAME, "s70").run_id
    refs = [f"models:/{NAME}@sparsest-matching", f"models:/{NAME}/2", f"runs:/{run_id}/ticket"]
    tickets = [open_ticket(ref, uri=world.uri) for ref in refs]
    tickets += [open_ticket(folder), open_ticket(str(folder))]
    first = tickets[0]
    assert first.metadata is not None and first.num_revived() == 0
    assert first.mask.sha256 == first.metadata.mask_of(None, "").sha256
    assert first.mask.num_removed == first.metadata.num_removed == round(0.7 * 393216)
    for other in tickets[1:]:
        assert other.mask.sha256 == first.mask.sha256 and other.metadata == first.metadata
        theirs = other.model.state_dict()
        backbone = {n: v for n, v in first.model.state_dict().items() if "pooler" not in n}
        assert all(torch.equal(value, theirs[name]) for name, value in backbone.items())


def test_a_ticket_is_fine_tuned_with_plain_pytorch(world: World) -> None:
    """Three steps of AdamW with weight decay: the loss falls, the zeros stay."""
    model = load_ticket(f"models:/{NAME}@s70", uri=world.uri, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    ids, labels = torch.arange(1000, 1032).reshape(4, 8), torch.tensor([0, 1, 0, 1])
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]
    mask = open_ticket(f"models:/{NAME}@s70", uri=world.uri).mask
    removed = [weights[gone] for weights, gone in masked_parameters(model, mask)]
    assert sum(part.numel() for part in removed) == mask.num_removed
    assert not any(part.any() for part in removed)


def test_zeros_need_not_be_kept(world: World) -> None:
    """Who fine-tunes without a mask gets theta_0 x mask and nothing more."""
    model = load_ticket(f"models:/{NAME}@s70", uri=world.uri, keep_zeros=False)
    mask = open_ticket(f"models:/{NAME}@s70", uri=world.uri).mask
    weights, gone = next(masked_parameters(model, mask))
    weights.sum().backward()
    assert weights.grad is not None and bool((weights.grad[gone] == 1).all())


def test_seeds_choose_masks(world: World) -> None:
    """By default the best on select, seed 3; another by its search seed."""
    ref = f"models:/{NAME}@s70"
    best, first = open_ticket(ref, uri=world.uri), open_ticket(ref, uri=world.uri, seed=1)
    assert best.metadata is not None and best.metadata.default_seed == 3
    masks = {mask.seed: mask.sha256 for mask in best.metadata.masks}
    assert (best.mask.sha256, first.mask.sha256) == (masks[3], masks[1])
    with pytest.raises(UserError, match=r"seed is 9, but the ticket has masks of .* 1, 2, 3\. Nam"):
        open_ticket(ref, uri=world.uri, seed=9)


def test_of_equally_good_masks_the_lowest_seed_is_the_default(tmp_path: Path, world: World) -> None:
    make_world(tmp_path, world.uri, lambda role: 0.8, "ties").register("ties")
    info = find_ticket("models:/tickets-bert-tiny-ties@s85", world.uri).info()
    assert info.default_seed == 1


def test_a_bare_mask_file_needs_a_model(folder: Path) -> None:
    """It notes theta_0, which is checked; it has neither seeds nor a card."""
    file = folder / "mask-seed2.arrow"
    ticket = open_ticket(file, model=BERT_TINY)
    assert ticket.metadata is None and ticket.num_revived() == 0
    with pytest.raises(UserError, match=r"does not name its model\. Give model=, as a sweep's"):
        open_ticket(file)
    with pytest.raises(UserError, match="seed is 2, but a mask file holds one mask"):
        open_ticket(file, model=BERT_TINY, seed=2)
    with pytest.raises(UserError, match=r"tells nothing of its ticket.*tickets mask show"):
        find_ticket(str(file)).card()


def test_the_uri_may_come_from_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.uri)
    assert open_ticket(f"models:/{NAME}@s50").mask.num_removed == 196608
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match=r"where is MLflow\? Give uri= \(--uri\), or set MLFLOW_TR"):
        open_ticket(f"models:/{NAME}@s50")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nowhere", r"^'nowhere': no ticket is there\. Give 'models:/NAME@ALIAS'"),
        ("models:/x", r"'models:/x': not a form that tickets are found by\. Give"),
        ("models:/none@s70", rf"no registered model 'none' is at .*; tickets there: .*{NAME}"),
        (f"models:/{NAME}@s99", r"no such version or alias.* 1, 2; its aliases: @s50, @s70, @spar"),
        (f"models:/{NAME}/7", r"no such version or alias. Its versions: 1, 2; its aliases: @s50"),
        ("runs:/00ff/ticket", r"no run '00ff' is at sqlite.*whether --uri names the right MLflow"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_there_is(
    world: World, ref: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_ticket(ref, uri=world.uri)


def test_a_model_of_somebody_else_is_no_ticket(world: World) -> None:
    client = MlflowClient(world.uri)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "file:///nowhere")
    with pytest.raises(UserError, match="version 1 of theirs is no ticket of ours"):
        open_ticket("models:/theirs/1", uri=world.uri)


def test_a_run_without_a_ticket_is_refused(world: World) -> None:
    client = MlflowClient(world.uri)
    experiment = client.get_experiment_by_name("tickets").experiment_id
    run_id = client.create_run(experiment).info.run_id
    with pytest.raises(UserError, match=rf"runs:/{run_id}/ticket: holds no ticket.json, so it is"):
        open_ticket(f"runs:/{run_id}/ticket", uri=world.uri)


def test_mlflow_that_does_not_answer_is_said_within_seconds() -> None:
    with socket.socket() as held:  # bound but not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UserError, match=f"MLflow at '{dead}' does not answer"):
            open_ticket(f"models:/{NAME}@s70", uri=dead)


def test_a_folder_that_is_not_whole_is_refused(folder: Path) -> None:
    (folder / "mask-seed3.arrow").unlink()
    with pytest.raises(UserError, match=r"ticket: holds no mask-seed3.arrow, so it is no whole"):
        open_ticket(folder)
    (folder / "ticket.json").unlink()
    with pytest.raises(UserError, match=r"ticket: holds no ticket.json, so it is no whole ticket"):
        open_ticket(folder)


def test_a_damaged_ticket_json_is_refused(folder: Path) -> None:
    """Also one of a later version, whose fields this one cannot know."""
    edited(folder, format_version=2)
    with pytest.raises(UserError, match=r"ticket.json: no ticket.json of format version 1: form"):
        open_ticket(folder)
    (folder / "ticket.json").write_text("{")
    with pytest.raises(
        UserError, match=r"of format version 1: Invalid JSON.* Get the ticket again"
    ):
        open_ticket(folder)


def test_a_damaged_mask_and_a_swapped_one_are_refused(folder: Path) -> None:
    mask = folder / "mask-seed3.arrow"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:-60])
    with pytest.raises(UserError, match=r"mask-seed3.arrow: the mask file is damaged"):
        open_ticket(folder)
    shutil.copy(folder / "mask-seed1.arrow", mask)
    with pytest.raises(UserError, match=r"mask-seed3.arrow: another mask than the ticket's: exp"):
        open_ticket(folder)


def test_another_model_than_the_tickets_is_refused(folder: Path, tmp_path: Path) -> None:
    """Other weights, other matrices noted, another function: each is named with both hashes."""
    other = make_model(tmp_path / "other")
    with pytest.raises(UserError, match=r"other: another theta_0 than the ticket's: expected sha"):
        open_ticket(folder, model=str(other))
    model = json.loads((folder / "ticket.json").read_text())["model"]
    identity = {**model["identity"], "prunable_sha256": "0" * 64}
    edited(folder, model={**model, "identity": identity})
    with pytest.raises(UserError, match=r"another prunable set than the ticket's: expec"):
        open_ticket(folder)
    identity = {**model["identity"], "config_sha256": "1" * 64}
    edited(folder, model={**model, "identity": identity})
    with pytest.raises(UserError, match=r"another configuration than the ticket's: exp"):
        open_ticket(folder)


def test_a_model_that_is_not_at_hand_is_named(folder: Path) -> None:
    """The ticket's own source may be gone; ``model=`` takes the same weights from elsewhere."""
    model = json.loads((folder / "ticket.json").read_text())["model"]
    edited(folder, model={**model, "source": "/not/here"})
    with pytest.raises(SpecError, match=r"is '/not/here', which is no folder.*Or give model=, wh"):
        open_ticket(folder)
    assert open_ticket(folder, model=BERT_TINY).num_revived() == 0


def test_looking_imports_no_torch(world: World) -> None:
    """Neither the package nor the two commands load what only training needs."""
    heavy = "{'torch', 'ray', 'deepspeed', 'transformers'} & set(sys.modules)"
    code = (
        "import sys, orchestrator\n"
        "assert 'mlflow' not in sys.modules and 'load_ticket' in orchestrator.__all__\n"
        "from orchestrator import load_ticket\n"
        "assert 'mlflow' not in sys.modules\n"
        "from orchestrator.registry_commands import registered_tickets\n"
        "from orchestrator.ticket_files import find_ticket\n"
        f"assert registered_tickets({world.uri!r})\n"
        f"find_ticket('models:/{NAME}@s70', {world.uri!r}).card()\n"
        f"assert not {heavy}, {heavy}\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)


def test_an_unknown_attribute_of_the_package_is_an_error() -> None:
    import orchestrator

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        orchestrator.nothing  # noqa: B018
