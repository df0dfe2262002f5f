"""EfficientNet-Lite0: a small backbone whose ImageNet weights come in a package.

EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6 in
place of swish. Its weights were trained by TensorFlow on RGB values (x - 127) / 128, with
TensorFlow's padding, which is lopsided at stride 2, and epsilon 1e-3.
"""

import keras

from medcolor_tf.models.fast.batch_norm import batch_normalization
from medcolor_tf.models.layers import Tensor
from medcolor_tf.models.torch_layers import BN_MOMENTUM, kaiming_normal_fan_out, layer_seed

EPSILON = 1e-3
STEM, TOP = 32, 1280
# (blocks, kernel, stride of the first block, expansion, channels) of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite0(seed: int | None = None) -> keras.Model:
    """Builds EfficientNet-Lite0 without pooling and head.

    Args:
        seed: of the initialisation; None draws afresh.

    Returns:
        A functional model named "backbone", (B,H,W,3) to (B,⌈H/32⌉,⌈W/32⌉,1280), initialised as
        EfficientNet is: Kaiming-normal (fan_out) convolutions without bias, BatchNorm 1 and 0.
    """
    with keras.name_scope("backbone"):
        image = keras.Input((None, None, 3), name="backbone_input")
        x = _conv(image, "stem", STEM, 3, seed, stride=2)
        number = 0
        for blocks, kernel, first_stride, expansion, channels in STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                x = _block(x, f"block{number}", kernel, stride, expansion, channels, seed)
                number += 1
        x = _conv(x, "head", TOP, 1, seed)
    return keras.Model(image, x, name="backbone")


def _block(
    x: Tensor, name: str, kernel: int, stride: int, expansion: int, channels: int, seed: int | None
) -> Tensor:
    """Expands by a 1x1, filters each channel, projects by a 1x1, and adds the input if it fits."""
    start = x
    if expansion != 1:
        x = _conv(x, f"{name}_expand", x.shape[-1] * expansion, 1, seed)
    depthwise = f"{name}_depthwise_conv"
    x = keras.layers.DepthwiseConv2D(
        kernel,
        stride,
        padding="same",
        data_format="channels_last",
        use_bias=False,
        depthwise_initializer=kaiming_normal_fan_out(
            kernel, 1, layer_seed(seed, f"{depthwise}/kernel")
        ),
        name=depthwise,
    )(x)
    x = _relu6(_batch_norm(x, f"{name}_depthwise"), f"{name}_depthwise")
    x = _conv(x, f"{name}_project", channels, 1, seed, activation=False)
    if stride == 1 and start.shape[-1] == channels:
        x = keras.layers.Add(name=f"{name}_add")([x, start])
    return x


def _conv(
    x: Tensor,
    name: str,
    filters: int,
    size: int,
    seed: int | None,
    stride: int = 1,
    activation: bool = True,
) -> Tensor:
    """conv · bn, and relu6 where ``activation`` is set."""
    x = keras.layers.Conv2D(
        filters,
        size,
        stride,
        padding="same",
        data_format="channels_last",
        use_bias=False,
        kernel_initializer=kaiming_normal_fan_out(
            size, filters, layer_seed(seed, f"{name}_conv/kernel")
        ),
        name=f"{name}_conv",
    )(x)
    x = _batch_norm(x, name)
    return _relu6(x, name) if activation else x


def _batch_norm(x: Tensor, name: str) -> Tensor:
    return batch_normalization(axis=-1, momentum=BN_MOMENTUM, epsilon=EPSILON, name=f"{name}_bn")(x)


def _relu6(x: Tensor, name: str) -> Tensor:
    return keras.layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)
