"""Ask MLflow, and nothing else, for tickets, lineages and sweeps."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.rules import RULES
from orchestrator.tracking_client import open_client, quoted, search_all
from search_spaces.errors import UserError


@dataclass(frozen=True)
class Ticket:
    """The sparsest contiguous matching level of a model, task and method under one rule.

    Chosen on the select split; ``report_*`` are told, never chosen by. Scores are None where a
    side has no complete scores.
    """

    sweep: str
    model: str
    task: str
    method: str
    rule: str
    replicate: str
    sparsity: float
    num_removed: int
    num_seeds: int
    select_mean: float | None
    report_mean: float | None
    report_dense_mean: float | None
    report_difference: float | None
    report_outcome: str
    flags: tuple[str, ...]
    trial_keys: tuple[str, ...]


@dataclass(frozen=True)
class LineageRow:
    """One trial of a chain that ends in the dense trial."""

    trial_key: str
    mask_sha256: str | None
    num_removed: int
    sparsity: float


@dataclass(frozen=True)
class SweepRow:
    """A sweep that was mirrored."""

    name: str
    sweep_hash: str
    status: str
    run_id: str


def best(
    uri: str,
    experiment: str,
    task: str | None = None,
    model: str | None = None,
    method: str | None = None,
    rule: str | None = None,
    min_sparsity: float = 0.0,
) -> list[Ticket]:
    """Return the best ticket of each sweep, model, task and method, sparsest first.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment.
        task: Only this task.
        model: Only this model.
        method: Only this method.
        rule: The rule that decides; default: each sweep's own.
        min_sparsity: Fraction; sparser tickets only, or equal.

    Raises:
        UserError: No answer, no such experiment, or no such rule.
    """
    if rule is not None and rule not in RULES:
        raise UserError(f"rule '{rule}' is not known. Use one of {', '.join(RULES)}.")
    client, experiment_id = _opened(uri, experiment)
    conditions = ["tags.kind = 'verdict'", "tags.contiguous = 'true'"]
    conditions.append(f"metrics.sparsity >= {min_sparsity!r}")
    wanted = {"task": task, "model": model, "method": method, "rule": rule}
    conditions += [f"tags.{name} = {quoted(value)}" for name, value in wanted.items() if value]
    groups: dict[tuple[str, ...], list[Ticket]] = defaultdict(list)
    for run in search_all(client, experiment_id, " and ".join(conditions)):
        ticket = _ticket(run)
        if rule is not None or ticket.rule == run.data.tags["default_rule"]:
            key = ticket.sweep, ticket.model, ticket.task, ticket.method
            groups[key].append(ticket)
    found = [max(tickets, key=lambda ticket: ticket.sparsity) for tickets in groups.values()]
    return sorted(found, key=lambda ticket: (-ticket.sparsity, ticket.task, ticket.method))


def lineage(uri: str, experiment: str, trial_key: str) -> list[LineageRow]:
    """Return a trial and its mask's ancestors, the dense trial last.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment.
        trial_key: The trial's key, or its beginning.

    Raises:
        UserError: No answer, no such experiment, or not exactly one such trial.
    """
    client, experiment_id = _opened(uri, experiment)
    condition = f"tags.trial_key LIKE {quoted(trial_key + '%')}"
    runs = search_all(client, experiment_id, condition)
    if len(runs) != 1:
        what = "no trial begins" if not runs else f"{len(runs)} trials begin"
        raise UserError(
            f"key '{trial_key}': {what} with it in experiment '{experiment}' at {uri}. "
            "Give more characters of a key that MLflow shows under the tag trial_key."
        )
    return [LineageRow(**row) for row in _lineage(client, runs[0])]


def sweeps(uri: str, experiment: str) -> list[SweepRow]:
    """Return the sweeps of an experiment, newest first.

    Raises:
        UserError: No answer, or no such experiment.
    """
    client, experiment_id = _opened(uri, experiment)
    rows = search_all(client, experiment_id, "tags.kind = 'sweep'")
    return [
        SweepRow(
            run.data.tags["sweep"], run.data.tags["sweep_hash"], run.info.status, run.info.run_id
        )
        for run in rows
    ]


def _opened(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = sorted(one.name for one in client.search_experiments())
        raise UserError(
            f"experiment '{experiment}' is not at {uri}; there: {', '.join(known)}. "
            "Name one of them, or run the sweep first."
        )
    return client, str(found.experiment_id)


def _ticket(run: Run) -> Ticket:
    tags, metrics = run.data.tags, run.data.metrics
    return Ticket(
        sweep=tags["sweep"],
        model=tags["model"],
        task=tags["task"],
        method=tags["method"],
        rule=tags["rule"],
        replicate=tags["replicate"],
        sparsity=metrics["sparsity"],
        num_removed=round(metrics["num_removed"]),
        num_seeds=round(metrics["num_seeds"]),
        select_mean=metrics.get("ticket_mean"),
        report_mean=metrics.get("report.ticket_mean"),
        report_dense_mean=metrics.get("report.dense_mean"),
        report_difference=metrics.get("report.difference"),
        report_outcome=tags["report.outcome"],
        flags=tuple(filter(None, tags["flags"].split(","))),
        trial_keys=tuple(tags["trials"].split(",")),
    )


def _lineage(client: MlflowClient, run: Run) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as place:
        path = client.download_artifacts(run.info.run_id, "lineage.json", place)
        rows: list[dict[str, Any]] = json.loads(Path(path).read_text())["lineage"]
    return rows
