"""Where T, E and C of a run start and what trains, by the strategy's entry in the catalog."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras

from medcolor_tf.catalog import STRATEGIES
from medcolor_tf.errors import InputError
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import checkpoint, folder
from medcolor_tf.runs.config import data_name
from medcolor_tf.sharing import hub

DEFAULT_COLORIZER = "pixel_shuffle"
DEFAULT_BACKBONE = "ResNet18"


@dataclass(frozen=True)
class Source:
    """Where --init_from points: a run folder, or a colorizer file here or on the hub.

    Attributes:
        origin: the path, or hf://owner/name@commit.
        spec: of the model there; a colorizer file's has no backbone ("").
        arrays: weights by name, those of T and, from a run or an imported checkpoint, of E.
        card: what a colorizer file says of its training, see
            :mod:`medcolor_tf.sharing.colorizer_file`.
    """

    origin: str
    spec: ModelSpec
    arrays: dict
    card: Mapping = field(default_factory=dict)

    def origin_record(self) -> dict:
        """Returns where it came from, for config.json: a report tells transfers apart by it."""
        path = Path(self.origin)
        found = {"path": self.origin, "strategy": None, "data_fingerprint": None}
        if path.is_dir() and (path / folder.CONFIG).is_file():
            config = folder.read_json(path / folder.CONFIG)
            found["strategy"] = config["flags"]["strategy"]
            found["data_fingerprint"] = config["data_fingerprint"]
            found["data_source"] = config.get("data_source")
            before = config.get("init_from") or {}
            found["backbone"] = config["flags"]["backbone"] or before.get("backbone")
            found["data_name"] = data_name(config["flags"]["data_dir"])
        elif self.card:
            found["strategy"] = self.card.get("training", {}).get("strategy")
            found["data_fingerprint"] = self.card.get("data", {}).get("fingerprint")
        return found

    def of_part(self, part: str) -> dict:
        """Returns the weights of one part."""
        return {k: v for k, v in self.arrays.items() if k.startswith(part + "/")}


def open_source(init_from: str) -> Source | None:
    """Reads --init_from; None when it is empty.

    Raises:
        InputError: neither a run folder with weights nor a colorizer file; or no download.
    """
    if not init_from:
        return None
    path, origin, metadata = Path(init_from), init_from, {}
    if hub.is_address(init_from):
        path, origin = hub.download(init_from)
    if path.is_dir():
        arrays, _ = checkpoint.load(path / folder.BEST)
        spec = ModelSpec.load(path / folder.MODEL)
    elif path.is_file():
        arrays, metadata = checkpoint.load(path)
        spec = ModelSpec.from_dict(metadata.get("model", {}), str(path))
    else:
        raise InputError(
            f"--init_from={init_from}: no such run folder or colorizer file; expected the "
            "--run_dir of an earlier run, a colorizer file, or hf://owner/name"
        )
    arrays = {name: array for name, array in arrays.items() if not name.startswith("head/")}
    return Source(origin, spec, arrays, metadata.get("card", {}))


def choose_parts(config, source: Source | None) -> tuple[str, str, str]:
    """Returns (colorizer, its initialisation, backbone) of a run; flags win only where they may.

    Raises:
        InputError: flags that contradict the strategy or what --init_from holds.
    """
    strategy = STRATEGIES[config.strategy]
    name = f"--strategy={config.strategy}"
    if strategy.colorizer == "none":
        _refuse(config.colorizer not in ("", "none"), f"{name} has no T", "colorizer", config)
        _refuse(config.colorizer_init != "", f"{name} has no T", "colorizer_init", config)
        _refuse(source is not None, f"{name} starts from ImageNet", "init_from", config)
        return "none", "paper", config.backbone or DEFAULT_BACKBONE
    if source is None:
        if strategy.colorizer == "source":
            raise InputError(
                f"{name} needs --init_from: the run folder (or colorizer file) of an earlier run "
                "whose T it goes on with, for example --strategy=color_module's --run_dir"
            )
        _refuse(config.colorizer == "none", f"{name} trains a colorizer", "colorizer", config)
        colorizer = config.colorizer or DEFAULT_COLORIZER
        return colorizer, config.colorizer_init or "paper", config.backbone or DEFAULT_BACKBONE
    found = source.spec
    if not found.has_colorizer and config.strategy != "last_layer":
        raise InputError(f"{name}: {source.origin} has no colorizer (it was trained without)")
    for flag in ("colorizer", "colorizer_init", "backbone"):
        given, there = getattr(config, flag), getattr(found, flag)
        if given and there and given != there and not _same_backbone_file(flag, given, there):
            raise InputError(f"--{flag}={given}: {source.origin} has {there}; leave the flag out")
    return (
        found.colorizer,
        found.colorizer_init,
        found.backbone or config.backbone or (DEFAULT_BACKBONE),
    )


def _same_backbone_file(flag: str, given: str, there: str) -> bool:
    return flag == "backbone" and given.endswith(".keras") and there.endswith(".keras")


def _refuse(condition: bool, why: str, flag: str, config) -> None:
    if condition:
        raise InputError(f"{why}: --{flag}={getattr(config, flag)} contradicts it; leave it out")


def load_source(classifier: keras.Model, source: Source | None) -> None:
    """Assigns the source's T and E to a new classifier's; C keeps its new weights.

    Raises:
        InputError: the weights do not fit the model.
    """
    if source is None:
        return
    named = checkpoint.named_weights(classifier)
    for part in ("colorizer", "backbone"):
        arrays = source.of_part(part)
        if arrays:
            own = {k: v for k, v in named.items() if k.startswith(part + "/")}
            checkpoint.assign(own, arrays, source.origin)


def set_trainable(classifier: keras.Model, strategy: str, frozen_bn: str = "moving") -> None:
    """Freezes what the strategy does not train. Compile afterwards: fit ignores later changes.

    Args:
        classifier: with parts ``colorizer`` (not in baselines), ``backbone`` and ``head``.
        strategy: a key of STRATEGIES.
        frozen_bn: how a frozen part's batch normalisation works while training: "moving" uses the
            stored statistics (Keras' meaning of frozen); "batch" uses each batch's own and
            updates the stored ones, as in PyTorch where only requires_grad was switched off.
    """
    for name, part in checkpoint.parts(classifier).items():
        trains = name in STRATEGIES[strategy].trains
        part.trainable = trains
        if not trains and frozen_bn == "batch":
            # Layers stay "trainable", which is what batch statistics hang on; weights do not.
            part.trainable = True
            for variable in part.trainable_weights:
                variable.trainable = False


def colorizer_spec(spec: ModelSpec) -> ModelSpec:
    """Returns the description that goes with a colorizer file: no backbone, no labels."""
    return dataclasses.replace(spec, backbone="", observations=())
