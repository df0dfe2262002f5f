"""Weights and training state as safetensors files: names, arrays, no pickle, no partial file."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically
from medcolor_tf.parallel.multihost import placed_like

PARTS = ("colorizer", "backbone", "head")
METADATA_KEY = "medcolor_tf"


def parts(classifier: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the parts of C∘E∘T that the classifier has, by name."""
    names = {layer.name for layer in classifier.layers}
    return {name: classifier.get_layer(name) for name in PARTS if name in names}


def named_weights(classifier: keras.Model) -> dict[str, keras.Variable]:
    """Returns every weight under the name ``part/layer/weight``, the same in every build."""
    named = {}
    for part, layer in parts(classifier).items():
        named |= part_weights(part, layer)
    return named


def part_weights(part: str, layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Returns the weights of one part under their names; ``part`` is one of PARTS."""
    named = {}
    for variable in layer.weights:
        # The head is one layer; its weights' paths start with its own name.
        name = f"{part}/{variable.path.removeprefix(part + '/')}"
        if name in named:
            raise ValueError(f"two weights are called {name}")
        named[name] = variable
    return named


def named_state(model: keras.Model, classifier: keras.Model) -> dict[str, keras.Variable]:
    """Returns all that a training step reads and writes: weights, optimizer, random generators.

    The latter two are numbered in the model's order: Keras counts their own names up over the life
    of a process, so they would not be the same in another one.
    """
    named = named_weights(classifier)
    weights = {id(variable) for variable in named.values()}
    others = [v for v in model.variables if id(v) not in weights and "metric" not in v.path]
    kinds = {"generator": _generators(others), "optimizer": model.optimizer.variables}
    for kind, variables in kinds.items():
        for number, variable in enumerate(variables):
            named[f"{kind}/{number:04d}"] = variable
    return named


def _generators(variables) -> list[keras.Variable]:
    return [variable for variable in variables if "seed_generator" in variable.path]


def to_arrays(named: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copies variables to host arrays."""
    return {name: np.asarray(variable.numpy()) for name, variable in named.items()}


def save(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping) -> None:
    """Writes a safetensors file; a power cut leaves the old one or the new one."""
    write_atomically(path, to_bytes(arrays, metadata))


def to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping) -> bytes:
    """Returns the content of a safetensors file; ``metadata`` is stored as JSON."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return serialize(arrays, {METADATA_KEY: json.dumps(metadata)})


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads a file of :func:`save`: (arrays, metadata).

    Raises:
        InputError: no such file, cut, or not written by :func:`save`.
    """
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return arrays, json.loads((file.metadata() or {})[METADATA_KEY])


def load_metadata(path: str | Path) -> dict:
    """As :func:`load`, without the arrays."""
    with _opened(path) as file:
        return json.loads((file.metadata() or {})[METADATA_KEY])


@contextlib.contextmanager
def _opened(path: str | Path):
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected weights saved by medcolor_tf.train")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not weights saved by medcolor_tf ({error})") from None


def load_parts(classifier: keras.Model, path: str | Path) -> dict:
    """Assigns a checkpoint's T, E and C; returns its metadata.

    Raises:
        InputError: see :func:`load` and :func:`assign`.
    """
    arrays, metadata = load(path)
    kept = {name: array for name, array in arrays.items() if name.split("/")[0] in PARTS}
    assign(named_weights(classifier), kept, path)
    return metadata


def assign(named: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray], origin) -> None:
    """Assigns arrays to variables of the same names, all or none.

    Raises:
        InputError: a name is missing, unexpected, or of another shape; names ``origin``.
    """
    missing, unexpected = sorted(named.keys() - arrays.keys()), sorted(arrays.keys() - named.keys())
    if missing or unexpected:
        raise InputError(
            f"{origin}: not the weights of this model; "
            f"{_some('missing', missing)}{_some('unexpected', unexpected)}"
            f"{len(named)} tensors expected, {len(arrays)} received"
        )
    for name, variable in named.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise InputError(
                f"{origin}: {name} has shape {arrays[name].shape}, expected {tuple(variable.shape)}"
            )
    for name, variable in named.items():
        variable.assign(placed_like(variable, arrays[name]))


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}; "
