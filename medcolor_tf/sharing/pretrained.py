"""Reads T and E from where --init_from points, and assigns them to a new classifier."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from medcolor_tf import catalog
from medcolor_tf import schema_check as schema
from medcolor_tf.errors import InputError
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import checkpoint, folder
from medcolor_tf.runs.config import data_name
from medcolor_tf.sharing import hub

_TEXT, _COUNT = schema.maybe(schema.text()), schema.maybe(schema.integer(0, 10**12))
_NUMBER = schema.maybe(schema.number(0, 1e6))
_TEXTS = schema.list_of(schema.text(), catalog.MAX_OBSERVATIONS)
_TEST = schema.record(
    {
        "mean_auc": _NUMBER,
        "auc": schema.mapping_of(_NUMBER, catalog.MAX_OBSERVATIONS),
        "images": schema.integer(0, 10**12),
        "data_fingerprint": _TEXT,
    },
    more=True,
)
CARD = schema.record(
    {
        "colorizer": schema.text(),
        "colorizer_init": schema.text(),
        **{name: schema.number(0, 1e6) for name in ("input_channels", "bits", "max_value")},
        **{name: schema.number(0, 1e6) for name in ("pixel_mean", "pixel_std", "image_size")},
        "origin": _TEXT,
        "data": schema.record(
            {
                "source": _TEXT,
                "observations": schema.maybe(_TEXTS),
                "train_images": _COUNT,
                "fingerprint": _TEXT,
            },
            more=True,
        ),
        "training": schema.record(
            {"strategy": _TEXT, "backbone": _TEXT, "step": _COUNT, "valid_mean_auc": _NUMBER},
            more=True,
        ),
        "test": schema.maybe(_TEST),
        "versions": schema.maybe(schema.mapping_of(schema.text(), 100)),
    },
    more=True,
)


@dataclass(frozen=True)
class PretrainedParts:
    """Parts that were trained before: of a run folder, or of a colorizer file here or on the hub.

    Attributes:
        origin: the path, or hf://owner/name@commit.
        spec: of the model there; a colorizer file's has no backbone ("").
        arrays: weights by name, those of T and, from a run or an imported checkpoint, of E.
        card: what a colorizer file says of its training, see
            :mod:`medcolor_tf.sharing.colorizer_file`.
    """

    origin: str
    spec: ModelSpec
    arrays: Mapping[str, np.ndarray]
    card: Mapping = field(default_factory=dict)

    def origin_record(self) -> dict:
        """Returns where it came from, for config.json: a report tells transfers apart by it."""
        path = Path(self.origin)
        record = {"path": self.origin, "strategy": None, "data_fingerprint": None}
        run = folder.Run(path)
        if path.is_dir() and ((path / folder.CONFIG).is_file() or run.lists(folder.CONFIG)):
            config = run.read_json(folder.CONFIG)
            record["strategy"] = config["flags"]["strategy"]
            record["data_fingerprint"] = config["data_fingerprint"]
            record["data_source"] = config.get("data_source")
            earlier = config.get("init_from") or {}
            record["backbone"] = config["flags"]["backbone"] or earlier.get("backbone")
            record["data_name"] = data_name(config["flags"]["data_dir"])
        elif self.card:
            record["strategy"] = self.card.get("training", {}).get("strategy")
            record["data_fingerprint"] = self.card.get("data", {}).get("fingerprint")
        return record

    def of_part(self, part: str) -> dict[str, np.ndarray]:
        """Returns the weights of one part, "colorizer" or "backbone"; empty without it."""
        return {k: v for k, v in self.arrays.items() if k.startswith(part + "/")}


def read_parts(init_from: str) -> PretrainedParts:
    """Reads T and, if it is there, E.

    Args:
        init_from: a run folder (its best checkpoint), a colorizer file, or hf://owner/name.

    Raises:
        InputError: neither a run folder with weights nor a colorizer file; or no download.
    """
    path, origin, metadata = Path(init_from), init_from, {}
    if hub.is_address(init_from):
        path, origin = hub.download(init_from)
    if path.is_dir():
        run = folder.Run(path)
        spec = folder.load_spec(run)
        run.note_unlisted()
        arrays, _ = checkpoint.load(run.checked(folder.BEST))
        expected = {"backbone", "colorizer"} if spec.has_colorizer else {"backbone"}
    elif path.is_file():
        run = folder.Run(path.parent)
        if path.name == folder.COLORIZER and run.manifest(path.name):
            run.checked(path)  # in its run's folder it is that run's
        arrays, metadata = checkpoint.load(path)
        spec = ModelSpec.from_dict(metadata.get("model", {}), str(path))
        if card := metadata.get("card"):
            CARD(card, f"{path}: card")
        expected = {"colorizer"}
    else:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise InputError(
            f"--init_from={init_from}: no such run folder or colorizer file{where}; expected the "
            "--run_dir of an earlier run, a colorizer file, or hf://owner/name"
        )
    arrays = {name: array for name, array in arrays.items() if not name.startswith("head/")}
    if missing := expected - {name.partition("/")[0] for name in arrays}:
        raise InputError(
            f"{origin}: no tensor of the {' and of the '.join(sorted(missing))} that it describes; "
            f"{len(arrays)} others received"
        )
    return PretrainedParts(origin, spec, arrays, metadata.get("card", {}))


def assign_parts(classifier: keras.Model, parts: PretrainedParts) -> None:
    """Assigns the T and E there are to a new classifier's; C keeps its new weights.

    Raises:
        InputError: the weights do not fit the model.
    """
    named = checkpoint.named_weights(classifier)
    for part in ("colorizer", "backbone"):
        arrays = parts.of_part(part)
        if arrays:
            own = {k: v for k, v in named.items() if k.startswith(part + "/")}
            checkpoint.assign(own, arrays, parts.origin)


def colorizer_spec(spec: ModelSpec) -> ModelSpec:
    """Returns the description that goes with a colorizer file: no backbone, no labels."""
    return dataclasses.replace(spec, backbone="", observations=())


def save_colorizer(run_dir: Path, spec: ModelSpec) -> None:
    """Writes the T of a run's best checkpoint to a file of its own in the run folder.

    Args:
        run_dir: the run folder.
        spec: of the run's model.
    """
    run = folder.Run(run_dir)
    arrays, _ = checkpoint.load(run.checked(folder.BEST))
    arrays = {name: array for name, array in arrays.items() if name.startswith("colorizer/")}
    metadata = {"model": colorizer_spec(spec).to_dict()}
    content = checkpoint.to_bytes(arrays, checkpoint.with_digest(arrays, metadata))
    run.write({folder.COLORIZER: content})
