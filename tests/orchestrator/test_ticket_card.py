"""The card of a ticket: its code runs, and it tells and warns of what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import open_ticket
from orchestrator.cli import main
from orchestrator.ticket_card import render_card
from orchestrator.ticket_files import find_ticket
from search_spaces.errors import UserError
from search_spaces.trial import Role
from tests.orchestrator.ticket_worlds import NAME, World, make_world

pytest.importorskip("cognition", reason="BERT-tiny's package is not installed")


@pytest.fixture
def world(registered: World) -> World:
    return registered


def test_the_cards_own_code_runs(world: World) -> None:
    """Word for word, in a process that has nothing else; it fine-tunes as the card says."""
    card = find_ticket(f"models:/{NAME}@s70", world.uri).card()
    found = re.search(r"```python\n(.*?)```", card, re.S)
    assert found is not None
    script = found[1] + "\nprint(type(model).__name__, model.num_labels, len(tokenizer))"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "BertForSequenceClassification 2 30522"


def test_the_card_tells_what_there_is_to_tell(world: World) -> None:
    """Scores with spread, all five rules, controls, lineage, matrices, limits; nothing missing."""
    card = find_ticket(f"models:/{NAME}@s70", world.uri).card()
    assert "| ticket | 3 | 0.8200 ± 0.0100 | 3 | 0.7200 ± 0.0100 |" in card
    assert "| random-uniform | 3 | 0.5200 ± 0.0100 |" in card
    for rule in ("noninferior (the sweep's)", "subnetwork_std", "full_std", "overlap", "strict"):
        assert f"| {rule} | yes | yes |" in card
    assert "| random-uniform | +0.3000 | +0.3000 | yes |" in card
    assert card.count("none: dense") == 3 and "learning_rate 0.001" in card
    assert "encoder.layer.1.output.dense.weight" in card and "## Limits" in card
    assert "None" not in card and "{{" not in card and not re.search(r" $", card, re.M)
    assert "\n\n\n\n" not in card


def test_a_card_warns_where_there_is_reason_to(tmp_path: Path, world: World) -> None:
    """One split for both, no control, a failing level before it, scores without any spread."""

    def score(role: Role) -> float:
        return 0.8 - 0.3 * (role.kind == "final" and role.sparsity < 0.6)

    changes = {"splits": {"select": "report"}, "controls": [], "replicate": "finetune"}
    made = make_world(tmp_path, world.uri, score, "warned", **changes)
    made.register("warned")
    card = find_ticket("models:/tickets-bert-tiny-warned@s70", world.uri).card()
    assert "**a less sparse level does not**" in card and "may match by chance" in card
    assert "**same_split**" in card and "The sweep ran none" in card
    assert "- `noisy`: the ticket's deviation is 0" in card
    assert "finetune: one mask, fine-tuned with each seed" in card
    assert "holds" not in card.partition("## Scores")[0]


def test_a_file_that_cannot_be_read_is_said(folder: Path) -> None:
    (folder / "ticket.json").unlink()
    (folder / "ticket.json").mkdir()
    with pytest.raises(UserError, match=r"ticket.json: cannot be read: Is a directory\. Check"):
        open_ticket(folder)


def test_a_card_hides_credentials(world: World) -> None:
    info = find_ticket(f"models:/{NAME}@s70", world.uri).info()
    card = render_card(info, "runs:/1/ticket", "", NAME)
    assert 'load_ticket("runs:/1/ticket", num_labels=2)' in card and "MLFLOW_TRACKING_URI" in card


def test_the_card_of_a_task_without_classes_loads_the_backbone(world: World) -> None:
    """A head for spans or words is not one of the classification head's."""
    info = find_ticket(f"models:/{NAME}@s70", world.uri).info()
    identity = info.task.identity.model_copy(update={"problem": "span"})
    task = info.task.model_copy(update={"identity": identity})
    card = render_card(info.model_copy(update={"task": task}), "runs:/1/ticket", "", NAME)
    assert 'load_ticket("runs:/1/ticket")\n' in card and "num_labels" not in card
    assert "This is the backbone alone" in card


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tickets", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_the_command_prints_the_card_or_the_data(world: World, folder: Path, say: Say) -> None:
    code, told, _ = say("card", f"models:/{NAME}@s70", "--uri", world.uri)
    assert code == 0 and "Ticket: bert-tiny for toy at 70% sparsity" in told
    code, told, _ = say("card", str(folder), "--json")
    assert code == 0 and json.loads(told) == json.loads((folder / "ticket.json").read_text())
    code, told, wrong = say("card", "nowhere")
    assert code == 2 and "no ticket is there" in wrong and told == ""
