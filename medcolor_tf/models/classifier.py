"""The classifier C∘E∘T: raw gray images to logits, with everything in between inside the model."""

import math
from pathlib import Path

import keras

from medcolor_tf import catalog
from medcolor_tf.catalog import NO_COLORIZER
from medcolor_tf.errors import InputError
from medcolor_tf.models.backbones import build_backbone
from medcolor_tf.models.colorizers import build_colorizer, check_image_size
from medcolor_tf.models.fast.replace import use_fast_layers
from medcolor_tf.models.layers import CopyChannels, Normalize, PerChannel, Tensor
from medcolor_tf.models.torch_layers import layer_seed, torch_uniform


def build_classifier(
    colorizer: str | keras.Model | None,
    backbone: str | Path | keras.Model,
    num_labels: int | None = None,
    *,
    pixel_mean: PerChannel,
    pixel_std: PerChannel,
    image_size: int | tuple[int, int] | None = None,
    input_channels: int = 1,
    max_value: float = 255,
    colorizer_init: str | None = None,
    backbone_weights: str | Path | None = "imagenet",
    bn_momentum: float | None = 0.9,
    head: str = catalog.DEFAULT_HEAD,
    seed: int | None = None,
    labels: int | None = None,
) -> keras.Model:
    """Builds normalise → colorizer → backbone → global average pooling → head.

    Args:
        colorizer: a name for `build_colorizer`; "none" or None, then the gray channel is copied
            three times; or a built model (B,H,W,input_channels) to (B,H,W,3).
        backbone: a name or path for `build_backbone`, or a built model (B,H,W,3) to (B,h,w,c). A
            built model's variables are shared; its batch normalisation is replaced, see
            `use_fast_layers`, so freeze the classifier's part, not the model given.
        num_labels: the number of logits.
        pixel_mean, pixel_std: of the data set's training pixels, on the [0,1] scale; numbers, or
            one per input channel.
        image_size: pixels, one number or (height, width); only checked, see `check_image_size`.
        input_channels: 1 for X-rays.
        max_value: the raw value of white: 255, or 65535 for 16-bit images.
        colorizer_init: `paper` or `gray`, see `build_colorizer`.
        backbone_weights: "imagenet", "none" or None, or a file; see `build_backbone`.
        bn_momentum: of every BatchNormalization in T and E, whoever made it (0.9 is PyTorch's
            default; keras.applications and files bring 0.99); None leaves each its own.
        head: a name of `medcolor_tf.catalog.HEADS`.
        seed: makes the initialisation a function of this number.
        labels: the name of `num_labels` in version 0.1.

    Returns:
        A functional model, (B,H,W,input_channels) of any numeric type to (B,num_labels) float32
        logits. `get_layer` knows its parts as "colorizer" ("copy_channels" without T), "backbone",
        "head".

    Raises:
        InputError: an argument out of range, or a part that does not fit, see the parts' builders.

    Example:
        >>> import numpy as np
        >>> from medcolor_tf.models import build_classifier
        >>> model = build_classifier(
        ...     "color_u", "ResNet18", num_labels=5, pixel_mean=0.5, pixel_std=0.25,
        ...     backbone_weights="none", seed=0,
        ... )
        >>> images = np.zeros((2, 64, 64, 1), "uint8")
        >>> tuple(model(images).shape)
        (2, 5)
        >>> [layer.name for layer in model.layers]
        ['image', 'normalize', 'colorizer', 'backbone', 'pool', 'head']
    """
    num_labels = _number_of_labels(num_labels, labels)
    _check_numbers(pixel_std, max_value, bn_momentum)
    if image_size is not None and not isinstance(colorizer, keras.Model):
        check_image_size(colorizer, image_size)
    mean, std = (_per_channel(value, input_channels) for value in (pixel_mean, pixel_std))
    to_colors = _colorizer(colorizer, input_channels, colorizer_init, seed)
    if not isinstance(backbone, keras.Model):
        backbone = build_backbone(backbone, backbone_weights, layer_seed(seed, "backbone"))
    backbone = _part(backbone, "backbone", 3)

    image = keras.Input((None, None, input_channels), name="image")
    x = Normalize(mean, std, float(max_value), name="normalize")(image)
    features = backbone(to_colors(x))
    # Pooling and head in float32 under every policy: a mean over 100 positions and the logits'
    # differences are where bfloat16's 8 bits would show.
    pooled = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", dtype="float32", name="pool"
    )(features)
    build_head = catalog.builder(catalog.HEADS, head, "head")
    logits = build_head(num_labels, pooled.shape[-1], seed)(pooled)
    model = keras.Model(image, logits, name="classifier")
    if bn_momentum is not None:
        set_bn_momentum(model, bn_momentum)
    _check_paths(model)
    return model


def classify_and_colorize(model: keras.Model, features: bool = False) -> keras.Model:
    """Returns the model from raw gray images to the logits and to what the backbone sees.

    Args:
        model: of `build_classifier`; its variables are shared, not copied.
        features: whether E's last feature map, (B,h,w,c) float32, is a third output.

    Returns:
        (B,H,W,input_channels) raw to [(B,num_labels) float32 logits, (B,H,W,3) float32 colours].
        The colours are T's output, or the copied gray without T. They are on the normalised scale,
        around 0; T is free to leave that range.

    Example:
        >>> import numpy as np
        >>> from medcolor_tf.models import build_classifier, classify_and_colorize
        >>> model = build_classifier(
        ...     "color_u", "ResNet18", num_labels=5, pixel_mean=0.5, pixel_std=0.25,
        ...     backbone_weights="none", seed=0,
        ... )
        >>> images = np.zeros((2, 64, 64, 1), "uint8")
        >>> logits, colors = classify_and_colorize(model)(images)
        >>> tuple(logits.shape), tuple(colors.shape)
        ((2, 5), (2, 64, 64, 3))
    """
    names = [layer.name for layer in model.layers]
    part = "colorizer" if "colorizer" in names else "copy_channels"
    image = keras.Input(model.inputs[0].shape[1:], name="image")
    colors = model.get_layer(part)(model.get_layer("normalize")(image))
    last = model.get_layer("backbone")(colors)
    logits = model.get_layer("head")(model.get_layer("pool")(last))
    outputs = [logits, _as_float32(colors, "colors")]
    if features:
        outputs.append(_as_float32(last, "features"))
    return keras.Model(image, outputs, name="classify_and_colorize")


def colorize_model(model: keras.Model) -> keras.Model:
    """Returns the model from raw gray images to colours: `classify_and_colorize`'s second output.

    Args:
        model: of `build_classifier`; its variables are shared, not copied.

    Returns:
        (B,H,W,input_channels) raw to (B,H,W,3) float32 colours on the normalised scale.

    Example:
        >>> import numpy as np
        >>> from medcolor_tf.models import build_classifier, colorize_model
        >>> model = build_classifier(
        ...     "none", "ResNet18", num_labels=5, pixel_mean=0.5, pixel_std=0.25,
        ...     backbone_weights="none",
        ... )
        >>> white = np.full((1, 1, 1, 1), 255, "uint8")
        >>> np.asarray(colorize_model(model)(white)).tolist()
        [[[[2.0, 2.0, 2.0]]]]
    """
    both = classify_and_colorize(model)
    # The tensor, not the list of one: Keras warns when a model is called with what it was not
    # built from.
    return keras.Model(both.inputs[0], both.outputs[1], name="colorize")


def set_bn_momentum(model: keras.Model, momentum: float) -> None:
    """Sets the momentum of every BatchNormalization in `model`, nested models included.

    Call it before training starts: a traced step keeps the value it was traced with.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = float(momentum)
        elif isinstance(layer, keras.Model):
            set_bn_momentum(layer, momentum)


def _as_float32(x: Tensor, name: str) -> Tensor:
    return keras.layers.Activation("linear", dtype="float32", name=name)(x)


def _colorizer(
    colorizer: str | keras.Model | None, channels: int, init: str | None, seed: int | None
) -> keras.Layer:
    if colorizer is None or colorizer == NO_COLORIZER:
        return CopyChannels(name="copy_channels")
    if not isinstance(colorizer, keras.Model):
        own_seed = layer_seed(seed, "colorizer")
        colorizer = build_colorizer(colorizer, channels, init=init, seed=own_seed)
    colorizer = _part(colorizer, "colorizer", channels)
    if colorizer.outputs[0].shape[-1] != 3:
        raise InputError(
            "colorizer: expected a model with 3 output channels, "
            f"received output {tuple(colorizer.outputs[0].shape)}"
        )
    return colorizer


def _part(model: keras.Model, name: str, channels: int) -> keras.Model:
    """Checks a part's input and output ranks, and gives it the name it is looked up by."""
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 4] or shapes[0][-1] != channels:
        raise InputError(
            f"{name}: expected a model (batch, height, width, {channels}) to (batch, height, "
            f"width, channels), received {shapes}"
        )
    model = use_fast_layers(model)
    if model.name == name:
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=name)


def linear_head(num_labels: int, features: int, seed: int | None) -> keras.Layer:
    """Makes one Dense layer, the paper's head.

    With nn.Linear's default initialisation: the authors replaced torchvision's last layer by one,
    and Keras' Glorot kernel would start about √6 times wider at 5 labels.

    Args:
        num_labels: the number of logits.
        features: the number of pooled features.
        seed: makes the initialisation a function of this number; None for a random one.
    """
    return keras.layers.Dense(
        num_labels,
        kernel_initializer=torch_uniform(features, layer_seed(seed, "head/kernel")),
        bias_initializer=torch_uniform(features, layer_seed(seed, "head/bias")),
        dtype="float32",
        name="head",
    )


def _number_of_labels(num_labels: int | None, labels: int | None) -> int:
    """Checks the number of logits, under either of its names."""
    if num_labels is not None and labels is not None:
        raise InputError(
            "num_labels and labels are two names of one argument: expected one of them, received "
            f"num_labels={num_labels!r} and labels={labels!r}"
        )
    number = labels if num_labels is None else num_labels
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"num_labels: expected a positive integer, received {number!r}")
    return number


def _check_numbers(pixel_std: PerChannel, max_value: float, bn_momentum: float | None) -> None:
    deviations = pixel_std if isinstance(pixel_std, (list, tuple)) else [pixel_std]
    if not all(math.isfinite(std) and std > 0 for std in deviations):
        raise InputError(f"pixel_std: expected positive numbers, received {pixel_std!r}")
    if not max_value > 0:
        raise InputError(f"max_value: expected a positive number, received {max_value!r}")
    if bn_momentum is not None and not 0 <= bn_momentum < 1:
        raise InputError(f"bn_momentum: expected 0 <= momentum < 1, received {bn_momentum!r}")


def _per_channel(value: PerChannel, channels: int) -> float | list[float]:
    """Returns a float, or a list of floats, so that the layer's configuration is plain data."""
    if not isinstance(value, (list, tuple)):
        return float(value)
    if len(value) != channels:
        raise InputError(
            f"pixel_mean, pixel_std: expected one number or {channels}, received {value!r}"
        )
    return [float(item) for item in value]


def _check_paths(model: keras.Model) -> None:
    """Raises InputError where two variables share a path: weights are saved by it."""
    seen, twice = set(), []
    for variable in model.weights:
        if variable.path in seen:
            twice.append(variable.path)
        seen.add(variable.path)
    if twice:
        raise InputError(
            f"model parts share variable paths ({', '.join(twice[:3])}); expected unique ones: "
            "build the parts inside keras.name_scope, as build_colorizer and build_backbone do"
        )
