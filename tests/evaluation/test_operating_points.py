"""Thresholds and what they give: scikit-learn, hand-worked cases, and a loop over resamples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.operating_points import (
    MEASURES,
    Rule,
    apply_threshold,
    choose_threshold,
    ppv_at,
)

NAN = float("nan")
RULES = [Rule("youden"), Rule("sensitivity", 0.8), Rule("specificity", 0.75)]


def drawn(seed, images=30, levels=12):
    """Labels of which some are unknown, and probabilities with ties."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, NAN], images, p=[0.5, 0.4, 0.1])
    labels[:2] = 0, 1
    return labels, random.integers(0, levels + 1, images) / levels


def test_rules_are_read_and_written():
    for text in ("youden", "sensitivity=0.9", "specificity=1"):
        assert str(Rule.parse(text)) == text
    for text in ("", "youden=1", "sensitivity", "sensitivity=0", "specificity=1.1", "ppv=0.5"):
        with pytest.raises(InputError, match=f"--operating_point={text}: expected youden"):
            Rule.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sensitiviy=0.9", "; did you mean sensitivity=0.9?"),
        ("specificity=90", "; did you mean specificity=0.9?"),
        ("Youden", "; did you mean youden?"),
        ("sensitivity=1.9", "; for example sensitivity=0.9"),
        ("best", "0 < X <= 1"),
    ],
)
def test_what_was_probably_meant_is_said(text, hint):
    with pytest.raises(InputError) as raised:
        Rule.parse(text)
    assert str(raised.value).endswith(hint)


def test_by_hand():
    labels = [0, 0, 1, 0, 1, 1, NAN]
    probabilities = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9]
    chosen = [choose_threshold(labels, probabilities, rule) for rule in RULES]
    # Of 0.25 and 0.5, both with 5/3, the higher; 0.8 of three positives are all three; 0.75 of
    # three negatives are all three.
    assert chosen == pytest.approx([0.5, 0.25, 0.5])
    point = apply_threshold(labels, probabilities, 0.25, range(7), n_resamples=10)
    assert point.counts.tolist() == [3, 0, 1, 2]
    assert (point.sensitivity, point.ppv, point.npv) == (1, 0.75, 1)
    assert point.specificity == pytest.approx(2 / 3)


def test_without_a_class_there_is_no_threshold():
    assert choose_threshold([1, 1, NAN], [0.1, 0.2, 0.3], RULES[0]) is None
    point = apply_threshold([1, 1, NAN], [0.1, 0.2, 0.3], 0.15, "abc", n_resamples=20)
    assert (point.sensitivity, point.ppv, point.npv) == (0.5, 1, 0)
    assert np.isnan(point.specificity)
    assert np.isnan(point.intervals["specificity"]).all()


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), st.sampled_from(RULES))
def test_thresholds_are_the_best_of_scikit_learns_curve(seed, rule):
    labels, probabilities = drawn(seed)
    known = ~np.isnan(labels)
    threshold = choose_threshold(labels, probabilities, rule)
    assert threshold is not None
    alarms, found, _ = metrics.roc_curve(
        labels[known], probabilities[known], drop_intermediate=False
    )
    between = not np.isclose(threshold, probabilities[known]).any()
    assert between or threshold in (0, np.nextafter(1, 2))
    point = apply_threshold(labels, probabilities, threshold, range(len(labels)), 5)
    if rule.name == "youden":
        assert point.sensitivity + point.specificity - 1 == pytest.approx((found - alarms).max())
    elif rule.name == "sensitivity":
        assert rule.target is not None
        assert point.sensitivity >= rule.target
        assert point.specificity == pytest.approx(1 - alarms[found >= rule.target].min())
    else:
        assert rule.target is not None
        assert point.specificity >= rule.target
        assert point.sensitivity == pytest.approx(found[1 - alarms >= rule.target - 1e-12].max())


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_counts_are_scikit_learns(seed, threshold):
    labels, probabilities = drawn(seed)
    known = ~np.isnan(labels)
    truth, called = labels[known], probabilities[known] >= threshold
    point = apply_threshold(labels, probabilities, threshold, range(len(labels)), 5)
    matrix = metrics.confusion_matrix(truth, called)
    assert point.counts.tolist() == [matrix[1, 1], matrix[1, 0], matrix[0, 1], matrix[0, 0]]
    assert point.sensitivity == pytest.approx(metrics.recall_score(truth, called))
    assert point.specificity == pytest.approx(metrics.recall_score(1 - truth, ~called))
    if called.any():
        assert point.ppv == pytest.approx(metrics.precision_score(truth, called))
    if not called.all():
        assert point.npv == pytest.approx(metrics.precision_score(1 - truth, ~called))


def test_intervals_are_those_of_whole_patients_drawn_again():
    labels, probabilities = drawn(3, images=60)
    patients = np.repeat(np.arange(20), 3)
    options = {"n_resamples": 200, "seed": 4, "confidence_level": 0.9}
    point = apply_threshold(labels, probabilities, 0.45, patients, **options)
    random, values = np.random.default_rng(4), {name: [] for name in MEASURES}
    for _ in range(200):
        rows = np.concatenate([np.flatnonzero(patients == p) for p in random.integers(20, size=20)])
        again = apply_threshold(labels[rows], probabilities[rows], 0.45, range(60), 1)
        for name in MEASURES:
            values[name].append(getattr(again, name))
    for name in MEASURES:
        expected = np.nanquantile(values[name], [0.05, 0.95])
        np.testing.assert_allclose(point.intervals[name], expected)


def test_ppv_at_another_prevalence():
    # Of 1,000 patients 10 have it: 9 are found, and 99 of the 990 others are called positive.
    assert ppv_at(0.9, 0.9, 0.01) == pytest.approx(9 / 108)
    labels, probabilities = drawn(5, images=400)
    point = apply_threshold(labels, probabilities, 0.5, range(400), 5)
    here = float(np.nanmean(labels))
    assert ppv_at(point.sensitivity, point.specificity, here) == pytest.approx(point.ppv)
    assert np.isnan(ppv_at(0.0, 1.0, 0.5))


def test_probabilities_outside_the_range_are_refused():
    with pytest.raises(ValueError, match=r"expected probabilities in \[0, 1\], got 1.5"):
        choose_threshold([0, 1], [0.5, 1.5], RULES[0])
