"""Saves colorizers from runs, publishes them on the Hugging Face hub, imports PyTorch's.

A colorizer file is safetensors: T's weights, and in its metadata the model's description
("model"), where T comes from ("card") and the SHA-256 of all that ("sha256"). It is all that
--init_from needs; the JSON file beside it is the card once more, for people and other programs. A
file imported from PyTorch may hold E as well.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, write_atomically
from medcolor_tf.models.colorizers import build_colorizer
from medcolor_tf.models.spec import BACKBONE_FILE, ModelSpec
from medcolor_tf.runs import checkpoint as weights
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import load_decision
from medcolor_tf.sharing import hub, model_card, pretrained
from medcolor_tf.sharing.torch_checkpoint import Checkpoint, read_checkpoint

SUFFIX = ".safetensors"
# CheXpert's, with which the authors' published checkpoints were trained (section IV-B).
CHEXPERT_MEAN, CHEXPERT_STD, CHEXPERT_SIDE = 0.5028, 0.2902, 320
_DESCRIBED = (
    *("colorizer", "colorizer_init", "input_channels", "bits", "max_value"),
    *("pixel_mean", "pixel_std", "image_size", "short_side"),
)


@dataclass(frozen=True)
class TrainedColorizer:
    """A trained T: its description, its weights, and where it comes from.

    Attributes:
        origin: the run folder, file or address it was read from.
        spec: description without backbone and labels.
        arrays: T's weights by name, "colorizer/conv1/kernel".
        card: see :func:`make_card`.
    """

    origin: str
    spec: ModelSpec
    arrays: Mapping[str, np.ndarray]
    card: Mapping

    def build(self) -> keras.Model:
        """Returns T as a model, (B,H,W,input_channels) normalised gray to (B,H,W,3).

        Raises:
            InputError: the weights do not fit the description, or are not finite.
        """
        spec = self.spec
        model = build_colorizer(spec.colorizer, spec.input_channels, init=spec.colorizer_init)
        weights.assign(weights.part_weights("colorizer", model), self.arrays, self.origin)
        check_finite(self.arrays, self.origin)
        return model

    def to_bytes(self) -> bytes:
        """Returns the content of a colorizer file."""
        return _content(self.arrays, self.spec, self.card)


def read(source: str) -> TrainedColorizer:
    """Reads the T of a finished run's best checkpoint, of a colorizer file, or of one on the hub.

    Raises:
        InputError: no T there, an unfinished run, or damaged files.
    """
    if not hub.is_address(source) and not Path(source).exists():
        raise InputError(f"{source}: no such run folder or colorizer file")
    if Path(source).is_dir() and not runs.Run(Path(source)).finished:
        runs.load_spec(runs.Run(Path(source)))  # or it says that this is no run
        raise InputError(
            f"{source}: the run has not finished (no {runs.RESULT}); the training command it was "
            "started with goes on with it"
        )
    parts = pretrained.read_parts(source)
    if not parts.spec.has_colorizer:
        raise InputError(f"{source}: has no colorizer (it was trained without)")
    card = parts.card or make_card(parts.spec)
    if Path(source).is_dir():
        try:
            card = card_of_run(Path(source), parts.spec)
        except KeyError as error:
            raise InputError(
                f"{source}: no {error} in {runs.CONFIG}, {runs.RESULT} or the evaluation; expected "
                "a run folder made by `python -m medcolor_tf.train`"
            ) from None
    spec = pretrained.colorizer_spec(parts.spec)
    colorizer = TrainedColorizer(parts.origin, spec, parts.of_part("colorizer"), card)
    colorizer.build()  # what does not fit is not passed on
    return colorizer


def load_colorizer(source: str | Path) -> keras.Model:
    """Loads a trained colorizer T as a Keras model.

    Args:
        source: a finished run's folder (T of its best checkpoint), a colorizer file
            (.safetensors), or the address of one on the Hugging Face hub, ``hf://owner/name``.

    Returns:
        A functional model named "colorizer": normalised gray images (B, H, W, C) float, about zero
        mean and unit variance, to three channels (B, H, W, 3) on the same scale. H and W are
        multiples of 4 (color_u: 8; color_map and context_map: any). It can be frozen, trained on,
        or given to ``build_classifier(colorizer=...)``, which normalises by itself.

    Raises:
        InputError: no such folder, file or address; a run that has not finished or has no T; or
            damaged weights.

    Example:
        >>> import numpy as np
        >>> import medcolor_tf as mc
        >>> colorizer = mc.load_colorizer(run_dir)
        >>> gray = np.zeros((1, 64, 64, 1), "float32")
        >>> tuple(colorizer(gray).shape)
        (1, 64, 64, 3)
    """
    return read(str(source)).build()


def save(source: str, file: str) -> tuple[Path, Path]:
    """Writes a colorizer file and its card.

    Args:
        source: see :func:`read`.
        file: new file; ".safetensors" is added where it is missing.

    Returns:
        (weights, card).

    Raises:
        InputError: see :func:`read`; or one of the two is there already.
    """
    paths = new_files(file)
    colorizer = read(source)
    write_files(paths, (colorizer.to_bytes(), _to_json(colorizer.card)))
    return paths


def publish(source: str, address: str, private: bool = False, license_id: str = "") -> str:
    """Uploads a colorizer file, its card and a README to the Hugging Face hub.

    Args:
        source: see :func:`read`.
        address: hf://owner/name.
        private: whether nobody else may see it.
        license_id: the hub's name of the weights' licence ("mit", "cc-by-4.0"); "" for none chosen.

    Returns:
        The address with the commit.

    Raises:
        InputError: see :func:`read` and :func:`medcolor_tf.sharing.hub.publish`.
    """
    repository = hub.Address.parse(address).repository
    colorizer = read(source)
    files = {
        hub.WEIGHTS: colorizer.to_bytes(),
        hub.CARD: _to_json(colorizer.card).encode(),
        hub.README: str(model_card.make(colorizer.card, repository, license_id)).encode(),
    }
    return hub.publish(address, files, private)


def import_torch(checkpoint: str, file: str) -> tuple[Path, str]:
    """Turns a PyTorch checkpoint of the authors into a file for --init_from: T and, if known, E.

    Args:
        checkpoint: see :func:`medcolor_tf.sharing.torch_checkpoint.read_checkpoint`.
        file: new file; ".safetensors" is added where it is missing.

    Returns:
        (weights, what arrived in words).

    Raises:
        InputError: no colorizer in it, tensors that do not fit, or files that are there already.
    """
    paths = new_files(file)
    state = read_checkpoint(checkpoint)
    name, channels, colorizer = state.build_colorizer()
    backbone_name, backbone = state.build_backbone() or ("", None)
    spec = ModelSpec(
        colorizer=name,
        colorizer_init="paper",
        backbone=backbone_name,
        observations=(),
        image_size=CHEXPERT_SIDE,
        short_side=CHEXPERT_SIDE,
        input_channels=channels,
        bits=8,
        pixel_mean=CHEXPERT_MEAN,
        pixel_std=CHEXPERT_STD,
        bn_momentum=0.9,
    )
    named = weights.part_weights("colorizer", colorizer)
    if backbone is not None:
        named |= weights.part_weights("backbone", backbone)
    arrays = weights.to_arrays(named)
    check_finite(arrays, checkpoint)
    # Only the authors' own prefixes say on what a checkpoint was trained.
    data = {"source": "chexpert" if state.prefixed else None}
    card = make_card(spec, origin=f"PyTorch checkpoint {state.path.name}", data=data)
    write_files(paths, (_content(arrays, spec, card), _to_json(card)))
    return paths[0], _arrived(state, name, backbone_name)


def _arrived(state: Checkpoint, colorizer: str, backbone: str) -> str:
    """Says which parts a checkpoint brought."""
    lines = [f"T ({colorizer}) and E ({backbone}) arrived" if backbone else f"T ({colorizer})"]
    if not backbone and state.backbone:
        lines[0] += (
            " alone arrived: the backbone is neither torchvision's ResNet18 nor its DenseNet121 "
            f"({state.describe_backbone()})"
        )
    elif not backbone:
        lines[0] += " alone arrived: there is no backbone in the checkpoint"
    if state.ignored:
        lines.append(f"ignored: {', '.join(state.ignored[:5])}")
    lines.append(
        f"recorded with CheXpert's pixel mean {CHEXPERT_MEAN} and std {CHEXPERT_STD} "
        f"at {CHEXPERT_SIDE} px, as the authors trained (--normalization=source takes them over)"
    )
    return "\n".join(lines)


def new_files(file: str, suffixes: tuple[str, str] = (SUFFIX, ".json")) -> tuple[Path, Path]:
    """Returns the paths of two new files: by default a colorizer file and its card.

    Raises:
        InputError: one is there already, or ``file`` is a folder.
    """
    path = Path(file)
    if path.is_dir():
        raise InputError(f"{file}: is a folder; expected the name of a new file in it")
    first = path if path.suffix in suffixes else path.with_name(path.name + suffixes[0])
    paths = first.with_suffix(suffixes[0]), first.with_suffix(suffixes[1])
    for new in paths:
        if new.exists():
            raise InputError(f"{new}: is there already; choose another name, or delete it")
    return paths


def write_files(paths: tuple[Path, Path], contents: tuple[str | bytes, str | bytes]) -> None:
    """Writes two files, and the folder that they are in; InputError where that fails."""
    path = paths[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents, strict=True):
            write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from None


def _to_json(card: Mapping) -> str:
    return json.dumps(card, indent=2) + "\n"


def _content(arrays: Mapping[str, np.ndarray], spec: ModelSpec, card: Mapping) -> bytes:
    """The content of a colorizer file, which carries the SHA-256 of itself."""
    metadata = {"model": spec.to_dict(), "card": card}
    return weights.to_bytes(arrays, weights.with_digest(arrays, metadata))


def check_finite(arrays: Mapping[str, np.ndarray], origin: str) -> None:
    """Raises InputError when a weight is NaN or infinite."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise InputError(f"{origin}: {bad[0]} holds NaN or infinity ({len(bad)} tensors do)")


def make_card(
    spec: ModelSpec,
    origin: str | None = None,
    data: Mapping | None = None,
    training: Mapping | None = None,
    test: Mapping | None = None,
    versions: Mapping | None = None,
) -> dict[str, Any]:
    """Returns the card: everything on T that its weights do not tell; None where unknown.

    Args:
        spec: of T's model.
        origin: what it was made from, without paths.
        data: "source", "observations", "train_images" and "fingerprint", as far as known.
        training: "strategy", "step" and "valid_mean_auc", as far as known.
        test: "mean_auc", "auc" by observation, "images" and "data_fingerprint".
        versions: of what it was trained with.
    """
    backbone = spec.backbone or None
    if backbone and backbone.endswith(".keras"):
        backbone = BACKBONE_FILE  # the path is nobody else's business
    unknown = dict.fromkeys(("source", "observations", "train_images", "fingerprint"))
    untrained = {"strategy": None, "backbone": backbone, "step": None, "valid_mean_auc": None}
    return {name: getattr(spec, name) for name in _DESCRIBED} | {
        "origin": origin,
        "data": unknown | dict(data or {}),
        "training": untrained | dict(training or {}),
        "test": test,
        "versions": versions,
    }


def card_of_run(folder: Path, spec: ModelSpec) -> dict[str, Any]:
    """Returns the card of a finished run's best T; the run's paths stay out of it."""
    config, result = (runs.Run(folder).read_json(name) for name in (runs.CONFIG, runs.RESULT))
    step = result["best_step"]
    card = make_card(
        spec,
        origin="training run",
        data={
            "source": config.get("data_source"),
            "observations": list(spec.observations),
            "train_images": result["train_images"],
            "fingerprint": config["data_fingerprint"],
        },
        training={
            "strategy": config["flags"]["strategy"],
            "step": step,
            "valid_mean_auc": result["best_valid_mean_auc"],
        },
        test=_test_result(folder, step),
        versions=config["versions"],
    )
    decision = _decision(folder)
    return card | {"decision": decision} if decision else card


def _decision(folder: Path) -> dict[str, str]:
    """Returns the thresholds of the classifier with this T in words; none for other weights."""
    run = runs.Run(folder)
    with contextlib.suppress(InputError):
        decision = load_decision(folder)
        if decision is None:
            return {}
        path, points = run.operating_points("test"), None
        if path.is_file() or run.lists(path.name):
            points = run.read_json(path)
            if points["decision_sha256"] != file_sha256(run.folder / runs.DECISION):
                points = None
        return dict(model_card.decision_facts(decision.to_dict(), points))
    return {}


def _test_result(folder: Path, step: int) -> dict | None:
    """Returns what these very weights reached on a test split, if that was evaluated."""
    run = runs.Run(folder)
    path = run.evaluation("test")
    if not path.is_file() and not run.lists(path.name):
        return None
    result = run.read_json(path)
    if result.get("weights") != "best" or result.get("step") != step:
        return None
    return {
        "mean_auc": result["mean_auc"],
        "auc": {name: row["auc"] for name, row in result["observations"].items()},
        "images": result["images"],
        "data_fingerprint": result["data_fingerprint"],
    }
