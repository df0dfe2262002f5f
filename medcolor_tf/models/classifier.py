"""The classifier C∘E∘T: raw gray images to logits, with everything in between inside the model."""

import math

import keras

from medcolor_tf.errors import InputError
from medcolor_tf.models.backbones import build_backbone
from medcolor_tf.models.colorizers import build_colorizer, check_image_size
from medcolor_tf.models.fast.replace import use_fast_layers
from medcolor_tf.models.initializers import layer_seed, torch_uniform
from medcolor_tf.models.layers import CopyChannels, Normalize


def build_classifier(
    colorizer,
    backbone,
    labels,
    *,
    pixel_mean,
    pixel_std,
    image_size=None,
    input_channels=1,
    max_value=255,
    colorizer_init="paper",
    backbone_weights="imagenet",
    bn_momentum=0.9,
    seed=None,
):
    """Build normalise → colorizer → backbone → global average pooling → head.

    Args:
        colorizer: a name for `build_colorizer`; "none" or None, then the gray channel is copied
            three times; or a built model (B,H,W,input_channels) to (B,H,W,3).
        backbone: a name or path for `build_backbone`, or a built model (B,H,W,3) to (B,h,w,c). A
            built model's variables are shared; its batch normalisation is replaced, see
            `use_fast_layers`, so freeze the classifier's part, not the model given.
        labels: the number of logits.
        pixel_mean, pixel_std: of the data set's training pixels, on the [0,1] scale; numbers, or
            one for each input channel.
        image_size: pixels, one number or (height, width); only checked, see `check_image_size`.
        input_channels: 1 for X-rays.
        max_value: the raw value of white: 255, or 65535 for 16-bit images.
        colorizer_init: `paper` or `gray`, see `build_colorizer`.
        backbone_weights: see `build_backbone`.
        bn_momentum: of every BatchNormalization in T and E, whoever made it (0.9 is PyTorch's
            default; keras.applications and files bring 0.99); None leaves each its own.
        seed: makes the initialisation a function of this number.

    Returns:
        A functional model, (B,H,W,input_channels) of any numeric type to (B,labels) float32 logits.
        `get_layer` knows its parts as "colorizer" ("copy_channels" without T), "backbone", "head".

    Raises:
        InputError: a part that does not fit, see the parts' builders.
    """
    _check_arguments(labels, pixel_std, max_value, bn_momentum)
    if image_size is not None and not isinstance(colorizer, keras.Model):
        check_image_size(colorizer, image_size)
    mean, std = (_per_channel(value, input_channels) for value in (pixel_mean, pixel_std))
    to_colors = _colorizer(colorizer, input_channels, colorizer_init, seed)
    if not isinstance(backbone, keras.Model):
        backbone = build_backbone(
            backbone, backbone_weights, layer_seed(seed, "backbone") if seed is not None else None
        )
    backbone = _part(backbone, "backbone", 3)

    image = keras.Input((None, None, input_channels), name="image")
    x = Normalize(mean, std, float(max_value), name="normalize")(image)
    features = backbone(to_colors(x))
    # Pooling and head in float32 under every policy: a mean over 100 positions and the logits'
    # differences are where bfloat16's 8 bits would show.
    pooled = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", dtype="float32", name="pool"
    )(features)
    model = keras.Model(image, _head(labels, pooled.shape[-1], seed)(pooled), name="classifier")
    if bn_momentum is not None:
        set_bn_momentum(model, bn_momentum)
    _check_paths(model)
    return model


def classify_and_colorize(model, features=False):
    """Return the model from raw gray images to the logits and to what the backbone sees.

    Args:
        model: of `build_classifier`; its variables are shared, not copied.
        features: whether E's last feature map, (B,h,w,c) float32, is a third output.

    Returns:
        (B,H,W,input_channels) raw to [(B,labels) float32 logits, (B,H,W,3) float32 colours]. The
        colours are T's output, or the copied gray without T. They are on the normalised scale,
        around 0; T is free to leave that range.
    """
    names = [layer.name for layer in model.layers]
    part = "colorizer" if "colorizer" in names else "copy_channels"
    image = keras.Input(model.inputs[0].shape[1:], name="image")
    seen = model.get_layer(part)(model.get_layer("normalize")(image))
    last = model.get_layer("backbone")(seen)
    logits = model.get_layer("head")(model.get_layer("pool")(last))
    outputs = [logits, _as_float32(seen, "colors")]
    if features:
        outputs.append(_as_float32(last, "features"))
    return keras.Model(image, outputs, name="classify_and_colorize")


def colorize_model(model):
    """Return the second half of `classify_and_colorize`: raw gray images to colours."""
    both = classify_and_colorize(model)
    return keras.Model(both.inputs, both.outputs[1], name="colorize")


def set_bn_momentum(model, momentum):
    """Set the momentum of every BatchNormalization in `model`, nested models included.

    Call it before training starts: a traced step keeps the value it was traced with.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = float(momentum)
        elif isinstance(layer, keras.Model):
            set_bn_momentum(layer, momentum)


def _as_float32(x, name):
    return keras.layers.Activation("linear", dtype="float32", name=name)(x)


def _colorizer(colorizer, channels, init, seed):
    if colorizer in (None, "none"):
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


def _part(model, name, channels):
    """Check a part's input and output ranks, and give it the name it is looked up by."""
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


def _head(labels, features, seed):
    """One Dense layer with nn.Linear's default initialisation: the authors replaced torchvision's
    last layer by one, and Keras' Glorot kernel would start about √6 times wider at 5 labels.
    """
    return keras.layers.Dense(
        labels,
        kernel_initializer=torch_uniform(features, layer_seed(seed, "head/kernel")),
        bias_initializer=torch_uniform(features, layer_seed(seed, "head/bias")),
        dtype="float32",
        name="head",
    )


def _check_arguments(labels, pixel_std, max_value, bn_momentum):
    if isinstance(labels, bool) or not isinstance(labels, int) or labels < 1:
        raise InputError(f"labels: expected a positive integer, received {labels!r}")
    deviations = pixel_std if isinstance(pixel_std, (list, tuple)) else [pixel_std]
    if not all(math.isfinite(std) and std > 0 for std in deviations):
        raise InputError(f"pixel_std: expected positive numbers, received {pixel_std!r}")
    if not max_value > 0:
        raise InputError(f"max_value: expected a positive number, received {max_value!r}")
    if bn_momentum is not None and not 0 <= bn_momentum < 1:
        raise InputError(f"bn_momentum: expected 0 <= momentum < 1, received {bn_momentum!r}")


def _per_channel(value, channels):
    """Return a float, or a list of floats, so that the layer's configuration is plain data."""
    if not isinstance(value, (list, tuple)):
        return float(value)
    if len(value) != channels:
        raise InputError(
            f"pixel_mean, pixel_std: expected one number or {channels}, received {value!r}"
        )
    return [float(item) for item in value]


def _check_paths(model):
    """Weights are saved by variable path, so two variables must not share one."""
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
