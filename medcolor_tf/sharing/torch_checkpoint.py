"""PyTorch checkpoints of T and E: read without running anybody's code, recognised by their names.

The authors' published files hold the colorizer under ``deco.`` and a torchvision backbone, whose
last layer was replaced, under ``pt_model.``. A colorizer's state without prefixes is taken too.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.models.backbones import build_backbone
from medcolor_tf.models.colorizers import build_colorizer
from medcolor_tf.models.torch_file import read_torch_file
from medcolor_tf.models.torch_weights import (
    load_torch_colorizer,
    load_torch_densenet121,
    load_torch_resnet18,
)

COLORIZER_PREFIX, BACKBONE_PREFIX = "deco.", "pt_model."
_OUTER_PREFIXES = ("module.", "model.")  # DataParallel's, and wrappers'
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # fastai saves {"model": ..., "opt": ...}

# A tensor that only this colorizer has, and the one whose second axis is its input channels.
_COLORIZERS = {
    "deconv": ("deconv.weight", "conv1.weight"),
    "pixel_shuffle": ("pixel_shuffle.conv.0.weight", "conv1.weight"),
    "color_u": ("dw1.d.0.weight", "dw1.d.0.weight"),
}


@dataclass(frozen=True)
class Backbone:
    """A torchvision network that can arrive.

    Attributes:
        last: a tensor that it and its family's larger members have.
        absent: pattern of a tensor that only the larger ones have.
        load: assigns the tensors to a model of ours.
    """

    last: str
    absent: str
    load: Callable


_BACKBONES = {
    "ResNet18": Backbone(
        "layer4.1.conv2.weight",
        r"layer\d\.(2\.conv1|0\.conv3)\.weight",
        load_torch_resnet18,
    ),
    "DenseNet121": Backbone(
        "features.denseblock4.denselayer16.conv2.weight",
        r"features\.denseblock4\.denselayer17\.conv2\.weight",
        load_torch_densenet121,
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's tensors under the names their own modules gave them.

    Attributes:
        path: the file.
        colorizer: T's tensors.
        backbone: E's tensors, with its last layer; empty without one.
        prefixed: whether the names had the authors' prefixes.
        ignored: names that belong to neither.
    """

    path: Path
    colorizer: Mapping[str, np.ndarray]
    backbone: Mapping[str, np.ndarray]
    prefixed: bool
    ignored: tuple[str, ...]

    def build_colorizer(self):
        """Returns (name, input channels, T with the checkpoint's weights).

        Raises:
            InputError: no colorizer of ours, or tensors that do not fit it.
        """
        for name, (mark, first) in _COLORIZERS.items():
            if mark in self.colorizer:
                kernel = self.colorizer.get(first)
                channels = kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 1
                model = build_colorizer(name, channels)
                self._load(load_torch_colorizer, model, self.colorizer)
                return name, channels, model
        marks = ", ".join(f"{mark} ({name})" for name, (mark, _) in _COLORIZERS.items())
        raise InputError(
            f"{self.path}: no colorizer in it; expected tensors named as the authors' modules "
            f"name them, with or without {COLORIZER_PREFIX!r}, one of them {marks}; received "
            f"{_some(self.colorizer) if self.colorizer else 'none of ' + COLORIZER_PREFIX}"
        )

    def build_backbone(self):
        """Returns (name, E with the checkpoint's weights), or None when E is not recognised.

        Raises:
            InputError: tensors that do not fit the network they name.
        """
        for name, kind in _BACKBONES.items():
            larger = any(re.fullmatch(kind.absent, tensor) for tensor in self.backbone)
            if kind.last in self.backbone and not larger:
                model = build_backbone(name, weights=None)
                self._load(kind.load, model, self.backbone)
                return name, model
        return None

    def describe_backbone(self) -> str:
        """Says which tensors could not be recognised."""
        return f"{len(self.backbone)} tensors, {_some(self.backbone)}"

    def _load(self, load, model, state) -> None:
        try:
            load(model, state)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a .safetensors or .pth file of tensors alone.

    Raises:
        InputError: no such file, another kind of file, damaged, or more than tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a PyTorch checkpoint")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        tensors = _read_pickle(path)
    else:
        raise InputError(
            f"{path}: expected a .pth, .pt or .safetensors file, received "
            f"{path.suffix or 'no suffix'}"
        )
    return _split(path, _without_outer_prefix(tensors))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable .safetensors file ({error})") from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    content = read_torch_file(path)
    state = _unwrap(content)
    items = state.items() if isinstance(state, Mapping) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, np.ndarray)}
    if not tensors:
        inside = _some([str(name) for name, _ in items]) or type(content).__name__
        raise InputError(f"{path}: no tensors by name; expected a state_dict, received {inside}")
    return tensors


def _unwrap(content):
    """Returns the state_dict inside {"model": {...}, "opt": ...} and the like."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _without_outer_prefix(tensors: Mapping) -> dict:
    for prefix in _OUTER_PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _without_outer_prefix({k.removeprefix(prefix): v for k, v in tensors.items()})
    return dict(tensors)


def _split(path: Path, tensors: Mapping[str, np.ndarray]) -> Checkpoint:
    colorizer, backbone = (
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for prefix in (COLORIZER_PREFIX, BACKBONE_PREFIX)
    )
    if not colorizer and not backbone:
        return Checkpoint(path, tensors, {}, False, ())
    known = (COLORIZER_PREFIX, BACKBONE_PREFIX)
    ignored = tuple(name for name in tensors if not name.startswith(known))
    return Checkpoint(path, colorizer, backbone, True, ignored)


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
