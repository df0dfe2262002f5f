"""Keras layers with PyTorch's paddings, constants and initialisations.

One seed of a model gives a seed per layer.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras

from medcolor_tf.keras_ops import ops
from medcolor_tf.models.fast.batch_norm import batch_normalization
from medcolor_tf.models.layers import Tensor, register

LEAKY_SLOPE = 0.01  # PyTorch's default; Keras' is 0.3
BN_EPSILON = 1e-5  # PyTorch's default; Keras' is 1e-3
BN_MOMENTUM = 0.9  # PyTorch's 0.1, counted from the other end; Keras' default is 0.99

# An initialiser or its name. Any: to a type checker Keras' layers take what their default is, text.
Initializer: TypeAlias = Any


def layer_seed(seed: int | None, name: str) -> int | None:
    """Derives a layer's own seed from the model's seed and the layer's name.

    Names, not a counter: adding a layer leaves the others' draws alone. `None` stays `None`, which
    in Keras means a fresh draw (governed by `keras.utils.set_random_seed`).
    """
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def torch_uniform(fan_in: int, seed: int | None = None) -> Initializer:
    """Draws uniformly in ±1/sqrt(fan_in): PyTorch's default for weights (Kaiming, a=√5) and biases.

    Args:
        fan_in: PyTorch's `weight.size(1) * receptive field`. For a transposed convolution that is
            the number of *output* channels of a group times the kernel's area.
        seed: None draws afresh.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-bound, bound, seed=seed)


def kaiming_normal_fan_out(size: int, filters: int, seed: int | None = None) -> Initializer:
    """Draws as torchvision's ResNet does: Kaiming-normal, fan_out, gain √2.

    Not truncated, unlike HeNormal.

    Args:
        size: side of the kernel in pixels.
        filters: output channels.
        seed: None draws afresh.
    """
    return keras.initializers.RandomNormal(0.0, math.sqrt(2.0 / (size * size * filters)), seed=seed)


@register
class ICNR(keras.initializers.Initializer):
    """Initialises the convolution before a pixel shuffle so that its output starts free of a grid.

    Each sub-kernel is drawn once (Kaiming-normal, fan_in, gain √2) and repeated `scale**2` times in
    a row, in PyTorch's channel order, so every pixel of an r x r cell starts with the same value.
    Kernels are HWIO with O divisible by `scale**2`. Source: Aitken et al. 2017 (arXiv:1707.02937).

    Args:
        scale: r.
        seed: None draws afresh.
    """

    def __init__(self, scale: int, seed: int | None = None):
        self.scale = scale
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        """Draws a kernel of shape (height, width, in, out).

        Raises:
            ValueError: out is not divisible by scale**2.
        """
        height, width, channels, filters = shape
        repeats = self.scale**2
        if filters % repeats:
            raise ValueError(f"ICNR: {filters} filters are not a multiple of {repeats}")
        std = math.sqrt(2.0 / (height * width * channels))
        draw = keras.initializers.RandomNormal(0.0, std, seed=self.seed)
        small = draw((height, width, channels, filters // repeats), dtype=dtype)
        return ops.repeat(small, repeats, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this initialiser."""
        return {"scale": self.scale, "seed": self.seed}


@dataclass(frozen=True)
class TorchLayers:
    """Functional building blocks; each applies named layers to a tensor and returns a tensor.

    Kernels of transposed convolutions and all biases are PyTorch's default unless given.

    Attributes:
        seed: of the model; each layer draws from its own, see :func:`layer_seed`.
        xavier: whether the kernels of plain convolutions are drawn Xavier-uniform, otherwise as
            PyTorch's default.
    """

    seed: int | None = None
    xavier: bool = False

    def conv(
        self,
        x: Tensor,
        name: str,
        filters: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        use_bias: bool = True,
        kernel: Initializer = None,
        bias: Initializer = None,
    ) -> Tensor:
        """Conv2d with symmetric zero padding in pixels; Keras' strided "same" is lopsided."""
        fan_in = x.shape[-1] * size * size
        same = stride == 1 and 2 * padding == size - 1
        if padding and not same:
            x = keras.layers.ZeroPadding2D(
                padding, data_format="channels_last", name=f"{name}_padding"
            )(x)
        return keras.layers.Conv2D(
            filters,
            size,
            stride,
            padding="same" if same else "valid",
            data_format="channels_last",
            use_bias=use_bias,
            kernel_initializer=self._kernel(name, fan_in) if kernel is None else kernel,
            bias_initializer=self._bias(name, fan_in) if bias is None else bias,
            name=name,
        )(x)

    def conv_transpose(self, x: Tensor, name: str, filters: int, size: int, stride: int) -> Tensor:
        """ConvTranspose2d with padding (size - stride) / 2, which for an even one is "same"."""
        fan_in = filters * size * size  # PyTorch's weight.size(1) is the output here
        return keras.layers.Conv2DTranspose(
            filters,
            size,
            stride,
            padding="same",
            data_format="channels_last",
            kernel_initializer=torch_uniform(fan_in, layer_seed(self.seed, f"{name}/kernel")),
            bias_initializer=self._bias(name, fan_in),
            name=name,
        )(x)

    def batch_norm(self, x: Tensor, name: str, gamma: Initializer = "ones") -> Tensor:
        """BatchNorm2d. Keras' running variance is the biased one; PyTorch's has n-1."""
        return batch_normalization(
            axis=-1,
            momentum=BN_MOMENTUM,
            epsilon=BN_EPSILON,
            gamma_initializer=gamma,
            name=name,
        )(x)

    def leaky(self, x: Tensor, name: str) -> Tensor:
        """LeakyReLU with PyTorch's slope."""
        return keras.layers.LeakyReLU(negative_slope=LEAKY_SLOPE, name=name)(x)

    def _kernel(self, name: str, fan_in: int) -> Initializer:
        seed = layer_seed(self.seed, f"{name}/kernel")
        if self.xavier:
            return keras.initializers.GlorotUniform(seed)
        return torch_uniform(fan_in, seed)

    def _bias(self, name: str, fan_in: int) -> Initializer:
        return torch_uniform(fan_in, layer_seed(self.seed, f"{name}/bias"))
