"""Images put together to studies and patients: by hand, and as scikit-learn counts."""

import numpy as np
import pytest
from sklearn import metrics

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.units import (
    BreakdownOptions,
    aggregate,
    assess,
    cohen_kappa,
    table,
    to_csv,
)

NAN = np.nan
LABELS = np.array([[1, 0], [0, NAN], [NAN, 0], [0, 0], [0, NAN], [1, 1]], float)
CHANCES = np.array([[0.2, 0.1], [0.6, 0.3], [0.1, 0.5], [0.3, 0.3], [0.4, 0.8], [0.9, 0.7]])
STUDIES = np.array(["b", "b", "a", "a", "c", "d"])
PATIENTS = np.array(["p", "p", "p", "p", "q", "r"])


def test_by_hand():
    found = aggregate(LABELS, CHANCES, STUDIES, PATIENTS, "mean")
    assert found.unit.tolist() == ["b", "a", "c", "d"]
    assert found.patient.tolist() == ["p", "p", "q", "r"]
    assert found.images.tolist() == [2, 2, 1, 1]
    # Positive where an image is; else unknown where one is; else negative.
    expected = [[1, NAN], [NAN, 0], [0, NAN], [1, 1]]
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_allclose(found.probabilities[:2], [[0.4, 0.2], [0.2, 0.4]])
    assert found.disagreeing.tolist() == [1, 0]
    largest = aggregate(LABELS, CHANCES, STUDIES, PATIENTS, "max").probabilities
    np.testing.assert_allclose(largest[:2], [[0.6, 0.3], [0.3, 0.5]])
    view = np.array(["AP", "LL", "AP", "AP", "LL", "AP"])
    assert found.values(view).tolist() == ["several", "AP", "LL", "AP"]
    patients = aggregate(LABELS, CHANCES, PATIENTS, PATIENTS, "max")
    assert patients.images.tolist() == [4, 1, 1]
    np.testing.assert_array_equal(patients.labels[:, 0], [1, 0, 1])
    assert to_csv(["Edema", "Mass"], found).splitlines()[:2] == [
        "unit,patient,images,label Edema,probability Edema,label Mass,probability Mass",
        "b,p,2,1,0.4,,0.2",
    ]


def test_a_study_of_two_patients_is_refused():
    with pytest.raises(ValueError, match="unit 'b' has images of two patients"):
        aggregate(LABELS, CHANCES, STUDIES, np.arange(6), "mean")
    with pytest.raises(ValueError, match="expected mean or max"):
        aggregate(LABELS, CHANCES, STUDIES, PATIENTS, "median")


def test_kappa_is_scikit_learns():
    random = np.random.default_rng(0)
    truth, called = random.integers(0, 2, (2, 40))
    counts = metrics.confusion_matrix(truth, called).ravel()[[3, 2, 1, 0]]
    assert cohen_kappa(counts) == pytest.approx(metrics.cohen_kappa_score(truth, called))
    # By hand: 20 of 30 agree, 15 by chance.
    assert cohen_kappa([10, 5, 5, 10]) == pytest.approx(1 / 3)
    assert np.isnan(cohen_kappa([7, 0, 0, 0]))


def test_measures_per_study_are_those_of_its_rows():
    random = np.random.default_rng(1)
    truth = np.repeat((random.random(80) < 0.4).astype(float), 3)[:, None]
    chances = np.clip(0.3 * truth + random.uniform(0, 0.7, truth.shape), 0, 1)
    studies = np.repeat([f"s{i}" for i in range(80)], 3)
    patients = np.repeat([f"p{i // 2}" for i in range(80)], 3)
    found = aggregate(truth, chances, studies, patients, "mean")
    row = assess(["Abnormal"], found, [0.45], n_resamples=300)["Abnormal"]
    label, chance = truth[::3, 0], chances.reshape(80, 3).mean(axis=1)
    assert row["auc"]["value"] == pytest.approx(metrics.roc_auc_score(label, chance))
    for name, threshold in (("kappa", 0.45), ("kappa_at_half", 0.5)):
        expected = metrics.cohen_kappa_score(label, chance >= threshold)
        assert row[name]["value"] == pytest.approx(expected)
        low, high = row[name]["interval"]
        assert low < expected < high
    assert row["sensitivity"]["value"] == pytest.approx(chance[label == 1].__ge__(0.45).mean())
    assert row["specificity"]["value"] == pytest.approx((chance[label == 0] < 0.45).mean())
    # Resampled by hand: patients, each with its two studies.
    random, kappas = np.random.default_rng(0), []
    for draw in random.integers(40, size=(300, 40)):
        rows = np.concatenate([[2 * p, 2 * p + 1] for p in draw])
        kappas.append(metrics.cohen_kappa_score(label[rows], chance[rows] >= 0.45))
    assert row["kappa"]["interval"] == pytest.approx(np.quantile(kappas, [0.025, 0.975]))
    without = assess(["Abnormal"], found, [None], n_resamples=10)["Abnormal"]
    assert "kappa" not in without
    content = {
        **{"split": "test", "units": 80, "unit": "study", "patients": 40, "aggregate": "mean"},
        "threshold_from": "thresholds by hand",
        "observations": {"Abnormal": row | {"disagreeing": 3}},
    }
    assert "warning: 3 studies have positive and negative images of Abnormal" in table(content)
    assert "chance" not in table(content)


def test_a_score_per_study_that_is_no_better_than_chance_is_warned_of():
    truth = np.tile([0.0, 1.0], 20)[:, None]
    studies = np.array([f"s{i}" for i in range(40)])
    found = aggregate(truth, 0.8 - 0.4 * truth, studies, studies, "mean")
    content = {
        **{"split": "test", "units": 40, "unit": "study", "patients": 40, "aggregate": "mean"},
        "threshold_from": "thresholds by hand",
        "observations": assess(["Abnormal"], found, [0.5], n_resamples=50),
    }
    expected = "warning: Abnormal: AUC 0.000 [0.000, 0.000]: no better than chance; its threshold"
    assert expected in table(content)


def test_options_that_contradict_each_other():
    with pytest.raises(InputError, match="--aggregate=max without --unit=study"):
        BreakdownOptions(aggregate="max").check()
    with pytest.raises(InputError, match="'sex' is given 2 times"):
        BreakdownOptions(by=("sex", "view", "sex")).check()
