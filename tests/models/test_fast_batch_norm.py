"""The fused batch normalisation does what keras.layers.BatchNormalization does."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.catalog import FROZEN_BN
from medcolor_tf.models import backbones as backbones_module
from medcolor_tf.models import build_backbone, build_classifier, build_colorizer, set_bn_momentum
from medcolor_tf.models import classifier as classifier_module
from medcolor_tf.models import torch_layers as torch_layers_module
from medcolor_tf.models.fast.batch_norm import FusedBatchNormalization
from medcolor_tf.models.fast.replace import use_fast_layers
from medcolor_tf.runs import checkpoint
from medcolor_tf.training import strategies

pytestmark = pytest.mark.slow

ops: Any = keras.ops  # not annotated in Keras

PIXELS: dict[str, Any] = {"pixel_mean": 0.5, "pixel_std": 0.25}
SHAPES = [(3, 5, 7, 4), (2, 1, 1, 3), (16, 8, 8, 1), (1, 33, 17, 5)]
KERNELS = {"FusedBatchNormV3", "FusedBatchNormGradV3"}


def _pair(shape, **arguments):
    """Return Keras' layer and the fused one with the same random weights."""
    arguments = {"epsilon": 1e-5, "momentum": 0.9, **arguments}
    rng = np.random.default_rng(0)
    plain = keras.layers.BatchNormalization(**arguments)
    plain.build(shape)
    for variable in plain.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    fused = FusedBatchNormalization.from_config(plain.get_config())
    fused.build(shape)
    fused.set_weights(plain.get_weights())
    return plain, fused


def _data(shape, dtype="float32", mean=1.0):
    """Return an input and the gradient of its output, exact in `dtype`."""
    rng = np.random.default_rng(1)
    arrays = rng.normal(mean, 2, shape), rng.normal(size=shape)
    return [tf.cast(tf.constant(array, "float32"), dtype) for array in arrays]


def _run(layer, x, dy, training):
    """Return {what: float32 array}: the output, the gradients, the moving statistics."""

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            watched = [x, *(v.value for v in (layer.gamma, layer.beta) if v is not None)]
            tape.watch(watched)
            y = layer(x, training=training)
        return y, tape.gradient(y, watched, output_gradients=dy)

    y, gradients = step()
    names = ["dx", *(n for n in ("gamma", "beta") if getattr(layer, n) is not None)]
    found = {"y": y, **dict(zip(names, gradients, strict=True))}
    found |= {"mean": layer.moving_mean.value, "variance": layer.moving_variance.value}
    return {name: tf.cast(value, "float32").numpy() for name, value in found.items()}


def _error(got, truth):
    return np.abs(got - truth).max() / max(np.abs(truth).max(), 1e-30)


def _operations(function):
    """List the types of the operations that a traced function's outputs depend on."""
    graph = function.graph
    ends = [tensor.op.name for tensor in tf.nest.flatten(graph.structured_outputs)]
    ends += [operation.name for operation in graph.control_outputs]
    reached = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), ends)
    return [node.op for node in reached.node]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_equals_keras(shape, trainable, training):
    plain, fused = _pair(shape)
    plain.trainable = fused.trainable = trainable
    x, dy = _data(shape)
    scale = np.abs(_run(plain, x, dy, False)["dx"]).max()
    for _ in range(3):
        expected, got = _run(plain, x, dy, training), _run(fused, x, dy, training)
        for name, truth in expected.items():
            # With two values a channel dx is nearly 0, the difference of numbers of dy's size.
            atol = 1e-5 * max(np.abs(truth).max(), scale if name == "dx" else 0)
            np.testing.assert_allclose(got[name], truth, rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_moving_statistics_follow_the_biased_variance(momentum):
    shape = (2, 2, 2, 3)  # 8 values: biased and unbiased variance differ by 1/7
    plain, fused = _pair(shape, momentum=momentum)
    for step in range(4):
        x, _ = _data(shape, mean=step)
        plain(x, training=True)
        fused(x, training=True)
        for a, b in zip(plain.weights, fused.weights, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5)
    if momentum == 0:
        np.testing.assert_allclose(fused.moving_variance, np.var(x, (0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("training", "trainable"), [(True, True), (True, False), (False, True)])
def test_bfloat16_is_as_near_to_the_truth_as_keras(training, trainable):
    """The truth is Keras' float32 layer on the same bfloat16 input.

    bfloat16 has 8 bits: one rounding is off by up to 2**-9 of the value. Keras rounds once, and so
    does the kernel; x * scale + shift rounds the two vectors, the product and the sum, which are
    larger than the output where mean and shift cancel: 6 times Keras' error is allowed there.
    """
    shape = (8, 9, 11, 16)
    x, dy = _data(shape, "bfloat16")
    truth_layer, _ = _pair(shape)
    plain, fused = _pair(shape, dtype="mixed_bfloat16")
    for layer in (truth_layer, plain, fused):
        layer.trainable = trainable
    truth = _run(truth_layer, tf.cast(x, "float32"), tf.cast(dy, "float32"), training)
    keras_result, got = (_run(layer, x, dy, training) for layer in (plain, fused))
    assert fused(x).dtype == plain(x).dtype == "bfloat16"
    factor = 6 if training and not trainable else 2
    for name in truth:
        error, allowed = (_error(result[name], truth[name]) for result in (got, keras_result))
        floor = 2.0**-9 if name in ("y", "dx") else 1e-4
        if not trainable and name in ("gamma", "beta"):
            continue  # frozen: nobody asks for them, and Keras' float32 sums are the finer ones
        assert error <= factor * max(allowed, floor), name


def test_the_kernel_is_used_where_it_should_be():
    def operations(dtype, training, trainable):
        x, dy = _data((2, 4, 4, 3), dtype)
        policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
        layer = _pair(x.shape, dtype=policy)[1]
        layer.trainable = trainable

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=training)
            return tape.gradient([y], x, output_gradients=[dy])

        return KERNELS & set(_operations(step.get_concrete_function(x)))

    for dtype in ("float32", "bfloat16"):
        assert operations(dtype, True, True) == KERNELS
        assert operations(dtype, False, True) == KERNELS
        assert not operations(dtype, True, False)  # one multiplication is the whole gradient


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": 1e-6},
        {"axis": 1},
        {"scale": False},
        {"center": False},
        {"dtype": "float64"},
        {"dtype": "mixed_float16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_unusual_arguments(arguments, training):
    shape = (3, 5, 6, 4)
    plain, fused = _pair(shape, **arguments)
    x, dy = _data(shape, plain.compute_dtype)
    expected, got = _run(plain, x, dy, training), _run(fused, x, dy, training)
    for name, truth in expected.items():
        np.testing.assert_allclose(got[name], truth, rtol=1e-5, atol=1e-4, err_msg=name)


def test_masks_and_other_ranks_are_left_to_keras():
    plain, fused = _pair((6, 4))
    x, _ = _data((6, 4))
    np.testing.assert_array_equal(fused(x, training=True), plain(x, training=True))
    plain, fused = _pair((2, 3, 3, 4))
    x, _ = _data((2, 3, 3, 4))
    mask = np.random.default_rng(0).uniform(size=(2, 3, 3)) < 0.5
    expected = plain(x, training=True, mask=mask)
    np.testing.assert_array_equal(fused(x, training=True, mask=mask), expected)
    np.testing.assert_array_equal(fused.moving_mean, plain.moving_mean)


def test_an_empty_batch():
    plain, fused = _pair((None, 4, 4, 3))
    x = np.zeros((0, 4, 4, 3), "float32")
    assert fused(x, training=False).shape == (0, 4, 4, 3)
    plain(x, training=True)
    assert fused(x, training=True).shape == (0, 4, 4, 3)
    for a, b in zip(plain.weights, fused.weights, strict=True):
        np.testing.assert_array_equal(b, a)


def test_compiled_by_xla():
    shape = (3, 5, 7, 4)
    plain, fused = _pair(shape)
    x, _ = _data(shape)
    got = tf.function(lambda x: fused(x, training=True), jit_compile=True)(x)
    np.testing.assert_allclose(got, plain(x, training=True), atol=1e-5)
    for a, b in zip(plain.weights, fused.weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5)


def test_with_deterministic_operations():
    from tensorflow.python.framework import config

    shape = (3, 5, 7, 4)
    x, dy = _data(shape)
    tf.config.experimental.enable_op_determinism()
    try:
        for training in (True, False):
            (plain, first), (_, again) = _pair(shape), _pair(shape)
            found, repeated = (_run(layer, x, dy, training) for layer in (first, again))
            for name, truth in _run(plain, x, dy, training).items():
                np.testing.assert_array_equal(found[name], repeated[name])
                np.testing.assert_allclose(found[name], truth, rtol=1e-5, atol=1e-4, err_msg=name)
    finally:
        config.disable_op_determinism()


# Whole models


def _norms(model):
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            yield layer
        elif isinstance(layer, keras.Model):
            yield from _norms(layer)


def _same_variables(first, second):
    pairs = zip(first.weights, second.weights, strict=True)
    return all(a is b and a.path == b.path for a, b in pairs)


def _image(*shape):
    return np.random.default_rng(2).standard_normal(shape).astype("float32")


def _plain_everywhere(monkeypatch):
    """Build with Keras' own layers, as before there were fused ones."""
    plain = keras.layers.BatchNormalization
    monkeypatch.setattr(torch_layers_module, "batch_normalization", plain)
    for module in (backbones_module, classifier_module):
        monkeypatch.setattr(module, "use_fast_layers", lambda model: model)


@pytest.mark.parametrize("name", ["deconv", "pixel_shuffle", "color_u"])
def test_every_colorizer_is_fused(name):
    assert {type(layer) for layer in _norms(build_colorizer(name))} == {FusedBatchNormalization}


def test_a_nested_model_is_fused_and_shares_its_variables(tiny_backbone):
    model = tiny_backbone()
    fused = use_fast_layers(model)
    assert _same_variables(model, fused)
    assert fused.name == model.name
    assert [type(layer) for layer in _norms(fused)] == [FusedBatchNormalization]
    assert [type(layer) for layer in _norms(model)] == [keras.layers.BatchNormalization]
    x = _image(2, 12, 8, 3)
    np.testing.assert_allclose(fused(x, training=True), model(x, training=True), atol=1e-5)
    assert use_fast_layers(fused) is fused


def test_sequential_and_shared_layers():
    norm = keras.layers.BatchNormalization(name="norm")
    inner = keras.Sequential([keras.Input((None, None, 4)), keras.layers.BatchNormalization()])
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    x = keras.layers.Add()([norm(inner(x)), norm(x)])
    model = keras.Model(image, x)
    fused = use_fast_layers(model)
    assert _same_variables(model, fused)
    assert [type(layer) for layer in _norms(fused)] == [FusedBatchNormalization] * 2
    x = _image(2, 9, 8, 3)
    expected = model(x, training=True)
    np.testing.assert_allclose(fused(x, training=True), expected, atol=1e-5)


def test_other_classes_of_batch_normalisation_are_left_alone():
    class Mine(keras.layers.BatchNormalization):
        pass

    image = keras.Input((None, None, 3))
    model = keras.Model(image, Mine()(image))
    assert use_fast_layers(model) is model


def test_mobilenet_from_its_file(mobilenet_path, monkeypatch):
    fused = build_backbone(mobilenet_path)
    _plain_everywhere(monkeypatch)
    plain = build_backbone(mobilenet_path)
    assert {type(layer) for layer in _norms(fused)} == {FusedBatchNormalization}
    assert {type(layer) for layer in _norms(plain)} == {keras.layers.BatchNormalization}
    assert [v.path for v in fused.weights] == [v.path for v in plain.weights]
    x = _image(2, 64, 64, 3)
    for training in (False, True):
        expected = ops.convert_to_numpy(plain(x, training=training))
        got = ops.convert_to_numpy(fused(x, training=training))
        assert _error(got, expected) < 1e-4  # 23 normalisations, each to 1e-6


def test_checkpoints_of_plain_and_fused_models_are_the_same(tiny_backbone, tmp_path, monkeypatch):
    fused = build_classifier("deconv", tiny_backbone(), 2, seed=0, **PIXELS)
    _plain_everywhere(monkeypatch)
    plain = build_classifier("deconv", tiny_backbone(), 2, seed=1, **PIXELS)
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (2, 16, 16, 1)).astype("uint8")
    for number, (source, target) in enumerate([(plain, fused), (fused, plain)]):
        for variable in source.weights:
            noise = 0.01 * rng.standard_normal(variable.shape)
            variable.assign(variable * rng.uniform(0.5, 1.5, variable.shape) + noise)
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save(path, checkpoint.to_arrays(checkpoint.named_weights(source)), {})
        arrays, _ = checkpoint.load(path)
        checkpoint.assign(checkpoint.named_weights(target), arrays, path)
        expected, got = (ops.convert_to_numpy(m(gray, training=False)) for m in (source, target))
        assert _error(got, expected) < 1e-5


def test_saved_and_exported(tiny_backbone, tmp_path):
    model = build_classifier("color_u", tiny_backbone(), 2, seed=0, **PIXELS)
    gray = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype("float32")
    expected = model(gray, training=False)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(gray, training=False), expected, atol=1e-6)
    assert {type(layer) for layer in _norms(loaded)} == {FusedBatchNormalization}
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(gray), expected, atol=1e-5)


def test_momentum_is_set_in_fused_layers(tiny_backbone):
    model = use_fast_layers(tiny_backbone())
    set_bn_momentum(model, 0.0)
    norm = next(_norms(model))
    model(_image(2, 8, 8, 3), training=True)
    features = model.get_layer("stem")(_image(2, 8, 8, 3))
    np.testing.assert_allclose(norm.moving_mean, np.mean(features, (0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize("frozen_bn", FROZEN_BN)
def test_frozen_backbone(frozen_bn, tiny_backbone, monkeypatch):
    """ "batch" uses and updates batch statistics in frozen parts, "moving" does neither."""
    fused = build_classifier("none", tiny_backbone(), 2, seed=0, **PIXELS)
    _plain_everywhere(monkeypatch)
    plain = build_classifier("none", tiny_backbone(), 2, seed=0, **PIXELS)
    plain.set_weights(fused.get_weights())
    gray = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1)).astype("uint8")
    before = ops.convert_to_numpy(next(_norms(fused)).moving_mean)
    for model in (plain, fused):
        strategies.set_trainable(model, "baseline", frozen_bn)
        assert {v.path.split("/")[0] for v in model.trainable_variables} == {"head"}
    np.testing.assert_allclose(fused(gray, training=True), plain(gray, training=True), atol=1e-5)
    for a, b in zip(plain.weights, fused.weights, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)
    moved = not np.array_equal(before, next(_norms(fused)).moving_mean)
    assert moved == (frozen_bn == "batch")


def test_no_gradient_work_for_what_is_frozen(tiny_backbone):
    """Stage 1: kernels of T have gradients, E's pass them on and have none of their own."""
    model = build_classifier("color_u", tiny_backbone(), 2, seed=0, **PIXELS)
    strategies.set_trainable(model, "color_module")

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    done = _operations(gradients.get_concrete_function(tf.zeros((2, 16, 16, 1))))
    parts = model.get_layer("colorizer").layers
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    convolutions, transposed = (sum(isinstance(p, kind) for p in parts) for kind in kinds)
    convolutions -= transposed * issubclass(kinds[1], kinds[0])
    # A transposed convolution's kernel gradient is a Conv2DBackpropFilter as well.
    assert done.count("Conv2DBackpropFilter") == convolutions + transposed
    norms = len(list(_norms(model.get_layer("colorizer"))))
    assert done.count("FusedBatchNormGradV3") == norms
