"""Measures of thresholds and probabilities: scikit-learn, the curves' own, a loop of resamples."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.curves import calibration
from medcolor_tf.evaluation.decisions import (
    assess,
    decisions_table,
    spell_line,
    spell_number,
    warn_of_chance,
)
from medcolor_tf.evaluation.operating_points import apply_threshold, npv_at, parse_prevalence
from medcolor_tf.evaluation.recalibration import calibration_line

NAMES = ("Edema", "Mass")


def drawn(images=90, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (images, 2))
    labels = (random.random((images, 2)) < expit(logits)).astype(float)
    labels[::9] = np.nan
    return labels, logits, np.repeat(np.arange(images // 3), 3)


def test_measures_are_those_of_each_observation_alone():
    labels, logits, patients = drawn()
    chances = expit(logits)
    options = {"n_resamples": 60, "seed": 2, "confidence_level": 0.9}
    result = assess(NAMES, labels, logits, chances, [0.4, None], patients, **options)
    point = apply_threshold(labels[:, 0], chances[:, 0], 0.4, patients, **options)
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert result["Edema"][name]["value"] == pytest.approx(getattr(point, name))
        assert result["Edema"][name]["interval"] == pytest.approx(point.intervals[name])
        assert name not in result["Mass"]
    for column, name in enumerate(NAMES):
        known = ~np.isnan(labels[:, column])
        truth, given = labels[known, column], chances[known, column]
        brier = metrics.brier_score_loss(truth, given)
        assert result[name]["brier"]["value"] == pytest.approx(brier)
        expected = calibration(labels[:, column], chances[:, column]).expected_error
        assert result[name]["expected_calibration_error"]["value"] == pytest.approx(expected)
        line = calibration_line(labels[:, column], logits[:, column], patients, 0.9)
        assert result[name]["calibration_slope"]["value"] == pytest.approx(line.slope)
    assert "-" in decisions_table(result).splitlines()[2]


def test_intervals_of_errors_are_those_of_whole_patients_drawn_again():
    labels, logits, patients = drawn()
    chances = expit(logits)
    options = {"n_resamples": 50, "seed": 2, "confidence_level": 0.9}
    result = assess(NAMES, labels, logits, chances, [None, None], patients, **options)
    random, found = np.random.default_rng(2), []
    for _ in range(50):
        rows = np.concatenate([np.flatnonzero(patients == p) for p in random.integers(30, size=30)])
        again = calibration(labels[rows, 1], chances[rows, 1])
        found.append((again.brier, again.expected_error))
    low, high = np.quantile(found, [0.05, 0.95], axis=0)
    assert result["Mass"]["brier"]["interval"] == pytest.approx([low[0], high[0]])
    errors = result["Mass"]["expected_calibration_error"]["interval"]
    # Drawing again adds noise to every bin: the interval is moved to the estimate.
    expected = result["Mass"]["expected_calibration_error"]["value"]
    bias = np.median([error for _, error in found]) - expected
    assert bias > 0
    assert errors == pytest.approx([max(low[1] - bias, 0), high[1] - bias])
    assert errors[0] <= expected <= errors[1]


def test_scores_no_better_than_chance_are_warned_of():
    labels, logits, patients = drawn(150)
    noise = np.random.default_rng(104).normal(size=len(labels))
    useless = np.where(labels[:, 1] == 1, -0.3, 0.3) + noise
    scores = np.stack([logits[:, 0], useless, noise], axis=1)
    labels = np.stack([labels[:, 0], labels[:, 1], labels[:, 1]], axis=1)
    found = warn_of_chance(("Edema", "Mass", "Nodule"), labels, scores, patients)
    assert list(found) == ["Mass", "Nodule"], "Edema's AUC is well above"
    known = ~np.isnan(labels[:, 1])
    auc = metrics.roc_auc_score(labels[known, 1], useless[known])
    assert found["Mass"].startswith(f"AUC {auc:.3f} [")
    assert found["Mass"].endswith("no better than chance; its threshold means nothing")
    assert found["Nodule"].endswith(
        "not shown to be better than chance; its threshold may mean nothing"
    )
    nothing = np.full_like(labels[:, :1], np.nan)
    assert warn_of_chance(("Edema",), nothing, scores[:, :1], patients) == {}


def test_npv_at_another_prevalence():
    # Of 1,000 patients 100 have it, 20 of whom are missed; 810 of the 900 others are cleared.
    assert npv_at(0.8, 0.9, 0.1) == pytest.approx(810 / 830)


def test_prevalence_is_one_number_or_one_per_observation():
    assert parse_prevalence((), NAMES) == {}
    assert parse_prevalence(("0.1",), NAMES) == {"Edema": 0.1, "Mass": 0.1}
    assert parse_prevalence(("Mass=0.02",), NAMES) == {"Mass": 0.02}
    for values in (("1",), ("0.1", "0.2"), ("Mass=x",), ("Mass=0.1", "Mass=0.2"), ("nan",)):
        with pytest.raises(InputError, match="expected one number between 0 and 1, or NAME=NUM"):
            parse_prevalence(values, NAMES)
    with pytest.raises(InputError, match="the model has no 'Hernia'; it has Edema, Mass"):
        parse_prevalence(("Hernia=0.1",), NAMES)


def test_a_number_has_a_sign_only_where_it_is_not_0_and_a_line_has_one():
    assert [spell_number(value) for value in (-0.0004, -0.0006, 0.5)] == [
        "0.000",
        "-0.001",
        "0.500",
    ]
    assert [spell_number(value, 1, "+") for value in (0.04, 1.2)] == ["0.0", "+1.2"]
    assert spell_line(0.5, -1.0625) == "0.5 * logit - 1.062"
    assert spell_line(1.25, 0.4171) == "1.25 * logit + 0.4171"
