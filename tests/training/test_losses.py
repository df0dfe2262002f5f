"""Masked binary cross-entropy: value, gradient, and what unknown labels do (nothing)."""

import keras
import numpy as np
import pytest
from scipy.special import expit

from medcolor_tf.training.losses import MaskedBinaryCrossentropy


def reference(labels, logits):
    known = ~np.isnan(labels)
    y, p = labels[known], expit(logits[known].astype(np.float64))
    return -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))


def test_mean_over_known_labels():
    random = np.random.default_rng(0)
    labels = random.choice([0.0, 1.0, np.nan], (16, 5)).astype("float32")
    logits = random.normal(size=(16, 5)).astype("float32") * 3
    found = float(MaskedBinaryCrossentropy()(labels, logits))
    assert found == pytest.approx(reference(labels, logits), rel=1e-5)


def test_large_logits_stay_finite():
    found = MaskedBinaryCrossentropy()(np.float32([[1, 0]]), np.float32([[-200, 200]]))
    assert float(found) == pytest.approx(200)


def test_a_batch_without_known_labels_costs_nothing():
    assert float(MaskedBinaryCrossentropy()(np.float32([[np.nan]]), np.float32([[3]]))) == 0


def test_unknown_labels_have_no_gradient():
    """Training on NaN labels leaves exactly those outputs' weights where they were."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.5), MaskedBinaryCrossentropy())
    before = model.layers[0].kernel.numpy()
    labels = np.float32([[1, np.nan], [0, np.nan], [1, np.nan]])
    model.fit(np.eye(3, 2, dtype="float32"), labels, verbose=0)
    after = model.layers[0].kernel.numpy()
    np.testing.assert_array_equal(after[:, 1], before[:, 1])
    assert np.isfinite(after).all()
    assert (after[:, 0] != before[:, 0]).all()
