"""The run folder: what a training run leaves behind, and how the same command finds it again.

========================= ====================================================================
config.json               every option, the command, versions, and what the data set was
model.json                :class:`medcolor_tf.models.spec.ModelSpec`
backbone.keras            copy of a backbone that came from a file
log.csv                   a row a checkpoint: step, loss, rate, AUC per observation and mean
last.safetensors          full state of the last checkpoint: weights, optimizer, generators
best.safetensors          weights of the checkpoint with the best validation mean AUC
colorizer.safetensors     T of the best checkpoint, for --init_from
lr_find.json, .csv, .png  what the LR finder saw (--max_lr=auto)
result.json               written last: the run is finished
tensorboard/              event files
========================= ====================================================================
"""

import csv
import dataclasses
import io
import json
import os
import platform
import shutil
from pathlib import Path

from medcolor_tf import __version__
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json, write_atomically, write_json
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.models.spec import BACKBONE_FILE, ModelSpec
from medcolor_tf.parallel import runtime
from medcolor_tf.parallel.multihost import MARK
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs.config import changed_options

CONFIG, MODEL, LOG, RESULT = "config.json", "model.json", "log.csv", "result.json"
LAST, BEST, COLORIZER = "last.safetensors", "best.safetensors", "colorizer.safetensors"
TENSORBOARD = "tensorboard"


def record(config, command: str, train, source=None) -> dict:
    """Returns the content of config.json: options, command, data set, source and versions.

    Args:
        config: :class:`medcolor_tf.runs.config.TrainConfig`.
        command: the shell command.
        train: the training images (:class:`medcolor_tf.data.pipeline.Split`).
        source: what --init_from holds, :class:`medcolor_tf.sharing.pretrained.PretrainedParts`, or
            None.
    """
    return {
        "flags": dataclasses.asdict(config),
        "command": command,
        "data_fingerprint": train.info.fingerprint,
        "data_source": train.info.source,
        "train_images": len(train),
        "train_labels": train.raw_counts,
        "init_from": source and source.origin_record(),
        "versions": versions(),
    }


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def finished(self) -> bool:
        """Whether training reached its last step."""
        return (self.folder / RESULT).is_file()

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / LAST).is_file()

    @property
    def last_step(self) -> int:
        """Step of the last checkpoint, 0 where there is none."""
        return checkpoint.load_metadata(self.folder / LAST)["step"] if self.started else 0

    def check(self, record: dict) -> None:
        """Checks that the folder is new, or holds this very run.

        A run that has no checkpoint yet may change its options: nothing would be lost.

        Raises:
            InputError: the folder holds another run, or something else.
        """
        path = self.folder / CONFIG
        if path.is_file():
            if self.started or self.finished:
                self._check_same(read_json(path), record)
        elif self.folder.is_dir() and any(
            not path.name.startswith(MARK) for path in self.folder.iterdir()
        ):
            raise InputError(
                f"--run_dir={self.folder}: not empty and no run; expected a new folder, or one "
                "that this command made"
            )

    def claim(self, record: dict) -> None:
        """Writes config.json; a run without a checkpoint starts with nothing of an older try."""
        if self.started:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / CONFIG
        if path.is_file() and read_json(path)["flags"] != json.loads(json.dumps(record["flags"])):
            (self.folder / "lr_find.json").unlink(missing_ok=True)
        write_json(path, record)

    def _check_same(self, there: dict, wanted: dict) -> None:
        # Paths may be spelled differently; the data's fingerprint says whether it is the same.
        changed = changed_options(there["flags"], wanted["flags"])
        if there["data_fingerprint"] != wanted["data_fingerprint"]:
            changed.append(f"--data_dir={wanted['flags']['data_dir']} (there: another data set)")
        if changed:
            raise InputError(
                f"--run_dir={self.folder} holds a run with other options: {'; '.join(changed)}. "
                "Choose another --run_dir, or delete that one"
            )

    def save_model_spec(self, spec: ModelSpec) -> ModelSpec:
        """Writes model.json and, for a backbone from a file, keeps a copy of that file.

        Returns:
            The spec with the path of the copy.
        """
        stored = spec
        if spec.backbone.endswith(".keras"):
            kept = self.folder / BACKBONE_FILE
            if not kept.is_file():
                shutil.copyfile(spec.backbone, kept.with_suffix(".tmp"))
                os.replace(kept.with_suffix(".tmp"), kept)
            stored = dataclasses.replace(spec, backbone=BACKBONE_FILE)
            spec = dataclasses.replace(spec, backbone=str(kept))
        write_json(self.folder / MODEL, dataclasses.asdict(stored))
        return spec

    def append_log(self, row: dict) -> None:
        """Adds a row to log.csv; rows of later steps (of an interrupted run) are dropped."""
        path = self.folder / LOG
        rows = [old for old in self.read_log() if int(old["step"]) < int(row["step"])]
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
        write_atomically(path, text.getvalue())

    def read_log(self) -> list[dict]:
        """Returns the rows of log.csv as text; [] when there is none."""
        path = self.folder / LOG
        if not path.is_file():
            return []
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def load_classifier(folder: str | Path, which: str = "best"):
    """Builds a run's classifier and loads its weights.

    Args:
        folder: a run folder.
        which: "best" (by validation mean AUC) or "last".

    Returns:
        (spec, classifier, step of the weights).

    Raises:
        InputError: no run there, no checkpoint yet, or damaged files.
    """
    folder = Path(folder)
    spec = ModelSpec.load(folder / MODEL)
    path = folder / {"best": BEST, "last": LAST}[which]
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run has not reached its first checkpoint")
    classifier = spec.build()
    return spec, classifier, checkpoint.load_parts(classifier, path)["step"]


def load_predictor(folder: str | Path, which: str = "best", mixed_precision: bool = False):
    """Loads a run's classifier for inference: :func:`load_classifier`, folded.

    Args:
        folder: a run folder.
        which: "best" or "last".
        mixed_precision: compute T and E in bfloat16.

    Returns:
        (spec, classifier that cannot be trained, step of the weights).
    """
    with runtime.precision(mixed_precision):
        spec, classifier, step = load_classifier(folder, which)
        return spec, fold_batch_norm(classifier), step


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    import keras
    import numpy

    found = {
        "medcolor_tf": __version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "backend": keras.backend.backend(),
    }
    if found["backend"] == "tensorflow":
        import tensorflow as tf

        found["tensorflow"] = tf.__version__
    if found["backend"] == "jax":
        import jax

        found["jax"] = jax.__version__
    return found
