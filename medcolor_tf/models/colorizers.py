"""The colorizer T: small networks that turn gray into the colours a backbone reads best.

DECONV, PixelShuffle and ColorU equal the authors' modules: section III-B of the paper, and their
published code where it is silent. The maps, which see a pixel and little around it, are ours.
"""

import keras

from medcolor_tf import catalog
from medcolor_tf.catalog import COLORIZERS, NO_COLORIZER
from medcolor_tf.errors import InputError
from medcolor_tf.models.layers import (
    ContextChannels,
    CopyChannels,
    DepthwiseConv2DTranspose,
    PaddedMaxPool2D,
    PixelShuffle,
    ReplicatePadAveragePool,
    Tensor,
)
from medcolor_tf.models.torch_layers import ICNR, TorchLayers, layer_seed, torch_uniform

WIDTH, RESIDUAL_BLOCKS, UPSCALING = 64, 8, 4
COLOR_U_DOWN = (16, 32, 64)
COLOR_U_UP = (32, 16)
COLOR_U_OUT = 16
MAP_WIDTH = 32


def _front(make: TorchLayers, x: Tensor) -> Tensor:
    """(B,H,W,C) to (B,H/4,W/4,64): the part that DECONV and PixelShuffle share.

    The 7x7 convolution pads 2, not 3: 320 → 159 → 80.
    """
    x = make.conv(x, "conv1", WIDTH, 7, stride=2, padding=2)
    x = make.leaky(make.batch_norm(x, "bn1"), "act1")
    x = PaddedMaxPool2D(3, 2, 1, name="maxpool")(x)
    for block in range(RESIDUAL_BLOCKS):
        shortcut, prefix = x, f"resblock{block}"
        for part in (1, 2):
            x = make.conv(x, f"{prefix}_conv{part}", WIDTH, 3, padding=1)
            x = make.leaky(make.batch_norm(x, f"{prefix}_bn{part}"), f"{prefix}_act{part}")
        x = keras.layers.Add(name=f"{prefix}_add")([shortcut, x])  # nothing after the sum
    return x


def deconv(make: TorchLayers, x: Tensor, gray: bool) -> Tensor:
    """DECONV: 1x1 to three channels, then one 8x8 stride 4 filter per channel."""
    x = make.conv(_front(make, x), "conv_last", 3, 1)
    size = 2 * UPSCALING
    kernel = torch_uniform(size * size, layer_seed(make.seed, "deconv/kernel"))
    return DepthwiseConv2DTranspose(
        size, UPSCALING, kernel_initializer="zeros" if gray else kernel, name="deconv"
    )(x)


def pixel_shuffle(make: TorchLayers, x: Tensor, gray: bool) -> Tensor:
    """PixelShuffle: 1x1 to 3·4·4 channels, rearranged into 4x4 cells, blurred by a 2x2 mean.

    The authors' hard-tanh at ±10000 is the identity and left out.
    """
    kernel = ICNR(UPSCALING, layer_seed(make.seed, "shuffle_conv/kernel"))
    x = make.conv(_front(make, x), "shuffle_conv", 3 * UPSCALING**2, 1, kernel=kernel)
    x = make.batch_norm(x, "shuffle_bn", gamma="zeros" if gray else "ones")
    x = PixelShuffle(UPSCALING, name="shuffle")(x)
    return ReplicatePadAveragePool(name="blur")(x)


def color_u(make: TorchLayers, x: Tensor, gray: bool) -> Tensor:
    """ColorU: a U-Net of three steps; the skips are concatenated as [down, up]."""
    downs = []
    for step, width in enumerate(COLOR_U_DOWN, start=1):
        x = _act_conv(make, x, f"down{step}_conv1", width, 3)
        x = _act_conv(make, x, f"down{step}_conv2", width, 4, stride=2)
        x = make.batch_norm(x, f"down{step}_bn")
        downs.append(x)
    downs.pop()  # the deepest one is the way up's own input
    for step, width in enumerate(COLOR_U_UP, start=1):
        x = _act_up(make, x, f"up{step}_deconv", width)
        for part in (1, 2):
            x = _act_conv(make, x, f"up{step}_conv{part}", width, 3)
        x = make.batch_norm(x, f"up{step}_bn")
        x = keras.layers.Concatenate(axis=-1, name=f"up{step}_concat")([downs.pop(), x])
    x = _act_up(make, x, "out_deconv", COLOR_U_OUT)
    x = _act_conv(make, x, "out_conv1", COLOR_U_OUT, 3)
    zeros = "zeros" if gray else None
    # 1x1 as in the published code; the paper's figure says 3x3.
    return make.conv(x, "out_conv2", 3, 1, kernel=zeros, bias=zeros)


def color_map(make: TorchLayers, x: Tensor, gray: bool) -> Tensor:
    """A map from gray value to colour: a network of three layers on each pixel alone."""
    for step in (1, 2):
        x = make.leaky(make.conv(x, f"map_conv{step}", MAP_WIDTH, 1), f"map_act{step}")
    zeros = "zeros" if gray else None
    return make.conv(x, "map_conv3", 3, 1, kernel=zeros, bias=zeros)


def context_map(make: TorchLayers, x: Tensor, gray: bool) -> Tensor:
    """The same map of a pixel's value and of its contrast to two squares around it."""
    return color_map(make, ContextChannels(name="context")(x), gray)


def _act_conv(
    make: TorchLayers, x: Tensor, name: str, width: int, size: int, stride: int = 1
) -> Tensor:
    """Convolution with one pixel of padding, and LeakyReLU."""
    x = make.conv(x, name, width, size, stride, padding=1)
    return make.leaky(x, f"{name}_act")


def _act_up(make: TorchLayers, x: Tensor, name: str, width: int) -> Tensor:
    return make.leaky(make.conv_transpose(x, name, width, 4, 2), f"{name}_act")


def build_colorizer(
    name: str, input_channels: int = 1, init: str | None = None, seed: int | None = None
) -> keras.Model:
    """Builds T, the network that turns a gray image into three channels.

    Args:
        name: the paper's `deconv`, `pixel_shuffle` or `color_u`; or ours: `color_map`, a map from
            gray value to colour, or `context_map`, one that also sees local contrast.
        input_channels: 1 for an X-ray; more for, say, several MR sequences.
        init: `paper`, the authors' initialisation; or `gray`, ours: the output is the gray image
            copied to three channels plus the module's, whose last normalisation or convolution
            starts at zero, so that step 0 equals the baseline. None: `paper`, and `gray` for
            our maps, which have no other.
        seed: makes the initialisation a function of this number; None draws afresh.

    Returns:
        A functional model named "colorizer": (B,H,W,input_channels) normalised gray to (B,H,W,3) in
        the compute dtype, for H and W divisible by 4 (`color_u`: 8; the maps: any), see
        `check_image_size`.

    Raises:
        InputError: unknown name, an init that the colorizer does not have, or no input channel.

    Example:
        >>> import numpy as np
        >>> from medcolor_tf.models import build_colorizer
        >>> colorizer = build_colorizer("color_u", init="gray", seed=0)
        >>> gray = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype("float32")
        >>> colors = np.asarray(colorizer(gray))
        >>> colors.shape
        (2, 16, 16, 3)
        >>> np.allclose(colors, np.repeat(gray, 3, axis=-1), atol=1e-6)
        True
    """
    variant = catalog.lookup(COLORIZERS, name, "colorizer")
    init = catalog.colorizer_init(name, init)
    if not isinstance(input_channels, int) or input_channels < 1:
        raise InputError(
            f"input_channels: expected a positive integer, received {input_channels!r}"
        )
    make = TorchLayers(seed=seed, xavier=variant.xavier)
    # The scope makes variable paths colorizer/conv1/kernel: ResNet18 has a conv1 as well.
    with keras.name_scope("colorizer"):
        image = keras.Input((None, None, input_channels), name="colorizer_input")
        colors = catalog.resolve(variant.build)(make, image, init == "gray")
        if init == "gray":
            gray = CopyChannels(name="gray")(image)
            colors = keras.layers.Add(name="gray_plus_colors")([gray, colors])
    return keras.Model(image, colors, name="colorizer")


def check_image_size(
    colorizer_name: str | None, size: float | tuple[float, ...] | list[float]
) -> None:
    """Checks that T gives back the size of the image.

    Args:
        colorizer_name: a colorizer's name; "none" or None accept every size.
        size: pixels; one number, or (height, width).

    Raises:
        InputError: unknown name; or a side that is not a positive multiple of 4 (`color_u`: 8;
            the maps: 1).
    """
    multiple = 1
    if colorizer_name not in (None, NO_COLORIZER):
        multiple = catalog.lookup(COLORIZERS, colorizer_name, "colorizer").multiple
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or any(int(side) != side or side < 1 or side % multiple for side in sides):
        raise InputError(
            f"image size: {colorizer_name} needs height and width that are positive multiples of "
            f"{multiple}, received {size}"
        )
