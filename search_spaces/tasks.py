"""Tasks as data: the GLUE registry, and where a task's examples come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from search_spaces.canonical import Frozen
from search_spaces.token_sources import (
    AnswersSource,
    BuiltinWordsSource,
    SquadHubSource,
    SquadSource,
    TextHubSource,
    TextSource,
    WordsSource,
)

LabelMetric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]
LabelProblem = Literal["classification", "regression"]
Metric = LabelMetric | Literal["masked_accuracy", "perplexity", "squad_f1", "exact_match"]
Problem = LabelProblem | Literal["masked-lm", "span"]
GlueName = Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]

GLUE_REPOSITORY = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
REPORT_SPLITS = ("report", "report_mismatched")


@dataclass(frozen=True)
class GlueTask:
    """One GLUE task, in the official TSV files and on the hub.

    Attributes:
        folder: Name of the folder that the official download makes.
        tsv_columns: Columns of text, second text ("" for single sentences) and label; numbers
            as text where the file has no header.
        hub_columns: The same in the hub's Parquet files.
        labels: Names in the hub's order, so that both sources agree; () for regression.
        tsv_labels: How the TSV files write them, in the same order.
        metric: Primary metric (method rule 12).
        secondary: Further metrics that are reported.
        tsv_has_header: False for CoLA.
        skips_short_rows: QQP's files hold a few rows with missing fields, which the hub's
            version leaves out too.
        report_files: TSV file of each report split; the hub's split names are in
            ``hub_report_splits``.
    """

    folder: str
    tsv_columns: tuple[str, str, str]
    hub_columns: tuple[str, str, str]
    labels: tuple[str, ...]
    tsv_labels: tuple[str, ...]
    metric: LabelMetric = "accuracy"
    secondary: tuple[LabelMetric, ...] = ()
    tsv_has_header: bool = True
    skips_short_rows: bool = False
    report_files: tuple[str, ...] = ("dev.tsv",)
    hub_report_splits: tuple[str, ...] = ("validation",)

    @property
    def problem(self) -> LabelProblem:
        """Whether labels are classes or numbers."""
        return "classification" if self.labels else "regression"


_BITS = ("0", "1")
_NLI = ("entailment", "not_entailment")
_NLI3 = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2", "label")

GLUE: Mapping[str, GlueTask] = MappingProxyType(
    {
        "cola": GlueTask(
            folder="CoLA",
            tsv_columns=("3", "", "1"),
            hub_columns=("sentence", "", "label"),
            labels=("unacceptable", "acceptable"),
            tsv_labels=_BITS,
            metric="matthews",
            secondary=("accuracy",),
            tsv_has_header=False,
        ),
        "sst2": GlueTask(
            folder="SST-2",
            tsv_columns=("sentence", "", "label"),
            hub_columns=("sentence", "", "label"),
            labels=("negative", "positive"),
            tsv_labels=_BITS,
        ),
        "mrpc": GlueTask(
            folder="MRPC",
            tsv_columns=("#1 String", "#2 String", "Quality"),
            hub_columns=_SENTENCES,
            labels=("not_equivalent", "equivalent"),
            tsv_labels=_BITS,
            secondary=("f1",),
        ),
        "qqp": GlueTask(
            folder="QQP",
            tsv_columns=("question1", "question2", "is_duplicate"),
            hub_columns=("question1", "question2", "label"),
            labels=("not_duplicate", "duplicate"),
            tsv_labels=_BITS,
            secondary=("f1",),
            skips_short_rows=True,
        ),
        "stsb": GlueTask(
            folder="STS-B",
            tsv_columns=("sentence1", "sentence2", "score"),
            hub_columns=_SENTENCES,
            labels=(),
            tsv_labels=(),
            metric="pearson",
            secondary=("spearman",),
        ),
        "mnli": GlueTask(
            folder="MNLI",
            tsv_columns=("sentence1", "sentence2", "gold_label"),
            hub_columns=("premise", "hypothesis", "label"),
            labels=_NLI3,
            tsv_labels=_NLI3,
            report_files=("dev_matched.tsv", "dev_mismatched.tsv"),
            hub_report_splits=("validation_matched", "validation_mismatched"),
        ),
        "qnli": GlueTask(
            folder="QNLI",
            tsv_columns=("question", "sentence", "label"),
            hub_columns=("question", "sentence", "label"),
            labels=_NLI,
            tsv_labels=_NLI,
        ),
        "rte": GlueTask(
            folder="RTE",
            tsv_columns=_SENTENCES,
            hub_columns=_SENTENCES,
            labels=_NLI,
            tsv_labels=_NLI,
        ),
        "wnli": GlueTask(
            folder="WNLI",
            tsv_columns=_SENTENCES,
            hub_columns=_SENTENCES,
            labels=("not_entailment", "entailment"),
            tsv_labels=_BITS,
        ),
    }
)


class GlueHubSource(Frozen):
    """A GLUE task from the Hugging Face hub, at a pinned revision."""

    kind: Literal["glue-hub"] = "glue-hub"
    task: GlueName
    revision: str = Field(
        default=GLUE_REVISION, pattern="^[0-9a-f]{40}$", description="Commit: 40 hex digits."
    )
    path: str | None = Field(default=None, description="Local copy of the hub repository.")


class GlueFolderSource(Frozen):
    """A GLUE task from the official TSV files."""

    kind: Literal["glue-folder"] = "glue-folder"
    task: GlueName
    path: str = Field(description="The task's folder, or the folder that holds all tasks.")


FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "trec"]


class FilesSource(Frozen):
    """A task from the user's own files."""

    kind: Literal["files"] = "files"
    train: str = Field(description="File to train on (and to hold out the select split from).")
    report: str = Field(description="File that results are reported on.")
    format: FileFormat | None = Field(default=None, description="Default: by the file's suffix.")
    text: str = Field(default="text", description="Column of the text; a number without header.")
    text_pair: str | None = Field(default=None, description="Column of the second text.")
    label: str = Field(default="label", description="Column of the label.")
    problem: LabelProblem = "classification"
    labels: tuple[str, ...] | None = Field(
        default=None, description="Classes in order; default: the sorted values of train."
    )
    metric: LabelMetric | None = Field(default=None, description="Default: accuracy or pearson.")
    encoding: str = "utf-8"
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    header: bool = Field(default=True, description="Whether the first line names the columns.")

    @model_validator(mode="after")
    def _consistent(self) -> FilesSource:
        if self.problem == "regression" and self.labels is not None:
            raise ValueError("has labels, but a regression has none: remove 'labels'")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are {list(self.labels)}, but they must differ")
        if self.metric and self.metric not in metrics_of(self.problem):
            raise ValueError(
                f"metric is '{self.metric}', but a {self.problem} has: "
                f"{', '.join(metrics_of(self.problem))}"
            )
        return self


class BuiltinSource(Frozen):
    """A task that the installed packages bring along."""

    kind: Literal["builtin"] = "builtin"
    name: Literal["docstrings"] = Field(
        default="docstrings", description="Which library does this sentence document?"
    )


LabelledSource = GlueHubSource | GlueFolderSource | FilesSource | BuiltinSource
AnyTaskSource = (
    LabelledSource | TextSource | BuiltinWordsSource | TextHubSource | SquadSource | SquadHubSource
)
TaskSource = Annotated[AnyTaskSource, Field(discriminator="kind")]
_SOURCE: TypeAdapter[AnyTaskSource] = TypeAdapter(TaskSource)


def task_source(data: Mapping[str, Any]) -> AnyTaskSource:
    """Return the source that plain data describe, as ``TaskPlace.source`` holds them.

    Raises:
        pydantic.ValidationError: The data describe no source.
    """
    return _SOURCE.validate_python(data)


_METRICS: Mapping[Problem, tuple[Metric, ...]] = MappingProxyType(
    {
        "classification": ("accuracy", "f1", "matthews"),
        "regression": ("pearson", "spearman"),
        "masked-lm": ("masked_accuracy", "perplexity"),
        "span": ("squad_f1", "exact_match"),
    }
)


def metrics_of(problem: Problem) -> tuple[Metric, ...]:
    """Return the metrics that fit a problem; the first is the default."""
    return _METRICS[problem]


def primary_metric(source: AnyTaskSource) -> Metric:
    """Return the metric that verdicts compare: higher is better."""
    if isinstance(source, GlueHubSource | GlueFolderSource):
        return GLUE[source.task].metric
    if isinstance(source, FilesSource) and source.metric:
        return source.metric
    return metrics_of(problem_of(source))[0]


def metric_range(metric: Metric) -> float:
    """Return the width of a metric's range: 2 for correlations, which reach down to -1, else 1."""
    return 2.0 if metric in ("matthews", "pearson", "spearman") else 1.0


def secondary_metrics(source: AnyTaskSource) -> tuple[Metric, ...]:
    """Return further metrics that are worth reporting; no verdict reads them."""
    if isinstance(source, GlueHubSource | GlueFolderSource):
        return GLUE[source.task].secondary
    problem = problem_of(source)
    if problem == "classification":
        return ()
    return tuple(name for name in metrics_of(problem) if name != primary_metric(source))


def problem_of(source: AnyTaskSource) -> Problem:
    """Return what is learned: classes or numbers of texts, hidden words, or answers."""
    if isinstance(source, GlueHubSource | GlueFolderSource):
        return GLUE[source.task].problem
    if isinstance(source, WordsSource):
        return "masked-lm"
    if isinstance(source, AnswersSource):
        return "span"
    return source.problem if isinstance(source, FilesSource) else "classification"


def has_pairs(source: AnyTaskSource) -> bool:
    """Return whether an example has two texts."""
    if isinstance(source, GlueHubSource | GlueFolderSource):
        return bool(GLUE[source.task].hub_columns[1])
    return isinstance(source, FilesSource) and source.text_pair is not None


def report_splits(source: AnyTaskSource) -> tuple[str, ...]:
    """Return ``("report",)``, or both of MNLI's report splits."""
    if isinstance(source, GlueHubSource | GlueFolderSource):
        return REPORT_SPLITS[: len(GLUE[source.task].report_files)]
    return REPORT_SPLITS[:1]
