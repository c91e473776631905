"""Masks from outside a sweep, kept in its store by their content, and what references led to.

Layout below the store's URI::

    given/<mask sha256>.arrow            a mask file; any that holds this mask
    given/<sweep>-<reference>.json       what a reference led to when the sweep first ran
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from pydantic import ValidationError

from orchestrator.storage import Storage
from search_spaces.canonical import content_key, short
from search_spaces.contracts import ArtifactRef, below
from search_spaces.given import GivenSource

_log = logging.getLogger(__name__)


def given_ref(store_uri: str, mask_sha256: str) -> ArtifactRef | None:
    """Return where a given mask is in a store; None where no run has copied it yet."""
    storage, path = Storage(store_uri), _mask_path(mask_sha256)
    if storage.sizes([path]) == [None]:
        return None
    return ArtifactRef(uri=below(storage.uri, path), sha256=storage.sha256(path))


def keep_mask(store_uri: str, mask_sha256: str, data: bytes) -> None:
    """Copy a mask file into a store unless the mask is there; a damaged copy is moved away.

    Args:
        store_uri: The store.
        mask_sha256: Of the mask in the file.
        data: The file's bytes.
    """
    storage, path = Storage(store_uri), _mask_path(mask_sha256)
    if storage.publish_once(path, data):
        return
    if not _holds(storage.read(path), mask_sha256, path):
        _withdraw(storage, path)
        storage.publish_once(path, data)


def keep_source(store_uri: str, sweep: str, uri: str, source: GivenSource) -> None:
    """Remember what a reference led to; the first sweep run of this name decides.

    Args:
        store_uri: The store.
        sweep: The sweep's name.
        uri: MLflow's tracking URI.
        source: What the reference led to.
    """
    path = _source_path(sweep, uri, source.ref)
    Storage(store_uri).publish_once(path, source.model_dump_json(indent=2).encode())


def kept_source(store_uri: str, sweep: str, uri: str, ref: str) -> GivenSource | None:
    """Return what a reference led to when the sweep first ran; None before that.

    It counts only while all of its masks are in the store.
    """
    storage, path = Storage(store_uri), _source_path(sweep, uri, ref)
    data = storage.read(path)
    if data is None:
        return None
    try:
        found = GivenSource.model_validate_json(data)
    except ValidationError:
        _withdraw(storage, path)
        return None
    masks = {mask.mask_sha256 for mask in (found.default, *found.by_seed.values())}
    sizes = storage.sizes([_mask_path(one) for one in sorted(masks)])
    return None if None in sizes else found


def _holds(data: bytes | None, mask_sha256: str, place: str) -> bool:
    from workers.mask_file import MaskFileError, read_mask  # reads nothing where nothing is new

    try:
        return data is not None and read_mask(data, None, place).sha256 == mask_sha256
    except MaskFileError:
        return False


def _withdraw(storage: Storage, path: str) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    place = f"quarantine/{path.replace('/', '-')}-{stamp}"
    if storage.move(path, place):
        _log.warning("%s is damaged. Moved to %s.", storage.shown(path), place)


def _mask_path(mask_sha256: str) -> str:
    return f"given/{mask_sha256}.arrow"


def _source_path(sweep: str, uri: str, ref: str) -> str:
    return f"given/{sweep}-{short(content_key([uri, ref]))}.json"
