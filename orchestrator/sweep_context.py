"""A sweep, opened: its specification, the facts about models and tasks, its trials and places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.given_masks import GivenMasks, look_up
from orchestrator.journal import SweepInfo
from search_spaces.canonical import content_key, short
from search_spaces.errors import Fault, SpecError, UserError
from search_spaces.expand import expand
from search_spaces.loading import load_sweep, show
from search_spaces.models import ModelFacts
from search_spaces.places import cache_folder, masked
from search_spaces.resolve import TaskFacts, resolve_sweep
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial


@dataclass(frozen=True)
class SweepContext:
    """Everything that commands need to know about one sweep file."""

    spec: SweepSpec
    models: Mapping[str, ModelFacts]
    tasks: Mapping[str, TaskFacts]
    trials: tuple[Trial, ...]
    given: GivenMasks = field(default_factory=GivenMasks)

    @staticmethod
    def open(path: Path) -> SweepContext:
        """Read a sweep file, look at its models, data and given masks, and expand it.

        Raises:
            SpecError: Anything is wrong; all faults at once.
        """
        spec = load_sweep(path)
        try:
            return SweepContext._of(spec)
        except SpecError as error:
            raise SpecError([_in_file(path, fault) for fault in error.faults]) from None

    @staticmethod
    def _of(spec: SweepSpec) -> SweepContext:
        models, tasks = resolve_sweep(spec)
        given, faults = look_up(spec)
        try:
            sources = {**given.sources, **dict.fromkeys(faults)}
            trials = expand(spec, models, tasks, sources)
        except SpecError as error:
            raise SpecError([*faults.values(), *error.faults]) from None
        if faults:
            raise SpecError(list(faults.values()))
        return SweepContext(spec, models, tasks, tuple(trials), given)

    @property
    def info(self) -> SweepInfo:
        """What the journal remembers of the sweep."""
        keys = sorted(trial.key for trial in self.trials)
        return SweepInfo(self.spec.name, content_key(keys), masked(show(self.spec)))

    def require_plan(self, expected: str | None) -> None:
        """Make sure that the trials are those that were planned where the sweep was submitted.

        Raises:
            UserError: They are not: code, data or models differ there and here.
        """
        found = self.info.sweep_hash
        if expected in (None, found):
            return
        raise UserError(
            f"The sweep '{self.spec.name}' was submitted with plan {short(str(expected))}, but "
            f"here it is {short(found)}: its data, models or this project's version differ on this "
            "machine. Install the same version on both sides and submit again."
        )

    @property
    def journal_path(self) -> Path:
        """Where this machine keeps the sweep's journal: beside a local store, or in the cache."""
        return journal_path(self.spec)

    @property
    def cache(self) -> Path:
        """Node-local folder of the token cache."""
        return Path(self.spec.cache) if self.spec.cache else Path(cache_folder())

    def trial(self, prefix: str) -> Trial:
        """Return the trial whose key begins with ``prefix``.

        Raises:
            UserError: None or several do.
        """
        found = [trial for trial in self.trials if trial.key.startswith(prefix)]
        if len(found) != 1:
            what = "no trial" if not found else f"{len(found)} trials"
            raise UserError(
                f"key '{prefix}': {what} of sweep '{self.spec.name}' begin with it. "
                "'tickets plan' lists the keys."
            )
        return found[0]


def _in_file(path: Path, fault: Fault) -> Fault:
    """Return a fault that names the sweep's file where it names a part of the sweep only."""
    if fault.place == "sweep":
        return replace(fault, place=str(path))
    is_part = fault.place.startswith(("schedule", "task '", "model '"))
    return replace(fault, place=f"{path}: {fault.place}") if is_part else fault


def journal_path(spec: SweepSpec) -> Path:
    """Return the path of a sweep's journal.

    A journal is SQLite, so it never lies on a network store; it is named by sweep and store.
    """
    if "://" in spec.store:
        folder = Path(cache_folder()) / "journals"
        return folder / f"{spec.name}-{short(content_key(spec.store))}.sqlite"
    return Path(spec.store) / "journals" / f"{spec.name}.sqlite"
