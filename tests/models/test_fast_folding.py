"""A folded part gives what the part gives, and takes its weights as they are."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.models import build_classifier
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import strategies
from medcolor_tf.training.build import training_model

PIXELS: dict[str, Any] = {"pixel_mean": 0.5, "pixel_std": 0.25}


def _norm(name):
    return keras.layers.BatchNormalization(epsilon=1e-5, name=name)


def _model():
    """Convolutions of all kinds, before normalisation or not, in a nested model, read twice."""
    image = keras.Input((None, None, 3))
    x = keras.layers.ZeroPadding2D(1)(image)
    x = _norm("a")(keras.layers.Conv2D(8, 3, 2, use_bias=False, name="plain")(x))
    x = keras.layers.ReLU()(x)
    x = _norm("b")(keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x))
    x = _norm("c")(keras.layers.Conv2D(8, 1, groups=2, name="grouped")(x))
    inner = keras.Sequential([keras.Input((None, None, 8)), keras.layers.Conv2D(4, 1), _norm("d")])
    x = inner(x)
    twice = keras.layers.Conv2D(4, 1, name="twice")(x)
    x = keras.layers.Add()([_norm("e")(twice), twice])
    active = keras.layers.Conv2D(4, 1, activation="tanh", name="active")(x)
    x = _norm("f")(active)
    return keras.Model(image, _norm("g")(x), name="backbone")


def _randomize(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        low, high = (0.5, 1.5) if "variance" in variable.path else (-1, 1)
        variable.assign(rng.uniform(low, high, variable.shape))


def test_same_results_and_what_is_folded():
    model = _model()
    _randomize(model)
    folded = fold_batch_norm(model)
    x = np.random.default_rng(1).normal(size=(2, 17, 12, 3)).astype("float32")
    expected = model(x, training=False).numpy()
    np.testing.assert_allclose(folded(x, training=False), expected, rtol=2e-5, atol=2e-5)
    names = {layer.name for layer in folded._flatten_layers() if "Norm" in type(layer).__name__}
    assert names == {"e", "f", "g"}, "read twice, behind an activation, behind another one"
    assert not folded.trainable_variables


def test_results_and_gradients_of_a_whole_step():
    """E and T frozen, folded: the loss and the gradients of what trains are the plain model's."""
    model = build_classifier("pixel_shuffle", _model(), 2, seed=0, **PIXELS)
    _randomize(model.get_layer("backbone"))
    strategies.set_trainable(model, "color_module")
    config = TrainConfig(augment_probability=0.0)
    step = training_model(model, 16, config)
    images = np.random.default_rng(2).integers(0, 256, (4, 16, 16, 1)).astype("float32")
    gradients = []
    for either in (step, model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(either(images, training=True)))
        gradients.append(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    assert len(gradients[0]) == len(model.trainable_variables) > 20
    scale = max(np.abs(g).max() for g in gradients[1])
    for folded, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(folded, plain, rtol=1e-3, atol=1e-4 * scale)
    kinds = [type(layer).__name__ for layer in step.get_layer("backbone").layers]
    assert "DepthwiseConv2D" in kinds
    assert len(step.get_layer("backbone").weights) < len(model.get_layer("backbone").weights)


def test_batch_statistics_are_not_folded():
    model = build_classifier("pixel_shuffle", _model(), 2, seed=0, **PIXELS)
    strategies.set_trainable(model, "color_module", frozen_bn="batch")
    step = training_model(model, 16, TrainConfig())
    assert step.get_layer("backbone") is model.get_layer("backbone")


def test_bfloat16_keeps_half_the_bytes():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _model()
        _randomize(model)
        folded = fold_batch_norm(model)
        x = np.random.default_rng(1).normal(size=(2, 9, 9, 3)).astype("float32")
        expected, found = (np.asarray(m(x), np.float32) for m in (model, folded))
    finally:
        keras.config.set_dtype_policy("float32")
    assert folded.get_layer("plain").kernel.dtype == "bfloat16"
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_a_sequential_model():
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3), _norm("a")])
    _randomize(model)
    folded = fold_batch_norm(model)
    assert [type(layer).__name__ for layer in folded.layers] == ["InputLayer", "Conv2D"]
    x = np.random.default_rng(1).normal(size=(1, 6, 5, 3)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras', where inputs are not what a model was built from
        found = folded(x)
    np.testing.assert_allclose(found, model(x, training=False), rtol=2e-5, atol=2e-5)


def test_other_models_come_back_as_they_are():
    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    assert fold_batch_norm(own) is own


@pytest.mark.parametrize("name", ["ResNet18", "DenseNet121"])
@pytest.mark.slow
def test_backbones(name):
    model = build_classifier("none", name, 2, backbone_weights=None, seed=0, **PIXELS)
    backbone = model.get_layer("backbone")
    rng = np.random.default_rng(0)
    for variable in backbone.weights:
        if "moving" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    x = rng.normal(size=(2, 33, 40, 3)).astype("float32")
    folded = fold_batch_norm(backbone)
    expected = backbone(x, training=False).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(folded(x, training=False), expected, atol=1e-5 * scale)
    norms = [layer for layer in folded.layers if "Norm" in type(layer).__name__]
    assert len(norms) == {"ResNet18": 0, "DenseNet121": 62}[name], "before the convolution"
