"""The model card of a ticket: its ``ticket.json`` as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from orchestrator import report_text
from orchestrator.rules import RULES
from search_spaces.canonical import short
from search_spaces.ticket_info import TicketInfo


def render_card(info: TicketInfo, ref: str, uri: str, registered: str) -> str:
    """Return the model card.

    Args:
        info: The ticket.
        ref: What ``load_ticket`` finds it by, for example ``runs:/<id>/ticket``.
        uri: Of the MLflow that holds it; "" where it would tell credentials.
        registered: Name of the registered model.
    """
    matrices: dict[str, list[float]] = {}
    for mask in info.masks:
        for name, sparsity in mask.sparsity_per_matrix.items():
            matrices.setdefault(name, []).append(sparsity)
    return _template().render(
        info=info,
        ref=ref,
        uri=uri,
        registered=registered,
        matrices=matrices,
        collapsed=sorted({name for mask in info.masks for name in mask.collapsed}),
        rules=RULES,
        rule_texts=report_text.RULE_TEXTS,
        flag_texts=report_text.FLAG_TEXTS,
        outcome_words=report_text.OUTCOME_WORDS,
        missing=report_text.MISSING,
    )


def _template() -> Template:
    environment = Environment(
        autoescape=False,  # Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "score": report_text.show_score,
        "signed": report_text.show_signed,
        "percent": report_text.show_percent,
        "share": report_text.show_share,
        "count": report_text.show_count,
        "short": short,
        "cell": _cell,
        "written": _written,
    }
    text = files("orchestrator").joinpath("ticket_card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(text)


def _cell(text: object) -> str:
    """Return a text that stays within one cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def _written(fields: Mapping[str, Any]) -> str:
    """Return plain data in one line: ``epochs 2, batch_size 32``."""
    return ", ".join(f"{name} {value}" for name, value in fields.items()) or report_text.MISSING
