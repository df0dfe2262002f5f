"""Recalibration and its measures: scikit-learn, statsmodels, and data of a known line."""

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.recalibration import (
    Recalibration,
    calibration_line,
    fit_recalibration,
)

NAN = float("nan")


def drawn(images=4000, slope=0.5, intercept=-0.7, seed=0):
    """Logits whose true probability is sigmoid(slope · logit + intercept)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, images)
    labels = (random.random(images) < expit(slope * logits + intercept)).astype(float)
    labels[::17] = NAN
    return labels, logits


def test_the_line_that_made_the_labels_is_found():
    labels, logits = drawn(40_000)
    fitted = fit_recalibration(labels, logits, "platt")
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.5, -0.7), abs=0.03)
    labels, logits = drawn(40_000, slope=0.25, intercept=0)
    fitted = fit_recalibration(labels, logits, "temperature")
    assert 1 / fitted.slope == pytest.approx(4, abs=0.1)
    assert fitted.intercept == 0
    line = calibration_line(labels, np.log(fitted(logits) / (1 - fitted(logits))), range(40_000))
    assert line.slope == pytest.approx(1, abs=0.01)
    assert line.intercept == pytest.approx(0, abs=0.05)


class Scores(LogisticRegression):
    """A classifier whose decision function is its input."""

    def __init__(self):
        super().__init__()

    def decision_function(self, X):
        return X[:, 0]


def test_platt_is_scikit_learns():
    labels, logits = drawn(300)
    known = ~np.isnan(labels)
    scores = Scores().fit(logits[known][:, None], labels[known])
    options: dict[str, Any] = {"method": "sigmoid", "ensemble": False}
    theirs = CalibratedClassifierCV(FrozenEstimator(scores), **options)
    theirs.fit(logits[known][:, None], labels[known])
    ours = fit_recalibration(labels, logits, "platt")
    expected = theirs.predict_proba(logits[:, None])[:, 1]
    np.testing.assert_allclose(ours(logits), expected, atol=2e-5)


def test_temperature_is_the_slope_of_a_regression_without_intercept():
    labels, logits = drawn(300)
    known = ~np.isnan(labels)
    fit = sm.Logit(labels[known], logits[known]).fit(disp=False)
    ours = fit_recalibration(labels, logits, "temperature")
    assert ours.slope == pytest.approx(fit.params[0], rel=1e-4)


def test_slope_and_intercept_are_those_of_logistic_regression():
    labels, logits = drawn(600)
    known = ~np.isnan(labels)
    line = calibration_line(labels, logits, range(600))
    fit = sm.Logit(labels[known], sm.add_constant(logits[known])).fit(disp=False)
    assert line.slope == pytest.approx(fit.params[1], rel=1e-6)
    low, high = line.slope_interval
    assert low < line.slope < high
    np.testing.assert_allclose([low, high], fit.conf_int()[1], rtol=0.1)
    # In the large: the intercept at which the mean probability is the share of positives.
    assert expit(logits[known] + line.intercept).mean() == pytest.approx(labels[known].mean())


def test_intervals_are_statsmodels_clustered_ones():
    labels, logits = drawn(300)
    known = ~np.isnan(labels)
    patients = np.arange(300) // 3
    line = calibration_line(labels, logits, patients, 0.9)
    family, groups = sm.families.Binomial(), {"groups": patients[known]}
    design = sm.add_constant(logits[known])
    fit = sm.GLM(labels[known], design, family=family).fit(cov_type="cluster", cov_kwds=groups)
    np.testing.assert_allclose(line.slope_interval, fit.conf_int(0.1)[1], rtol=1e-6)
    ones, offset = np.ones(known.sum()), logits[known]
    model = sm.GLM(labels[known], ones, family=family, offset=offset)
    fit = model.fit(cov_type="cluster", cov_kwds=groups)
    np.testing.assert_allclose(line.intercept_interval, fit.conf_int(0.1)[0], rtol=1e-6)


def test_overconfident_models_have_a_line_too():
    labels, logits = drawn(300)
    line, same = calibration_line(labels, 30 * logits, range(300)), drawn(300)[1]
    expected = calibration_line(labels, same, range(300))
    np.testing.assert_allclose(30 * line.slope_interval, expected.slope_interval, rtol=1e-4)
    assert np.isfinite(line.intercept_interval).all()


def test_images_of_one_patient_widen_the_interval():
    labels, logits = drawn(400)
    known = ~np.isnan(labels)
    labels, logits = labels[known], logits[known]
    once = calibration_line(labels, logits, range(len(labels)))
    index = np.repeat(np.arange(len(labels)), 4)
    four = calibration_line(labels[index], logits[index], index)
    np.testing.assert_allclose(four.slope_interval, once.slope_interval, rtol=0.02)


def test_what_cannot_be_fitted_is_refused_with_the_reason():
    labels, logits = drawn(200)
    few = np.where((labels == 1) & (np.cumsum(labels == 1) > 4), NAN, labels)
    for method, least in (("temperature", 5), ("platt", 10)):
        with pytest.raises(InputError, match=f"4 positive and .* {method} needs {least} of each"):
            fit_recalibration(few, logits, method)
    with pytest.raises(InputError, match="higher scores are not more often positive"):
        fit_recalibration(labels, -logits, "platt")
    with pytest.raises(InputError, match="the temperature would be 0"):
        fit_recalibration((logits > 0).astype(float), logits, "temperature")
    separable = fit_recalibration((logits > 0).astype(float), logits, "platt")
    assert 0 < separable.slope < np.inf


def test_undefined_lines_are_nan():
    assert np.isnan(calibration_line([1, 1, NAN], [0.1, 0.2, 0.3], "abc").slope)
    line = calibration_line([0, 0, 1, 1], [-1, -0.5, 0.5, 1], "abcd")
    assert np.isnan(line.slope)
    assert np.isfinite(line.intercept)


def test_a_recalibration_keeps_shapes_and_order():
    logits = np.linspace(-40, 40, 12).reshape(3, 4)
    chances = Recalibration("platt", 0.5, 1.0)(logits)
    assert chances.shape == (3, 4)
    assert (np.diff(chances.ravel()) > 0).all()


def test_classes_that_hardly_overlap_give_numbers_and_no_warning():
    labels = np.repeat([0.0, 1.0], 30)
    logits = np.concatenate([np.linspace(-3, 0.01, 30), np.linspace(-0.01, 3, 30)])
    line = calibration_line(labels, logits, np.arange(60) // 2)
    assert line.slope > 10
    assert not np.isinf(line.slope_interval).any()
