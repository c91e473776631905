"""Find a registered ticket by what it is: ``query:task=sst2,method=imp,sparsity=0.7``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import UserError, did_you_mean

if TYPE_CHECKING:  # MLflow: loaded when a reference leads there
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PREFIX = "query:"
FIELDS = ("model", "task", "method", "metric", "rule", "sweep", "sparsity")
NEAR = 5e-4  # sparsities that read the same to three digits


def query_fields(ref: str) -> dict[str, str]:
    """Return the fields of a query.

    Args:
        ref: ``query:`` and then ``name=value``, with commas between.

    Raises:
        UserError: A part has another form, or a name is unknown.
    """
    fields: dict[str, str] = {}
    for part in ref.removeprefix(PREFIX).split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not value or name not in FIELDS:
            near = did_you_mean(name, FIELDS)
            raise UserError(
                f"'{ref}': '{part.strip()}' is no part of a query. Write name=value, with one of "
                f"{', '.join(FIELDS)}. {near}".rstrip()
            )
        fields[name] = value
    if "sparsity" in fields:
        _sparsity(fields["sparsity"], ref)
    return fields


def find_version(client: MlflowClient, ref: str) -> ModelVersion:
    """Return the one registered ticket, not withdrawn, that a query describes.

    Raises:
        UserError: None does, or several do; those are listed.
    """
    from orchestrator.registry_versions import search_versions
    from orchestrator.tracking_client import quoted

    fields = query_fields(ref)
    wanted = fields.pop("sparsity", None)
    conditions = ["tags.status = 'matching'"]
    conditions += [f"tags.{name} = {quoted(value)}" for name, value in fields.items()]
    found = search_versions(client, " and ".join(conditions))
    if wanted is not None:
        level = _sparsity(wanted, ref)
        near = [one for one in found if abs(float(one.tags["sparsity"]) - level) < NEAR]
        if found and not near:
            levels = sorted({float(one.tags["sparsity"]) for one in found})
            nearest = min(levels, key=lambda one: abs(one - level))
            raise UserError(
                f"'{ref}': no such ticket is registered at {level:g}; the nearest is at "
                f"{nearest:.4g}. There are {', '.join(f'{one:.4g}' for one in levels)}."
            )
        found = near
    if len(found) != 1:
        raise UserError(_told(ref, found))
    return found[0]


def _sparsity(text: str, ref: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 < value < 1:
        return value
    raise UserError(f"'{ref}': sparsity is '{text}', but must be a fraction, for example 0.7.")


def _told(ref: str, found: list[ModelVersion]) -> str:
    if not found:
        return f"'{ref}': no registered ticket is like that. 'tickets registry' lists them."
    names = ", ".join(
        f"models:/{one.name}/{one.version} ({one.tags['method']} at "
        f"{float(one.tags['sparsity']):.4g}, sweep {one.tags['sweep']})"
        for one in sorted(found, key=lambda one: (one.name, int(one.version)))
    )
    return (
        f"'{ref}': {len(found)} registered tickets are like that: {names}. Say more, or name one."
    )
