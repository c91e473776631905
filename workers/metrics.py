"""Metrics of one split, computed once over all of its predictions (method rule 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.contracts import SplitScore
from workers.failures import NotFiniteError

Values: TypeAlias = NDArray[Any]
Rows: TypeAlias = NDArray[np.floating]  # what scoring needs of each example, shape (n, any)
MetricFunction: TypeAlias = Callable[[Values, Values], float]
# Equal inputs give equal numbers but for the order in which a product of matrices adds up.
_ROUNDING = 16 * float(np.finfo(np.float32).eps)


class MetricError(ValueError):
    """Predictions cannot be scored as asked."""


class PredictionsNotFiniteError(MetricError, NotFiniteError):
    """A prediction is missing, NaN or infinite."""


def evaluate_metrics(
    problem: str, predictions: Values, labels: Values, names: Sequence[str]
) -> SplitScore:
    """Return the metrics of a split.

    Args:
        problem: 'classification' or 'regression'.
        predictions: Logits of shape (n, classes), or numbers of shape (n,) for regression.
        labels: Class indices or numbers of shape (n,).
        names: Metrics that fit the problem: accuracy, f1 and matthews, or pearson and spearman.

    Raises:
        MetricError: A metric does not fit the problem, the shapes do not fit each other, or the
            split is empty.
        PredictionsNotFiniteError: A prediction is missing, NaN or infinite.
    """
    known = METRICS.get(problem, {})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MetricError(
            f"There is no metric {unknown[0]!r} for a {problem} task. "
            f"Use: {', '.join(known) or 'classification or regression as the problem'}."
        )
    _check(problem, predictions, labels)
    if problem == "classification":
        predicted = predictions.argmax(axis=1)
        is_constant = bool((predicted == predicted[0]).all())
    else:
        predicted, is_constant = predictions, _is_constant(predictions)
    return SplitScore(
        metrics={name: known[name](predicted, labels) for name in names},
        num_examples=len(labels),
        constant_predictor=is_constant,
    )


def accuracy(predicted: Values, labels: Values) -> float:
    """Return the share of equal class indices."""
    return float(np.mean(predicted == labels))


def f1(predicted: Values, labels: Values) -> float:
    """Return F1 of class 1 against all others; 0 when nobody has or predicts it."""
    num_hits = np.count_nonzero((predicted == 1) & (labels == 1))
    num_positives = np.count_nonzero(predicted == 1) + np.count_nonzero(labels == 1)
    return 2 * num_hits / num_positives if num_positives else 0.0


def matthews(predicted: Values, labels: Values) -> float:
    """Return Matthews' correlation, for any number of classes; 0 when it is undefined.

    Source: Gorodkin 2004, which is Matthews 1975 for two classes.
    """
    num_classes = int(max(predicted.max(), labels.max())) + 1
    of_predicted = np.bincount(predicted, minlength=num_classes).astype(np.float64)
    of_label = np.bincount(labels, minlength=num_classes).astype(np.float64)
    num_hits, total = np.count_nonzero(predicted == labels), len(labels)
    covariance = num_hits * total - of_predicted @ of_label
    spread = (total**2 - of_predicted @ of_predicted) * (total**2 - of_label @ of_label)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(predicted: Values, labels: Values) -> float:
    """Return Pearson's correlation; 0 when one side is constant."""
    if _is_constant(predicted) or (labels == labels[0]).all():
        return 0.0
    first, second = _unit(predicted), _unit(labels)
    return float(np.clip(first @ second, -1.0, 1.0))


def spearman(predicted: Values, labels: Values) -> float:
    """Return Pearson's correlation of the ranks, ties at their average; 0 when constant."""
    if _is_constant(predicted):  # ranks would make much of the last bit
        return 0.0
    return pearson(_average_ranks(predicted), _average_ranks(labels))


METRICS: Mapping[str, Mapping[str, MetricFunction]] = MappingProxyType(
    {
        "classification": MappingProxyType({"accuracy": accuracy, "f1": f1, "matthews": matthews}),
        "regression": MappingProxyType({"pearson": pearson, "spearman": spearman}),
    }
)


def _check(problem: str, predictions: Values, labels: Values) -> None:
    num_dims = 2 if problem == "classification" else 1
    if predictions.ndim != num_dims or labels.shape != predictions.shape[:1] or not len(labels):
        expected = "(n, classes)" if num_dims == 2 else "(n,)"
        raise MetricError(
            f"A {problem} split has predictions of shape {predictions.shape} and labels of shape "
            f"{labels.shape}, but must have {expected} and (n,) with n > 0."
        )
    check_rows(predictions.reshape(len(labels), -1))


def check_rows(rows: Rows) -> None:
    """Refuse rows of which one is missing, NaN or infinite.

    Raises:
        PredictionsNotFiniteError: One is.
    """
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise PredictionsNotFiniteError(
            f"{np.count_nonzero(~finite)} of {len(rows)} predictions are missing, NaN or "
            "infinite. The training diverged: lower the learning rate or take another seed."
        )


def _is_constant(predicted: Values) -> bool:
    """Return whether numbers are all equal, but for rounding in fp32."""
    exact = predicted.astype(np.float64)
    return bool(np.ptp(exact) <= _ROUNDING * np.abs(exact).max())


def _unit(values: Values) -> NDArray[np.float64]:
    """Return the centred values over their norm, scaled first so that nothing overflows."""
    centred = values.astype(np.float64) - np.mean(values, dtype=np.float64)
    centred /= np.abs(centred).max()
    unit: NDArray[np.float64] = centred / np.linalg.norm(centred)
    return unit


def _average_ranks(values: Values) -> NDArray[np.float64]:
    """Return ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranks
