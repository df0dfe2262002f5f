"""Each layer against a plain numpy loop with PyTorch's definition."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.models.layers import (
    ContextChannels,
    CopyChannels,
    DepthwiseConv2DTranspose,
    Normalize,
    PaddedMaxPool2D,
    PixelShuffle,
    ReplicatePadAveragePool,
)
from medcolor_tf.models.torch_layers import ICNR, TorchLayers, layer_seed, torch_uniform

ops: Any = keras.ops  # not annotated in Keras


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _numpy(tensor):
    return ops.convert_to_numpy(tensor)


def _conv(filters, initializer, **arguments):
    return keras.layers.Conv2D(filters, 1, kernel_initializer=initializer, **arguments)


def _torch_conv(x, kernel, stride, padding):
    """Conv2d of (B,H,W,I) with HWIO."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum("bhwi,hwio->bo", window, kernel)
    return out


def _torch_conv_transpose(x, kernel, stride, padding):
    """ConvTranspose2d of (B,h,w,I) with HWOI: every input pixel stamps its kernel."""
    batch, height, width, _ = x.shape
    size, filters = kernel.shape[0], kernel.shape[2]
    full = np.zeros((batch, (height - 1) * stride + size, (width - 1) * stride + size, filters))
    for i in range(height):
        for j in range(width):
            stamp = np.einsum("bi,hwoi->bhwo", x[:, i, j], kernel)
            full[:, i * stride : i * stride + size, j * stride : j * stride + size] += stamp
    return full[:, padding : full.shape[1] - padding, padding : full.shape[2] - padding]


def test_pixel_shuffle_has_torch_channel_order():
    x = _random(2, 3, 5, 3 * 16)
    expected = np.zeros((2, 12, 20, 3), "float32")
    for c in range(3):
        for i in range(4):
            for j in range(4):
                expected[:, i::4, j::4, c] = x[..., c * 16 + i * 4 + j]
    np.testing.assert_array_equal(_numpy(PixelShuffle(4)(x)), expected)


def test_depthwise_transpose_equals_torch_groups():
    x = _random(2, 3, 4, 3)
    layer = DepthwiseConv2DTranspose(8, 4)
    got = _numpy(layer(x))
    kernel = _numpy(layer.kernel)
    assert layer.count_params() == 192
    for c in range(3):
        expected = _torch_conv_transpose(x[..., c : c + 1], kernel[..., c : c + 1], 4, 2)
        np.testing.assert_allclose(got[..., c : c + 1], expected, atol=1e-5)


def test_depthwise_transpose_refuses_a_lopsided_padding():
    with pytest.raises(ValueError, match="even"):
        DepthwiseConv2DTranspose(7, 4)


def test_conv_transpose_equals_torch():
    x = _random(1, 3, 5, 4)
    image = keras.Input((None, None, 4))
    model = keras.Model(image, TorchLayers(seed=0).conv_transpose(image, "up", 2, 4, 2))
    kernel, bias = model.get_layer("up").get_weights()
    expected = _torch_conv_transpose(x, kernel, 2, 1) + bias
    np.testing.assert_allclose(_numpy(model(x)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(7, 2, 2), (4, 2, 1), (3, 1, 1), (3, 2, 1)]
)
@pytest.mark.parametrize("side", [8, 9])
def test_conv_pads_as_torch(size, stride, padding, side):
    x = _random(1, side, side + 1, 2)
    image = keras.Input((None, None, 2))
    conv = TorchLayers(seed=0).conv(image, "conv", 3, size, stride=stride, padding=padding)
    model = keras.Model(image, conv)
    kernel, bias = model.get_layer("conv").get_weights()
    np.testing.assert_allclose(
        _numpy(model(x)), _torch_conv(x, kernel, stride, padding) + bias, atol=1e-5
    )


@pytest.mark.parametrize("side", range(1, 10))
def test_max_pool_border_never_wins(side):
    x = _random(2, side, side + 1, 3) - 10  # negative: a zero border would win
    got = _numpy(PaddedMaxPool2D(3, 2, 1)(x))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    assert got.shape == (2, (side - 1) // 2 + 1, side // 2 + 1, 3)
    for i in range(got.shape[1]):
        for j in range(got.shape[2]):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_array_equal(got[:, i, j], window.max(axis=(1, 2)))


def test_blur_replicates_left_and_top():
    x = _random(2, 4, 5, 3)
    p = np.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")
    expected = (p[:, 1:, 1:] + p[:, :-1, 1:] + p[:, 1:, :-1] + p[:, :-1, :-1]) / 4
    np.testing.assert_allclose(_numpy(ReplicatePadAveragePool()(x)), expected, atol=1e-6)


def test_blur_has_the_transposed_gradient():
    """<blur(x), dy> equals <x, gradient(dy)> for every dy: what a linear layer's gradient is."""
    import tensorflow as tf

    x, dy = tf.constant(_random(2, 5, 7, 3)), tf.constant(_random(2, 5, 7, 3, seed=1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ReplicatePadAveragePool()(x)
    gradient = tape.gradient([y], x, output_gradients=[dy])
    basis = np.eye(35, dtype="float32").reshape(35, 5, 7, 1)
    columns = _numpy(ReplicatePadAveragePool()(basis)).reshape(35, 35)  # row i: blur of pixel i
    expected = np.einsum("ij,bjc->bic", columns, _numpy(dy).reshape(2, 35, 3)).reshape(dy.shape)
    np.testing.assert_allclose(_numpy(gradient), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_copy_channels(channels):
    x = _random(2, 3, 4, channels)
    got = _numpy(CopyChannels()(x))
    expected = x if channels == 3 else np.repeat(x.mean(-1, keepdims=True), 3, -1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_normalize(dtype):
    x = np.array([[[[0], [200]]]], dtype)
    got = _numpy(Normalize(0.5, 0.25, 255)(x))
    np.testing.assert_allclose(got.ravel(), [-2, (200 / 255 - 0.5) / 0.25], rtol=1e-6)


def test_normalize_keeps_16_bits_under_mixed_precision(mixed_bfloat16):
    # 0.5 is subtracted before the rounding: neighbours around the mean stay distinct.
    x = np.array([32767, 32768, 32769], "uint16").reshape(1, 1, 3, 1)
    got = Normalize(32768 / 65535, 1 / 65535, 65535)(x)
    assert got.dtype == "bfloat16"
    np.testing.assert_allclose(_numpy(ops.cast(got, "float32")).ravel(), [-1, 0, 1], atol=0.02)


def test_normalize_per_channel():
    got = _numpy(Normalize([0.0, 0.5], [1.0, 0.5], 1)(np.ones((1, 1, 1, 2), "float32")))
    np.testing.assert_allclose(got.ravel(), [1, 1])


@pytest.mark.parametrize(
    "layer",
    [
        Normalize([0.1], [0.2], 65535.0),
        CopyChannels(),
        ContextChannels(3, 5, 0.2),
        PixelShuffle(2),
        ReplicatePadAveragePool(),
        PaddedMaxPool2D(5, 3, 2),
        DepthwiseConv2DTranspose(8, 4, kernel_initializer=torch_uniform(64, 1)),
        _conv(8, ICNR(2, seed=3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_survive_serialisation(layer):
    x = _random(1, 8, 8, 4 if not isinstance(layer, Normalize) else 1)
    first = _numpy(layer(x))
    twin = keras.layers.deserialize(keras.layers.serialize(layer))
    np.testing.assert_array_equal(_numpy(twin(x)), first)  # initialisers keep their seeds
    image = keras.Input((None, None, x.shape[-1]))
    assert layer(image).shape[-1] == first.shape[-1]
    assert layer(keras.Input(x.shape[1:])).shape[1:] == first.shape[1:]


def test_icnr_repeats_each_sub_kernel():
    kernel = _numpy(ICNR(4, seed=0)((1, 1, 64, 48)))
    cells = kernel.reshape(64, 3, 16)
    np.testing.assert_array_equal(cells, np.repeat(cells[..., :1], 16, axis=-1))
    assert np.std(cells[..., 0]) == pytest.approx(np.sqrt(2 / 64), rel=0.2)
    assert len(np.unique(cells[..., 0])) == 64 * 3
    assert np.abs(cells).max() > 2 * np.sqrt(2 / 64)  # a normal, not a truncated one


def test_icnr_makes_the_shuffled_image_piecewise_constant():
    conv = _conv(48, ICNR(4, seed=0), use_bias=False)
    image = _numpy(PixelShuffle(4)(conv(_random(1, 2, 3, 64))))
    np.testing.assert_allclose(image, np.kron(image[:, ::4, ::4], np.ones((1, 4, 4, 1))))


def test_icnr_refuses_filters_it_cannot_divide():
    with pytest.raises(ValueError, match="multiple of 16"):
        ICNR(4)((1, 1, 64, 47))


def test_layer_seeds_differ_by_name_and_seed():
    seeds = {layer_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 4
    assert all(seed is not None and 0 <= seed < 2**31 for seed in seeds)
    assert layer_seed(None, "a") is None


def _context(x, small, large, floor):
    """The four channels of each channel of (B,H,W,C), pixel by pixel in double precision."""
    x = x.astype("float64")
    out = np.zeros((*x.shape[:3], 4, x.shape[3]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            near, wide = (
                x[:, max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1]
                for r in (small // 2, large // 2)
            )
            pixel = x[:, i, j]
            contrast = pixel - wide.mean((1, 2))
            deviation = np.sqrt(wide.var((1, 2)) + floor**2)
            channels = [pixel, pixel - near.mean((1, 2)), contrast, contrast / deviation]
            out[:, i, j] = np.stack(channels, axis=1)
    return out.reshape(*x.shape[:3], -1)


@pytest.mark.parametrize("shape", [(2, 12, 30, 1), (1, 25, 9, 2), (1, 1, 2, 1), (1, 1, 1, 3)])
def test_context_channels_count_the_pixels_inside(shape):
    x = _random(*shape)
    np.testing.assert_allclose(_numpy(ContextChannels()(x)), _context(x, 5, 21, 0.1), atol=1e-5)
    other = ContextChannels(3, 7, 0.5)(x)
    np.testing.assert_allclose(_numpy(other), _context(x, 3, 7, 0.5), atol=1e-5)


def test_context_channels_sum_in_float32(mixed_bfloat16):
    """In bfloat16 a sum of 441 pixels stops growing at 256 of them."""
    x = np.ones((1, 40, 40, 1), "float32")
    x[0, 20, 20] = 2
    channels = ContextChannels()(x)
    assert channels.dtype == "bfloat16"
    expected = _context(x, 5, 21, 0.1)
    np.testing.assert_allclose(_numpy(ops.cast(channels, "float32")), expected, atol=0.03)
    flat = np.delete(expected.reshape(-1, 4), 820, axis=0)
    assert np.abs(flat[:, 1:]).max() < 0.05


def test_context_channels_of_a_flat_region_are_zero_with_a_finite_gradient():
    x = tf.fill((1, 30, 30, 1), 1.7)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ContextChannels()(x)
        loss = tf.reduce_sum(y**2)
    np.testing.assert_allclose(_numpy(y)[..., 1:], 0, atol=1e-5)
    assert np.isfinite(_numpy(tape.gradient(loss, x))).all()


@pytest.mark.parametrize("arguments", [(4, 21), (5, 20), (5, 21, 0.0), (-3, 21)])
def test_context_channels_refuse_what_has_no_middle(arguments):
    with pytest.raises(ValueError, match="odd sides and a positive floor"):
        ContextChannels(*arguments)
