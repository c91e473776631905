"""Look up the masks that a sweep's transfer takes from elsewhere: in files, folders or MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.given_files import keep_mask, keep_source, kept_source
from search_spaces.canonical import short
from search_spaces.errors import Fault, UserError
from search_spaces.given import GivenFacts, GivenSource
from search_spaces.inputs import is_uri, local_path
from search_spaces.sweep import SweepSpec

if TYPE_CHECKING:
    from orchestrator.ticket_files import TicketFiles
    from search_spaces.ticket_info import TicketInfo


@dataclass(frozen=True)
class GivenMasks:
    """The given masks of a sweep.

    Attributes:
        sources: By the source's name in the transfer.
        files: Mask files by the mask's sha256, of those that the store does not keep yet.
        moving: Names of the sources whose references are not local, so may lead elsewhere later.
    """

    sources: Mapping[str, GivenSource] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    moving: tuple[str, ...] = ()

    def keep(self, spec: SweepSpec) -> None:
        """Copy the masks into the sweep's store, where workers read them; may be repeated.

        What a reference to MLflow led to is kept as well: a sweep that is run again goes on with
        the same masks, whether MLflow answers or not.

        Raises:
            UserError: The store cannot be written.
        """
        for mask_sha256, data in self.files.items():
            keep_mask(spec.store, mask_sha256, data)
        for name in self.moving:
            keep_source(spec.store, spec.name, spec.tracking.uri, self.sources[name])

    def sentences(self, spec: SweepSpec) -> Iterator[str]:
        """Yield what people should know of each source."""
        for name, source in self.sources.items():
            known = ", ".join(map(str, sorted(source.by_seed)))
            is_one = spec.replicate == "finetune" or not known
            which = "one mask for all seeds" if is_one else f"masks of the seeds {known}"
            removed = f"{source.default.num_removed:,} weights removed"
            theta0 = source.default.theta0_sha256
            noted = f"theta_0 {short(theta0)}" if theta0 else "theta_0 is not noted, so not checked"
            yield f"source {name}: {source.ref}: {which}, {removed}; {noted}"


def look_up(spec: SweepSpec) -> tuple[GivenMasks, dict[str, Fault]]:
    """Return the given masks of a sweep's transfer, and a fault by source for the others.

    Args:
        spec: The sweep. MLflow is its ``tracking.uri``, and is asked only for what the sweep's
            store does not keep.
    """
    sources: dict[str, GivenSource] = {}
    files: dict[str, bytes] = {}
    moving: list[str] = []
    faults: dict[str, Fault] = {}
    for index, one in enumerate((spec.transfer.sources if spec.transfer else None) or ()):
        if one.mask is None:
            continue
        try:
            sources[one.name], found, is_local = _source(spec, one.mask)
        except UserError as error:
            faults[one.name] = Fault("sweep", f"transfer.sources[{index}].mask", str(error))
            continue
        files |= found
        moving += [] if is_local else [one.name]
    return GivenMasks(sources, files, tuple(moving)), faults


def _source(spec: SweepSpec, ref: str) -> tuple[GivenSource, dict[str, bytes], bool]:
    """Return what a reference leads to, its files by mask, and whether it is a file or folder."""
    from orchestrator.ticket_files import find_ticket, is_local

    if is_uri(ref):
        return (*_read(find_ticket(str(local_path(ref)), spec.tracking.uri), ref), True)
    local = is_local(ref)
    kept = None if local else kept_source(spec.store, spec.name, spec.tracking.uri, ref)
    if kept is not None:
        return kept, {}, local
    return (*_read(find_ticket(ref, spec.tracking.uri), ref), local)


def _read(found: TicketFiles, ref: str) -> tuple[GivenSource, dict[str, bytes]]:
    if found.mask_file:
        data = found.content(found.mask_file)
        facts = _facts(data, ref)
        return GivenSource(ref=ref, default=facts), {facts.mask_sha256: data}
    info = found.info()
    datas = {name: found.content(name) for name in dict.fromkeys(m.file for m in info.masks)}
    by_seed = {one.seed: _ticket_facts(datas[one.file], info, one.seed, ref) for one in info.masks}
    files = {by_seed[one.seed].mask_sha256: datas[one.file] for one in info.masks}
    default = by_seed[info.default_seed]
    is_one = info.protocol.replicate == "finetune"
    return GivenSource(ref=ref, default=default, by_seed={} if is_one else by_seed), files


def _ticket_facts(data: bytes, info: TicketInfo, seed: int, ref: str) -> GivenFacts:
    """Return a ticket's mask, which must be the one that its ``ticket.json`` names."""
    entry, identity = info.mask_of(seed, ref), info.model.identity
    facts = _facts(data, f"{ref}: {entry.file}")
    if facts.mask_sha256 != entry.sha256:
        raise UserError(
            f"'{ref}': {entry.file} holds the mask {short(facts.mask_sha256)}, but the ticket "
            f"names {short(entry.sha256)}. Get the ticket again."
        )
    return facts.model_copy(update={"theta0_sha256": identity.theta0_sha256})


def _facts(data: bytes, place: str) -> GivenFacts:
    from workers.mask_file import MaskFileError, mask_metadata, read_mask

    try:
        mask = read_mask(data, None, place)
        noted = mask_metadata(data, place).get("theta0_sha256")
    except MaskFileError as error:
        raise UserError(f"{error} Or get the mask again.") from error
    return GivenFacts(
        mask_sha256=mask.sha256,
        prunable_sha256=mask.prunable.sha256,
        num_weights=mask.prunable.num_weights,
        num_removed=mask.num_removed,
        theta0_sha256=noted,
    )
