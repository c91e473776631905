"""A ticket in memory: theta_0 x mask bit for bit, zeros that stay, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, RobertaConfig, RobertaModel

from search_spaces.checkpoint import iter_parameters
from search_spaces.errors import SpecError, UserError
from search_spaces.models import ModelSpecYaml, resolve_model
from tests.workers.requests import make_model
from workers.mask import Mask
from workers.mask_file import write_mask
from workers.pruners import random_uniform
from workers.ticket import Ticket, make_ticket, masked_parameters


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("ticket") / "model")


def half(folder: Path, **metadata: str) -> tuple[Mask, bytes]:
    """Return a mask of half the weights, and its file."""
    prunable = resolve_model(ModelSpecYaml(name="m", source=str(folder))).prunable
    mask = random_uniform(prunable, prunable.num_weights // 2, seed=1)
    return mask, write_mask(mask, metadata)


def loaded(folder: Path, num_labels: int | None = None) -> Ticket:
    return make_ticket(half(folder)[1], "mask.arrow", folder, num_labels=num_labels)


@pytest.mark.parametrize("num_labels", [None, 3])
def test_weights_are_theta0_times_mask_bit_for_bit(folder: Path, num_labels: int | None) -> None:
    """Masked weights are +0.0, all others of the backbone theta_0; a head is fresh."""
    ticket = loaded(folder, num_labels)
    model = ticket.model if num_labels is None else ticket.model.bert
    found = dict(model.named_parameters())
    for name, values in iter_parameters(folder):
        wanted = torch.from_numpy(values.copy())
        if name in ticket.mask.prunable.names:
            wanted[torch.from_numpy(~ticket.mask.matrix(name))] = 0.0
        assert torch.equal(found[name].view(torch.int32), wanted.view(torch.int32)), name
    if num_labels:
        assert ticket.model.classifier.out_features == num_labels
    assert not ticket.model.training and ticket.num_revived() == 0


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
}


def steps(ticket: Ticket, optimizer: torch.optim.Optimizer, num: int = 3) -> None:
    ticket.model.train()
    ids = torch.randint(4, 18, (4, 6), generator=torch.Generator().manual_seed(0))
    for _ in range(num):
        optimizer.zero_grad()
        ticket.model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_zeros_under_fine_tuning(folder: Path, name: str) -> None:
    """With weight decay and momentum too: exactly +0.0; the other weights move."""
    ticket = loaded(folder, num_labels=2)
    before = {n: p.detach().clone() for n, p in ticket.model.named_parameters()}
    ticket.keep_zeros()
    steps(ticket, OPTIMIZERS[name](ticket.model.parameters()))
    for parameter, removed in masked_parameters(ticket.model, ticket.mask):
        assert not parameter.detach()[removed].view(torch.int32).any()
    assert ticket.num_revived() == 0
    moved = [n for n, p in ticket.model.named_parameters() if not torch.equal(p, before[n])]
    assert "bert.encoder.layer.0.attention.self.query.weight" in moved
    assert "classifier.weight" in moved


def test_without_the_hooks_the_zeros_are_lost(folder: Path) -> None:
    """So they do the work; removed hooks do no more."""
    ticket = loaded(folder, num_labels=2)
    for handle in ticket.keep_zeros():
        handle.remove()
    steps(ticket, OPTIMIZERS["adamw"](ticket.model.parameters()), num=1)
    assert ticket.num_revived() > 0.9 * ticket.mask.num_removed


def test_a_gradient_that_is_not_finite_revives_nothing(folder: Path) -> None:
    """NaN * 0 would be NaN."""
    ticket = loaded(folder)
    ticket.keep_zeros()
    parameter, removed = next(masked_parameters(ticket.model, ticket.mask))
    (parameter * float("nan")).sum().backward()
    assert parameter.grad is not None and not parameter.grad[removed].any()


def test_a_roberta_has_no_pooler_in_its_mask(tmp_path: Path) -> None:
    """Its classifier has none, its backbone alone has a fresh one."""
    config = RobertaConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
    )
    folder = make_model(tmp_path / "m")
    RobertaModel(config).save_pretrained(str(folder))
    for num_labels in (None, 2):
        ticket = loaded(folder, num_labels)
        assert ticket.num_revived() == 0 and not ticket.mask.prunable.has_pooler


def test_a_mask_of_other_matrices_is_refused(folder: Path, tmp_path: Path) -> None:
    """The message has both sets' sizes and says what to name."""
    config = BertConfig(
        vocab_size=18,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    deeper = make_model(tmp_path / "deeper", config=config)
    with pytest.raises(UserError, match=r"^m.arrow: .*12 matrices .* has 18 with .*model=, sourc"):
        make_ticket(half(folder)[1], "m.arrow", deeper)


def test_other_weights_than_the_file_notes_are_refused(folder: Path, tmp_path: Path) -> None:
    """A bare mask file knows theta_0: the same shapes with other weights are another model."""
    theta0 = resolve_model(ModelSpecYaml(name="m", source=str(folder))).identity.theta0_sha256
    data = half(folder, theta0_sha256=theta0)[1]
    assert make_ticket(data, "m.arrow", folder).num_revived() == 0
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=rf"other: another theta_0 .*expected sha256 {theta0}, fou"):
        make_ticket(data, "m.arrow", other)


def test_a_damaged_file_and_another_mask_are_refused(folder: Path) -> None:
    mask, data = half(folder)
    with pytest.raises(UserError, match=r"m.arrow: the mask file is damaged.*Or get the ticket ag"):
        make_ticket(data[:100], "m.arrow", folder)
    with pytest.raises(UserError, match="is damaged: its bytes do not have the sha256"):
        make_ticket(data[:-20] + b"x" + data[-19:], "m.arrow", folder)
    with pytest.raises(UserError, match=rf"another mask .*expected sha256 0+, found {mask.sha256}"):
        make_ticket(data, "m.arrow", folder, mask_sha256="0" * 64)


def test_weights_that_config_json_does_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    """Copying would broadcast them."""
    other = make_model(tmp_path / "m")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 31}))
    with pytest.raises(UserError, match=r"position_embeddings.* the shape \(32, 16\).*\(31, 16\)"):
        make_ticket(half(folder)[1], "m.arrow", other)


def test_a_folder_without_a_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no config.json"):
        make_ticket(half(folder)[1], "m.arrow", tmp_path)
