"""Groups against all others: estimates, clustered differences, families, and what is too few."""

import csv
import io
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn import metrics
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import test_proportions_2indep as two_proportions

from medcolor_tf.evaluation.group_tables import table, to_csv, to_json
from medcolor_tf.evaluation.groups import compare_groups
from medcolor_tf.evaluation.recalibration import calibration_line
from medcolor_tf.evaluation.statistics import delong_interval

OPTIONS: dict[str, Any] = {"n_resamples": 600, "seed": 1}


def drawn(images=900, worse=1.5, seed=0, per_patient=1):
    """Labels, probabilities, sex and patients; the logits of women are noisier by ``worse``."""
    random = np.random.default_rng(seed)
    female = np.repeat(random.random(images // per_patient) < 0.4, per_patient)
    truth = (random.random(images) < 0.4).astype(float)
    noise = random.normal(0, np.where(female, worse, 1.0), images)
    chances = expit(2 * truth - 1 + noise)
    truth[::11] = np.nan
    sex = np.where(female, "female", "male")
    return truth, chances, sex, np.arange(images) // per_patient


def compare(truth, chances, groupings, patients, threshold: float | None = 0.5, **options):
    results = compare_groups(
        ["Edema"], truth[:, None], chances[:, None], [threshold], groupings, patients,
        **{**OPTIONS, **options},
    )  # fmt: skip
    return {(result.by, result.group): result for result in results}


def test_estimates_are_those_of_the_group_alone():
    truth, chances, sex, patients = drawn()
    found = compare(truth, chances, {"sex": sex}, patients)
    for group in ("female", "male"):
        mine = (sex == group) & ~np.isnan(truth)
        label, chance = truth[mine], chances[mine]
        result = found["sex", group]
        assert (result.images, result.positive) == (len(label), label.sum())
        expected = {
            "auc": metrics.roc_auc_score(label, chance),
            "sensitivity": metrics.recall_score(label, chance >= 0.5),
            "specificity": metrics.recall_score(label, chance >= 0.5, pos_label=0),
            "calibration_gap": chance.mean() - label.mean(),
        }
        for name, value in expected.items():
            assert result.measures[name].value == pytest.approx(value)
            other = found["sex", "male" if group == "female" else "female"].measures[name]
            assert result.measures[name].rest == other.value
            assert result.measures[name].difference == pytest.approx(-other.difference)
            assert result.measures[name].pvalue == pytest.approx(other.pvalue)
        line = calibration_line(label, np.log(chance / (1 - chance)), patients[mine])
        assert result.slope == pytest.approx(line.slope)
        assert result.intercept_interval == pytest.approx(line.intercept_interval)


def test_tests_of_independent_images_are_the_usual_ones():
    truth, chances, sex, patients = drawn()
    female = compare(truth, chances, {"sex": sex}, patients, n_resamples=4000)["sex", "female"]
    parts = [(truth == 1) & (sex == group) for group in ("female", "male")]
    counts = [int((chances[part] >= 0.5).sum()) for part in parts]
    wald: Any = two_proportions(
        counts[0], parts[0].sum(), counts[1], parts[1].sum(), method="wald", compare="diff"
    )
    assert female.measures["sensitivity"].pvalue == pytest.approx(wald.pvalue, rel=0.3)
    aucs = [delong_interval(truth[sex == g], chances[sex == g]) for g in ("female", "male")]
    error = np.hypot(aucs[0].standard_error, aucs[1].standard_error)
    difference = female.measures["auc"]
    low, high = difference.difference_interval
    assert (high - low) / 2 / stats.norm.ppf(0.975) == pytest.approx(error, rel=0.06)
    expected = 2 * stats.norm.sf(abs(aucs[0].auc - aucs[1].auc) / error)
    assert np.log(difference.pvalue) == pytest.approx(np.log(expected), rel=0.15)


def test_patients_are_drawn_with_all_their_images():
    """Every image four times over: nothing is known better for it."""
    truth, chances, sex, patients = drawn(300)
    once = compare(truth, chances, {"sex": sex}, patients)["sex", "female"]
    again = compare(
        np.repeat(truth, 4),
        np.repeat(chances, 4),
        {"sex": np.repeat(sex, 4)},
        np.repeat(patients, 4),
    )["sex", "female"]
    for name, found in once.measures.items():
        assert again.measures[name].pvalue == pytest.approx(found.pvalue)
        assert again.measures[name].difference_interval == pytest.approx(found.difference_interval)
    # A patient with one image in each group shares what is his own: the difference is surer.
    random = np.random.default_rng(0)
    view = np.tile(["AP", "PA"], 300)
    label = np.repeat((random.random(300) < 0.5).astype(float), 2)
    chance = expit(2 * label - 1 + np.repeat(random.normal(0, 1.5, 300), 2))
    chance = np.clip(chance + random.normal(0, 0.01, 600), 0, 1)
    paired = compare(label, chance, {"view": view}, np.repeat(np.arange(300), 2))["view", "AP"]
    apart = compare(label, chance, {"view": view}, np.arange(600))["view", "AP"]
    widths = [np.diff(r.measures["auc"].difference_interval)[0] for r in (paired, apart)]
    assert widths[0] < 0.5 * widths[1]


def test_all_tests_are_one_family():
    truth, chances, sex, patients = drawn()
    age = np.random.default_rng(1).choice(["0-4", "5-17", "other", "18-39"], len(truth))
    labels, scores = np.stack([truth, 1 - truth], axis=1), np.stack([chances, 1 - chances], axis=1)
    results = compare_groups(
        ["Edema", "None"],
        labels,
        scores,
        [0.5, None],
        {"sex": sex, "age": age},
        patients,
        **OPTIONS,
    )
    found = [measure for result in results for measure in result.measures.values()]
    assert len(found) == (2 + 4) * (4 + 2), "without a threshold no sensitivity"
    expected = multipletests([m.pvalue for m in found], method="fdr_bh")[1]
    assert [m.adjusted for m in found] == pytest.approx(expected)
    assert [result.by for result in results] == ["sex"] * 4 + ["age"] * 8
    ages = [result.group for result in results if result.by == "age"][:4]
    assert ages == ["0-4", "5-17", "18-39", "other"]


def test_the_star_stands_by_the_difference():
    found = compare(*drawn(worse=6.0)[:2], {"sex": drawn()[2]}, drawn()[3])["sex", "female"]
    auc = found.measures["auc"]
    assert auc.adjusted < 0.05
    low, high = auc.interval
    text = table(to_json([found]))
    assert f"{auc.value:.3f} [{low:.3f}, {high:.3f}] ({auc.difference:+.3f}*)" in text


def test_too_few_is_said_and_nothing_computed():
    truth, chances, _, patients = drawn(300)
    site = np.where(np.arange(300) < 15, "small", "large")
    truth[:15] = [1] * 9 + [0] * 6
    found = compare(truth, chances, {"site": site}, patients)
    small, large = found["site", "small"], found["site", "large"]
    assert small.few == "too few: 9 patients with a positive image, expected 10"
    assert not small.measures
    assert not large.few
    assert large.measures["auc"].value > 0.5
    assert np.isnan([large.measures["auc"].rest, large.measures["auc"].pvalue]).all()
    # Ten positive images of one patient are one patient.
    one = compare(truth, chances, {"site": site}, np.where(patients < 15, 0, patients), least=2)
    assert one["site", "small"].few.startswith("too few: 1 patient with a positive image")
    text = table(to_json([small, large]))
    assert "too few: 9 patients" in text
    rows = list(csv.DictReader(io.StringIO(to_csv(to_json([small, large])))))
    assert rows[0]["few"] == small.few
    assert float(rows[1]["value"]) == pytest.approx(large.measures["auc"].value, abs=1e-6)
    assert rows[1]["p"] == ""


@pytest.mark.parametrize(("worse", "fewest", "most"), [(1.0, 0, 0.15), (2.5, 0.9, 1)])
def test_a_difference_is_found_where_there_is_one_and_seldom_elsewhere(worse, fewest, most):
    significant = []
    for seed in range(60):
        truth, chances, sex, patients = drawn(600, worse, seed, per_patient=2)
        found = compare(truth, chances, {"sex": sex}, patients, n_resamples=100)["sex", "female"]
        significant.append(found.measures["auc"].pvalue < 0.05)
    assert fewest <= np.mean(significant) <= most


def test_between_ten_and_twenty_patients_there_is_an_interval_and_no_test():
    truth, chances, _, patients = drawn(300)
    truth[:30] = [0, 1] * 15
    site = np.where(np.arange(300) < 30, "small", "large")
    found = compare(truth, chances, {"site": site}, patients)["site", "small"]
    for measure in found.measures.values():
        assert np.isfinite(measure.difference_interval).all()
        assert np.isnan(measure.pvalue)
