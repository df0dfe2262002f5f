"""What a report draws of one observation: ROC, precision and recall, calibration.

Labels are 0, 1, or NaN for unknown, and unknown ones are left out.
"""

from dataclasses import dataclass

import numpy as np

from medcolor_tf.evaluation.checks import checked


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed, for the K of the bins that hold an image.

    Attributes:
        predicted: (K,) mean predicted probability.
        observed: (K,) fraction of positives.
        count: (K,) int, images.
        brier: mean squared difference of probability and label; NaN without known labels.
        expected_error: mean over images of their bin's |observed - predicted| (the expected
            calibration error); NaN without known labels.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    brier: float
    expected_error: float


def calibration(labels, probabilities, bins=10) -> Calibration:
    """Calibration in bins of equal width, each with its lower edge, the last one with both.

    Args:
        labels: (N,) 0, 1 or NaN.
        probabilities: (N,) in [0, 1].
        bins: how many.

    Raises:
        ValueError: shapes differ, no images, a wrong label, a value outside [0, 1], no bins.
    """
    labels, probabilities = _known(labels, probabilities)
    outside = probabilities[(probabilities < 0) | (probabilities > 1)]
    if len(outside):
        raise ValueError(f"expected probabilities in [0, 1], got {outside[0]}")
    if bins < 1:
        raise ValueError(f"expected bins >= 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    index = np.searchsorted(edges, probabilities, side="right")
    count = np.bincount(index, minlength=bins)
    held = count > 0
    count = count[held]
    predicted = np.bincount(index, probabilities, bins)[held] / count
    observed = np.bincount(index, labels, bins)[held] / count
    if not len(labels):
        return Calibration(predicted, observed, count, float("nan"), float("nan"))
    expected_error = np.average(np.abs(observed - predicted), weights=count)
    brier = np.mean((probabilities - labels) ** 2)
    return Calibration(predicted, observed, count, float(brier), float(expected_error))


def roc_curve(labels, scores, points=200) -> tuple[np.ndarray, np.ndarray] | None:
    """ROC curve for drawing: false and true positive rate, each (K,), from (0, 0) to (1, 1).

    Thinned to at most ``points``, which straight lines join; no point of the full curve is then
    farther than 2 / (points - 1) from them. For an area use
    :func:`medcolor_tf.evaluation.roc_auc`.

    Args:
        labels: (N,) 0, 1 or NaN.
        scores: (N,) finite.
        points: at least 2.

    Returns:
        None where a class is absent.

    Raises:
        ValueError: shapes differ, no images, a wrong label or score, too few points.
    """
    from sklearn import metrics  # slow to import

    labels, scores = _known(labels, scores)
    if len(np.unique(labels)) < 2:
        return None
    false_positive, true_positive, _ = metrics.roc_curve(labels, scores)
    return _thinned(false_positive, true_positive, points)


def precision_recall(labels, scores, points=200) -> tuple[np.ndarray, np.ndarray] | None:
    """Precision-recall curve for drawing: recall, increasing, and precision, each (K,).

    Starts at recall 0, precision 1 by convention. Thinned as :func:`roc_curve`; arguments, None
    and errors as there. For an area use :func:`average_precision`.
    """
    from sklearn import metrics

    labels, scores = _known(labels, scores)
    if len(np.unique(labels)) < 2:
        return None
    precision, recall, _ = metrics.precision_recall_curve(labels, scores, drop_intermediate=True)
    return _thinned(recall[::-1], precision[::-1], points)


def average_precision(labels, scores) -> float:
    """Mean precision over the steps of recall, not interpolated; NaN where a class is absent.

    Chance gives the fraction of positives. Arguments and errors as in :func:`roc_curve`.
    """
    from sklearn import metrics

    labels, scores = _known(labels, scores)
    if len(np.unique(labels)) < 2:
        return float("nan")
    return float(metrics.average_precision_score(labels, scores))


def _known(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = checked(labels, scores, dimensions=(1,))
    known = ~np.isnan(labels)
    return labels[known], scores[known]


def _thinned(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``points`` of a polyline's points, both ends among them, evenly along its length.

    Length is |dx| + |dy|, so that steep and flat parts keep equally many.
    """
    if points < 2:
        raise ValueError(f"expected points >= 2, got {points}")
    if len(x) <= points:
        return x, y
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    index = np.searchsorted(length, np.linspace(0, length[-1], points))
    kept = np.unique(index)
    return x[kept], y[kept]
