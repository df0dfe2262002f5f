"""The report's statistics against scipy and scikit-learn, definitions and hand work."""

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from medcolor_tf.evaluation import bootstrap, mean_auc, roc_auc
from medcolor_tf.evaluation.bootstrap import bootstrap_auc, bootstrap_difference
from medcolor_tf.evaluation.statistics import (
    benjamini_hochberg,
    delong_interval,
    delong_test,
    mean_std,
    paired_t_test,
)

NAN = float("nan")


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def cohort(seed=0, patients=40, images=3, observations=2, shared=0.0):
    """Labels, scores of two models, and patients; ``shared`` is the patient's part in a score."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    shape = (patients * images, observations)
    labels = np.repeat(random.integers(0, 2, (patients, observations)), images, axis=0) * 1.0
    effect = shared * np.repeat(random.normal(size=(patients, observations)), images, axis=0)
    a = labels + effect + random.normal(size=shape)
    b = labels + effect + random.normal(size=shape)
    return labels, np.round(a, 1), np.round(b, 1), patient


# -- repeats


def test_mean_std_leaves_nan_out_and_counts_it_out():
    assert mean_std([1.0, NAN, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5), 3)
    mean, std, n = mean_std([NAN, 0.5])
    assert (mean, n) == (0.5, 1)
    assert np.isnan(std)
    assert np.isnan(mean_std([])[:2]).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_paired_t_test_is_scipys(seed, repeats):
    a, b = np.random.default_rng(seed).uniform(0.6, 0.9, (2, repeats))
    found, expected = paired_t_test(a, b), stats.ttest_rel(a, b)
    assert (found.statistic, found.pvalue) == pytest.approx((expected.statistic, expected.pvalue))
    assert (found.difference, found.pairs) == (pytest.approx(np.mean(a) - np.mean(b)), repeats)


def test_paired_t_test_leaves_incomplete_pairs_out():
    found = paired_t_test([0.7, NAN, 0.8, 0.75, 0.5], [0.6, 0.1, 0.77, 0.7, NAN])
    assert found == paired_t_test([0.7, 0.8, 0.75], [0.6, 0.77, 0.7])
    assert found.pairs == 3
    assert 0 < found.pvalue < 1


@pytest.mark.parametrize(
    ("a", "b", "difference", "pairs"),
    [
        ([0.8, 0.9, 0.7], [0.7, 0.8, 0.6], 0.1, 3),  # the same up to rounding
        ([0.8, 0.9], [0.8, 0.9], 0, 2),
        ([0.8, NAN], [0.7, 0.9], 0.1, 1),
        ([], [], NAN, 0),
    ],
)
def test_paired_t_test_is_undefined_without_variance(a, b, difference, pairs):
    found = paired_t_test(a, b)
    assert found.difference == pytest.approx(difference, nan_ok=True)
    assert found.pairs == pairs
    assert np.isnan([found.statistic, found.pvalue]).all()


def test_paired_t_test_takes_small_variance_for_variance():
    assert paired_t_test([0.8, 0.9, 0.7 + 1e-9], [0.7, 0.8, 0.6]).pvalue < 1e-6


def test_benjamini_hochberg_by_hand():
    # .01 * 4/1, .03 * 4/2 and .04 * 4/3, of which the smaller holds for both, .5 * 4/4.
    expected = [0.04, 0.16 / 3, 0.16 / 3, NAN, 0.5]
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.04, 0.03, NAN, 0.5]), expected)
    assert np.isnan(benjamini_hochberg([NAN, NAN])).all()


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_scipys(p):
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), atol=1e-300)


# -- bootstrap


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_weighted_auc_is_scikit_learns(seed, images):
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, NAN], images)
    scores = random.integers(0, 6, images).astype(float)
    weights = random.integers(0, 4, (images, 3), np.int32)
    found = bootstrap._weighted_auc(
        bootstrap._order(labels, scores, np.arange(images), images), weights
    )
    for value, weight in zip(found, weights.T, strict=True):
        held = ~np.isnan(labels) & (weight > 0)
        if len(np.unique(labels[held])) < 2:
            assert np.isnan(value)
        else:
            expected = roc_auc_score(labels[held], scores[held], sample_weight=weight[held])
            assert value == pytest.approx(expected)


def by_repetition(labels, scores, patient, samples, seed):
    """AUCs (samples, L) of resamples written out image by image."""
    random = np.random.default_rng(seed)
    names = list(dict.fromkeys(patient))
    rows = [np.flatnonzero(np.asarray(patient) == name) for name in names]
    result = []
    for _ in range(samples):
        drawn = np.concatenate([rows[i] for i in random.integers(len(names), size=len(names))])
        result.append(roc_auc(labels[drawn], scores[drawn]))
    return np.array(result)


def percentiles(values):
    return np.nanpercentile(values, [5, 95], axis=0).T


def test_bootstrap_is_that_of_repeated_patients():
    labels, a, b, patient = cohort(patients=12, observations=3)
    labels[::5, 0] = NAN
    labels[:, 1] = patient == 7  # absent from a third of the resamples
    names = np.array([f"patient {7 * number % 12}" for number in patient])
    options = {"n_resamples": 100, "confidence_level": 0.9, "seed": 3}
    resampled = [by_repetition(labels, scores, names, 100, 3) for scores in (a, b)]
    usable = (~np.isnan(resampled[0])).sum(axis=0)
    assert 40 < usable[1] < 85

    found = bootstrap_auc(labels, a, names, **options)
    np.testing.assert_array_equal(found.usable, usable)
    np.testing.assert_allclose(found.estimate, roc_auc(labels, a))
    np.testing.assert_allclose(found.interval, percentiles(resampled[0]))
    # Only resamples with all three observations count for the mean.
    means = resampled[0].mean(axis=1)
    np.testing.assert_allclose(found.mean_interval, percentiles(means))
    assert found.mean_usable == (~np.isnan(means)).sum() < usable.min()
    assert found.mean == mean_auc(found.estimate)

    difference = resampled[0] - resampled[1]
    found = bootstrap_difference(labels, a, b, names, **options)
    np.testing.assert_allclose(found.estimate, roc_auc(labels, a) - roc_auc(labels, b))
    np.testing.assert_allclose(found.interval, percentiles(difference))
    np.testing.assert_allclose(found.mean_interval, percentiles(difference.mean(axis=1)))
    np.testing.assert_array_equal(found.usable, usable)


def test_bootstrap_repeats_with_its_seed_whatever_the_blocks(monkeypatch):
    labels, a, _, patient = cohort()
    found = bootstrap_auc(labels, a, patient, n_resamples=50, seed=1).interval
    assert (bootstrap_auc(labels, a, patient, n_resamples=50, seed=2).interval != found).any()
    monkeypatch.setattr(bootstrap, "BLOCK_CELLS", 7 * len(labels))
    again = bootstrap_auc(labels, a, [("p", number) for number in patient], n_resamples=50, seed=1)
    np.testing.assert_array_equal(again.interval, found)


def test_bootstrap_without_a_class():
    labels, a, _, patient = cohort(observations=3)
    labels[:, 1] = np.where(patient < 5, NAN, 0)
    found = bootstrap_auc(labels, a, patient, n_resamples=50)
    assert np.isnan(found.interval).tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert found.usable.tolist() == [50, 0, 50]
    expected = bootstrap_auc(labels[:, [0, 2]], a[:, [0, 2]], patient, n_resamples=50)
    np.testing.assert_array_equal(found.mean_interval, expected.mean_interval)
    nothing = bootstrap_auc(np.zeros(3), np.ones(3), [1, 2, 3], n_resamples=5)
    assert np.isnan(nothing.mean_interval).all()
    assert nothing.mean_usable == 0


def test_images_of_a_patient_stay_together():
    """Nine copies of each patient's image tell no more than one does."""
    labels, a, _, patient = cohort(images=1)
    copies = [np.repeat(array, 9, axis=0) for array in (labels, a, patient)]
    one = bootstrap_auc(labels, a, patient, n_resamples=300)
    nine = bootstrap_auc(*copies, n_resamples=300)
    np.testing.assert_allclose(nine.interval, one.interval)
    apart = bootstrap_auc(copies[0], copies[1], np.arange(len(copies[0])), n_resamples=300)
    assert np.ptp(one.interval, axis=1) == pytest.approx(
        3 * np.ptp(apart.interval, axis=1), rel=0.2
    )


def test_difference_cancels_what_models_share():
    labels, a, b, patient = cohort(shared=1.0)
    a_alone, b_alone = (bootstrap_auc(labels, x, patient, n_resamples=300) for x in (a, b))
    apart = np.hypot(np.ptp(a_alone.mean_interval), np.ptp(b_alone.mean_interval))
    paired = bootstrap_difference(labels, a, b, patient, n_resamples=300)
    assert np.ptp(paired.mean_interval) < 0.7 * apart
    same = bootstrap_difference(labels, a, a * 2, patient, n_resamples=30)
    assert (same.interval == 0).all()


# -- DeLong

# Components 1, 2/3, 1/2 (positives) and 1/3, 5/6, 1 (negatives): AUC 13/18.
HAND_LABELS, HAND_SCORES = [1, 1, 1, 0, 0, 0], [4, 2, 1, 3, 1, 0]


def test_delong_by_hand():
    found = delong_interval([*HAND_LABELS, NAN], [*HAND_SCORES, 9])
    assert found.auc == pytest.approx(13 / 18)
    # Deviations (5, -1, -4)/18 and (-7, 2, 5)/18: (42 + 78) / 324 / 2 / 3 = 5/81.
    assert found.standard_error == pytest.approx(5**0.5 / 9)
    # logit(13/18) = ln(13/5); its standard error is that of the AUC over 13/18 * 5/18.
    half = 1.959964 * (5**0.5 / 9) / (65 / 324)
    ends = [1 / (1 + 5 / 13 * np.exp(-sign * half)) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(ends, rel=1e-6)


def test_clustered_delong_by_hand():
    found = delong_interval(HAND_LABELS, HAND_SCORES, groups=list("abcabc"))
    # Patients' x + y: (5 - 7, -1 + 2, -4 + 5)/54; all three have both kinds: 3/2 * 6/54².
    assert found.standard_error == pytest.approx(1 / 18)


def by_definition(labels, scores, patient):
    """Covariance (M, M) of M models' AUCs, Obuchowski (1997), pair by pair."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n = len(positive), len(negative)
    wins = [
        [[(s[i] > s[j]) + (s[i] == s[j]) / 2 for j in negative] for i in positive] for s in scores
    ]
    wins = np.array(wins, float)
    auc = wins.mean(axis=(1, 2))
    v10, v01 = wins.mean(axis=2), wins.mean(axis=1)
    names = set(patient[positive]) | set(patient[negative])
    i10, i01, i = len(set(patient[positive])), len(set(patient[negative])), len(names)
    s10 = s01 = s11 = np.zeros((len(scores), len(scores)))
    for name in names:
        of_positive, of_negative = patient[positive] == name, patient[negative] == name
        x = v10[:, of_positive].sum(axis=1) - of_positive.sum() * auc
        y = v01[:, of_negative].sum(axis=1) - of_negative.sum() * auc
        s10 = s10 + np.outer(x, x) * i10 / ((i10 - 1) * m)
        s01 = s01 + np.outer(y, y) * i01 / ((i01 - 1) * n)
        s11 = s11 + np.outer(x, y) * i / (i - 1)
    return s10 / m + s01 / n + (s11 + s11.T) / (m * n), v10, v01


@pytest.mark.parametrize("seed", range(8))
def test_delong_is_the_definition(seed):
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, NAN], 40)
    a, b = random.integers(0, 9, (2, 40)) + np.nan_to_num(labels) * 2
    patient = random.integers(0, 15, 40)
    contrast = np.array([1, -1])
    for clusters in (patient, np.arange(40)):
        covariance, v10, v01 = by_definition(labels, [a, b], clusters)
        found = delong_test(labels, a, b, clusters)
        error = np.sqrt(contrast @ covariance @ contrast)
        assert found.standard_error == pytest.approx(error)
        assert (found.auc_a, found.auc_b) == pytest.approx(tuple(v10.mean(axis=1)))
        assert found.difference == pytest.approx(found.auc_a - found.auc_b)
        assert found.pvalue == pytest.approx(2 * stats.norm.sf(abs(found.difference) / error))
        interval = delong_interval(labels, b, clusters)
        assert interval.standard_error == pytest.approx(covariance[1, 1] ** 0.5)
    # With a patient an image, Obuchowski's is DeLong's: no factor between them.
    plain = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    error = np.sqrt(contrast @ plain @ contrast)
    assert delong_test(labels, a, b).standard_error == pytest.approx(error)


def test_models_that_order_alike_have_p_1():
    scores = np.array(HAND_SCORES, float)
    for other in (scores, np.exp(scores)):
        found = delong_test(HAND_LABELS, scores, other)
        assert (found.difference, found.standard_error, found.statistic, found.pvalue) == (
            0,
            0,
            0,
            1,
        )
    assert delong_test(HAND_LABELS, scores, [4, 2, 1, 3, 1.5, 0]).pvalue < 1


def test_delong_undefined():
    opposite = delong_test([0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1])
    assert (opposite.difference, opposite.standard_error) == (1, 0)
    assert np.isnan([opposite.statistic, opposite.pvalue]).all()
    absent = delong_test([1, NAN, 1], [1, 2, 3], [3, 2, 1])
    assert np.isnan([absent.auc_a, absent.difference, absent.standard_error, absent.pvalue]).all()
    # Two positives, but of one patient.
    single = delong_test([1, 1, 0, 0], [4, 1, 2, 0], [1, 2, 3, 4], list("aabc"))
    assert (single.auc_a, single.auc_b) == (0.75, 0)
    assert np.isnan([single.standard_error, single.pvalue]).all()
    perfect = delong_interval([0, 0, 1, 1], [1, 2, 3, 4])
    assert (perfect.auc, perfect.standard_error) == (1, 0)
    assert np.isnan([perfect.low, perfect.high]).all()


def test_coverage_needs_the_patients():
    """95 % intervals hold the truth about that often, if they know whose images they are."""
    truth = stats.norm.cdf(1 / np.sqrt(2 * (1 + 2)))  # variance 1 + 2 around each class
    held = {"delong": 0, "apart": 0, "bootstrap": 0}
    rejected = 0
    for seed in range(200):
        labels, a, b, patient = cohort(seed, patients=60, images=4, observations=1, shared=2**0.5)
        column = labels[:, 0], a[:, 0]
        clustered, apart = delong_interval(*column, patient), delong_interval(*column)
        low, high = bootstrap_auc(*column, patient, n_resamples=200).interval[0]
        held["delong"] += bool(clustered.low < truth < clustered.high)
        held["apart"] += bool(apart.low < truth < apart.high)
        held["bootstrap"] += bool(low < truth < high)
        rejected += delong_test(*column, b[:, 0], patient).pvalue < 0.05
    assert 183 <= held["delong"] <= 198
    assert 178 <= held["bootstrap"] <= 198
    assert held["apart"] < 160
    assert 3 <= rejected <= 19


# -- errors

UNHASHABLE: Any = [["a"], "b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_std([1, np.inf]), "values finite or NaN, got inf"),
        (lambda: paired_t_test([1, 2], [1, 2, 3]), r"one shape \(R,\); got \(2,\) and \(3,\)"),
        (lambda: benjamini_hochberg([0.5, 1.5]), r"\[0, 1\] or NaN, got 1.5"),
        (lambda: bootstrap_auc([1, 0], [1, 2, 3], [1, 2]), r"shape \(2,\), got \(3,\)"),
        (lambda: bootstrap_auc([1, 0], [1, NAN], [1, 2]), "finite scores, got nan"),
        (lambda: bootstrap_auc([1, 2], [1, 0], [1, 2]), "labels 0, 1 or NaN, got 2"),
        (lambda: bootstrap_auc([1, 0], [1, 0], ["a"]), "each of 2 images, got 1"),
        (lambda: bootstrap_auc([1, 0], [1, 0], ["a", None]), "id, got None for image 1"),
        (lambda: bootstrap_auc([1, 0], [1, 0], UNHASHABLE), "id, got .'a'. for image 0"),
        (lambda: bootstrap_auc([], [], []), r"N > 0, got \(0,\)"),
        (lambda: bootstrap_auc([1, 0], [1, 0], [1, 2], n_resamples=0), "n_resamples >= 1 .* got 0"),
        (
            lambda: bootstrap_difference([1], [1], [1], [1], confidence_level=95),
            "confidence_level .* 95",
        ),
        (lambda: delong_test([[1, 0]], [[1, 0]], [[1, 0]]), r"\(N,\) .* got \(1, 2\)"),
        (lambda: delong_interval([1, 0], [1, 0], confidence_level=95), "between 0 and 1, got 95"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_needs_no_deep_learning_framework():
    code = (
        "import sys, medcolor_tf.evaluation.statistics, medcolor_tf.evaluation.curves;"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
