"""Metrics equal those of scikit-learn and SciPy, and are defined where those are not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from workers.metrics import MetricError, evaluate_metrics

CLASSES = ("accuracy", "f1", "matthews")
NUMBERS = ("pearson", "spearman")
PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)
TIED = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 3.0])


def logits(predicted: list[int], num_classes: int) -> NDArray[np.float32]:
    return np.eye(num_classes, dtype=np.float32)[predicted]


@pytest.fixture(scope="module")
def sk() -> Any:
    return pytest.importorskip("sklearn.metrics", reason="comes with the extra quickstart")


@settings(deadline=None)  # the machine may be busy
@given(pairs=PAIRS, num_classes=st.integers(2, 3))
def test_classes_equal_scikit_learn(
    sk: Any, pairs: list[tuple[int, int]], num_classes: int
) -> None:
    """Accuracy, F1 of class 1 and Matthews, for two and three classes, also when undefined."""
    predicted, labels = (
        [min(item, num_classes - 1) for item in side] for side in zip(*pairs, strict=True)
    )
    score = evaluate_metrics(
        "classification", logits(predicted, num_classes), np.array(labels), CLASSES
    )
    positive = [item == 1 for item in labels], [item == 1 for item in predicted]
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1": sk.f1_score(*positive, zero_division=0.0),
        "matthews": sk.matthews_corrcoef(labels, predicted),
    }
    assert score.metrics == pytest.approx(expected, abs=1e-12)
    assert score.num_examples == len(pairs)
    assert score.constant_predictor == (len(set(predicted)) == 1)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(TIED, TIED), min_size=2, max_size=30))
def test_correlations_equal_scipy(pairs: list[tuple[float, float]]) -> None:
    """Pearson and Spearman with many ties; 0 where one side is constant and SciPy gives NaN."""
    predicted, labels = (np.array(side) for side in zip(*pairs, strict=True))
    score = evaluate_metrics("regression", predicted, labels, NUMBERS)
    if len(set(predicted)) == 1 or len(set(labels)) == 1:
        expected = {"pearson": 0.0, "spearman": 0.0}
    else:
        expected = {
            "pearson": float(stats.pearsonr(predicted, labels).statistic),
            "spearman": float(stats.spearmanr(predicted, labels).statistic),
        }
    assert score.metrics == pytest.approx(expected, abs=1e-12)


def test_hand_made_scores() -> None:
    """Two of three positives found with one false alarm among five examples."""
    predicted, labels = [1, 1, 0, 1, 0], np.array([1, 1, 1, 0, 0])
    score = evaluate_metrics("classification", logits(predicted, 2), labels, CLASSES)
    assert score.metrics == pytest.approx({"accuracy": 0.6, "f1": 2 / 3, "matthews": 1 / 6})
    assert not score.constant_predictor


def test_a_constant_predictor_is_flagged() -> None:
    """A collapsed model scores the majority's share, and is called what it is."""
    constant = np.tile(np.array([[0.3, 0.7]], dtype=np.float32), (4, 1))
    score = evaluate_metrics("classification", constant, np.array([1, 1, 1, 0]), CLASSES)
    assert score.metrics == pytest.approx({"accuracy": 0.75, "f1": 6 / 7, "matthews": 0.0})
    assert score.constant_predictor
    flat = evaluate_metrics("regression", np.full(3, 0.1, np.float32), np.arange(3.0), NUMBERS)
    assert flat.metrics == {"pearson": 0.0, "spearman": 0.0} and flat.constant_predictor


def test_a_constant_regression_is_flagged_though_its_last_bits_differ() -> None:
    """What a product of matrices rounds otherwise in other rows is no correlation."""
    low = np.float32(0.1234567)
    predicted = np.where(np.arange(8) < 4, low, np.nextafter(low, np.float32(1)))
    assert predicted.dtype == np.float32 and len(np.unique(predicted)) == 2
    for numbers in (predicted, -predicted, 1e30 * predicted, np.zeros(8, np.float32)):
        score = evaluate_metrics("regression", numbers, np.arange(8.0), NUMBERS)
        assert score.metrics == {"pearson": 0.0, "spearman": 0.0}
        assert score.constant_predictor


def test_predictions_that_differ_by_more_than_rounding_are_scored() -> None:
    """A part in 100,000 is an answer, whatever the bias that it stands on."""
    predicted = (3 + 1e-5 * np.arange(8)).astype(np.float32)
    score = evaluate_metrics("regression", predicted, np.arange(8.0), NUMBERS)
    assert score.metrics == pytest.approx({"pearson": 1.0, "spearman": 1.0}, abs=1e-3)
    assert not score.constant_predictor


def test_large_fp32_predictions_do_not_overflow() -> None:
    """Correlations are computed in fp64, and perfect ones are never above 1."""
    numbers = np.array([1e38, -1e38, 3e37], dtype=np.float32)
    score = evaluate_metrics("regression", numbers, numbers.astype(np.float64), NUMBERS)
    assert score.metrics == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    assert max(score.metrics.values()) <= 1.0


def test_metrics_of_the_other_problem_are_refused() -> None:
    """A metric that does not fit is named with those that do."""
    with pytest.raises(MetricError, match=r"no metric 'f1' for a regression task\. Use: pearson"):
        evaluate_metrics("regression", np.ones(2), np.ones(2), ("f1",))


def test_shapes_that_do_not_fit_are_refused() -> None:
    """No broadcasting, and no score of nothing."""
    with pytest.raises(MetricError, match=r"predictions of shape \(3, 2\) and labels of shape \(4"):
        evaluate_metrics("classification", np.ones((3, 2)), np.ones(4, np.int64), ("accuracy",))
    with pytest.raises(MetricError, match=r"must have \(n,\) and \(n,\) with n > 0"):
        evaluate_metrics("regression", np.ones(0), np.ones(0), ("pearson",))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_without_a_value_are_refused(bad: float) -> None:
    """A missing or diverged prediction is never scored as some class."""
    predictions = np.array([[0.0, 1.0], [bad, 0.0], [1.0, 0.0]])
    with pytest.raises(MetricError, match="1 of 3 predictions are missing, NaN or infinite"):
        evaluate_metrics("classification", predictions, np.array([0, 1, 1]), ("accuracy",))
