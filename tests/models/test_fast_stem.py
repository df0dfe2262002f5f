"""The backbone's first convolution: Keras' results, weights and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.models import build_classifier, build_colorizer
from medcolor_tf.models.fast.replace import use_fast_layers
from medcolor_tf.models.fast.stem import StemConv2D, is_stem

pytestmark = pytest.mark.slow


def _run(layer, x):
    """Return output and gradients (input first) as float32 arrays, and the operations used."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
        return [y, *tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])]

    graph = step.get_concrete_function(x).graph
    return [tf.cast(v, "float32").numpy() for v in step(x)], [
        op.type for op in graph.get_operations()
    ]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("size", [7, 5, 3, 2, 1])
@pytest.mark.parametrize("shape", [(22, 22, 3), (15, 18, 3), (16, 9, 1), (13, 13, 4)])
def test_equals_keras(shape, size, policy):
    x = tf.constant(np.random.default_rng(0).normal(size=(2, *shape)), "float32")
    plain = keras.layers.Conv2D(8, size, 2, dtype=policy)
    plain.build(x.shape)
    fast = StemConv2D.from_config(plain.get_config())
    fast.build(x.shape)
    fast.set_weights(plain.get_weights())
    (expected, used), (found, fast_used) = _run(plain, x), _run(fast, x)
    assert "DepthToSpace" in fast_used
    assert "DepthToSpace" not in used
    # bfloat16 sums in another order: 8 bits, on sums of up to 49 terms.
    tolerance = 2e-6 if policy == "float32" else 0.02
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, atol=tolerance * max(np.abs(two).max(), 1))


def test_compiled_by_xla():
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 15, 15, 3)), "float32")
    layer = StemConv2D(4, 7, 2)
    layer.build(x.shape)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(y, x)

    compiled = tf.function(gradient, jit_compile=True)(x)
    np.testing.assert_allclose(compiled, gradient(x), rtol=1e-4, atol=1e-4)


def test_where_it_is_used():
    parts = {"backbone_weights": None, "pixel_mean": 0.5, "pixel_std": 0.25}
    for name, conv in (("ResNet18", "conv1"), ("DenseNet121", "conv1_conv")):
        backbone = build_classifier("none", name, 1, **parts).get_layer("backbone")
        assert type(backbone.get_layer(conv)) is StemConv2D
    plain = build_colorizer("pixel_shuffle")
    fast = use_fast_layers(plain)
    assert type(fast.get_layer("conv1")) is StemConv2D
    assert fast.get_layer("conv1").kernel is plain.get_layer("conv1").kernel
    for arguments in ({"strides": 1}, {"padding": "same"}, {"dilation_rate": 2, "strides": 1}):
        layer = keras.layers.Conv2D(4, 3, **{"strides": 2, **arguments})
        layer.build((1, 9, 9, 3))
        assert not is_stem(layer), arguments
    wide = keras.layers.Conv2D(4, 3, 2)
    wide.build((1, 9, 9, 8))
    assert not is_stem(wide)
