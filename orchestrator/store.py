"""The store: results and their files by trial key; what is committed here is the truth.

Layout below the store's URI::

    results/<key>/attempts/<attempt>/<file>   written by an attempt; counts for nothing by itself
    results/<key>/COMMITTED.json              the first whole result: its scores are the truth
    results/<key>/EXTRA-<attempt>.json        files that a later attempt added
    results/<key>/checkpoint/                 of a trial that runs: see workers.checkpoint_file
    quarantine/<key>/<time>-<marker>          markers that were withdrawn, and why
    given/                                    masks from outside a sweep: see given_files
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from orchestrator.marker_files import COMMITTED, EXTRA, KEY, MarkerFiles, require
from orchestrator.markers import PLAIN_NAME, Marker
from orchestrator.storage import Storage
from search_spaces.canonical import short
from search_spaces.contracts import (
    ArtifactInfo,
    ArtifactRef,
    TrialResult,
    attempt_folder,
    below,
)
from search_spaces.errors import UserError
from search_spaces.places import masked
from search_spaces.trial import Outputs, TrialSpec

T = TypeVar("T")
U = TypeVar("U")
_MOST_AT_ONCE = 16


class DamagedArtifactError(Exception):
    """A file of an attempt is missing, or is not what the result says; the message names it."""


@dataclass(frozen=True)
class CommittedTrial:
    """What the store holds of one trial.

    Attributes:
        spec: The trial.
        result: Of the first committed attempt, with the files of later ones beside its own.
        attempts: Attempt whose folder holds a file, by artifact name.
        committed_at: When the first attempt was committed; UTC, ISO 8601.
        has_checkpoint: Whether one of its training is left, or a new attempt makes one.
        latest_at: When the last of its markers was committed, as their clocks say.
    """

    spec: TrialSpec
    result: TrialResult
    attempts: dict[str, str]
    committed_at: str
    has_checkpoint: bool = False
    latest_at: str = ""


class Store:
    """A shared, content-addressed place of results.

    Args:
        uri: A folder, or a URI that ``pyarrow.fs.FileSystem.from_uri`` knows (s3://, gs://, ...).

    Raises:
        UserError: When the URI is not understood or the place cannot be used; every method may.
            A StoreAwayError where it may work again in a moment; each may then be called again.
    """

    def __init__(self, uri: str) -> None:
        self._storage = Storage(uri)
        self._markers = MarkerFiles(self._storage)

    @property
    def uri(self) -> str:
        """The store's URI, or its folder's absolute path."""
        return self._storage.uri

    @property
    def folder(self) -> Path | None:
        """The folder that it is; None on an object store."""
        return self._storage.folder

    def check_writable(self) -> None:
        """Raise a UserError now rather than after the first trial if nothing can be written."""
        self._storage.check_writable()

    def commit(self, result: TrialResult, spec: TrialSpec) -> bool:
        """Publish a result, or those of its files that the committed one lacks.

        Args:
            result: What an attempt returned; its files are in the attempt's folder, flushed.
            spec: The trial.

        Returns:
            True when something was published; False when another attempt's result with all
            these files was committed before: that one counts.

        Raises:
            DamagedArtifactError: When a file is missing or has not the size and sha256 named.
            ValueError: When the result is of another trial, or a name is not allowed.
        """
        key = spec.key
        if result.trial_key != key:
            raise ValueError(
                f"The result is of trial {short(result.trial_key)}, but the specification is "
                f"that of {short(key)}."
            )
        require(PLAIN_NAME, "attempt", result.attempt)
        for name, info in result.artifacts.items():
            self._verify(f"results/{key}/attempts/{result.attempt}", name, info)
        is_published = self._publish_new(Marker.now(spec, result))
        self.drop_checkpoint(key)
        return is_published

    def read(self, key: str) -> TrialResult | None:
        """Return the committed result with all its files; None when there is none.

        A damaged marker is moved to quarantine, logged as a warning, and counts as absent.
        """
        record = self.record(key)
        return record.result if record else None

    def record(self, key: str) -> CommittedTrial | None:
        """Return all that is committed of a trial; None when nothing is."""
        require(KEY, "trial key", key)
        first = self._markers.read(key, COMMITTED)
        if first is None:
            return None
        names = self._storage.names(f"results/{key}")
        read = [self._markers.read(key, name) for name in names if EXTRA.fullmatch(name)]
        # A file is added only where it was absent: of two with one name the later one is whole.
        extras = sorted((extra for extra in read if extra), key=lambda extra: extra.committed_at)
        return replace(_merged(first, extras), has_checkpoint="checkpoint" in names)

    def drop_checkpoint(self, key: str) -> None:
        """Delete a committed trial's checkpoint; where that fails, the next run tries again."""
        with suppress(UserError):
            self._storage.delete_folder(f"results/{key}/checkpoint")

    def artifact(self, key: str, name: str) -> ArtifactRef:
        """Return where a committed file is, and the hash it must have.

        Raises:
            UserError: When the trial is not committed or has no such file.
        """
        record = self.record(key)
        if record is None or name not in record.attempts:
            raise UserError(
                f"The store {masked(self.uri)} has no file {name!r} of trial {short(key)}. "
                "Run the sweep that makes it first."
            )
        folder = attempt_folder(self.uri, key, record.attempts[name])
        sha256 = record.result.artifacts[name].sha256
        return ArtifactRef(uri=below(folder, name), sha256=sha256)

    def has_outputs(self, key: str, outputs: Outputs) -> bool:
        """Whether a trial is committed and every file of ``outputs`` is there in its size."""
        record = self.record(key)
        return record is not None and not self.missing(record, outputs)

    def missing(self, record: CommittedTrial, outputs: Outputs) -> tuple[str, ...]:
        """Return the names of the files of ``outputs`` that a committed trial lacks.

        Sizes are compared, not hashes: those are checked by whoever reads a file.
        """
        if not outputs.artifacts:
            return ()
        present = self._present(record, outputs.artifacts)
        return tuple(name for name in outputs.artifacts if name not in present)

    def trial_keys(self) -> list[str]:
        """Return the keys of all trials that have anything in the store, sorted."""
        return [name for name in self._storage.names("results") if KEY.fullmatch(name)]

    def records(self) -> Iterator[CommittedTrial]:
        """Yield all that is committed, in the order of the keys."""
        for key in self.trial_keys():
            if (record := self.record(key)) is not None:
                yield record

    def for_each(self, look: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """Return what a look at each item finds, in the order of the items.

        On an object store, where each request takes its time, several look at once. Of several
        errors the first in that order is raised, and no further item is looked at.

        Args:
            look: Reads from this store; may be called on several threads.
            items: What to look at, such as keys of trials.
        """
        if self.folder or len(items) < 2:
            return [look(item) for item in items]
        pool = ThreadPoolExecutor(_MOST_AT_ONCE, "store")
        try:
            return list(pool.map(look, items))
        finally:
            pool.shutdown(cancel_futures=True)

    def quarantine(self, key: str, reason: str) -> tuple[str, ...]:
        """Withdraw a trial's markers, so that it is run again; its files stay where they are.

        Args:
            key: The trial.
            reason: Why, for people; names the damaged file.

        Returns:
            Where the markers are now.
        """
        require(KEY, "trial key", key)
        return self._markers.quarantine(key, reason)

    def _publish_new(self, marker: Marker) -> bool:
        key = marker.result.trial_key
        while (record := self.record(key)) is None:  # again only if a damaged one was in the way
            if self._markers.publish(COMMITTED, marker):
                return True
        return self._commit_extra(record, marker.result)

    def _commit_extra(self, record: CommittedTrial, result: TrialResult) -> bool:
        wanted = set(result.artifacts) - self._present(record, tuple(record.attempts))
        if not wanted:
            return False
        changes = {
            "masks": {name: mask for name, mask in result.masks.items() if name in wanted},
            "artifacts": {name: info for name, info in result.artifacts.items() if name in wanted},
        }
        added = result.model_copy(update=changes)
        marker = Marker.now(record.spec, added, after=record.latest_at)
        return self._markers.publish(f"EXTRA-{result.attempt}.json", marker)

    def _verify(self, folder: str, name: str, info: ArtifactInfo) -> None:
        """Refuse a file that is not what the result says."""
        require(PLAIN_NAME, "file name", name)
        path = f"{folder}/{name}"
        (num_bytes,) = self._storage.sizes([path])
        if num_bytes != info.num_bytes:
            found = "is missing" if num_bytes is None else f"has {num_bytes} bytes"
            problem = f"{found}, but the result names {info.num_bytes} bytes"
        elif self._storage.sha256(path) != info.sha256:
            problem = f"has not the sha256 {info.sha256[:12]}... that the result names"
        else:
            return
        raise DamagedArtifactError(f"{self._storage.shown(path)} {problem}.")

    def _present(self, record: CommittedTrial, names: tuple[str, ...]) -> set[str]:
        """Return which of the named files are committed and there in their size."""
        key, infos = record.result.trial_key, record.result.artifacts
        known = [name for name in names if name in infos]
        paths = [f"results/{key}/attempts/{record.attempts[name]}/{name}" for name in known]
        sizes = self._storage.sizes(paths)
        return {
            name
            for name, num_bytes in zip(known, sizes, strict=True)
            if num_bytes == infos[name].num_bytes
        }


def _merged(first: Marker, extras: list[Marker]) -> CommittedTrial:
    masks, artifacts = dict(first.result.masks), dict(first.result.artifacts)
    attempts = dict.fromkeys(artifacts, first.result.attempt)
    for extra in extras:
        masks.update(extra.result.masks)
        artifacts.update(extra.result.artifacts)
        attempts.update(dict.fromkeys(extra.result.artifacts, extra.result.attempt))
    result = first.result.model_copy(update={"masks": masks, "artifacts": artifacts})
    latest_at = max(marker.committed_at for marker in (first, *extras))
    return CommittedTrial(first.spec, result, attempts, first.committed_at, latest_at=latest_at)
