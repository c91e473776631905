"""Reports of the small world: their rows, their page, and results that are changed before."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from orchestrator.judging import judge_sweep
from orchestrator.report import write_report
from orchestrator.report_tables import VerdictRow, verdict_rows
from search_spaces.contracts import MaskInfo, TrialResult
from search_spaces.sweep import SweepSpec
from search_spaces.trial import Trial
from tests.orchestrator.small_worlds import make_sweep

SWEEP = make_sweep(controls=["random-uniform"])
World = tuple[list[Trial], dict[str, TrialResult]]


def rows_of(world: World, spec: SweepSpec = SWEEP) -> list[VerdictRow]:
    return verdict_rows(judge_sweep(spec, *world), "noninferior")


def page_of(
    world: World, folder: Path, failed: dict[str, str] | None = None, spec: SweepSpec = SWEEP
) -> str:
    return write_report(spec, *world, failed or {}, folder)[0].read_text(encoding="utf-8")


def words(page: str) -> str:
    """Return what a reader sees: no tags, no figures, one space between words."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def lose(world: World, num_removed: int, seed: int = 2) -> str:
    """Take the result of one seed's final trial away; return its key."""
    trials, results = world
    lost = next(
        trial.key
        for trial in trials
        if trial.kind == "final"
        and trial.spec.num_removed == num_removed
        and trial.roles[0].seed == seed
    )
    del results[lost]
    return lost


def with_mask(result: TrialResult, share: float) -> TrialResult:
    shares = {
        "encoder.layer.0.attention.self.query.weight": share,
        "encoder.layer.0.output.dense.weight": share / 2,
        "encoder.layer.1.output.dense.weight": share / 4,
        "pooler.dense.weight": 0.995,
    }
    mask = MaskInfo(
        sha256="bits",
        num_weights=1000,
        num_removed=100,
        kept_per_matrix={},
        sparsity_per_matrix=shares,
        collapsed=("pooler.dense.weight",),
    )
    return result.model_copy(update={"input_mask": mask})
