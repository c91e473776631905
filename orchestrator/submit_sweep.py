"""The sweep as a cluster reads it: every place that only this machine knows is replaced."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.sweep_context import SweepContext
from search_spaces.contracts import below
from search_spaces.errors import Fault, SpecError
from search_spaces.inputs import is_uri
from search_spaces.loading import load_sweep, parse_sweep
from search_spaces.places import absolute, masked
from search_spaces.sweep import SweepSpec

SWEEP_FILE = "sweep.yaml"
_SQLITE = "sqlite:///"
_TRAVELS = "holds credentials, which would travel with the job."


def written(path: Path) -> dict[str, str]:
    """Return store and tracking URI as a valid sweep file writes them, ``${NAME}`` unreplaced.

    Folders and databases of this machine are made absolute.

    Raises:
        SpecError: They hold credentials, or mean nothing on another machine.
    """
    spec = load_sweep(path)
    data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    tracking = data.get("tracking") or {}
    places = {
        "store": _store(str(data.get("store", spec.store)), spec),
        "tracking.uri": _tracking(str(tracking.get("uri", spec.tracking.uri)), spec),
    }
    faults = [
        Fault(
            str(path),
            field,
            _TRAVELS,
            "Write them as ${NAME}, and set NAME in the environment of the cluster's nodes.",
        )
        for field, text in places.items()
        if _holds_credentials(text)
    ]
    probe, expected = below(places["store"], "x"), below(absolute(spec.store), "x")
    if not faults and parse_sweep(_with_store(data, probe)).store != expected:
        problem = "has its options after '?' in a variable, but inputs lie before them."
        faults = [Fault(str(path), "store", problem, "Write the options into the sweep.")]
    if faults:
        raise SpecError(faults)
    return places


def sweep_text(
    context: SweepContext, places: Mapping[str, str], inputs: Mapping[tuple[str | int, ...], str]
) -> str:
    """Return the YAML of a sweep whose inputs lie in its store.

    Args:
        context: The sweep.
        places: From :func:`written`.
        inputs: Paths within the store by the field that names them.

    Raises:
        SpecError: A field holds credentials, be it from a variable.
    """
    data = _plain(context.spec, places)
    for field, path in inputs.items():
        _set(data, field, below(places["store"], path))
    return _sent(data)


def control_text(path: Path) -> str:
    """Return the YAML by which a cluster finds a sweep's journal, to look at it or steer it.

    Raises:
        SpecError: As :func:`written` and :func:`sweep_text`.
    """
    return _sent(_plain(load_sweep(path), written(path)))


def _plain(spec: SweepSpec, places: Mapping[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    data["store"] = places["store"]
    data["tracking"]["uri"] = places["tracking.uri"]
    if "cache" in data:
        data["cache"] = absolute(data["cache"])
    return data


def _sent(data: dict[str, Any]) -> str:
    """Return the YAML that travels, in which only store and tracking URI keep their variables."""
    faults = [
        Fault(
            f"sweep '{data['name']}'",
            field,
            _TRAVELS,
            "Name a file or folder of this machine, which is copied into the store.",
        )
        for field, text in _texts(data, "")
        if is_uri(text) and _holds_credentials(text)
    ]
    if faults:
        raise SpecError(faults)
    return _yaml(data)


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield every text of a sweep with the path of its field."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{field}[{index}]")
    elif isinstance(value, str):
        yield field, value


def _holds_credentials(text: str) -> bool:
    """Whether more than names of variables stands where credentials do."""
    bare = re.sub(r"//[^/@:\s]*:?@", "//", re.sub(r"\$\{\w+\}", "", text))
    bare = re.sub(r"=(?=&|$)", "", bare)
    return masked(bare) != bare


def _store(text: str, spec: SweepSpec) -> str:
    return text if is_uri(spec.store) else absolute(spec.store)


def _tracking(text: str, spec: SweepSpec) -> str:
    """Make a database's path absolute: a job runs in a folder that goes with it."""
    uri = spec.tracking.uri
    if not uri.startswith(_SQLITE):
        return text
    return _SQLITE + absolute(uri.removeprefix(_SQLITE))


def _with_store(data: Mapping[str, Any], store: str) -> str:
    return _yaml({**data, "store": store})


def _set(data: Any, field: tuple[str | int, ...], value: str) -> None:
    for step in field[:-1]:
        data = data[step]
    data[field[-1]] = value


def _yaml(data: Mapping[str, Any]) -> str:
    plain = copy.deepcopy(dict(data))  # without anchors where objects are shared
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
