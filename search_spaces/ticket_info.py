"""What is known about a ticket, as plain data: the content of a ``ticket.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from search_spaces.canonical import Frozen, content_key
from search_spaces.contracts import NumericsClass
from search_spaces.errors import UserError
from search_spaces.trial import ModelIdentity, TaskIdentity

FORMAT_VERSION = 1
INFO_FILE = "ticket.json"
CARD_FILE = "README.md"


class TicketModel(Frozen):
    """The pre-trained model that a ticket is a part of."""

    name: str = Field(description="In the sweep.")
    source: str = Field(description="As the sweep names it.")
    revision: str | None = Field(default=None, description="Commit on the hub.")
    prunable: str = Field(description="The sweep's choice of matrices.")
    identity: ModelIdentity


class TicketTask(Frozen):
    """The task that the mask was made for."""

    name: str = Field(description="In the sweep.")
    metric: str
    report_split: str
    same_split: bool = Field(description="Whether choosing and reporting used the same examples.")
    identity: TaskIdentity


class TicketProtocol(Frozen):
    """How the mask was searched and judged."""

    sweep: str
    preset: str | None
    method: str
    replicate: str
    seeds: tuple[int, ...]
    rewind: Literal["theta_0"] = "theta_0"
    schedule: dict[str, Any]
    recipe: dict[str, Any] = Field(description="Final recipe as written; scores come from it.")
    search_recipe: dict[str, Any] = Field(description="The rounds' recipe as written.")
    select: dict[str, Any] = Field(description="How the select split is held out.")
    code_version: int = Field(description="Of the trainer.")


class LineageStep(Frozen):
    """One trial of the chain from a final back to the dense trial that was pruned first."""

    trial_key: str
    mask_sha256: str | None = Field(description="That it trained under; None = dense.")
    num_removed: int
    sparsity: float


class MaskEntry(Frozen):
    """One mask of a ticket: of one search seed."""

    seed: int = Field(description="Of the lineage that made the mask.")
    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="In its folder.")
    sha256: str = Field(description="Of the mask: prunable set and bits, not of the file.")
    select_score: float = Field(description="Mean over the finals that trained under it.")
    sparsity_per_matrix: dict[str, float]
    collapsed: tuple[str, ...] = ()
    lineage: tuple[LineageStep, ...] = ()


class SideScores(Frozen):
    """Scores of the ticket, of dense or of a control on one split."""

    side: str = Field(description="'ticket', 'dense' or the control's name.")
    split: Literal["select", "report"]
    n: int = Field(description="Seeds with a score.")
    mean: float | None
    std: float | None = Field(description="ddof 1; None below two seeds.")
    by_seed: dict[int, float | None]


class TicketControl(Frozen):
    """The ticket against one control, on select."""

    name: str
    difference: float | None = Field(description="Mean of ticket - control over the seeds.")
    lower_bound: float | None = Field(description="One-sided, 95%.")
    beats: bool | None = Field(description="None where the seeds allow no verdict.")


class TicketVerdict(Frozen):
    """What the rules say of the ticket against dense (method rule 15)."""

    rule: str = Field(description="The sweep's own.")
    delta: float = Field(description="Margin of noninferior, in units of the metric.")
    contiguous: bool = Field(description="Whether every sparser-by-less level matches too.")
    best: bool = Field(description="Whether it is the sparsest contiguous level of its curve.")
    select: dict[str, str] = Field(description="Outcome of each rule.")
    report: dict[str, str]
    reasons: dict[str, str] = Field(description="On select, by rule.")
    difference: float | None = Field(description="Mean of ticket - dense on select.")
    difference_lower_bound: float | None
    report_difference: float | None
    flags: tuple[str, ...]


class TicketInfo(Frozen):
    """A ticket without its bits."""

    format_version: Literal[1] = 1
    key: str = Field(description="Of its final trials and masks: equal for equal tickets.")
    model: TicketModel
    task: TicketTask
    protocol: TicketProtocol
    num_weights: int = Field(description="N.")
    num_removed: int = Field(description="K.")
    sparsity: float = Field(description="K / N.")
    masks: tuple[MaskEntry, ...] = Field(min_length=1)
    default_seed: int = Field(description="Of the mask that is taken where none is named.")
    verdict: TicketVerdict
    scores: tuple[SideScores, ...]
    controls: tuple[TicketControl, ...]
    trial_keys: dict[str, dict[int, str]] = Field(description="By side and seed.")
    numerics: tuple[NumericsClass, ...] = Field(description="Of ticket and dense trials.")

    def mask_of(self, seed: int | None, place: str) -> MaskEntry:
        """Return the mask of one search seed.

        Args:
            seed: Of the lineage; None = the default.
            place: Names the ticket in messages.

        Raises:
            UserError: The ticket has none of that seed.
        """
        wanted = self.default_seed if seed is None else seed
        for mask in self.masks:
            if mask.seed == wanted:
                return mask
        known = ", ".join(str(mask.seed) for mask in self.masks)
        raise UserError(
            f"{place}: seed is {wanted}, but the ticket has masks of the search seeds {known}. "
            f"Name one of them, or none for {self.default_seed}, the best on select."
        )

    def score(self, side: str, split: str) -> SideScores | None:
        """Return the scores of one side on one split."""
        found = (one for one in self.scores if (one.side, one.split) == (side, split))
        return next(found, None)


def ticket_key(trial_keys: dict[int, str], mask_sha256s: list[str]) -> str:
    """Return a ticket's key: equal for the same final trials under the same masks."""
    return content_key(["ticket", sorted(trial_keys.values()), sorted(set(mask_sha256s))])


def read_info(data: bytes, place: str) -> TicketInfo:
    """Return what a ``ticket.json`` says.

    Raises:
        UserError: It is damaged, or of a format that this version does not read.
    """
    try:
        return TicketInfo.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise UserError(
            f"{place}: no {INFO_FILE} of format version {FORMAT_VERSION}: "
            f"{f'{field}: ' if field else ''}{fault['msg']}. Get the ticket again, or use the "
            "program's version that wrote it."
        ) from None
