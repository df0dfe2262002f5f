"""The run folder: what a training run leaves behind, and how the same command finds it again.

========================= ====================================================================
config.json               every option, the command, versions, and what the data set was
model.json                :class:`medcolor_tf.models.spec.ModelSpec`
backbone.keras            copy of a backbone that came from a file
log.csv                   a row per checkpoint: step, loss, rate, AUC per observation and mean
last.safetensors          :class:`medcolor_tf.runs.checkpoint.TrainState` of the last checkpoint
best.safetensors          weights of the checkpoint with the best validation mean AUC
colorizer.safetensors     T of the best checkpoint, for --init_from
color_table.png, .csv     the colour of each gray value, where that T is a color_map
lr_find.json, .csv, .png  what the LR finder saw (--max_lr=auto)
result.json               written last: the run is finished
tensorboard/              event files
evaluation-SPLIT.json     AUC and counts of a split, whatever evaluated it
predictions-SPLIT.csv     its labels and probabilities
colorized-SPLIT.png       its first images and what T makes of them
saved_model/              the exported model, unless --out says another place
========================= ====================================================================

No other module knows these names. Studies and reports ask for them, so importing this module
imports no Keras; what needs it is imported where it is used.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
import platform
import shutil
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from medcolor_tf import __version__
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json, write_atomically, write_json
from medcolor_tf.runs.config import changed_options

if TYPE_CHECKING:
    from medcolor_tf.models.spec import ModelSpec
    from medcolor_tf.parallel.multihost import Processes

CONFIG, MODEL, LOG, RESULT = "config.json", "model.json", "log.csv", "result.json"
LAST, BEST, COLORIZER = "last.safetensors", "best.safetensors", "colorizer.safetensors"
LR_FINDER, LR_FINDER_TABLE, LR_FINDER_PLOT = "lr_find.json", "lr_find.csv", "lr_find.png"
COLOR_TABLE, COLOR_TABLE_PICTURE = "color_table.csv", "color_table.png"
TENSORBOARD, SAVED_MODEL = "tensorboard", "saved_model"
# Of a split.
EVALUATION, PREDICTIONS, PICTURES = "evaluation-{}.json", "predictions-{}.csv", "colorized-{}.png"

# What a log says of a run whose loss or weights were no longer finite.
DIVERGED = "training diverged"

# Beginning of the name of a file that shows whether several processes see the same folder.
MARK = ".shared-"
# A shared file system may show a new file late: NFS caches a folder for up to a minute.
SHARED_SECONDS = 75.0


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
        **({"lr_multipliers": factors} if (factors := config.lr_factors) else {}),
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
    """A run folder, which need not be there yet."""

    folder: Path

    def evaluation(self, split: str) -> Path:
        """Returns the path of the AUCs and counts of a split."""
        return self.folder / EVALUATION.format(split)

    def predictions(self, split: str) -> Path:
        """Returns the path of the labels and probabilities of a split."""
        return self.folder / PREDICTIONS.format(split)

    def pictures(self, split: str) -> Path:
        """Returns the path of a split's first images beside what T makes of them."""
        return self.folder / PICTURES.format(split)

    def read_result(self) -> dict:
        """Returns the content of result.json; the run is finished."""
        return read_json(self.folder / RESULT)

    @property
    def color_table(self) -> Path:
        """Returns the path of the colour of each gray value; only a color_map has that file."""
        return self.folder / COLOR_TABLE

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
        from medcolor_tf.runs import checkpoint

        return checkpoint.load_metadata(self.folder / LAST)["step"] if self.started else 0

    def check(self, record: dict) -> None:
        """Checks that the folder is new, or holds this very run.

        A run that has no checkpoint yet may change its options: nothing would be lost.

        Raises:
            InputError: the folder holds another run, or something else.
        """
        if (self.folder / CONFIG).is_file():
            if (self.started or self.finished) and (changed := self.differences(record)):
                raise InputError(
                    f"--run_dir={self.folder} holds a run with other options: "
                    f"{'; '.join(changed)}. Choose another --run_dir, or delete that one"
                )
        elif self.folder.is_dir() and any(
            not path.name.startswith(MARK) for path in self.folder.iterdir()
        ):
            raise InputError(
                f"--run_dir={self.folder}: not empty and no run; expected a new folder, or one "
                "that this command made"
            )

    def check_shared(self, processes: "Processes") -> None:
        """Checks that all processes see the same folder; it need not be there yet.

        Raises:
            InputError: in all processes, when one sees another folder or an older state.
        """
        if processes.count == 1:
            return
        if processes.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
        mark = self.folder / processes.broadcast_from_main(lambda: f"{MARK}{uuid.uuid4().hex}")
        if processes.is_main_process:
            mark.touch()
        processes.all_gather(None)
        deadline = time.monotonic() + SHARED_SECONDS
        while not (seen := mark.name in self._names()) and time.monotonic() < deadline:
            time.sleep(0.2)
        views = processes.all_gather([seen, self.last_step if seen else 0])
        if processes.is_main_process:
            for name in filter(lambda name: name.startswith(MARK), self._names()):
                (self.folder / name).unlink()
            with contextlib.suppress(OSError):  # as it was, should nothing come of the run
                self.folder.rmdir()
        for number, (seen, step) in enumerate(views):
            if not seen or step != views[0][1]:
                view = (
                    f"a last checkpoint of step {step}" if seen else "another folder of that name"
                )
                raise InputError(
                    f"--run_dir={self.folder}: process {number} sees {view}, process 0 one with "
                    f"step {views[0][1]} as the last; expected a folder on a file system that all "
                    "machines share"
                )

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir()]
        except OSError:
            return []

    def differences(self, record: dict) -> list[str]:
        """Compares the run in the folder with another one's record, as text per difference.

        Paths may be spelled differently; the data's fingerprint says whether it is the same.

        Args:
            record: "flags", "data_fingerprint" and, if any, "lr_multipliers", as :func:`record`
                returns them.
        """
        stored = read_json(self.folder / CONFIG)
        changed = changed_options(stored["flags"], record["flags"])
        was, now = stored.get("lr_multipliers", {}), record.get("lr_multipliers", {})
        if was != now and not changed:  # a recipe of another version
            changed.append(f"learning-rate factors {now or 1} (there: {was or 1})")
        if stored["data_fingerprint"] != record["data_fingerprint"]:
            changed.append(f"--data_dir={record['flags']['data_dir']} (there: another data set)")
        return changed

    def claim(self, record: dict) -> None:
        """Writes config.json; a run without a checkpoint starts with nothing of an older try."""
        if self.started:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / CONFIG
        if path.is_file() and read_json(path)["flags"] != json.loads(json.dumps(record["flags"])):
            (self.folder / LR_FINDER).unlink(missing_ok=True)
        write_json(path, record)

    def save_model_spec(self, spec: "ModelSpec") -> "ModelSpec":
        """Writes model.json and, for a backbone from a file, copies that file into the folder.

        Returns:
            The spec with the path of the copy.
        """
        from medcolor_tf.models.spec import BACKBONE_FILE

        if spec.backbone.endswith(".keras"):
            copy = self.folder / BACKBONE_FILE
            if not copy.is_file():
                shutil.copyfile(spec.backbone, copy.with_suffix(".tmp"))
                os.replace(copy.with_suffix(".tmp"), copy)
            spec = dataclasses.replace(spec, backbone=str(copy))
        write_json(self.folder / MODEL, spec.to_dict())
        return spec

    def resume_advice(self) -> str:
        """Returns the end of the message when another process is gone: what is kept, what to do."""
        try:
            step = self.last_step
        except InputError:
            step = 0
        if step:
            return (
                f". The checkpoint of step {step} in {self.folder} is kept: the same command on "
                "all machines goes on there"
            )
        return ". There was no checkpoint yet: the same command on all machines starts anew"

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
    from medcolor_tf.models.spec import ModelSpec
    from medcolor_tf.runs import checkpoint

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
    from medcolor_tf.models.fast.folding import fold_batch_norm
    from medcolor_tf.parallel import runtime

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
