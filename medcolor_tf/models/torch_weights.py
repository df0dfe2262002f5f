"""PyTorch tensors into our models, by name. Nothing is assigned unless everything fits."""

import re
from collections.abc import Collection, Mapping
from typing import TypeAlias

import keras
import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.keras_ops import ops

# (our layer's name, PyTorch's module) of the colorizers and the backbones. First match wins.
Names: TypeAlias = tuple[tuple[str, str], ...]
_COLORIZER_NAMES: Names = (
    (r"(conv1|bn1|conv_last|deconv)", r"\1"),
    (r"resblock(\d+)_conv(\d)", r"resblocks.\1.conv\2.0"),
    (r"resblock(\d+)_bn(\d)", r"resblocks.\1.conv\2.1"),
    (r"shuffle_conv", r"pixel_shuffle.conv.0"),
    (r"shuffle_bn", r"pixel_shuffle.conv.1"),
    (r"down(\d)_conv1", r"dw\1.d.0"),
    (r"down(\d)_conv2", r"dw\1.d.2"),
    (r"down(\d)_bn", r"dw\1.d.4"),
    (r"up(\d)_deconv", r"up\1.u.0"),
    (r"up(\d)_conv1", r"up\1.u.2"),
    (r"up(\d)_conv2", r"up\1.u.4"),
    (r"up(\d)_bn", r"up\1.u.6"),
    (r"out_deconv", r"out.u.0"),
    (r"out_conv1", r"out.u.2"),
    (r"out_conv2", r"out.u.4"),
)
_RESNET_NAMES: Names = (
    (r"(conv1|bn1)", r"\1"),
    (r"layer(\d)_(\d)_(conv|bn)(\d)", r"layer\1.\2.\3\4"),
    (r"layer(\d)_(\d)_downsample_conv", r"layer\1.\2.downsample.0"),
    (r"layer(\d)_(\d)_downsample_bn", r"layer\1.\2.downsample.1"),
)
_EFFICIENTNET_LITE_NAMES: Names = (
    (r"stem_conv", r"_conv_stem"),
    (r"stem_bn", r"_bn0"),
    (r"block(\d+)_(expand|depthwise|project)_conv", r"_blocks.\1._\2_conv"),
    (r"block(\d+)_expand_bn", r"_blocks.\1._bn0"),
    (r"block(\d+)_depthwise_bn", r"_blocks.\1._bn1"),
    (r"block(\d+)_project_bn", r"_blocks.\1._bn2"),
    (r"head_conv", r"_conv_head"),
    (r"head_bn", r"_bn1"),
)
# keras.applications counts DenseNet's blocks from conv2 and its transitions from pool2.
_DENSE_LAYER = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}
_DENSENET_NAMES: Names = (
    (r"conv1_conv", r"features.conv0"),
    (r"conv1_bn", r"features.norm0"),
    *(
        (rf"conv{n + 1}_block(\d+)_{ours}", rf"features.denseblock{n}.denselayer\1.{theirs}")
        for n in (1, 2, 3, 4)
        for ours, theirs in _DENSE_LAYER.items()
    ),
    *((rf"pool{n + 1}_conv", rf"features.transition{n}.conv") for n in (1, 2, 3)),
    *((rf"pool{n + 1}_bn", rf"features.transition{n}.norm") for n in (1, 2, 3)),
    (r"bn", r"features.norm5"),
)
_PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_IGNORED = ("num_batches_tracked",)
_SHOWN = 5


def load_torch_colorizer(colorizer: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Loads the authors' tensors into a model of `build_colorizer`.

    Args:
        colorizer: the model.
        state: dict of PyTorch names ("resblocks.0.conv1.0.weight") to arrays in PyTorch's layout
            (OIHW; transposed convolutions IOHW). `num_batches_tracked` is ignored. The published
            checkpoints prefix these names with "deco."; take it off first.

    Raises:
        InputError: missing, unexpected or wrongly shaped tensors, by name. The model is unchanged.

    Example:
        >>> from medcolor_tf.models import build_colorizer, load_torch_colorizer
        >>> from medcolor_tf.models.torch_weights import torch_state
        >>> state = torch_state(build_colorizer("color_u", seed=0))  # or a checkpoint's tensors
        >>> state["dw1.d.2.weight"].shape
        (16, 16, 4, 4)
        >>> colorizer = build_colorizer("color_u")
        >>> load_torch_colorizer(colorizer, state)
    """
    _load(colorizer, state, _COLORIZER_NAMES, ignored=(), what="colorizer")


def load_torch_resnet18(backbone: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Loads torchvision's (or timm's) ResNet18 tensors into our model.

    Args:
        backbone: of `build_backbone("ResNet18")`.
        state: dict of torchvision's names ("layer1.0.conv1.weight") to arrays, OIHW. `fc.*` (the
            head, which we have not) and `num_batches_tracked` are ignored.

    Raises:
        InputError: missing, unexpected or wrongly shaped tensors, by name. The model is unchanged.
    """
    _load(backbone, state, _RESNET_NAMES, ignored=("fc.",), what="ResNet18")


def load_torch_densenet121(backbone: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Loads torchvision's DenseNet121 tensors into keras.applications' network.

    keras.applications normalises with epsilon 1.001e-5, torchvision with 1e-5; the rest is equal.

    Args:
        backbone: of `build_backbone("DenseNet121")`.
        state: dict of torchvision's names ("features.conv0.weight") to arrays, OIHW.
            `classifier.*` (the head, which we have not) and `num_batches_tracked` are ignored.

    Raises:
        InputError: missing, unexpected or wrongly shaped tensors, by name. The model is unchanged.
    """
    _load(backbone, state, _DENSENET_NAMES, ignored=("classifier.",), what="DenseNet121")


def load_torch_efficientnet_lite0(backbone: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Loads the PyTorch tensors of EfficientNet-Lite0 into our model.

    Args:
        backbone: of `build_backbone("EfficientNetLite0")`.
        state: dict of efficientnet-pytorch's names ("_blocks.1._expand_conv.weight") to arrays,
            OIHW. `_fc.*` (the head, which we have not) and `num_batches_tracked` are ignored.

    Raises:
        InputError: missing, unexpected or wrongly shaped tensors, by name. The model is unchanged.
    """
    names = _EFFICIENTNET_LITE_NAMES
    _load(backbone, state, names, ignored=("_fc.",), what="EfficientNetLite0")


def torch_state(model: keras.Model, names: Names = _COLORIZER_NAMES) -> dict[str, np.ndarray]:
    """Returns a model's weights under PyTorch's names and in its layout, to be loaded there.

    Args:
        model: of `build_colorizer`, or of `build_backbone` and with that network's names.
        names: our layers' names and PyTorch's modules'.

    Returns:
        Name to float32 array: kernels OIHW, those of transposed convolutions IOHW.
    """
    depthwise = _depthwise_kernels(model)
    state = {}
    for name, variable in torch_variables(model, names).items():
        array = ops.convert_to_numpy(variable)
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if id(variable) in depthwise else (3, 2, 0, 1))
        state[name] = np.ascontiguousarray(array)
    return state


def torch_variables(model: keras.Model, names: Names) -> dict[str, keras.Variable]:
    """Maps each PyTorch tensor name that `model` holds to its Keras variable."""
    variables = {}
    for layer in model.layers:
        for variable in layer.weights:
            module = _torch_module(layer.name, names)
            if module is None:
                raise InputError(
                    f"model {model.name!r}: layer {layer.name!r} has no PyTorch counterpart; "
                    "expected a model built by this package"
                )
            variables[f"{module}.{_PARTS[variable.name]}"] = variable
    return variables


def _torch_module(layer_name: str, names: Names) -> str | None:
    for pattern, module in names:
        match = re.fullmatch(pattern, layer_name)
        if match:
            return match.expand(module)
    return None


def _depthwise_kernels(model: keras.Model) -> set[int]:
    """The ids of the kernels (h,w,C,1) that PyTorch holds as (C,1,h,w)."""
    return {
        id(variable)
        for layer in model.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
        for variable in layer.weights
    }


def _load(
    model: keras.Model,
    state: Mapping[str, np.ndarray],
    names: Names,
    ignored: tuple[str, ...],
    what: str,
) -> None:
    variables = torch_variables(model, names)
    arrays = {
        name: _to_keras_layout(np.asarray(array))
        for name, array in state.items()
        if not name.startswith(ignored or ("\0",)) and not name.endswith(_IGNORED)
    }
    kernels = _depthwise_kernels(model)
    depthwise = {name for name, variable in variables.items() if id(variable) in kernels}
    for name in depthwise & arrays.keys():
        if arrays[name].ndim == 4:
            arrays[name] = arrays[name].swapaxes(2, 3)
    _check(variables, arrays, state, depthwise, what)
    for name, variable in variables.items():
        variable.assign(arrays[name].astype("float32"))


def _to_keras_layout(array: np.ndarray) -> np.ndarray:
    """OIHW to HWIO and IOHW to HWOI, which are the same permutation; the rest as it is."""
    return np.transpose(array, (2, 3, 1, 0)) if array.ndim == 4 else array


def _to_torch_shape(shape: tuple[int, ...], depthwise: bool) -> tuple[int, ...]:
    if len(shape) != 4:
        return tuple(shape)
    height, width, inputs, outputs = shape
    return (inputs, outputs, height, width) if depthwise else (outputs, inputs, height, width)


def _check(
    variables: Mapping[str, keras.Variable],
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
    depthwise: Collection[str],
    what: str,
) -> None:
    wrong = [
        f"{name} (expected {_to_torch_shape(variables[name].shape, name in depthwise)}, "
        f"received {tuple(np.shape(state[name]))})"
        for name in variables
        if name in arrays and tuple(variables[name].shape) != arrays[name].shape
    ]
    problems = {
        "missing": [name for name in variables if name not in arrays],
        "unexpected": [name for name in arrays if name not in variables],
        "wrong shape": wrong,
    }
    described = [f"{kind}: {_shorten(listed)}" for kind, listed in problems.items() if listed]
    if described:
        raise InputError(
            f"PyTorch tensors do not fit {what} ({len(variables)} expected, "
            f"{len(arrays)} received); " + "; ".join(described)
        )


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
