"""What MLflow's registry lacks of a sweep's tickets, or says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from orchestrator.registry import Candidate
from orchestrator.registry_versions import (
    held_tag,
    model_names,
    plan_aliases,
    registered_model,
    search_versions,
    version_tags,
)
from orchestrator.ticket_run import TicketRunState, ticket_run_state, write_ticket
from search_spaces.errors import UserError

UNKEPT = "the store keeps no mask of it any more"


@dataclass(frozen=True)
class TicketFault:
    """What is wrong with one registered ticket, or with one model's aliases.

    Attributes:
        name: Of the registered model, and of the version if it is about one.
        problem: What people are told.
        remedy: What is done about it.
        why_left: Why it cannot be mended; "" if it can.
        candidate: The ticket, where its run is to be mended.
        version: Its version, likewise.
        state: Of its run, likewise.
    """

    name: str
    problem: str
    remedy: str
    why_left: str = ""
    candidate: Candidate | None = None
    version: ModelVersion | None = None
    state: TicketRunState | None = None


def ticket_faults(
    client: MlflowClient,
    experiment_id: str,
    sweep: str,
    candidates: Sequence[Candidate],
    reads_files: bool,
) -> Iterator[TicketFault]:
    """Compare the registry with a sweep's winners; nothing is written.

    Args:
        client: Connected.
        experiment_id: Of the sweep's experiment.
        sweep: Name of the sweep.
        candidates: All its winners.
        reads_files: Whether the tickets' files are read; else they need only be there.
    """
    held, faulty, names = held_tag(experiment_id, sweep), set[str](), set[str]()
    wanted = {one.info.key for one in candidates}
    for version in search_versions(client, f"tags.`{held}` = 'true'"):
        if version.tags.get("ticket_key", "") not in wanted:
            faulty.add(version.name)
            problem = "is held by the sweep, and is none of its winners"
            yield TicketFault(_shown(version), problem, "let go")
    for one in candidates:
        name = _found_name(client, one)
        fault = _fault(client, held, name, one, reads_files)
        names.add(name)
        if fault is not None:
            faulty.add(name)
            yield fault
    for name in sorted(names - faulty):  # aliases follow what is mended
        if texts := list(_alias_problems(client, name)):
            yield TicketFault(name, "; ".join(texts), "put right")


def mend_files(client: MlflowClient, uri: str, fault: TicketFault) -> None:
    """Mend a ticket's run. One that is gone takes its version with it: it is registered anew.

    Raises:
        UserError: A mask in the store is not what was committed.
    """
    one, version, state = fault.candidate, fault.version, fault.state
    if one is None or version is None or state is None:
        return
    if state.is_deleted:
        client.restore_run(version.run_id)
    if fault.why_left:
        return
    if state.is_gone:
        client.delete_model_version(version.name, version.version)
    elif state.files and (loaded := one.load()):
        write_ticket(client, uri, version.run_id, version.name, *loaded)


def _fault(
    client: MlflowClient, held: str, name: str, one: Candidate, reads_files: bool
) -> TicketFault | None:
    found = search_versions(client, f"name = '{name}' and tags.ticket_key = '{one.info.key}'")
    if not found:
        return _absent(name, one)
    version = min(found, key=lambda v: int(v.version))
    state = ticket_run_state(client, version.run_id, one.info, reads_files)
    texts = [*_tag_problems(version, held, one), *([state.problem] if state.problem else [])]
    if not texts:
        return None
    why_left, remedy = "", "put right"
    if state.is_gone or state.files:
        why_left = _why_unreadable(one)
        remedy = "registered anew, as another version" if state.is_gone else remedy
    problem = "; ".join(texts)
    return TicketFault(_shown(version), problem, remedy, why_left, one, version, state)


def _absent(name: str, one: Candidate) -> TicketFault | None:
    """Return that a ticket is not registered, unless the store keeps no mask to register."""
    why_left = _why_unreadable(one)
    if why_left == UNKEPT:
        return None
    level = f"{one.info.sparsity:.1%} by {one.info.protocol.method}"
    problem = f"the ticket at {level} is not registered"
    return TicketFault(name, problem, "registered", why_left)


def _why_unreadable(one: Candidate) -> str:
    try:
        return UNKEPT if one.load() is None else ""
    except UserError as error:
        return str(error)


def _tag_problems(version: ModelVersion, held: str, one: Candidate) -> Iterator[str]:
    """Compare tags; those of a ticket of two sweeps are of the one that registered it last."""
    others = {
        name for name, value in version.tags.items() if name.startswith("held.") and value == "true"
    } - {held}
    is_others = bool(others) and version.tags.get("sweep") != one.info.protocol.sweep
    wanted: Mapping[str, str] = {held: "true"}
    wanted = wanted if is_others else {**version_tags(one.info), **wanted}
    for name, value in wanted.items():
        told = version.tags.get(name)
        if told is None:
            yield f"tag {name} is missing"
        elif told != value:
            yield f"tag {name} is {told!r}, not {value!r}"


def _alias_problems(client: MlflowClient, name: str) -> Iterable[str]:
    plan = plan_aliases(client, name)
    for number, status in plan.statuses.items():
        yield f"version {number} is not marked as {status}"
    for alias in plan.gone:
        yield f"alias {alias} stands for no ticket any more"
    for alias, number in sorted(plan.moved.items()):
        yield f"alias {alias} is not at version {number}"


def _found_name(client: MlflowClient, one: Candidate) -> str:
    """Return the name of a ticket's registered model, or the one that it would get."""
    pair = {"model": one.info.model.name, "task": one.info.task.name}
    first, second = model_names(**pair)
    model = registered_model(client, first)
    return first if model is None or pair.items() <= model.tags.items() else second


def _shown(version: ModelVersion) -> str:
    return f"{version.name} version {version.version}"
