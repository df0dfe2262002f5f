"""The first convolution of a backbone, with a gradient for its input that suits CPUs.

A marked fast path for TensorFlow on a CPU, like `batch_norm`. T learns through the gradient of E's
input, whose three channels leave a CPU's vector units empty: backwards, the 7x7 stride 2
convolution of ResNet18 reaches 41 GFLOP/s where its 3x3 ones reach 225 (AVX-512, float32).
"""

from collections.abc import Callable
from typing import Any

import keras

from medcolor_tf.keras_ops import ops
from medcolor_tf.models.layers import Tensor, register

MAX_CHANNELS = 4


@register
class StemConv2D(keras.layers.Conv2D):
    """keras.layers.Conv2D with the same arguments, weights, names and results.

    The gradient of the input is that of the same convolution over 2x2 blocks of pixels: stride 1,
    four times the channels, a kernel of half the sides.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """(B,H,W,C) and (k,k,C,F) to (B,h,w,F)."""
        if not _is_fast():
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        plain = super().convolution_op

        @tf.custom_gradient
        def convolve(x: Tensor, kernel: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
            def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
                dkernel = tf.raw_ops.Conv2DBackpropFilter(
                    input=x,
                    filter_sizes=kernel.shape,
                    out_backprop=dy,
                    strides=[1, 2, 2, 1],
                    padding="VALID",
                )
                return _input_gradient(tf.shape(x), kernel, dy), dkernel

            return plain(x, kernel), gradient

        return convolve(inputs, tf.convert_to_tensor(ops.convert_to_tensor(kernel)))


def is_stem(layer: keras.Layer) -> bool:
    """Says whether a layer is a plain strided convolution of few channels, as StemConv2D can be."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.built
        and layer.data_format == "channels_last"
        and (layer.padding, layer.groups) == ("valid", 1)
        and tuple(layer.strides) == (2, 2)
        and tuple(layer.dilation_rate) == (1, 1)
        and _input_channels(layer) <= MAX_CHANNELS
    )


def _input_channels(conv: Any) -> int:
    return conv.kernel.shape[2]


def _is_fast() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def _input_gradient(shape: Tensor, kernel: Tensor, dy: Tensor) -> Tensor:
    """Returns the gradient (B,H,W,C) of the input, from the kernel (k,l,C,F) and dy (B,h,w,F)."""
    import tensorflow as tf

    rows, columns, channels, filters = kernel.shape
    kernel = tf.pad(kernel, [[0, rows % 2], [0, columns % 2], [0, 0], [0, 0]])
    half = (rows + rows % 2) // 2, (columns + columns % 2) // 2
    kernel = tf.reshape(kernel, (half[0], 2, half[1], 2, channels, filters))
    kernel = tf.transpose(kernel, (0, 2, 1, 3, 4, 5))
    kernel = tf.reshape(kernel, (*half, 4 * channels, filters))
    blocks = [tf.shape(dy)[axis + 1] - 1 + half[axis] for axis in (0, 1)]
    dx = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.stack([shape[0], *blocks, 4 * channels]),
        filter=kernel,
        out_backprop=dy,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    dx = tf.nn.depth_to_space(dx, 2)
    # Up to one row more than the input has (an odd kernel), or one less (a row that nothing reads).
    height, width = shape[1], shape[2]
    dx = dx[:, :height, :width]
    lacking = [[0, 0], [0, height - tf.shape(dx)[1]], [0, width - tf.shape(dx)[2]], [0, 0]]
    dx = tf.pad(dx, lacking)
    return tf.ensure_shape(dx, (None, None, None, channels))
