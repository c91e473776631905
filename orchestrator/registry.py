"""Tickets as versions of registered MLflow models, with aliases that follow the verdicts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from orchestrator.registry_versions import (
    KIND,
    held_tag,
    model_names,
    registered_model,
    search_versions,
    set_aliases,
    version_tags,
)
from orchestrator.ticket_run import TICKET_FOLDER, write_ticket
from search_spaces.errors import UserError
from search_spaces.ticket_info import CARD_FILE, TicketInfo

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A ticket to register.

    Attributes:
        info: What is known about it, without its lineage.
        load: Returns the same with its lineage, and its mask files by name; None where they are
            not kept. Called only for a ticket that is not registered yet.
    """

    info: TicketInfo
    load: Callable[[], tuple[TicketInfo, Mapping[str, bytes]] | None]


class TicketRegistry:
    """Keeps the registered tickets of one sweep; every call may be repeated.

    A ticket is a version of the model ``tickets-<model>-<task>``. Each sweep that finds it holds
    it by a tag of its own, ``held.<experiment>.<sweep>``; a ticket that no sweep holds any longer
    is *withdrawn*: it stays, tagged ``status=withdrawn``, but has no alias.

    Aliases are worked out from the tags of all versions that are not withdrawn:
    ``sparsest-matching`` is the sparsest contiguous one, of equally sparse ones the best on
    select, then the first registered. So a new ticket takes it over only when it is sparser, or
    as sparse and better. ``s70`` is the ticket at 70% (``s48-8``: at 48.8%, since MLflow allows
    no dot), of several the best on select, then the first registered. Scores are compared by
    number alone: keep tasks that differ in data or metric apart by name.

    Args:
        client: Connected.
        uri: Its tracking URI.
        experiment_id: Where the tickets' runs lie.
        parent_id: The sweep's run.
        sweep: Name of the sweep.
    """

    def __init__(
        self, client: MlflowClient, uri: str, experiment_id: str, parent_id: str, sweep: str
    ) -> None:
        self._client, self._uri = client, uri
        self._experiment_id, self._parent_id, self._sweep = experiment_id, parent_id, sweep
        self._held = held_tag(experiment_id, sweep)

    def update(self, candidates: Iterable[Candidate], on_done: Callable[[], None]) -> None:
        """Make the sweep's registered tickets exactly these.

        What no longer holds is withdrawn before anything is written.

        Args:
            candidates: All winners of the sweep.
            on_done: Told after each.

        Raises:
            UserError: A mask is not what was committed; the other tickets are registered.
        """
        wanted = {one.info.key: one for one in candidates}
        touched = self._withdraw_others(wanted.keys())
        problems: list[UserError] = []
        for one in wanted.values():
            try:
                touched.add(self._register(one))
            except UserError as error:
                problems.append(error)
            on_done()
        for name in sorted(touched):
            set_aliases(self._client, name)
        if problems:
            raise problems[0]

    def _withdraw_others(self, keys: Iterable[str]) -> set[str]:
        """Let go of tickets that the sweep held before; return their models' names."""
        touched: set[str] = set()
        for version in search_versions(self._client, f"tags.`{self._held}` = 'true'"):
            if version.tags.get("ticket_key") not in set(keys):
                self._tag(version.name, version.version, {self._held: "false"})
                touched.add(version.name)
        return touched

    def _register(self, one: Candidate) -> str:
        """Register a ticket unless it is there, hold it, and return its model's name."""
        name = self._model_name(one.info)
        condition = f"name = '{name}' and tags.ticket_key = '{one.info.key}'"
        found = search_versions(self._client, condition)
        # Processes that registered it at the same moment leave several: the first counts.
        version = min(found, key=lambda v: int(v.version)) if found else self._made(name, one)
        if version is None:
            return name
        tags = {**version_tags(one.info), self._held: "true"}
        if not tags.items() <= version.tags.items():
            self._tag(name, version.version, tags)
        return name

    def _made(self, name: str, one: Candidate) -> ModelVersion | None:
        """Write a ticket's run and version; None where its masks are not kept."""
        loaded = one.load()
        if loaded is None:
            _log.warning("ticket %s of %s: the store keeps no mask of it", one.info.key, name)
            return None
        info, masks = loaded
        run = self._run(info)
        run_id: str = run.info.run_id
        write_ticket(self._client, self._uri, run_id, name, info, masks)
        source = f"{run.info.artifact_uri.rstrip('/')}/{TICKET_FOLDER}"
        about = f"{info.sparsity:.1%} sparse, method {info.protocol.method}: see {CARD_FILE}"
        tags = {**version_tags(info), self._held: "true"}
        return self._client.create_model_version(
            name, source, run_id, tags=tags, description=about, await_creation_for=0
        )

    def _run(self, info: TicketInfo) -> Run:
        """Return the run of a ticket's files; one that a kill left behind is taken up again."""
        condition = f"tags.kind = 'ticket' and tags.ticket_key = '{info.key}'"
        found = self._client.search_runs([self._experiment_id], condition, max_results=1)
        if found:
            return found[0]
        tags = {"kind": "ticket", "ticket_key": info.key, "sweep": self._sweep}
        tags |= {"model": info.model.name, "task": info.task.name}
        tags["mlflow.parentRunId"] = self._parent_id
        name = f"ticket:{info.task.name}:{info.protocol.method}:{info.sparsity:.3g}"
        return self._client.create_run(self._experiment_id, tags=tags, run_name=name)

    def _model_name(self, info: TicketInfo) -> str:
        """Return the registered model of a (model, task), making it where it is not there."""
        pair = {"model": info.model.name, "task": info.task.name}
        for attempt in model_names(**pair):
            found = self._registered(attempt, pair)
            if pair.items() <= found.tags.items():
                return attempt
        return attempt

    def _registered(self, name: str, pair: Mapping[str, str]) -> RegisteredModel:
        found = registered_model(self._client, name)
        if found is not None:
            return found
        try:
            return self._client.create_registered_model(name, tags={"kind": KIND, **pair})
        except MlflowException:
            found = registered_model(self._client, name)  # somebody else was quicker
            if found is None:
                raise
            return found

    def _tag(self, name: str, version: object, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(name, str(version), key, value)
