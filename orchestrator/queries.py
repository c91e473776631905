"""Ask MLflow, and nothing else, for tickets, lineages and sweeps."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.rules import RULES
from orchestrator.tracking_client import (
    active_experiment,
    explained,
    open_existing,
    quoted,
    search_all,
)
from search_spaces.canonical import short
from search_spaces.errors import UserError
from search_spaces.places import masked

_log = logging.getLogger(__name__)
# What a verdict run must have to become a Ticket.
_TAGS = {
    *("sweep", "model", "task", "method", "rule", "default_rule", "replicate"),
    *("report.outcome", "flags", "trials"),
}
_METRICS = {"sparsity", "num_removed", "num_seeds"}
_SWEEPS = "tags.kind = 'sweep' and tags.sweep != '' and tags.sweep_hash != ''"


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

    A sweep is what its name stands for in the experiment: the set of trials whose verdicts were
    logged last (see MlflowTracker). Verdict runs that lack what this version writes are left out
    with a warning.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the experiment.
        task: Only this task.
        model: Only this model.
        method: Only this method.
        rule: The rule that decides; default: each sweep's own.
        min_sparsity: Fraction in [0, 1); sparser tickets only, or equal to half a weight.

    Raises:
        UserError: No answer, no such experiment or rule, or no such fraction.
    """
    faults = []
    if rule is not None and rule not in RULES:
        faults.append(f"rule '{rule}' is not known. Use one of {', '.join(RULES)}.")
    if not 0 <= min_sparsity < 1:
        faults.append(
            f"min_sparsity {min_sparsity:g} is not allowed. Use a fraction of at least 0 and "
            "less than 1, for example 0.6 for 60%."
        )
    if faults:
        raise UserError("\n".join(faults))
    wanted = {"task": task, "model": model, "method": method, "rule": rule}
    groups: dict[tuple[str, ...], list[Ticket]] = defaultdict(list)
    for ticket, default_rule in _tickets(uri, experiment, wanted):
        is_asked = rule is not None or ticket.rule == default_rule
        if is_asked and _is_as_sparse(ticket, min_sparsity):
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
        UserError: No answer, no such experiment, not exactly one such trial, or its lineage is
            not there.
    """
    with explained(uri):
        client, experiment_id = _opened(uri, experiment)
        condition = f"tags.trial_key LIKE {quoted(trial_key + '%')}"
        runs = search_all(client, experiment_id, condition)
        num_trials = len({run.data.tags["trial_key"] for run in runs})
        where = f"in experiment '{experiment}' at {masked(uri)}"
        if num_trials == 0:
            raise UserError(
                f"key '{trial_key}': no trial begins with it {where}. "
                "Give the first characters of a key that MLflow shows under the tag trial_key."
            )
        if num_trials > 1:
            raise UserError(
                f"key '{trial_key}': {num_trials} trials begin with it {where}. "
                "Give more characters."
            )
        # Processes that mirrored one trial at the same moment leave several runs of it.
        return _lineage(client, max(runs, key=_age))


def sweeps(uri: str, experiment: str) -> list[SweepRow]:
    """Return the sweeps of an experiment, newest first.

    Raises:
        UserError: No answer, or no such experiment.
    """
    with explained(uri):
        client, experiment_id = _opened(uri, experiment)
        runs = search_all(client, experiment_id, _SWEEPS)
    return [
        SweepRow(
            run.data.tags["sweep"], run.data.tags["sweep_hash"], run.info.status, run.info.run_id
        )
        for run in runs
    ]


def _opened(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    client = open_existing(uri)
    found = active_experiment(client, uri, experiment)
    if found is None:
        known = sorted(one.name for one in client.search_experiments())
        raise UserError(
            f"experiment '{experiment}' is not at {masked(uri)}; there: {', '.join(known)}. "
            "Name one of them, or run the sweep first."
        )
    return client, found


def _tickets(
    uri: str, experiment: str, wanted: Mapping[str, str | None]
) -> list[tuple[Ticket, str]]:
    """Return every contiguous verdict with these tags, and its sweep's own rule."""
    conditions = ["tags.kind = 'verdict'", "tags.contiguous = 'true'"]
    conditions.append("attributes.status = 'FINISHED'")
    conditions += [f"tags.{name} = {quoted(value)}" for name, value in wanted.items() if value]
    with explained(uri):
        client, experiment_id = _opened(uri, experiment)
        runs = search_all(client, experiment_id, " and ".join(conditions))
    current = [run for run in runs if run.data.tags.get("superseded") != "true"]
    tickets = [(_ticket(run), run.data.tags["default_rule"]) for run in current if _is_whole(run)]
    if num_strange := len(current) - len(tickets):
        _log.warning(
            "%d verdict runs of experiment '%s' were written by another version and are left out. "
            "'tickets run' renews those of a sweep.",
            num_strange,
            experiment,
        )
    return tickets


def _is_as_sparse(ticket: Ticket, min_sparsity: float) -> bool:
    """Whether a ticket has the sparsity, which is never met exactly but to half a weight."""
    if ticket.num_removed == 0:
        return min_sparsity == 0
    num_prunable = round(ticket.num_removed / ticket.sparsity)
    return ticket.num_removed + 0.5 >= min_sparsity * num_prunable


def _is_whole(run: Run) -> bool:
    return set(run.data.tags) >= _TAGS and set(run.data.metrics) >= _METRICS


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


def _age(run: Run) -> tuple[bool, int]:
    """Order runs of one trial: finished ones last, and of those the newest."""
    return run.info.status == "FINISHED", run.info.start_time


def _lineage(client: MlflowClient, run: Run) -> list[LineageRow]:
    run_id, name = run.info.run_id, "lineage.json"
    if name not in {item.path for item in client.list_artifacts(run_id)}:
        raise UserError(
            f"trial {short(run.data.tags['trial_key'])}: its MLflow run {run_id} has no {name}. "
            "Delete that run in MLflow and repeat 'tickets run', which mirrors it again."
        )
    with tempfile.TemporaryDirectory() as place:
        path = client.download_artifacts(run_id, name, place)
        rows = json.loads(Path(path).read_text())["lineage"]
    return [LineageRow(**row) for row in rows]
