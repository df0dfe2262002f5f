"""The layers that Keras lacks: channels-last, and of keras.ops alone."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from medcolor_tf.keras_ops import ops

# A backend's tensor, or a KerasTensor while a model is built; Keras has no type for both.
Tensor: TypeAlias = Any
Shape: TypeAlias = tuple[int | None, ...]
PerChannel: TypeAlias = float | list[float] | tuple[float, ...]

register = keras.saving.register_keras_serializable(package="medcolor_tf")


def copy_to_three(x: Tensor) -> Tensor:
    """Shows (B,H,W,C) as three channels: 3 stay as they are, others become their mean, copied.

    The one definition of "the baseline without T": the `gray` init of the colorizers uses it too,
    so that their step 0 equals the baseline for any number of input channels.
    """
    channels = x.shape[-1]
    if channels == 3:
        return x
    if channels != 1:
        x = ops.mean(x, axis=-1, keepdims=True)
    return ops.repeat(x, 3, axis=-1)


@register
class Normalize(keras.layers.Layer):
    """(x / max_value - mean) / std, computed in float32, returned in the compute dtype.

    Autocast is off since 16-bit pixels would lose their low bits in bfloat16 before the division.

    Args:
        mean, std: on the [0,1] scale: numbers, or one per channel.
        max_value: the raw value of white.
        **kwargs: of every Keras layer.
    """

    def __init__(
        self,
        mean: PerChannel,
        std: PerChannel,
        max_value: float = 255.0,
        **kwargs: Any,
    ):
        super().__init__(**{"autocast": False, **kwargs})
        self.mean, self.std, self.max_value = mean, std, max_value

    def call(self, x: Tensor) -> Tensor:
        """(B,H,W,C) raw pixels to (B,H,W,C) of about zero mean and unit variance."""
        x = ops.cast(x, "float32") / self.max_value
        mean = ops.convert_to_tensor(self.mean, dtype="float32")
        std = ops.convert_to_tensor(self.std, dtype="float32")
        return ops.cast((x - mean) / std, self.compute_dtype)

    def compute_output_spec(self, x: Tensor) -> keras.KerasTensor:
        """Gives the shape of the input in the compute dtype."""
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this layer."""
        own = {"mean": self.mean, "std": self.std, "max_value": self.max_value}
        return {**super().get_config(), **own}


@register
class CopyChannels(keras.layers.Layer):
    """(B,H,W,C) to (B,H,W,3), see `copy_to_three`."""

    def call(self, x: Tensor) -> Tensor:
        """Copies the gray channel."""
        return copy_to_three(x)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Replaces the channels by three."""
        return (*shape[:-1], 3)


def local_mean(x: Tensor, size: int) -> Tensor:
    """Averages (B,H,W,C) over size x size squares, of which only the pixels inside count.

    One direction after the other, since a square at a border is still a rectangle. Keras' "same"
    pooling divides by the pixels that are inside.

    Args:
        x: float; sums are in its dtype.
        size: odd, in pixels; it may exceed the image.
    """
    for window in ((size, 1), (1, size)):
        x = ops.average_pool(x, window, 1, padding="same", data_format="channels_last")
    return x


@register
class ContextChannels(keras.layers.Layer):
    """(B,H,W,C) to (B,H,W,4·C): each pixel, and how it differs from what is around it.

    The channels are x; x minus its mean over a small and over a large square; and the latter over
    the deviation in that square, sqrt(variance + floor²), which leaves noise in flat regions small.
    Means are over the pixels inside the image, sums in float32. There is nothing to train.

    Args:
        small, large: sides of the squares, odd, in pixels.
        floor: in units of x.
        **kwargs: of every Keras layer.

    Raises:
        ValueError: a side that is not odd, or a floor that is not positive.
    """

    def __init__(self, small: int = 5, large: int = 21, floor: float = 0.1, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})
        if small % 2 != 1 or large % 2 != 1 or not (min(small, large) > 0 and floor > 0):
            raise ValueError(
                "ContextChannels: expected odd sides and a positive floor, received "
                f"{small}, {large}, {floor}"
            )
        self.small, self.large, self.floor = small, large, floor

    def call(self, x: Tensor) -> Tensor:
        """(B,H,W,C) normalised gray to (B,H,W,4·C) in the compute dtype."""
        x = ops.cast(x, "float32")
        channels = x.shape[-1]
        contrast = x - local_mean(x, self.small)
        both = local_mean(ops.concatenate([x, ops.square(x)], axis=-1), self.large)
        mean, square = both[..., :channels], both[..., channels:]
        wide = x - mean
        deviation = ops.sqrt(ops.maximum(square - ops.square(mean), 0.0) + self.floor**2)
        context = ops.concatenate([x, contrast, wide, wide / deviation], axis=-1)
        return ops.cast(context, self.compute_dtype)

    def compute_output_spec(self, x: Tensor) -> keras.KerasTensor:
        """Gives four times the channels, in the compute dtype."""
        return keras.KerasTensor((*x.shape[:-1], 4 * x.shape[-1]), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this layer."""
        own = {"small": self.small, "large": self.large, "floor": self.floor}
        return {**super().get_config(), **own}


@register
class PixelShuffle(keras.layers.Layer):
    """(B,h,w,C·r·r) to (B,h·r,w·r,C) in PyTorch's channel order (C,r,r).

    TensorFlow's depth_to_space orders them (r,r,C), so PyTorch's weights would not fit.

    Args:
        scale: r.
        **kwargs: of every Keras layer.
    """

    def __init__(self, scale: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, x: Tensor) -> Tensor:
        """Rearranges channels into space."""
        r, channels = self.scale, x.shape[-1] // self.scale**2
        batch, height, width, _ = ops.shape(x)
        x = ops.reshape(x, (batch, height, width, channels, r, r))
        x = ops.transpose(x, (0, 1, 4, 2, 5, 3))
        return ops.reshape(x, (batch, height * r, width * r, channels))

    def compute_output_shape(self, shape: tuple[Any, ...]) -> Shape:
        """Scales the sides, divides the channels."""
        batch, height, width, channels = shape
        r = self.scale
        sides = [None if side is None else side * r for side in (height, width)]
        return (batch, *sides, channels // r**2)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this layer."""
        return {**super().get_config(), "scale": self.scale}


def _mean_of_four(x: Tensor) -> Tensor:
    """(B,H+1,W+1,C) to (B,H,W,C): the mean of each 2x2 cell, one pixel apart."""
    return ops.average_pool(x, 2, 1, padding="valid", data_format="channels_last")


@ops.custom_gradient
def _blur(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
    padded = ops.concatenate([x[:, :1], x], axis=1)
    padded = ops.concatenate([padded[:, :, :1], padded], axis=2)

    # The gradient of a mean of four is one too, with zeros beyond the end; the first row and column
    # were read twice. TensorFlow's own for the pooling takes four times as long on a CPU.
    def gradient(dy: Tensor) -> Tensor:
        height, width = ops.shape(dy)[1:3]
        for size, shape in ((height, (1, -1, 1, 1)), (width, (1, 1, -1, 1))):
            times = ops.where(ops.arange(size) == 0, 2, 1)
            dy = dy * ops.cast(ops.reshape(times, shape), dy.dtype)
        return _mean_of_four(ops.pad(dy, ((0, 0), (0, 1), (0, 1), (0, 0))))

    return _mean_of_four(padded), gradient


@register
class ReplicatePadAveragePool(keras.layers.Layer):
    """Repeats the first row and column once, then 2x2 average pools with stride 1: the size stays.

    The blur after a pixel shuffle (Sugawara et al. 2019, arXiv:1905.00402).
    """

    def call(self, x: Tensor) -> Tensor:
        """(B,H,W,C) to (B,H,W,C)."""
        return _blur(x)

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Keeps the shape."""
        return shape


@register
class PaddedMaxPool2D(keras.layers.Layer):
    """PyTorch's MaxPool2d with explicit padding: the border never wins, for every input size.

    Keras' "same" pads only at the end when the size is even, and LeakyReLU leaves negative values
    that a zero border would beat; so the border is minus infinity.

    Args:
        pool_size, strides, padding: in pixels, for both sides.
        **kwargs: of every Keras layer.
    """

    def __init__(self, pool_size: int = 3, strides: int = 2, padding: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.pool_size, self.strides, self.padding = pool_size, strides, padding

    def call(self, x: Tensor) -> Tensor:
        """(B,H,W,C) to (B,h,w,C), h = (H + 2·padding - pool_size) // strides + 1."""
        border = (self.padding, self.padding)
        x = ops.pad(x, ((0, 0), border, border, (0, 0)), constant_values=float("-inf"))
        return ops.max_pool(
            x, self.pool_size, self.strides, padding="valid", data_format="channels_last"
        )

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Applies PyTorch's size rule to both sides."""
        batch, height, width, channels = shape
        grow = 2 * self.padding - self.pool_size
        sides = [
            None if side is None else (side + grow) // self.strides + 1 for side in (height, width)
        ]
        return (batch, *sides, channels)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this layer."""
        own = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        return {**super().get_config(), **own}


@register
class DepthwiseConv2DTranspose(keras.layers.Layer):
    """Transposed convolution with one filter per channel and no bias; sides grow by `strides`.

    Keras' Conv2DTranspose has no `groups`, so the (k,k,1,C) kernel is laid on the diagonal of a
    (k,k,C,C) one; the zeros are no parameters. "same" equals PyTorch's padding (k - s) / 2 when
    k - s is even, which is required.

    Args:
        kernel_size: k, in pixels.
        strides: s, in pixels.
        kernel_initializer: a name or an initialiser of Keras.
        **kwargs: of every Keras layer.

    Raises:
        ValueError: k < s, or k - s is odd.
    """

    def __init__(
        self,
        kernel_size: int,
        strides: int,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if kernel_size < strides or (kernel_size - strides) % 2:
            raise ValueError(f"kernel_size - strides must be even, got {kernel_size} - {strides}")
        self.kernel_size, self.strides = kernel_size, strides
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape: Shape) -> None:
        """Creates the (k,k,1,C) kernel."""
        kernel = (self.kernel_size, self.kernel_size, 1, shape[-1])
        self.kernel = self.add_weight(
            shape=kernel, initializer=self.kernel_initializer, name="kernel"
        )

    def call(self, x: Tensor) -> Tensor:
        """(B,h,w,C) to (B,h·strides,w·strides,C)."""
        kernel = ops.convert_to_tensor(self.kernel)
        diagonal = kernel * ops.eye(x.shape[-1], dtype=kernel.dtype)
        return ops.conv_transpose(
            x, diagonal, self.strides, padding="same", data_format="channels_last"
        )

    def compute_output_shape(self, shape: Shape) -> Shape:
        """Scales the sides."""
        batch, height, width, channels = shape
        sides = [None if side is None else side * self.strides for side in (height, width)]
        return (batch, *sides, channels)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this layer."""
        own = {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        return {**super().get_config(), **own}
