"""The whole model: raw gray images in, logits out."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.models import (
    build_classifier,
    build_colorizer,
    classify_and_colorize,
    colorize_model,
    set_bn_momentum,
)

ops: Any = keras.ops  # not annotated in Keras

PIXELS: dict[str, Any] = {"pixel_mean": 0.5, "pixel_std": 0.25}
SILENT: dict[str, Any] = {"verbose": 0}  # a text to type checkers, as Keras' default is one


def _gray(*shape, dtype="uint8"):
    top = 65536 if dtype == "uint16" else 256
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def _run(model, x):
    return ops.convert_to_numpy(ops.cast(model(x, training=False), "float32"))


@pytest.mark.parametrize("colorizer", ["deconv", "pixel_shuffle", "color_u", "none", None])
def test_parts_and_output(colorizer, tiny_backbone):
    model = build_classifier(colorizer, tiny_backbone(), 5, **PIXELS)
    logits = model(_gray(2, 16, 24, 1))
    assert logits.shape == (2, 5)
    assert logits.dtype == "float32"
    parts = {layer.name for layer in model.layers}
    assert {"backbone", "head"} < parts
    assert ("colorizer" in parts) == (colorizer not in ("none", None))
    assert model.get_layer("head").kernel.shape == (8, 5)


def test_it_is_the_composition_of_its_parts(tiny_backbone):
    model = build_classifier("deconv", tiny_backbone(), 2, **PIXELS)
    x = _gray(2, 16, 16, 1)
    normal = (x / np.float32(255) - 0.5) / 0.25
    features = _run(model.get_layer("backbone"), model.get_layer("colorizer")(normal))
    expected = _run(model.get_layer("head"), features.mean((1, 2)))
    np.testing.assert_allclose(_run(model, x), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64", "uint16"])
def test_every_numeric_type_gives_the_same_logits(dtype, tiny_backbone):
    model = build_classifier("none", tiny_backbone(), 2, **PIXELS)
    x = _gray(1, 16, 16, 1)
    np.testing.assert_array_equal(_run(model, x.astype(dtype)), _run(model, x))
    predicted = model.predict(x.astype(dtype), **SILENT)
    np.testing.assert_allclose(predicted, _run(model, x), atol=1e-5)


def test_sixteen_bits(tiny_backbone):
    backbone = tiny_backbone()
    eight = colorize_model(build_classifier("none", backbone, 2, **PIXELS))
    sixteen = colorize_model(build_classifier("none", backbone, 2, **PIXELS, max_value=65535))
    x = _gray(1, 8, 8, 1)
    np.testing.assert_allclose(_run(sixteen, x.astype("uint16") * 257), _run(eight, x), atol=1e-5)


@pytest.mark.parametrize("colorizer", ["deconv", "pixel_shuffle", "color_u"])
@pytest.mark.parametrize("channels", [1, 2])
def test_gray_step_zero_equals_the_baseline(colorizer, channels, tiny_backbone):
    backbone = tiny_backbone()
    arguments = {**PIXELS, "input_channels": channels, "seed": 0}
    ours = build_classifier(colorizer, backbone, 5, colorizer_init="gray", **arguments)
    baseline = build_classifier("none", backbone, 5, **arguments)
    x = _gray(2, 16, 16, channels)
    np.testing.assert_allclose(_run(ours, x), _run(baseline, x), atol=1e-5)


@pytest.mark.parametrize("colorizer", ["color_u", "none"])
def test_colorized_image(colorizer, tiny_backbone):
    model = build_classifier(colorizer, tiny_backbone(), 2, **PIXELS)
    colors = colorize_model(model)
    x = _gray(2, 16, 16, 1)
    got = colors(x)
    assert got.shape == (2, 16, 16, 3)
    assert got.dtype == "float32"
    if colorizer == "none":
        expected = np.repeat((x / 255 - 0.5) / 0.25, 3, axis=-1)
        np.testing.assert_allclose(got, expected, atol=1e-5)
    else:
        before = _run(colors, x)
        variable = model.get_layer("colorizer").get_layer("out_conv2").bias
        variable.assign(variable + 1)  # shared, not copied
        np.testing.assert_allclose(_run(colors, x), before + 1, atol=1e-5)


@pytest.mark.parametrize("colorizer", ["pixel_shuffle", "none"])
def test_mixed_precision(colorizer, tiny_backbone, mixed_bfloat16):
    model = build_classifier(colorizer, tiny_backbone(), 2, **PIXELS)
    logits = model(_gray(2, 16, 16, 1))
    assert logits.dtype == "float32"
    assert np.isfinite(ops.convert_to_numpy(logits)).all()
    assert colorize_model(model)(_gray(2, 16, 16, 1)).dtype == "float32"
    assert model.get_layer("backbone").outputs[0].dtype == "bfloat16"


def _norms(model):
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _norms(layer)


def test_bn_momentum_is_set_in_every_nested_model(tiny_backbone):
    model = build_classifier("color_u", tiny_backbone(), 2, **PIXELS, bn_momentum=0.7)
    assert {layer.momentum for layer in _norms(model)} == {0.7}
    twin = keras.models.clone_model(model)
    assert {layer.momentum for layer in _norms(twin)} == {0.7}
    kept = build_classifier("none", tiny_backbone(), 2, **PIXELS, bn_momentum=None)
    assert {layer.momentum for layer in _norms(kept)} == {0.99}  # Keras' default


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_bn_momentum_takes_effect_in_training(momentum, tiny_backbone):
    model = build_classifier("none", tiny_backbone(), 2, **PIXELS, bn_momentum=momentum)
    norm = next(_norms(model))
    features = model.get_layer("backbone").get_layer("stem")
    x = _gray(4, 16, 16, 1)
    mean = ops.convert_to_numpy(features(colorize_model(model)(x))).mean((0, 1, 2))
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    model.fit(x, np.zeros((4, 2)), batch_size=4, epochs=1, **SILENT)
    got = ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_allclose(got, (1 - momentum) * mean, atol=1e-4)


def test_set_bn_momentum_reaches_densely_nested_models(tiny_backbone):
    image = keras.Input((None, None, 3))
    outer = keras.Model(image, tiny_backbone()(image))
    set_bn_momentum(outer, 0.5)
    assert [layer.momentum for layer in _norms(outer)] == [0.5]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["ResNet18", "DenseNet121"])
def test_variable_paths_are_unique_and_the_same_every_time(backbone):
    _assert_stable_paths(backbone, None)


@pytest.mark.slow
def test_variable_paths_of_the_mobilenet_file(mobilenet_path):
    _assert_stable_paths(str(mobilenet_path), "imagenet")


def _assert_stable_paths(backbone, weights):
    first, again = (
        [
            v.path
            for v in build_classifier(
                "deconv", backbone, 5, backbone_weights=weights, **PIXELS
            ).weights
        ]
        for _ in range(2)
    )
    assert first == again
    assert len(set(first)) == len(first)
    assert {path.split("/")[0] for path in first} == {"colorizer", "backbone", "head"}


def test_colliding_paths_are_refused():
    def unscoped(channels):
        image = keras.Input((None, None, channels))
        return keras.Model(image, keras.layers.Conv2D(3, 1, name="same")(image))

    with pytest.raises(InputError, match="same/kernel"):
        build_classifier(unscoped(1), unscoped(3), 2, **PIXELS)


@pytest.mark.slow
def test_seed_decides_everything():
    first, again, other = (
        build_classifier(
            "color_u", "ResNet18", 2, backbone_weights=None, seed=seed, **PIXELS
        ).get_weights()
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    changed = [not np.array_equal(a, b) for a, b in zip(first, other, strict=True)]
    assert changed[0]
    assert changed[-1]


def test_head_starts_as_torch_linear(tiny_backbone):
    head = build_classifier("none", tiny_backbone(), 500, **PIXELS, seed=0).get_layer("head")
    for variable in (head.kernel, head.bias):
        array = np.abs(ops.convert_to_numpy(variable))
        assert 0.95 / np.sqrt(8) < array.max() <= 1 / np.sqrt(8)


def test_built_parts_get_their_names(tiny_backbone):
    colorizer = build_colorizer("color_u", seed=0)
    renamed = keras.Model(colorizer.inputs[0], colorizer.outputs[0], name="mine")
    model = build_classifier(renamed, tiny_backbone(), 2, **PIXELS)
    part = model.get_layer("colorizer")
    assert part.get_layer("down1_conv1").kernel is colorizer.get_layer("down1_conv1").kernel


def test_frozen_parts_leave_the_others_trainable(tiny_backbone):
    model = build_classifier("color_u", tiny_backbone(), 2, **PIXELS)
    model.get_layer("backbone").trainable = False
    prefixes = {v.path.split("/")[0] for v in model.trainable_variables}
    assert prefixes == {"colorizer", "head"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_labels": 0}, "num_labels: expected a positive integer, received 0"),
        ({"num_labels": True}, "num_labels: expected a positive integer"),
        ({"num_labels": None}, "num_labels: expected a positive integer, received None"),
        ({"num_labels": None, "labels": -1}, "num_labels: expected a positive integer"),
        ({"labels": 2}, "expected one of them, received num_labels=2 and labels=2"),
        ({"pixel_std": 0.0}, "pixel_std: expected positive"),
        ({"pixel_std": float("nan")}, "pixel_std: expected positive"),
        ({"pixel_mean": [0.1, 0.2]}, "expected one number or 1"),
        ({"max_value": 0}, "max_value: expected a positive number"),
        ({"bn_momentum": 1.0}, "bn_momentum: expected 0 <= momentum < 1"),
        ({"image_size": 322}, "multiples of 4"),
        ({"colorizer": "color_u", "image_size": 324}, "multiples of 8"),
        ({"colorizer": "decon"}, "did you mean deconv"),
        ({"backbone": "color_u"}, "--backbone=color_u: unknown"),
    ],
)
def test_bad_arguments(change, message, tiny_backbone):
    arguments = {"colorizer": "deconv", "backbone": tiny_backbone(), "num_labels": 2, **PIXELS}
    with pytest.raises(InputError, match=message):
        build_classifier(**{**arguments, **change})


def test_labels_is_the_old_name_of_num_labels(tiny_backbone):
    for name in ("num_labels", "labels"):
        model = build_classifier("none", tiny_backbone(), **{name: 5}, **PIXELS)
        assert model.output_shape == (None, 5)


def test_random_backbones_are_named_none():
    """As --backbone_weights=none says it; anything else would download."""
    first, again = (
        build_classifier("none", "ResNet18", 1, backbone_weights=weights, seed=0, **PIXELS)
        for weights in ("none", None)
    )
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda model: model, classify_and_colorize, colorize_model])
def test_every_model_is_called_with_what_it_was_built_from(make, tiny_backbone):
    """Keras warns otherwise, on every first call ("The structure of `inputs` doesn't match")."""
    model = make(build_classifier("color_u", tiny_backbone(), 2, **PIXELS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(_gray(1, 16, 16, 1))
        model.predict_on_batch(_gray(1, 16, 16, 1))


def test_parts_that_do_not_fit_are_refused(tiny_backbone):
    with pytest.raises(InputError, match="colorizer: expected a model"):
        build_classifier(build_colorizer("color_u", 2), tiny_backbone(), 2, **PIXELS)
    with pytest.raises(InputError, match="backbone: expected a model"):
        build_classifier("none", build_colorizer("color_u"), 2, **PIXELS)
    image = keras.Input((None, None, 1))
    two = keras.Model(image, keras.layers.Conv2D(2, 1)(image))
    with pytest.raises(InputError, match="3 output channels"):
        build_classifier(two, tiny_backbone(), 2, **PIXELS)


def test_several_sequences_and_their_own_means(tiny_backbone):
    arguments = {"pixel_mean": [0.1, 0.2, 0.3, 0.4], "pixel_std": 0.5, "input_channels": 4}
    for colorizer in ("pixel_shuffle", "none"):
        model = build_classifier(colorizer, tiny_backbone(), 2, **arguments)
        assert model(_gray(1, 16, 16, 4)).shape == (1, 2)
