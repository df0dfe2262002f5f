"""ResNet18 equal to torchvision's, which keras.applications does not have."""

import keras

from medcolor_tf.models.initializers import kaiming_normal_fan_out, layer_seed
from medcolor_tf.models.layers import PaddedMaxPool2D
from medcolor_tf.models.torch_layers import TorchLayers

WIDTHS = (64, 128, 256, 512)
BLOCKS = (2, 2, 2, 2)


def build_resnet18(seed=None):
    """Build ResNet18 without its pooling and head (He et al. 2016, arXiv:1512.03385).

    Returns:
        A functional model named "backbone", (B,H,W,3) to (B,⌈H/32⌉,⌈W/32⌉,512), initialised as
        torchvision does: Kaiming-normal (fan_out) convolutions without bias, BatchNorm 1 and 0.
    """
    make = TorchLayers(seed=seed)
    with keras.name_scope("backbone"):
        image = keras.Input((None, None, 3), name="backbone_input")
        x = _conv_bn(make, image, "conv1", "bn1", WIDTHS[0], 7, stride=2)
        x = keras.layers.ReLU(name="act1")(x)
        x = PaddedMaxPool2D(3, 2, 1, name="maxpool")(x)
        for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS, strict=True), start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = _basic_block(make, x, f"layer{stage}_{block}", width, stride)
    return keras.Model(image, x, name="backbone")


def _basic_block(make, x, name, width, stride):
    """conv · bn · relu · conv · bn, plus the shortcut, then relu."""
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        down = f"{name}_downsample"
        shortcut = _conv_bn(make, x, f"{down}_conv", f"{down}_bn", width, 1, stride=stride)
    x = _conv_bn(make, x, f"{name}_conv1", f"{name}_bn1", width, 3, stride=stride)
    x = keras.layers.ReLU(name=f"{name}_act1")(x)
    x = _conv_bn(make, x, f"{name}_conv2", f"{name}_bn2", width, 3)
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_act2")(x)


def _conv_bn(make, x, conv, bn, width, size, stride=1):
    kernel = kaiming_normal_fan_out(size, width, layer_seed(make.seed, f"{conv}/kernel"))
    x = make.conv(
        x, conv, width, size, stride=stride, padding=size // 2, use_bias=False, kernel=kernel
    )
    return make.batch_norm(x, bn)
