"""Calibration to the films of a place: each film is measured by what was fitted without it."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.adaptation import adapt, assign_folds, compare, comparison_table
from medcolor_tf.evaluation.operating_points import Rule, choose_threshold
from medcolor_tf.evaluation.recalibration import fit_recalibration

YOUDEN = Rule("youden")


def drawn(films=160, per_patient=2, slope=0.4, intercept=-1.0, seed=0):
    """Films whose true probability is sigmoid(slope * logit + intercept)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.5, 3, films)
    labels = (random.random(films) < expit(slope * logits + intercept)).astype(float)
    labels[::19] = np.nan
    return labels, logits, np.arange(films) // per_patient


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_each_film_is_measured_by_what_was_fitted_without_its_patient(method):
    labels, logits, patients = drawn()
    adapted = adapt(labels, logits, patients, method, YOUDEN)
    assert adapted.recalibration == fit_recalibration(labels, logits, method)
    fold = assign_folds(labels, patients, patients.max() + 1)
    assert fold.max() == 9
    for patient in np.unique(patients):
        assert len(np.unique(fold[patients == patient])) == 1
    for number in range(10):
        rows = fold != number
        line = fit_recalibration(labels[rows], logits[rows], method)
        expected = line.slope * logits[~rows] + line.intercept
        np.testing.assert_allclose(adapted.logits[~rows], expected)
        bound = choose_threshold(labels[rows], line(logits[rows]), YOUDEN)
        assert (adapted.called[~rows] == (expit(expected) >= bound)).all()


def test_patients_with_the_finding_are_dealt_evenly():
    labels = np.zeros(97)
    labels[:23], labels[-9:] = 1, np.nan
    fold = assign_folds(labels, np.arange(97), 97)
    assert set(np.bincount(fold[labels == 1])) == {2, 3}
    assert set(np.bincount(fold)) == {9, 10}


def test_calibration_is_that_of_logistic_regression_and_helps():
    labels, logits, patients = drawn(4000)
    known = ~np.isnan(labels)
    adapted = adapt(labels, logits, patients, "platt", YOUDEN)
    theirs = LogisticRegression(C=np.inf).fit(logits[known, None], labels[known])
    assert adapted.recalibration.slope == pytest.approx(theirs.coef_[0, 0], rel=0.02)
    assert adapted.recalibration.intercept == pytest.approx(theirs.intercept_[0], rel=0.02)
    before = {"logits": logits[:, None], "probabilities": expit(logits)[:, None]}
    result = compare(["Edema"], labels[:, None], before, [None], {"Edema": adapted}, patients, 200)
    before_slope = result["before"]["Edema"]["calibration_slope"]
    after, change = result["after"]["Edema"], result["brier_change"]["Edema"]
    assert before_slope["interval"][1] < 0.6
    low, high = after["calibration_slope"]["interval"]
    assert low < 1 < high
    low, high = after["calibration_intercept"]["interval"]
    assert low < 0 < high
    errors = [
        (chances[known] - labels[known]) ** 2 for chances in map(expit, (logits, adapted.logits))
    ]
    assert change["value"] == pytest.approx(errors[1].mean() - errors[0].mean())
    assert change["interval"][1] < 0
    called = adapted.called[labels == 1].mean()
    assert after["sensitivity"]["value"] == pytest.approx(called)
    assert comparison_table(result).splitlines()[1].startswith("Edema        before  -")


def test_the_interval_of_the_brier_change_is_that_of_patients_drawn_again():
    labels, logits, patients = drawn(80)
    adapted = adapt(labels, logits, patients, "platt", YOUDEN)
    before = {"logits": logits[:, None], "probabilities": expit(logits)[:, None]}
    result = compare(["Edema"], labels[:, None], before, [None], {"Edema": adapted}, patients, 40)
    random, found = np.random.default_rng(0), []
    for _ in range(40):
        drawn_again = random.integers(40, size=40)
        rows = np.concatenate([np.flatnonzero(patients == p) for p in drawn_again])
        errors = [
            np.nanmean((p[rows] - labels[rows]) ** 2) for p in map(expit, (logits, adapted.logits))
        ]
        found.append(errors[1] - errors[0])
    expected = np.quantile(found, [0.025, 0.975])
    assert result["brier_change"]["Edema"]["interval"] == pytest.approx(expected)


def test_what_cannot_be_adapted_is_refused_with_the_reason():
    labels, logits, patients = drawn()
    few = np.where((labels == 1) & (np.cumsum(labels == 1) > 9), np.nan, labels)
    with pytest.raises(InputError, match=r"positive films of \d patients|positive films of 9"):
        adapt(few, logits, np.arange(len(few)), "platt", YOUDEN)
    # Many films of one patient are one patient.
    first = np.where(labels == 1, 0, 1 + np.arange(len(labels)))
    with pytest.raises(InputError, match="positive films of 1 and negative films of"):
        adapt(labels, logits, first, "platt", YOUDEN)
    with pytest.raises(InputError, match="higher scores are not more often positive"):
        adapt(labels, 9 - logits, patients, "temperature", YOUDEN)
    # Nine of ten at random, and one patient whose films carry the whole slope.
    random = np.random.default_rng(3)
    labels, logits = random.integers(0, 2, 60).astype(float), random.normal(0, 0.1, 60)
    logits -= np.where(labels == 1, 0.05, 0)
    logits[0], labels[0] = logit(0.9999), 1
    patients = np.arange(60)
    with pytest.raises(InputError, match=r"not stable|not more often positive"):
        adapt(labels, logits, patients, "platt", YOUDEN)
