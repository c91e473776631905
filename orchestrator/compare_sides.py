"""Find what `tickets compare` is asked to compare: tickets of a sweep, or one trial by its key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.compare import Side
from orchestrator.given_files import given_ref
from orchestrator.report_text import show_percent
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.canonical import KEY_LENGTH, short
from search_spaces.contracts import ArtifactRef, TrialResult
from search_spaces.errors import UserError, did_you_mean
from search_spaces.places import masked
from search_spaces.schedules import NEAR
from search_spaces.trial import (
    INPUT_MASK_ARTIFACT,
    GivenMask,
    PruneOutput,
    Role,
    TrainedMask,
    TrialSpec,
)

MIN_KEY = 4
GRAMMAR = "SWEEP.yaml, SWEEP.yaml:TASK/METHOD@LEVEL such as sweep.yaml:sst2/imp@0.7 (with two "
GRAMMAR += "models MODEL/TASK/METHOD; every part may be left out), or a trial's key"
_KEY = re.compile(rf"[0-9a-f]{{{MIN_KEY},{KEY_LENGTH}}}")


@dataclass(frozen=True)
class Place:
    """Where a ticket stands in a sweep; ``method`` is 'dense' for the network without a mask."""

    model: str
    task: str
    method: str
    sparsity: float

    def __str__(self) -> str:
        """Return it as the report writes it."""
        level = f" at {show_percent(self.sparsity)}" if self.sparsity else ""
        return f"{self.model} · {self.task} · {self.method}{level}"


@dataclass(frozen=True)
class Selector:
    """What the user wrote; a part that is None selects everything."""

    text: str
    path: Path | None = None
    key: str | None = None
    model: str | None = None
    task: str | None = None
    method: str | None = None
    level: float | None = None


@dataclass(frozen=True)
class Found:
    """The tickets that a selector selects, and the store that holds their files."""

    selector: Selector
    store: Store
    sides: Mapping[Place, Side]


def parse_selector(text: str) -> Selector:
    """Return what a word on the command line selects.

    Raises:
        UserError: It has too many parts, or a level that is no fraction in [0, 1).
    """
    if _KEY.fullmatch(text) and not Path(text).exists():
        return Selector(text, key=text)
    if ":" not in text or Path(text).exists():
        return Selector(text, path=Path(text))
    path, _, rest = text.rpartition(":")
    names, _, level = rest.partition("@")
    parts = [part or None for part in names.split("/")] if names else []
    if len(parts) > 3:
        raise UserError(f"'{text}': '{names}' has {len(parts)} parts. Write {GRAMMAR}.")
    if len(parts) < 3:
        parts = [None, *parts]
    model, task, method = (*parts, None, None)[:3]
    return Selector(text, Path(path), None, model, task, method, _level(level, text))


def find(selector: Selector, store: Store | None) -> Found:
    """Return the tickets that a selector selects.

    Args:
        selector: What the user wrote.
        store: Where a trial's key is looked up; a sweep names its own store.

    Raises:
        SpecError: The sweep is faulty.
        UserError: Nothing is selected; the message names what there is.
    """
    if selector.path is None:
        return _trial(selector, store)
    context = SweepContext.open(selector.path)
    own = Store(context.spec.store)
    groups: dict[Place, dict[int, TrialSpec]] = {}
    for trial in context.trials:
        for role in trial.roles:
            if role.kind != "round":
                groups.setdefault(_place(role), {})[role.seed] = trial.spec
    chosen = _chosen(selector, list(groups))
    return Found(
        selector,
        own,
        {place: _side(f"{context.spec.name}: {place}", groups[place], own) for place in chosen},
    )


def common(first: Found, second: Found) -> list[tuple[Place, Side, Side]]:
    """Return the tickets that both sides have, at the place where the first one stands.

    A part that both selectors name, such as two methods, may differ; all others must agree.

    Raises:
        UserError: There are none.
    """
    if len(first.sides) == len(second.sides) == 1:
        ((place, one),), (other,) = first.sides.items(), second.sides.values()
        return [(place, one, other)]
    free = _freed(first.selector, second.selector)
    others = {replace(place, **free): side for place, side in second.sides.items()}
    pairs = [
        (place, side, others[wanted])
        for place, side in first.sides.items()
        if (wanted := replace(place, **free)) in others
    ]
    if not pairs:
        raise UserError(
            f"'{first.selector.text}' and '{second.selector.text}' have no model, task, method "
            f"and level in common. The first has {_listed(first)}; the second has "
            f"{_listed(second)}. Select one ticket on each side: {GRAMMAR}."
        )
    return pairs


def left_out(first: Found, second: Found, pairs: Sequence[tuple[Place, Side, Side]]) -> list[str]:
    """Return a sentence for each ticket that the other side lacks, with its nearest level."""
    compared = {id(side) for _, one, other in pairs for side in (one, other)}
    return [
        f"{side.name}: '{other.selector.text}' has no such ticket{_nearest(place, other)}."
        for found, other in ((first, second), (second, first))
        for place, side in found.sides.items()
        if id(side) not in compared
    ]


def mask_ref(store: Store, spec: TrialSpec) -> ArtifactRef | None:
    """Return the file of the mask that a trial trains under; None where the store keeps none.

    Raises:
        UserError: The trial that makes the mask is not committed.
    """
    if isinstance(spec.mask, TrainedMask):
        output = PruneOutput(pruner=spec.mask.pruner, num_removed=spec.mask.num_removed)
        return store.artifact(spec.mask.parent, output.artifact)
    if isinstance(spec.mask, GivenMask):
        return given_ref(store.uri, spec.mask.mask_sha256)
    record = store.record(spec.key)
    if record is None or INPUT_MASK_ARTIFACT not in record.attempts:
        return None
    return store.artifact(spec.key, INPUT_MASK_ARTIFACT)


def _level(text: str, whole: str) -> float | None:
    if not text:
        return None
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if 0 <= level < 1:
        return level
    raise UserError(f"'{whole}': level '{text}' must be a fraction in [0, 1), such as 0.7.")


def _trial(selector: Selector, store: Store | None) -> Found:
    """Return the one trial whose key begins as the user wrote."""
    if store is None:
        raise UserError(
            f"'{selector.text}' is a trial's key: name its store with --store, "
            "or a sweep on the other side whose store holds it."
        )
    keys = [key for key in store.trial_keys() if key.startswith(str(selector.key))]
    record = store.record(keys[0]) if len(keys) == 1 else None
    if record is None:
        what = f"{len(keys)} trials begin" if len(keys) > 1 else "no committed trial begins"
        raise UserError(
            f"'{selector.text}': {what} with it in the store {masked(store.uri)}. "
            "'tickets plan SWEEP' lists the keys."
        )
    spec = record.spec
    sparsity = spec.num_removed / spec.model.num_prunable
    place = Place("", "", short(spec.key), sparsity)
    side = Side(f"trial {short(spec.key)}", {spec.seed: spec}, {spec.seed: record.result})
    return Found(selector, store, {place: side})


def _place(role: Role) -> Place:
    method = role.method or role.kind
    source = getattr(role, "source_task", None)
    return Place(
        role.model, role.task, f"{method} from {source}" if source else method, role.sparsity
    )


def _side(name: str, specs: Mapping[int, TrialSpec], store: Store) -> Side:
    results: dict[int, TrialResult] = {}
    for seed, spec in specs.items():
        result = store.read(spec.key)
        if result is not None:
            results[seed] = result
    return Side(name, specs, results)


def _chosen(selector: Selector, places: list[Place]) -> list[Place]:
    """Return the places selected; what is not there is told with what is."""
    for part in ("model", "task", "method"):
        wanted, known = getattr(selector, part), {getattr(place, part) for place in places}
        places = [place for place in places if wanted in (None, getattr(place, part))]
        if not places:
            near = did_you_mean(str(wanted), known) or f"It has {', '.join(sorted(known))}."
            raise UserError(f"'{selector.text}': the sweep has no {part} '{wanted}' there. {near}")
    if selector.level is None:
        return places
    known_levels = sorted({place.sparsity for place in places})
    nearest = min(known_levels, key=lambda level: abs(level - (selector.level or 0.0)))
    if abs(nearest - selector.level) > NEAR:
        shown = ", ".join(f"{level:.4g}" for level in known_levels)
        raise UserError(
            f"'{selector.text}': there is no level {selector.level:g}; the nearest is "
            f"{nearest:.4g}. It has {shown}."
        )
    return [place for place in places if abs(place.sparsity - selector.level) <= NEAR]


def _freed(first: Selector, second: Selector) -> dict[str, Any]:
    """Return what to overlook in a place: the parts that both selectors name themselves."""
    values = {
        "model": (first.model, second.model, ""),
        "task": (first.task, second.task, ""),
        "method": (first.method, second.method, ""),
        "sparsity": (first.level, second.level, 0.0),
    }
    return {
        part: blank
        for part, (one, other, blank) in values.items()
        if one is not None and other is not None
    }


def _listed(found: Found) -> str:
    return "; ".join(map(str, found.sides))


def _nearest(place: Place, other: Found) -> str:
    """Return the nearest level of the other side's same ticket, as a clause."""
    levels = [
        one.sparsity
        for one in other.sides
        if replace(one, sparsity=0.0) == replace(place, sparsity=0.0)
    ]
    if not levels:
        return ""
    nearest = min(levels, key=lambda level: abs(level - place.sparsity))
    return f"; the nearest level is {show_percent(nearest)}"
