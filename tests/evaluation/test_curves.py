"""Curves and calibration against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from medcolor_tf.evaluation.curves import (
    average_precision,
    calibration,
    precision_recall,
    roc_curve,
)

NAN = float("nan")


def test_calibration_by_hand():
    # Bins of a quarter: .1 and .2 | none | .5 (a lower edge) | .75 and 1 (the upper end).
    found = calibration([0, 1, 0, NAN, 1, 1], [0.1, 0.2, 0.5, 0.3, 0.75, 1.0], bins=4)
    np.testing.assert_allclose(found.predicted, [0.15, 0.5, 0.875])
    np.testing.assert_allclose(found.observed, [0.5, 0, 1])
    assert found.count.tolist() == [2, 1, 2]
    assert found.expected_error == pytest.approx((2 * 0.35 + 1 * 0.5 + 2 * 0.125) / 5)
    assert found.brier == pytest.approx((0.01 + 0.64 + 0.25 + 0.0625 + 0) / 5)


def test_calibration_is_scikit_learns():
    random = np.random.default_rng(0)
    probabilities = random.random(3000).astype(np.float32) ** 2
    labels = random.random(3000) < probabilities**1.5
    found = calibration(labels, probabilities, bins=15)
    observed, predicted = calibration_curve(labels, probabilities, n_bins=15)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-6)
    assert found.brier == pytest.approx(metrics.brier_score_loss(labels, probabilities))
    assert found.count.sum() == 3000


def test_calibration_without_labels():
    found = calibration([NAN, NAN], [0.2, 0.3])
    assert len(found.count) == len(found.observed) == 0
    assert np.isnan([found.brier, found.expected_error]).all()


def many(positives=0.1, images=25000):
    random = np.random.default_rng(0)
    labels = (random.random(images) < positives) * 1.0
    return labels, labels + random.normal(size=images)


def distance(curve, full):
    """Farthest that a point of ``full`` lies from the drawn line, along the farther axis."""
    at = np.linspace(0, len(curve[0]) - 1, 5000)
    x, y = (np.interp(at, np.arange(len(axis)), axis) for axis in curve)
    return max(np.maximum(abs(x - a), abs(y - b)).min() for a, b in zip(*full, strict=True))


def present(curve):
    """The curve, which is there because both classes are."""
    assert curve is not None
    return curve


def test_thinned_roc_keeps_its_shape():
    labels, scores = many()
    full = metrics.roc_curve(labels, scores)[:2]
    assert len(full[0]) > 3000
    curve = present(roc_curve(labels, scores))
    assert 150 < len(curve[0]) <= 200
    assert [axis[[0, -1]].tolist() for axis in curve] == [[0, 1], [0, 1]]
    assert distance(curve, full) < 2 / 199
    assert np.trapezoid(curve[1], curve[0]) == pytest.approx(
        metrics.roc_auc_score(labels, scores), abs=1e-3
    )
    assert len(present(roc_curve(labels, scores, points=20))[0]) <= 20


def test_thinned_precision_recall_keeps_its_shape():
    labels, scores = many()
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    curve = present(precision_recall(labels, scores))
    assert len(curve[0]) <= 200
    assert [axis[0] for axis in curve] == [0, 1]
    assert curve[0][-1] == 1
    assert curve[1][-1] == pytest.approx(labels.mean(), rel=0.1)
    assert (np.diff(curve[0]) >= 0).all()
    assert distance(curve, (recall, precision)) < 0.02


def test_short_curves_are_whole_and_unknown_labels_left_out():
    labels, scores = [0, NAN, 0, 1, 1], [0.1, 9, 0.4, 0.35, 0.8]
    false_positive, true_positive = present(roc_curve(labels, scores))
    assert false_positive.tolist() == [0, 0, 0.5, 0.5, 1]
    assert true_positive.tolist() == [0, 0.5, 0.5, 1, 1]
    recall, precision = present(precision_recall(labels, scores))
    assert recall.tolist() == [0, 0.5, 0.5, 1, 1]
    assert precision.tolist() == pytest.approx([1, 1, 0.5, 2 / 3, 0.5])
    # Precision 1 for the first half of recall, 2/3 for the second.
    assert average_precision(labels, scores) == pytest.approx(1 / 2 + 1 / 3)


@pytest.mark.parametrize("labels", [[1, 1, NAN], [0, 0, 0], [NAN, NAN, NAN]])
def test_undefined_without_a_class(labels):
    assert roc_curve(labels, [1, 2, 3]) is None
    assert precision_recall(labels, [1, 2, 3]) is None
    assert np.isnan(average_precision(labels, [1, 2, 3]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration([1, 0], [0.5, 1.5]), r"probabilities in \[0, 1\], got 1.5"),
        (lambda: calibration([1, 0], [0.5, 0.5], bins=0), "bins >= 1, got 0"),
        (lambda: roc_curve([1, 0], [1, 2, 3]), r"shape \(2,\), got \(3,\)"),
        (lambda: roc_curve([1, 0], [1, 2], points=1), "points >= 2, got 1"),
        (lambda: precision_recall([[1], [0]], [[1], [2]]), r"\(N,\) .* got \(2, 1\)"),
        (lambda: average_precision([1, 0], [1, np.inf]), "finite scores, got inf"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
