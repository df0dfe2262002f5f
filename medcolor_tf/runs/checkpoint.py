"""Weights and training state as safetensors files: names, arrays, no pickle, no partial file."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from medcolor_tf.catalog import PARTS
from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically
from medcolor_tf.parallel.multihost import placed_like

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


@dataclass(frozen=True)
class Best:
    """Which checkpoint is the best one so far.

    Attributes:
        auc: its validation mean AUC; -inf before the first checkpoint, NaN where undefined.
        step: steps done by then.
    """

    auc: float = float("-inf")
    step: int = 0


@dataclass(frozen=True)
class TrainState:
    """All that a run goes on from: what a training step reads and writes, and how far it is.

    Generators and optimizer are numbered in the model's order: Keras counts their own names up over
    the life of a process, so they would not be the same in another one.

    Attributes:
        step: steps done.
        best: the best checkpoint so far.
        weights: of T, E and C by name, see :func:`named_weights`.
        generators: states of the random generators, "generator/0000", ...
        optimizer: its variables, "optimizer/0000", ...
    """

    step: int
    best: Best
    weights: Mapping[str, np.ndarray]
    generators: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]

    @classmethod
    def capture(
        cls, step: int, best: Best, classifier: keras.Model, model: keras.Model
    ) -> "TrainState":
        """Copies the state of a run to the host.

        Args:
            step, best: see the attributes.
            classifier: raw images to logits.
            model: the compiled training model around it.
        """
        variables = _state_variables(classifier, model)
        return cls(step, best, *(to_arrays(named) for named in variables))

    @classmethod
    def load(cls, path: str | Path) -> "TrainState":
        """Reads a file of :meth:`save`.

        Raises:
            InputError: no such file, cut, or not written by :meth:`save`.
        """
        arrays, metadata = load(path)
        kinds: dict[str, dict] = {name: {} for name in ("generator", "optimizer", "weights")}
        for name, array in arrays.items():
            kind = name.split("/")[0]
            kinds[kind if kind in kinds else "weights"][name] = array
        best = Best(**metadata["best"])
        return cls(metadata["step"], best, kinds["weights"], kinds["generator"], kinds["optimizer"])

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file; a power cut leaves the old one or the new one."""
        save(path, self.arrays, {"step": self.step, "best": dataclasses.asdict(self.best)})

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, generators and optimizer in one mapping."""
        return {**self.weights, **self.generators, **self.optimizer}

    def restore_weights(self, classifier: keras.Model, origin: str | Path) -> None:
        """Assigns T, E and C; InputError naming ``origin`` where they do not fit."""
        assign(named_weights(classifier), self.weights, origin)

    def restore(self, classifier: keras.Model, model: keras.Model, origin: str | Path) -> None:
        """Assigns everything that :meth:`capture` copied, all or nothing.

        Raises:
            InputError: it does not fit the model; names ``origin``.
        """
        weights, generators, optimizer = _state_variables(classifier, model)
        assign({**weights, **generators, **optimizer}, self.arrays, origin)


def _state_variables(classifier: keras.Model, model: keras.Model) -> tuple[dict, dict, dict]:
    """Weights, generators and optimizer: each name -> variable."""
    weights = named_weights(classifier)
    generators = [v for v in model.variables if "seed_generator" in v.path]
    return (
        weights,
        {f"generator/{number:04d}": v for number, v in enumerate(generators)},
        {f"optimizer/{number:04d}": v for number, v in enumerate(model.optimizer.variables)},
    )


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
    weights = {name: array for name, array in arrays.items() if name.split("/")[0] in PARTS}
    assign(named_weights(classifier), weights, path)
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
