"""Exact AUC against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medcolor_tf.evaluation import mean_auc, roc_auc


def test_by_hand():
    labels = np.array([[1, 0], [0, 1], [1, np.nan], [0, 1]])
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 9.0], [0.5, 0.3]])
    # Column 0: pairs (.9>.2, .9>.5, .4>.2, .4<.5) = 3/4. Column 1: (.8>.1, .3>.1) = 1.
    np.testing.assert_allclose(roc_auc(labels, scores), [0.75, 1.0])


def test_ties_count_half():
    assert roc_auc([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.1]) == pytest.approx([0.75])


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(-5, 5)), min_size=2, max_size=60),
    st.lists(st.integers(-5, 5), max_size=20),
)
def test_agrees_with_the_definition_and_ignores_unknown(known, unknown):
    labels = np.array([label for label, _ in known] + [np.nan] * len(unknown))
    scores = np.array([score for _, score in known] + unknown, float)
    positive, negative = scores[labels == 1], scores[labels == 0]
    found = roc_auc(labels, scores)
    if not len(positive) or not len(negative):
        assert np.isnan(found).all()
        return
    pairs = positive[:, None] - negative[None]
    assert found == pytest.approx([np.mean(pairs > 0) + np.mean(pairs == 0) / 2])


def test_binary_agreement_on_large_data():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, (5000, 3)), random.normal(size=(5000, 3))
    expected = [roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    np.testing.assert_allclose(roc_auc(labels, scores), expected)


def test_absent_classes_are_nan_and_left_out_of_the_mean():
    labels = np.array([[1, 1, np.nan], [0, 1, np.nan]])
    auc = roc_auc(labels, np.array([[2.0, 1, 1], [1, 2, 2]]))
    np.testing.assert_array_equal(np.isnan(auc), [False, True, True])
    assert mean_auc(auc) == 1.0
    assert np.isnan(mean_auc(auc[1:]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 0], [1.0], "one shape"),
        ([1, 7], [1.0, 2.0], "labels 0, 1 or NaN"),
        ([1, 0], [1.0, np.nan], "finite scores"),
    ],
)
def test_bad_input(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        roc_auc(labels, scores)
