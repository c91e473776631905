"""The documentation names only what is there: links, modules, functions, tests and commands."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import app
from search_spaces.expand import expand
from search_spaces.loading import load_sweep
from search_spaces.preset_table import preset_table
from tests.search_spaces.makers import model_facts, task_facts

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
PLACES = (ROOT, ROOT / "tests")

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\s*(?:\$ )?tickets ([^#\n]+)", re.MULTILINE)
INLINE_COMMAND = re.compile(r"`tickets ([^`]+)`")
MODULE = re.compile(r"[\w./-]*\w\.py\b")
FUNCTION = re.compile(r"`((?:search_spaces|workers|cluster|orchestrator)\.\w+):(\w+)`")
TEST = re.compile(r"`([\w/]+/test_\w+\.py)::(\w+)`")

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return what a module defines at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def commands() -> dict[str, Any]:
    """Return the subcommands of ``tickets`` as click sees them."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def quoted_commands(text: str) -> list[str]:
    """Return the arguments of every ``tickets`` call in a fenced block."""
    return [call for block in FENCE.findall(text) for call in COMMAND.findall(block)]


@page
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link of a page is a file or folder of the project."""
    targets = [link for link in LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in targets if not (path.parent / link).exists()] == []


@page
def test_modules_that_are_named_exist(path: Path) -> None:
    """Every ``module.py`` of a page is there, from the root or from tests/."""
    named = MODULE.findall(path.read_text())
    assert [name for name in named if not any((at / name).is_file() for at in PLACES)] == []


@page
def test_functions_and_tests_that_are_named_exist(path: Path) -> None:
    """``package.module:name`` and ``test_file.py::test`` are defined where the page says."""
    text = path.read_text()
    functions = [
        (ROOT / f"{dotted.replace('.', '/')}.py", name) for dotted, name in FUNCTION.findall(text)
    ]
    tests = [(ROOT / "tests" / file, name) for file, name in TEST.findall(text)]
    assert [
        f"{file}: {name}" for file, name in [*functions, *tests] if name not in names_in(file)
    ] == []


@page
def test_commands_in_blocks_are_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``tickets`` call in a fenced block parses: subcommand, options and arguments."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for call in quoted_commands(path.read_text()):
        name, *arguments = shlex.split(call)
        assert name in commands(), f"tickets {call}: known are {', '.join(commands())}"
        commands()[name].make_context(name, arguments)  # raises what a user would be told


@page
def test_commands_in_sentences_are_known(path: Path) -> None:
    """A command in a sentence may leave out arguments, but names only what there is."""
    for call in INLINE_COMMAND.findall(path.read_text()):
        name, *arguments = call.translate(str.maketrans("", "", "[]")).split()
        assert name in commands(), f"tickets {call}: known are {', '.join(commands())}"
        known = {option for one in commands()[name].params for option in one.opts}
        options = {word.split("=")[0] for word in arguments if word.startswith("-")}
        assert options <= known, f"tickets {call}: known are {', '.join(sorted(known))}"


def test_every_rule_of_the_method_has_one_row() -> None:
    """Rules 1 to 23 stand in order, each once; those not built at all say so."""
    rows = re.findall(r"^\| (\d+) \|(.*)$", (ROOT / "docs/method.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 24))
    unproved = {number for number, row in rows if "::test_" not in row}
    assert unproved == {number for number, row in rows if "*Not yet.*" in row}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.name))
def test_examples_expand(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example is a valid sweep, without its data, and gives a dense trial for each seed."""
    for name in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(name, str(tmp_path))
    spec = load_sweep(path)
    models = {m.name: model_facts(letter) for m, letter in zip(spec.models, "abc", strict=False)}
    tasks = {task.name: task_facts(task.name, num_train=100_000) for task in spec.tasks}
    trials = expand(spec, models, tasks)
    num_dense = len(spec.seeds) * len(spec.tasks) * len(spec.models)
    assert sum(trial.kind == "dense" for trial in trials) == num_dense


def test_the_method_shows_the_presets_as_they_are() -> None:
    """Renew it with: python -m search_spaces.preset_table."""
    text = (ROOT / "docs" / "method.md").read_text()
    shown = text.partition("<!-- presets -->\n")[2].partition("\n<!-- /presets -->")[0]
    assert shown == preset_table()
