"""The masked losses: value, gradient, and what unknown labels do (nothing)."""

import keras
import numpy as np
import pytest
from scipy.special import expit
from training_helpers import SILENT

from medcolor_tf.training.losses import MaskedBinaryCrossentropy, MaskedFocalCrossentropy


def floats(values):
    return np.array(values, "float32")


def value(loss, labels, logits) -> float:
    return float(np.asarray(loss(labels, logits)))


def reference(labels, logits):
    known = ~np.isnan(labels)
    y, p = labels[known], expit(logits[known].astype(np.float64))
    return -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))


def test_mean_over_known_labels():
    random = np.random.default_rng(0)
    labels = random.choice([0.0, 1.0, np.nan], (16, 5)).astype("float32")
    logits = random.normal(size=(16, 5)).astype("float32") * 3
    found = value(MaskedBinaryCrossentropy(), labels, logits)
    assert found == pytest.approx(reference(labels, logits), rel=1e-5)


def test_large_logits_stay_finite():
    found = value(MaskedBinaryCrossentropy(), floats([[1, 0]]), floats([[-200, 200]]))
    assert found == pytest.approx(200)


def test_a_batch_without_known_labels_costs_nothing():
    assert value(MaskedBinaryCrossentropy(), floats([[np.nan]]), floats([[3]])) == 0


def drawn(unknown=True):
    random = np.random.default_rng(1)
    labels = random.choice([0.0, 1.0, np.nan] if unknown else [0.0, 1.0], (16, 5))
    return labels.astype("float32"), random.normal(size=(16, 5)).astype("float32") * 3


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_is_keras_own_where_all_labels_are_known(gamma):
    labels, logits = drawn(unknown=False)
    keras_own = keras.losses.BinaryFocalCrossentropy(gamma=gamma, from_logits=True)
    found = value(MaskedFocalCrossentropy(gamma), labels, logits)
    assert found == pytest.approx(value(keras_own, labels, logits), rel=1e-5)


def test_focal_loss_leaves_unknown_labels_out():
    labels, logits = drawn()
    known = ~np.isnan(labels)
    loss = MaskedFocalCrossentropy(2.0)
    alone = value(loss, labels[known][:, None], logits[known][:, None])
    assert value(loss, labels, logits) == pytest.approx(alone)
    assert value(MaskedFocalCrossentropy(), floats([[np.nan]]), floats([[3]])) == 0


def test_focal_loss_without_focus_is_binary_cross_entropy():
    labels, logits = drawn()
    plain = value(MaskedBinaryCrossentropy(), labels, logits)
    assert value(MaskedFocalCrossentropy(0.0), labels, logits) == plain


def test_focal_loss_stays_finite_and_in_its_configuration():
    labels, logits = floats([[1, 0, 1, 0]]), floats([[-200, 200, 200, -200]])
    assert value(MaskedFocalCrossentropy(2.0), labels, logits) == pytest.approx(100)
    loss = keras.losses.deserialize(keras.losses.serialize(MaskedFocalCrossentropy(3.0)))
    assert (type(loss), loss.gamma) == (MaskedFocalCrossentropy, 3.0)
    with pytest.raises(ValueError, match="gamma >= 0, received -1"):
        MaskedFocalCrossentropy(-1)


@pytest.mark.parametrize("loss", [MaskedBinaryCrossentropy, MaskedFocalCrossentropy])
def test_unknown_labels_have_no_gradient(loss):
    """Training on NaN labels leaves exactly those outputs' weights where they were."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.5), loss())
    before = model.layers[0].kernel.numpy()
    labels = floats([[1, np.nan], [0, np.nan], [1, np.nan]])
    model.fit(np.eye(3, 2, dtype="float32"), labels, verbose=SILENT)
    after = model.layers[0].kernel.numpy()
    np.testing.assert_array_equal(after[:, 1], before[:, 1])
    assert np.isfinite(after).all()
    assert (after[:, 0] != before[:, 0]).all()
