"""Registered tickets as MLflow holds them: names, tags and aliases."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from search_spaces.canonical import content_key, short
from search_spaces.ticket_info import TicketInfo

KIND = "tickets"
SPARSEST = "sparsest-matching"
_LEVEL_ALIAS = re.compile(r"s\d+(-\d)?")
_LONGEST_TAG = 5000
_PAGE = 1000


def model_name(model: str, task: str) -> str:
    """Return the name of the registered model of a model and task, in letters MLflow allows."""
    return "-".join(["tickets", *(re.sub(r"[^A-Za-z0-9._-]+", "_", one) for one in (model, task))])


def level_alias(sparsity: float) -> str:
    """Return a level's alias: ``s70`` for 0.7, ``s48-8`` for 0.488; rounded to 0.1%."""
    return "s" + f"{100 * sparsity:.1f}".removesuffix(".0").replace(".", "-")


def version_tags(info: TicketInfo) -> dict[str, str]:
    """Return what a ticket's version is filtered, listed and ordered by."""
    mask = info.mask_of(None, info.key)
    numbers = {
        "sparsity": info.sparsity,
        "select.mean": _mean(info, "ticket", "select"),
        "report.mean": _mean(info, "ticket", "report"),
        "difference": info.verdict.difference,
        "report.difference": info.verdict.report_difference,
    }
    tags = {
        "ticket_key": info.key,
        "status": "matching",
        "num_removed": str(info.num_removed),
        "num_seeds": str(len(info.trial_keys["ticket"])),
        "model": info.model.name,
        "task": info.task.name,
        "metric": info.task.metric,
        "method": info.protocol.method,
        "sweep": info.protocol.sweep,
        "rule": info.verdict.rule,
        "delta": repr(info.verdict.delta),
        "contiguous": str(info.verdict.contiguous).lower(),
        "best": str(info.verdict.best).lower(),
        "flags": ",".join(info.verdict.flags),
        "theta0": info.model.identity.theta0_sha256,
        "mask_sha256": mask.sha256,
        "trials": ",".join(info.trial_keys["ticket"].values())[:_LONGEST_TAG],
    }
    return tags | {name: repr(float(value)) for name, value in numbers.items() if value is not None}


@dataclass(frozen=True)
class AliasPlan:
    """What has to change so that a model's aliases are where the tags of its versions say.

    Attributes:
        statuses: Right values of the tag ``status`` by version, where it has another.
        gone: Aliases that point nowhere any more.
        moved: Versions by alias, where it is missing or points elsewhere.
    """

    statuses: Mapping[str, str]
    gone: tuple[str, ...]
    moved: Mapping[str, str]


def plan_aliases(client: MlflowClient, name: str) -> AliasPlan:
    """Look at a registered model's aliases; nothing is written."""
    versions = search_versions(client, f"name = '{name}'")
    statuses = {
        str(version.version): status
        for version in versions
        if version.tags.get("status") != (status := _status(version))
    }
    held = [version for version in versions if _is_held(version)]
    wanted = _wanted_aliases([v for v in held if number_of(v.tags, "sparsity") is not None])
    model = registered_model(client, name)
    current = {alias: str(number) for alias, number in (model.aliases if model else {}).items()}
    ours = {alias for alias in current if alias == SPARSEST or _LEVEL_ALIAS.fullmatch(alias)}
    moved = {alias: number for alias, number in wanted.items() if current.get(alias) != number}
    return AliasPlan(statuses, tuple(sorted(ours - wanted.keys())), moved)


def set_aliases(client: MlflowClient, name: str) -> None:
    """Point a registered model's aliases where the tags of its versions say; see TicketRegistry.

    Aliases of other names, which people may have set, stay as they are.
    """
    plan = plan_aliases(client, name)
    for number, status in plan.statuses.items():
        client.set_model_version_tag(name, number, "status", status)
    for alias in plan.gone:
        client.delete_registered_model_alias(name, alias)
    for alias, number in plan.moved.items():
        client.set_registered_model_alias(name, alias, number)


def held_tag(experiment_id: str, sweep: str) -> str:
    """Return the tag by which a sweep holds a version."""
    return f"held.{experiment_id}.{sweep}"


def model_names(model: str, task: str) -> tuple[str, str]:
    """Return the names that the registered model of a model and task may have.

    Two pairs whose names MLflow's alphabet makes equal are told apart by a hash: the second name
    is for the pair that came later.
    """
    name = model_name(model, task)
    return name, f"{name}-{short(content_key({'model': model, 'task': task}))}"


def registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return a registered model; None where there is none."""
    found = client.search_registered_models(f"name = '{name}'", max_results=1)
    return found[0] if found else None


def ticket_models(client: MlflowClient) -> list[RegisteredModel]:
    """Return the registered models that hold tickets, by name, page by page."""
    found: list[RegisteredModel] = []
    token = None
    while True:
        page = client.search_registered_models(f"tags.kind = '{KIND}'", 100, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return sorted(found, key=lambda model: model.name)


def search_versions(client: MlflowClient, condition: str) -> list[ModelVersion]:
    """Return all model versions that fulfil an MLflow filter, page by page."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(condition, max_results=_PAGE, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def number_of(tags: Mapping[str, str], name: str) -> float | None:
    """Return a number that a tag tells; None where there is none, or a hand wrote something."""
    try:
        number = float(tags[name])
    except (KeyError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _wanted_aliases(versions: list[ModelVersion]) -> dict[str, str]:
    """Return the version of each alias; all versions tell their sparsity."""

    def score(version: ModelVersion) -> tuple[float, int]:
        mean = number_of(version.tags, "select.mean")
        return -math.inf if mean is None else mean, -int(version.version)

    def sparsity(version: ModelVersion) -> float:
        return float(version.tags["sparsity"])

    levels: dict[str, ModelVersion] = {}
    for version in sorted(versions, key=score):
        levels[level_alias(sparsity(version))] = version
    wanted = {alias: str(version.version) for alias, version in levels.items()}
    whole = [version for version in versions if version.tags.get("contiguous") == "true"]
    if whole:
        first = max(whole, key=lambda version: (sparsity(version), *score(version)))
        wanted[SPARSEST] = str(first.version)
    return wanted


def _status(version: ModelVersion) -> str:
    return "matching" if _is_held(version) else "withdrawn"


def _is_held(version: ModelVersion) -> bool:
    tags = version.tags
    return any(name.startswith("held.") and value == "true" for name, value in tags.items())


def _mean(info: TicketInfo, side: str, split: str) -> float | None:
    found = info.score(side, split)
    return found.mean if found else None
