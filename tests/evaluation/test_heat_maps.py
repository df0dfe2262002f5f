"""Multiscale heat maps: equal to their definition, of any network, and where the evidence is."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import heat_maps
from medcolor_tf.evaluation.heat_maps import MultiscaleMaps
from medcolor_tf.evaluation.visualize import grad_cam
from medcolor_tf.models import build_classifier, classify_and_colorize
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.parallel import runtime

SIZE = 32


def small_backbone(shortcut=False):
    """Strides 2, 4 and 8; with a shortcut no tensor at stride 4 carries all that comes later."""

    def conv(x, filters, name):
        initializer: Any = keras.initializers.GlorotUniform(seed=len(name))
        x = keras.layers.Conv2D(
            filters, 3, 2, "same", use_bias=False, kernel_initializer=initializer, name=name
        )(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x)

    with keras.name_scope("backbone"):
        image = keras.Input((None, None, 3))
        half = conv(image, 8, "a")
        eighth = conv(conv(half, 12, "bb"), 16, "ccc")
        if shortcut:
            past = keras.layers.AveragePooling2D(4, name="past")(half)
            eighth = keras.layers.Concatenate(name="both")([eighth, past])
        return keras.Model(image, eighth)


def classifier_of(backbone, precision=False, colorizer="color_map"):
    options: Any = {"pixel_mean": 0.5, "pixel_std": 0.25, "backbone_weights": "none", "seed": 1}
    with runtime.precision(precision):
        backbone = small_backbone() if backbone is small_backbone else backbone
        return fold_batch_norm(build_classifier(colorizer, backbone, 3, **options))


@pytest.fixture
def colors():
    return np.random.default_rng(0).standard_normal((10, SIZE, SIZE, 3)).astype(np.float32)


def test_maps_are_the_product_of_three_depths_gradients_times_activations(colors):
    backbone = small_backbone()
    model = classifier_of(backbone)
    maps = MultiscaleMaps(model, SIZE, [2, 0])(colors)
    assert (maps.shape, maps.dtype) == ((10, 16, 16, 2), np.float32)
    layers = model.get_layer("backbone").layers[1:]
    for position, k in enumerate((2, 0)):
        with tf.GradientTape() as tape:
            depths, x = [], colors
            for layer in layers:
                x = layer(x)
                if layer.name.endswith("_relu"):
                    depths.append(x)
            logit = model.get_layer("head")(model.get_layer("pool")(depths[-1]))[:, k]
        expected = np.ones((10, 16, 16), np.float32)
        gradients: Any = tape.gradient(logit, depths)
        for depth, gradient in zip(depths, gradients, strict=True):
            cells = tf.nn.relu(tf.reduce_sum(depth * gradient, -1, keepdims=True)).numpy()
            cells /= np.maximum(cells.max((1, 2), keepdims=True), 1e-30)
            expected *= heat_maps.enlarged(cells, 16, 16)[..., 0]
        assert expected.max() > 0.01
        np.testing.assert_allclose(maps[..., position], expected, atol=1e-5)


def test_the_last_depth_alone_is_grad_cam(colors, monkeypatch):
    monkeypatch.setattr(heat_maps, "DEPTHS", 1)
    model = classifier_of(small_backbone())
    maps = MultiscaleMaps(model, SIZE, [0, 1, 2])(colors)
    features = model.get_layer("backbone")(colors).numpy()
    expected = grad_cam(features, model.get_layer("head").kernel.numpy())
    np.testing.assert_allclose(maps, heat_maps.to_unit_peak(expected), atol=1e-5)


def test_a_depth_that_a_shortcut_goes_round_is_left_out(colors):
    maps = MultiscaleMaps(classifier_of(small_backbone(shortcut=True)), SIZE, [0])
    assert [cells.shape[1] for cells, _ in maps.gradients(colors[:1])] == [16, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "sides"),
    [
        ("ResNet18", 72, [9, 5, 3]),
        pytest.param("MobileNet", 64, [8, 4, 2], marks=pytest.mark.nightly),
        pytest.param("EfficientNetLite0", 64, [8, 4, 2], marks=pytest.mark.nightly),
        pytest.param("DenseNet121", 64, [8, 4, 2], marks=pytest.mark.nightly),
    ],
)
def test_named_backbones_have_them_at_any_size(name, size, sides):
    check_maps(classifier_of(name, colorizer="none"), size, sides)


def test_they_are_float32_under_mixed_precision():
    check_maps(classifier_of(small_backbone, precision=True), 30, [15, 8, 4])


def check_maps(model, size, sides):
    mapper = MultiscaleMaps(model, size, [1])
    images = np.random.default_rng(0).integers(0, 256, (1, size, size, 1)).astype(np.uint8)
    colors = classify_and_colorize(model).predict_on_batch(images)[1]
    depths = mapper.gradients(colors)
    assert [features.shape[1] for features, _ in depths] == sides
    assert all(gradients.dtype == np.float32 for _, gradients in depths)
    assert all(np.abs(gradients).max() > 0 for _, gradients in depths)
    maps = mapper(colors)
    assert maps.shape == (1, sides[0], sides[0], 1)
    assert np.isfinite(maps).all()


def test_heat_is_where_the_evidence_is():
    """A logit that counts bright cells: the heat lies on the only bright square."""
    image = keras.Input((None, None, 3))
    x = image
    for number in range(3):
        x = keras.layers.AveragePooling2D(2, name=f"pool{number}")(x)
    model = build_classifier(
        "none", keras.Model(image, x), 1, pixel_mean=0.1, pixel_std=0.5, seed=0
    )
    model.get_layer("head").set_weights([np.ones((3, 1), np.float32), np.zeros(1, np.float32)])
    colors = np.full((1, SIZE, SIZE, 3), -0.5, np.float32)
    colors[:, 18:22, 10:14] = 4
    maps = MultiscaleMaps(model, SIZE, [0])(colors)[0, ..., 0]
    y, x = np.nonzero(maps > 0.5 * maps.max())
    assert maps.shape == (16, 16)
    assert (y.min(), y.max(), x.min(), x.max()) == (9, 10, 5, 6)


def test_another_keras_backend_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match="received jax; --heat_map=grad_cam needs none"):
        MultiscaleMaps(keras.Model(), SIZE, [0])
