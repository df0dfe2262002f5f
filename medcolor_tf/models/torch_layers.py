"""A factory of Keras layers with PyTorch's paddings, constants and initialisations."""

import dataclasses

import keras

from medcolor_tf.models.fast.batch_norm import batch_normalization
from medcolor_tf.models.initializers import layer_seed, torch_uniform

LEAKY_SLOPE = 0.01  # PyTorch's default; Keras' is 0.3
BN_EPSILON = 1e-5  # PyTorch's default; Keras' is 1e-3
BN_MOMENTUM = 0.9  # PyTorch's 0.1, counted from the other end; Keras' default is 0.99


@dataclasses.dataclass(frozen=True)
class TorchLayers:
    """Functional building blocks; each applies named layers to a tensor and returns a tensor.

    `xavier` draws the kernels of plain convolutions Xavier-uniform, otherwise PyTorch's default.
    Kernels of transposed convolutions and all biases are PyTorch's default unless given.
    """

    seed: int | None = None
    xavier: bool = False

    def conv(
        self, x, name, filters, size, stride=1, padding=0, use_bias=True, kernel=None, bias=None
    ):
        """Conv2d with symmetric zero padding in pixels; Keras' strided "same" is lopsided."""
        fan_in = x.shape[-1] * size * size
        same = stride == 1 and 2 * padding == size - 1
        if padding and not same:
            x = keras.layers.ZeroPadding2D(
                padding, data_format="channels_last", name=f"{name}_padding"
            )(x)
        if kernel is None:
            kernel_seed = layer_seed(self.seed, f"{name}/kernel")
            kernel = (
                keras.initializers.GlorotUniform(kernel_seed)
                if self.xavier
                else torch_uniform(fan_in, kernel_seed)
            )
        return keras.layers.Conv2D(
            filters,
            size,
            stride,
            padding="same" if same else "valid",
            data_format="channels_last",
            use_bias=use_bias,
            kernel_initializer=kernel,
            bias_initializer=self._bias(name, fan_in) if bias is None else bias,
            name=name,
        )(x)

    def conv_transpose(self, x, name, filters, size, stride):
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

    def batch_norm(self, x, name, gamma="ones"):
        """BatchNorm2d. Keras' running variance is the biased one; PyTorch's has n-1."""
        return batch_normalization(
            axis=-1,
            momentum=BN_MOMENTUM,
            epsilon=BN_EPSILON,
            gamma_initializer=gamma,
            name=name,
        )(x)

    def leaky(self, x, name):
        """LeakyReLU with PyTorch's slope."""
        return keras.layers.LeakyReLU(negative_slope=LEAKY_SLOPE, name=name)(x)

    def _bias(self, name, fan_in):
        return torch_uniform(fan_in, layer_seed(self.seed, f"{name}/bias"))
