"""Rebuilding keeps the function and makes names and seeds stable."""

from typing import Any

import keras
import numpy as np

from medcolor_tf.models.cloning import has_automatic_names, input_scaling, rebuild

ops: Any = keras.ops  # not annotated in Keras


def _model():
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    y = keras.layers.Conv2D(4, 3, padding="same")(x)
    x = keras.layers.Add()([keras.layers.BatchNormalization()(y), x])
    return keras.Model(image, keras.layers.ReLU(name="chosen")(x))


def _paths(model):
    return [v.path for v in model.weights]


def test_names_are_counted_from_one_in_every_model():
    first, second = _model(), _model()
    assert has_automatic_names(first)
    assert _paths(first) != _paths(second)
    assert _paths(rebuild(first)) == _paths(rebuild(second))
    assert "conv2d_2/kernel" in _paths(rebuild(second))
    assert rebuild(first).layers[-1].name == "chosen"


def test_the_function_stays():
    model = _model()
    x = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    got = rebuild(model)(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(got), ops.convert_to_numpy(model(x)))


def test_without_scaling_it_takes_scaled_images():
    model = _model()
    x = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    assert len(input_scaling(model)) == 1
    bare = rebuild(model, without=input_scaling(model))
    assert input_scaling(bare) == []
    np.testing.assert_allclose(bare(x / 255), model(x), atol=1e-6)


def test_seeds_are_filled_in():
    first, again, other = (rebuild(_model(), seed=s, copy=False) for s in (1, 1, 2))
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])
