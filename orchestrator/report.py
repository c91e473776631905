"""Write a sweep's report: one HTML file with everything inside, its figures and its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from orchestrator import report_text
from orchestrator.judging import SELECT, Judged, judge_sweep
from orchestrator.report_curves import Curve, make_curves
from orchestrator.report_pictures import Picture, picture_name
from orchestrator.report_plots import draw_curves
from orchestrator.report_rows import TRIAL_COLUMNS, csv_bytes, row_files, verdict_table
from orchestrator.report_sections import (
    PHASES,
    MatrixTable,
    cost_rows,
    failure_rows,
    identities,
    matrix_table,
    numerics_classes,
    trial_rows,
)
from orchestrator.report_tables import VerdictRow, verdict_rows
from orchestrator.report_text import Headline, headline
from orchestrator.report_transfer import (
    TransferSection,
    cell_word,
    count_text,
    transfer_sections,
)
from orchestrator.rules import RULES
from orchestrator.transfer_judging import SourceOverlaps, judge_transfers
from orchestrator.transfer_rows import TRANSFER_COLUMNS, TRANSFERS_CSV, transfer_table
from orchestrator.verdicts import RuleCurve
from search_spaces.canonical import short
from search_spaces.contracts import TrialResult
from search_spaces.errors import UserError
from search_spaces.recipe_specs import RecipeSpec
from search_spaces.sweep import SweepSpec
from search_spaces.task_specs import TaskSpec
from search_spaces.trial import Trial

REPORT_NAME = "report.html"
# Written only by some reports; an older report's are removed.
_OURS = ("curve-[0-9]*.png", "transfer-[0-9]*.png", "overlap-[0-9]*.png", TRANSFERS_CSV)


@dataclass(frozen=True)
class MethodSection:
    """One method's tickets of a model and task; rules and matrices are missing before any run."""

    method: str
    headline: Headline
    rows: tuple[VerdictRow, ...]
    rules: Mapping[str, RuleCurve]
    holm: float | None
    matrices: MatrixTable | None


@dataclass(frozen=True)
class Section:
    """One model on one task."""

    model: str
    task: str
    delta: float
    same_split: bool
    report_split: str
    recipe: RecipeSpec
    pictures: tuple[Picture, ...]
    methods: tuple[MethodSection, ...]


def write_report(
    spec: SweepSpec,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
    folder: Path,
    overlaps: Sequence[SourceOverlaps] = (),
) -> tuple[Path, ...]:
    """Write ``report.html``, its figures as PNG files and its rows; replaces an older report's.

    Args:
        spec: The sweep.
        trials: Its trials, with those that a policy added.
        results: Committed results by trial key; those of other sweeps are ignored.
        failed: Why a trial failed for good, by its key.
        folder: Where to write; made if it does not exist.
        overlaps: Of the masks of a transfer's sources, where they are known.

    Returns:
        The HTML file, which needs no other file, the figures, and the tables of rows.

    Raises:
        UserError: The sweep has no results yet, or the folder cannot be written.
    """
    own = {trial.key: results[trial.key] for trial in trials if trial.key in results}
    if not own:
        raise UserError(
            f"sweep '{spec.name}': there are no results yet, so there is nothing to report. "
            "Run it first: tickets run SWEEP."
        )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    judged = judge_sweep(spec, trials, own, failed)
    sections = _sections(spec, judged, make_curves(spec, judged, trials, own), own)
    transferred = judge_transfers(spec, trials, own)
    transfers = transfer_sections(spec, transferred, overlaps)
    page = _render(spec, trials, own, failed, sections, transfers)
    deltas = _deltas(spec)
    verdicts = verdict_table(verdict_rows(judged, spec.verdict.rule), spec.verdict.rule, deltas)
    tables = row_files(trials, own, failed, verdicts)
    if transferred:
        tables[TRANSFERS_CSV] = csv_bytes(transfer_table(transferred, deltas))
    pictures = [one for section in sections for one in section.pictures]
    pictures += [one for section in transfers for one in section.pictures]
    files = (*(picture.name for picture in pictures), *tables)
    with _writing(folder):
        for picture in pictures:
            _replace(folder / picture.name, picture.png)
        _replace(folder / REPORT_NAME, page.encode())
        for name, data in tables.items():
            _replace(folder / name, data)
        for path in (path for pattern in _OURS for path in folder.glob(pattern)):
            if path.name not in files:
                path.unlink()
    return folder / REPORT_NAME, *(folder / name for name in files)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"folder '{folder}': the report cannot be written there: {error.strerror}. "
            "Name another folder, or mend its rights."
        ) from None


def _sections(
    spec: SweepSpec,
    judged: Sequence[Judged],
    curves: Sequence[Curve],
    results: Mapping[str, TrialResult],
) -> list[Section]:
    rows = verdict_rows(judged, spec.verdict.rule)
    sections: list[Section] = []
    for model in spec.models:
        for task in spec.tasks:
            own = [one for one in curves if (one.model, one.task) == (model.name, task.name)]
            methods = (
                _method(spec, model.name, task, m, rows, judged, results) for m in spec.methods
            )
            sections.append(
                Section(
                    model=model.name,
                    task=task.name,
                    delta=spec.delta_of(task),
                    same_split=spec.same_split(task),
                    report_split=spec.report_split_of(task),
                    recipe=spec.recipe_of(task),
                    pictures=_pictures(own, len(sections) + 1),
                    methods=tuple(methods),
                )
            )
    return sections


def _method(
    spec: SweepSpec,
    model: str,
    task: TaskSpec,
    method: str,
    rows: Sequence[VerdictRow],
    judged: Sequence[Judged],
    results: Mapping[str, TrialResult],
) -> MethodSection:
    wanted = (model, task.name, method)
    own = tuple(row for row in rows if (row.model, row.task, row.method) == wanted)
    said = headline(own, spec.verdict.rule, spec.delta_of(task))
    curves = [j for j in judged if (j.model, j.task, j.method, j.split) == (*wanted, SELECT)]
    if not curves:
        return MethodSection(method, said, own, {}, None, None)
    shown = next((index for index, row in enumerate(own) if row.is_best), len(own) - 1)
    keys = list(curves[0].trial_keys[shown].values())
    matrices = matrix_table(own[shown].sparsity, keys, results)
    curve = curves[0].curve
    return MethodSection(method, said, own, curve.rules, curve.sparsest_any_holm, matrices)


def _pictures(curves: Sequence[Curve], section: int) -> tuple[Picture, ...]:
    if not curves:
        return ()
    drawn = zip(curves, draw_curves(curves), strict=True)
    return tuple(_picture(curve, png, section) for curve, png in drawn)


def _picture(curve: Curve, png: bytes, section: int) -> Picture:
    name = picture_name("curve", section, curve.model, curve.task, curve.split)
    levels = ", ".join(report_text.show_percent(level) for level in curve.levels)
    series = ", ".join(one.name for one in (*curve.tickets, *curve.controls))
    split = "select and report" if curve.same_split else curve.split
    text = (
        f"{curve.metric} of {curve.task} on {split} at {levels} sparsity: {series} and dense; "
        "the numbers are in the tables below."
    )
    return Picture(name, png, text)


def _render(
    spec: SweepSpec,
    trials: Sequence[Trial],
    results: Mapping[str, TrialResult],
    failed: Mapping[str, str],
    sections: Sequence[Section],
    transfers: Sequence[TransferSection],
) -> str:
    models, tasks = identities(trials)
    return _template().render(
        spec=spec,
        css=_resource("report.css"),
        sections=sections,
        transfers=transfers,
        deltas=_deltas(spec),
        num_trials=len(trials),
        num_results=len(results),
        failures=failure_rows(trials, failed),
        rules=RULES,
        rule_texts=report_text.RULE_TEXTS,
        flag_texts=report_text.FLAG_TEXTS,
        outcome_words=report_text.OUTCOME_WORDS,
        phases=PHASES,
        costs=cost_rows(trials, results),
        models=models,
        tasks=tasks,
        numerics=numerics_classes(results),
        trials=trial_rows(trials, results, failed),
        code_versions=sorted({trial.spec.code_version for trial in trials}),
        missing=report_text.MISSING,
        columns=TRIAL_COLUMNS,
        transfer_columns=TRANSFER_COLUMNS,
    )


def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": report_text.show_score,
        "signed": report_text.show_signed,
        "interval": report_text.show_interval,
        "percent": report_text.show_percent,
        "share": report_text.show_share,
        "count": report_text.show_count,
        "seconds": report_text.show_seconds,
        "short": short,
        "points": report_text.show_points,
        "pvalue": report_text.show_pvalue,
        "cell_word": cell_word,
        "count_text": count_text,
    }
    return environment.get_template("report.html.j2")


def _deltas(spec: SweepSpec) -> dict[str, float]:
    return {task.name: spec.delta_of(task) for task in spec.tasks}


def _resource(name: str) -> str:
    return files("orchestrator").joinpath(name).read_text(encoding="utf-8")


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
