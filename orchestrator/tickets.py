"""Load a ticket by reference, ready to fine-tune."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.ticket_files import TicketFiles, find_ticket
from search_spaces.errors import Fault, SpecError, UserError
from search_spaces.sources import model_folder
from search_spaces.ticket_info import TicketInfo

if TYPE_CHECKING:  # torch: loaded when a ticket is
    from workers.ticket import Ticket


def load_ticket(
    ref: str | os.PathLike[str],
    *,
    seed: int | None = None,
    uri: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    num_labels: int | None = None,
    keep_zeros: bool = True,
) -> Any:
    """Return a model of transformers at theta_0 x mask, ready to fine-tune.

    It is ``open_ticket(...).model``; that function has the mask and what is known of it too.

    Args:
        ref: As for ``open_ticket``.
        seed: Likewise.
        uri: Likewise.
        model: Likewise.
        revision: Likewise.
        num_labels: Likewise.
        keep_zeros: Whether masked weights stay exactly 0 under an optimizer: see
            ``workers.ticket.Ticket.keep_zeros``.

    Raises:
        SpecError: As for ``open_ticket``.
        UserError: Likewise.
    """
    ticket = open_ticket(
        ref, seed=seed, uri=uri, model=model, revision=revision, num_labels=num_labels
    )
    if keep_zeros:
        ticket.keep_zeros()
    return ticket.model


def open_ticket(
    ref: str | os.PathLike[str],
    *,
    seed: int | None = None,
    uri: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    num_labels: int | None = None,
) -> Ticket:
    """Return a ticket: its model at theta_0 x mask, the mask, and what is known of it.

    Everything is checked by content before it is handed out: theta_0, the configuration, the
    prunable set and the mask.

    Args:
        ref: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/ID/ticket``, a ticket's
            folder, a mask file ``*.arrow``, or the id of a ticket's, a verdict's or a final's run.
        seed: Of several masks the one of this search seed; None = the best on select.
        uri: MLflow tracking URI; None = ``$MLFLOW_TRACKING_URI``. Folders and files need none.
        model: Where the pre-trained model is, as a sweep's ``source``; None = as the ticket says.
        revision: Commit on the hub, if ``model`` is a hub name.
        num_labels: Outputs of a fresh classification head; None = the backbone alone.

    Raises:
        SpecError: The pre-trained model's files cannot be had or are no supported BERT.
        UserError: There is no such ticket or mask, MLflow does not answer, or what was found is
            not what the ticket names.
    """
    found = find_ticket(os.fspath(ref), uri)
    info = None if found.mask_file else found.info()
    if info is None:
        name, sha256 = _bare_mask(found, seed, model), None
    else:
        entry = info.mask_of(seed, found.place)
        name, sha256 = entry.file, entry.sha256
    data = found.content(name)
    folder = _model_folder(found.place, info, model, revision)
    from workers.ticket import make_ticket

    return make_ticket(data, f"{found.place}: {name}", folder, info, sha256, num_labels)


def _bare_mask(found: TicketFiles, seed: int | None, model: str | None) -> str:
    """Return a mask file's name if nothing is asked of it that it does not know."""
    if seed is not None:
        raise UserError(f"{found.place}: seed is {seed}, but a mask file holds one mask: leave it.")
    if model is None:
        raise UserError(
            f"{found.place}: a mask file does not name its model. Give model=, as a sweep's "
            "'source': a folder, 'package:<module>/<path>', or a hub name."
        )
    assert found.mask_file is not None
    return found.mask_file


def _model_folder(
    place: str, info: TicketInfo | None, model: str | None, revision: str | None
) -> Path:
    """Return the folder of the pre-trained model's files."""
    if model is not None or info is None:
        return model_folder(model or "", revision, "model")
    try:
        return model_folder(info.model.source, info.model.revision, place)
    except SpecError as error:
        *hub, fault = error.faults  # the hub's own comes first where it is out of reach
        hint = f"{fault.hint} Or give model=, where the same weights are at hand."
        raise SpecError([*hub, Fault(place, fault.field, fault.problem, hint)]) from None
