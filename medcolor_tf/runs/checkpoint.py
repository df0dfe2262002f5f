"""Weights and training state as safetensors files: names, arrays, no pickle, no partial file."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from medcolor_tf import schema_check as schema
from medcolor_tf.catalog import PARTS
from medcolor_tf.errors import InputError
from medcolor_tf.files import parse_json, write_atomically
from medcolor_tf.parallel.multihost import placed_like

METADATA_KEY = "medcolor_tf"
DIGEST = "sha256"  # in the metadata of a file that stands alone: of its content
# Of tensors, longest name and greatest rank in files that anybody may have made.
MOST_TENSORS, MOST_DIMENSIONS = 100_000, 8
_STEP = schema.integer(0, 10**12)
_SUMS = schema.list_of(schema.number(-1e300, 1e300), 100_000)


def _check_auc(value, where: str) -> None:
    """A mean AUC; NaN where undefined, -inf before the first."""
    if value not in (float("-inf"),) and value == value:
        schema.number(0, 1)(value, where)


_METADATA = schema.record(
    {},
    {
        "step": _STEP,
        "best": schema.record({"auc": _check_auc, "step": _STEP}),
        "loss": schema.record({"total": _SUMS, "count": _SUMS, "steps": _STEP}),
        "valid_mean_auc": _check_auc,
        "model": schema.mapping_of(schema.anything, 100),
        "card": schema.mapping_of(schema.anything, 1000),
        DIGEST: schema.text(64, schema.SHA256),
    },
)


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
class LossSums:
    """Sums behind the mean training loss of an interval between checkpoints, in the middle of it.

    Attributes:
        total: of the losses, a number per replica.
        count: of what they are of, likewise.
        steps: of the interval that are done.
    """

    total: tuple[float, ...]
    count: tuple[float, ...]
    steps: int = 0

    @property
    def mean(self) -> float:
        """Mean loss so far."""
        return sum(self.total) / max(sum(self.count), 1e-9)


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
        loss: of an interval that was left in the middle; None at its end.
    """

    step: int
    best: Best
    weights: Mapping[str, np.ndarray]
    generators: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]
    loss: LossSums | None = None

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
        weights, generators, optimizer = map(to_arrays, variables)
        return cls(step, best, weights, generators, optimizer)

    @classmethod
    def load(cls, path: str | Path) -> "TrainState":
        """Reads a file of :meth:`save`.

        Raises:
            InputError: no such file, cut, or not written by :meth:`save`.
        """
        arrays, metadata = load(path)
        _require(metadata, ("step", "best"), path)
        sums = metadata.get("loss")
        loss = None
        if sums:
            loss = LossSums(tuple(sums["total"]), tuple(sums["count"]), sums["steps"])
        kinds: dict[str, dict] = {name: {} for name in ("generator", "optimizer", "weights")}
        for name, array in arrays.items():
            kind = name.split("/")[0]
            kinds[kind if kind in kinds else "weights"][name] = array
        best = Best(**metadata["best"])
        return cls(
            metadata["step"],
            best,
            kinds["weights"],
            kinds["generator"],
            kinds["optimizer"],
            loss,
        )

    def to_bytes(self) -> bytes:
        """Returns the content of a safetensors file."""
        metadata = {"step": self.step, "best": dataclasses.asdict(self.best)}
        if self.loss:
            metadata["loss"] = dataclasses.asdict(self.loss)
        return to_bytes(self.arrays, metadata)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file; a power cut leaves the old one or the new one."""
        write_atomically(path, self.to_bytes())

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


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping) -> str:
    """Returns the SHA-256 of tensors and metadata, whatever the order they are stored in."""
    total = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        head = json.dumps([name, array.dtype.str, list(array.shape)])
        total.update(head.encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def with_digest(arrays: Mapping[str, np.ndarray], metadata: Mapping) -> dict:
    """Returns the metadata of a file that stands alone, with the digest of its content."""
    # As it will be read: JSON has lists, where there may be tuples here.
    stored = json.loads(json.dumps(metadata))
    return {**stored, DIGEST: digest(arrays, stored)}


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads a file of :func:`save`: (arrays, metadata without a digest).

    Raises:
        InputError: no such file, cut, not written by :func:`save`, or of another content than the
            digest in it.
    """
    with _opened(path) as file:
        metadata = _metadata(file, path)
        arrays = {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118
    expected = metadata.pop(DIGEST, None)
    if expected is not None and digest(arrays, metadata) != expected:
        raise InputError(
            f"{path}: damaged: the SHA-256 in its metadata is not that of its content; restore it "
            "from a copy"
        )
    return arrays, metadata


def load_metadata(path: str | Path) -> dict:
    """As :func:`load`, without the arrays; a digest is not compared."""
    with _opened(path) as file:
        metadata = _metadata(file, path)
    metadata.pop(DIGEST, None)
    return metadata


def load_best(path: str | Path) -> Best:
    """Returns what a file of the best weights says of them; InputError as :func:`load`."""
    metadata = load_metadata(path)
    _require(metadata, ("step", "valid_mean_auc"), path)
    return Best(metadata["valid_mean_auc"], metadata["step"])


def _metadata(file, path: str | Path) -> dict:
    stored = file.metadata() or {}
    if METADATA_KEY not in stored:
        raise InputError(
            f"{path}: not weights saved by medcolor_tf (no {METADATA_KEY} in its metadata)"
        )
    metadata = parse_json(stored[METADATA_KEY], f"{path}: metadata")
    _METADATA(metadata, f"{path}: metadata")
    return metadata


def _require(metadata: Mapping, names: Sequence[str], path: str | Path) -> None:
    """Raises InputError where the metadata lacks one of ``names``."""
    if missing := [name for name in names if name not in metadata]:
        raise InputError(
            f"{path}: not a checkpoint of a run: no {' and no '.join(missing)} in its metadata, "
            f"only {', '.join(metadata) or 'nothing'}"
        )


def _tensor(file, name: str, path: str | Path) -> np.ndarray:
    """One tensor; safetensors has checked that its bytes are there."""
    try:
        return file.get_tensor(name)
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        kind = file.get_slice(name).get_dtype()
        raise InputError(
            f"{path}: tensor {name} of dtype {kind}: cannot be read ({error}); expected floats or "
            "integers"
        ) from None


@contextlib.contextmanager
def _opened(path: str | Path):
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected weights saved by medcolor_tf.train")
    try:
        with safe_open(path, framework="numpy") as file:
            if len(file.keys()) > MOST_TENSORS:
                raise InputError(
                    f"{path}: {len(file.keys()):,} tensors, expected at most {MOST_TENSORS:,}"
                )
            yield file
    except InputError:
        raise
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: not weights saved by medcolor_tf ({error})") from None


def load_parts(classifier: keras.Model, path: str | Path) -> dict:
    """Assigns a checkpoint's T, E and C; returns its metadata.

    Raises:
        InputError: see :func:`load` and :func:`assign`; or a weight that is not finite.
    """
    arrays, metadata = load(path)
    _require(metadata, ("step",), path)
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise InputError(f"{path}: {bad[0]} holds NaN or infinity ({len(bad)} tensors do)")
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
        array, dtype = arrays[name], keras.backend.standardize_dtype(variable.dtype)
        if tuple(variable.shape) != array.shape:
            raise InputError(
                f"{origin}: {name} has shape {array.shape}, expected {tuple(variable.shape)}"
            )
        if (array.dtype.kind in "iu") != ("int" in dtype):
            raise InputError(f"{origin}: {name} is {array.dtype}, expected {dtype}")
    for name, variable in named.items():
        variable.assign(placed_like(variable, arrays[name]))


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}; "
