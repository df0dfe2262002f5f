"""The same work as a Keras user without this project would write it: keras.layers alone.

Plain BatchNormalization and ZeroPadding2D, a pixel shuffle of Reshape and Permute; DenseNet121 is
keras.applications'. Layers have the project's names, so that weights can be carried over.
"""

from typing import Any

import keras
from keras import layers

from benchmarks import ours
from benchmarks.ours import threads
from benchmarks.work import DEGREES, LABELS, MAX_ZOOM, TRAINS, batch_of

__all__ = ["augmentation", "step", "threads"]


def step(spec: dict) -> ours.Run:
    """Returns ``run(steps)``, see :func:`benchmarks.ours.step`."""
    ours.use_precision(spec)
    model = build(spec["strategy"] or "all", spec["backbone"], spec["size"])
    images, labels = batch_of(spec)
    if not spec["strategy"]:
        return ours.inferences(model, images)
    return ours.training_steps(compile_for_training(model, spec["strategy"]), images, labels)


def augmentation(spec: dict) -> ours.Run:
    """Returns ``run(steps)``; Keras' two layers resample one after the other, about the centre."""
    border = {"fill_mode": "reflect", "interpolation": "bilinear", "seed": 0}
    rotation = layers.RandomRotation(DEGREES / 360, **border)
    return ours.augmentations(
        [rotation, layers.RandomZoom((1 / MAX_ZOOM - 1, 0.0), **border)], spec
    )


def build(strategy: str, backbone: str, size: int) -> keras.Model:
    """Returns the model of :func:`benchmarks.ours.build`."""
    return classifier(not strategy.startswith("baseline"), backbone, size, LABELS)


def compile_for_training(model: keras.Model, strategy: str) -> keras.Model:
    """Freezes what the strategy does not train and compiles."""
    names = {layer.name for layer in model.layers}
    for name in names & {"colorizer", "backbone"}:
        model.get_layer(name).trainable = name in TRAINS[strategy]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return model


def classifier(
    colorizer: bool,
    backbone: str,
    size: int,
    labels: int,
    pixel_mean: float = 0.5,
    pixel_std: float = 0.3,
) -> keras.Model:
    """Builds raw pixels (B,size,size,1) to logits (B,labels) float32.

    Args:
        colorizer: whether there is a T; otherwise the gray channel is copied three times.
        backbone: "ResNet18" or "DenseNet121".
        size: pixels, a multiple of 4.
        labels: the number of logits.
        pixel_mean, pixel_std: of the normalisation, on the [0,1] scale.
    """
    image = keras.Input((size, size, 1), name="image")
    x = layers.Rescaling(1 / (255 * pixel_std), -pixel_mean / pixel_std, name="normalize")(image)
    if colorizer:
        x = pixel_shuffle_colorizer(size)(x)
    else:
        x = layers.Concatenate(name="copy_channels")([x, x, x])
    encoder = resnet18() if backbone == "ResNet18" else densenet121()
    x = layers.GlobalAveragePooling2D(dtype="float32", name="pool")(encoder(x))
    return keras.Model(image, layers.Dense(labels, dtype="float32", name="head")(x))


def pixel_shuffle_colorizer(size: int) -> keras.Model:
    """T: (B,size,size,1) to (B,size,size,3)."""
    image = keras.Input((size, size, 1))
    x = layers.ZeroPadding2D(2)(image)
    x = layers.Conv2D(64, 7, 2, name="conv1")(x)
    x = layers.LeakyReLU(0.01)(_batch_norm("bn1")(x))
    x = layers.MaxPooling2D(3, 2, "same")(x)  # pads one pixel on each side: the map's side is odd
    for block in range(8):
        before, name = x, f"resblock{block}"
        for part in (1, 2):
            x = layers.ZeroPadding2D(1)(x)
            x = layers.Conv2D(64, 3, name=f"{name}_conv{part}")(x)
            x = layers.LeakyReLU(0.01)(_batch_norm(f"{name}_bn{part}")(x))
        x = layers.Add()([before, x])
    x = _batch_norm("shuffle_bn")(layers.Conv2D(48, 1, name="shuffle_conv")(x))
    quarter = size // 4
    x = layers.Reshape((quarter, quarter, 3, 4, 4))(x)  # PyTorch's order of channels
    x = layers.Reshape((size, size, 3))(layers.Permute((1, 4, 2, 5, 3))(x))
    x = layers.Concatenate(1)([layers.Cropping2D(((0, size - 1), (0, 0)))(x), x])
    x = layers.Concatenate(2)([layers.Cropping2D(((0, 0), (0, size - 1)))(x), x])
    return keras.Model(image, layers.AveragePooling2D(2, 1)(x), name="colorizer")


def resnet18() -> keras.Model:
    """E: (B,H,W,3) to (B,H/32,W/32,512)."""
    image = keras.Input((None, None, 3))
    x = layers.ZeroPadding2D(3)(image)
    x = layers.Conv2D(64, 7, 2, use_bias=False, name="conv1")(x)
    x = layers.ReLU()(_batch_norm("bn1")(x))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))  # nothing is negative here
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _basic_block(x, f"layer{stage}_{block}", width, stride)
    return keras.Model(image, x, name="backbone")


def _basic_block(x, name, width, stride):
    shortcut = x
    if stride != 1:
        shortcut = layers.Conv2D(width, 1, stride, use_bias=False, name=f"{name}_downsample_conv")(
            x
        )
        shortcut = _batch_norm(f"{name}_downsample_bn")(shortcut)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(width, 3, stride, use_bias=False, name=f"{name}_conv1")(x)
    x = layers.ReLU()(_batch_norm(f"{name}_bn1")(x))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(width, 3, use_bias=False, name=f"{name}_conv2")(x)
    x = layers.Add()([_batch_norm(f"{name}_bn2")(x), shortcut])
    return layers.ReLU()(x)


def densenet121() -> keras.Model:
    """E: keras.applications', as it is."""
    options: Any = {"weights": None}  # random; Keras declares a str
    model = keras.applications.DenseNet121(
        include_top=False, input_shape=(None, None, 3), **options
    )
    return keras.Model(model.inputs[0], model.outputs[0], name="backbone")


def _batch_norm(name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)
