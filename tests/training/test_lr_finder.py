"""The learning-rate finder on any compiled Keras model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_helpers import SILENT

from medcolor_tf.errors import InputError
from medcolor_tf.training.losses import MaskedBinaryCrossentropy
from medcolor_tf.training.lr_finder import find_lr

pytestmark = pytest.mark.slow


@pytest.fixture
def data():
    """Six batches; the sign of the first input is the label."""
    inputs = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")
    return (
        tf.data.Dataset.from_tensor_slices((inputs, inputs[:, :1] > 0))
        .map(lambda x, y: (x, tf.cast(y, tf.float32)))
        .batch(8)
    )


def compiled(optimizer):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer, MaskedBinaryCrossentropy(), metrics=["mse"], steps_per_execution=2)
    return model


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_finds_a_rate_for_any_optimizer_and_leaves_no_trace(name, data):
    """A model that was trained before goes on as one that never met the finder, bit for bit."""
    models = []
    for finds in (False, True):
        keras.utils.set_random_seed(0)
        model = compiled(getattr(keras.optimizers, name)())
        history = model.fit(data, epochs=2, shuffle=False, verbose=SILENT)
        if finds:
            curve = find_lr(model, data, steps=40)
            assert model.history is history
            assert model.steps_per_execution == 2
        model.fit(data, epochs=2, shuffle=False, verbose=SILENT)
        models.append(model)
    plain, found = (
        [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]
        for model in models
    )
    for before, after in zip(plain, found, strict=True):
        np.testing.assert_array_equal(before, after)
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed)
    assert 1e-5 <= curve.suggestion <= 1.0
    assert curve.rates[1] / curve.rates[0] == pytest.approx(1e6 ** (1 / 39))


def test_the_rate_of_each_step_is_the_curves(data):
    """A gradient of one makes the sum of the rates visible: plain SGD walks just as far."""

    class Slope(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(y_pred, axis=-1)

    class Walk(keras.layers.Layer):
        def build(self, shape):
            self.place = self.add_weight(shape=(), initializer="zeros")

        def call(self, x):
            return keras.ops.zeros_like(x[:, :1]) + self.place

    model = keras.Sequential([keras.Input((3,)), Walk()])
    model.compile(keras.optimizers.SGD(0.5), Slope())
    curve = find_lr(model, data, steps=12, low=0.01, high=1.0)
    np.testing.assert_allclose(-np.diff(curve.losses), curve.rates[:-1], rtol=1e-4)
    assert float(model.layers[0].place) == 0.0


def test_what_cannot_be_tried_says_what_was_expected(data):
    with pytest.raises(InputError, match="expected a compiled model"):
        find_lr(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), data)
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("sgd", "mse")
    with pytest.raises(InputError, match="expected a built model"):
        find_lr(unbuilt, data)
    with pytest.raises(InputError, match="steps of at least 5, received 3"):
        find_lr(compiled("sgd"), data, steps=3)
