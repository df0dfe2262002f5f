"""The run folder: what a training run leaves behind, and how the same command finds it again.

========================= ====================================================================
config.json               every option, the command, versions, and what the data set was
model.json                :class:`medcolor_tf.models.spec.ModelSpec`
backbone.keras            copy of a backbone that came from a file
log.csv                   a row per checkpoint: step, loss, rate, AUC per observation and mean
last.safetensors          :class:`medcolor_tf.runs.checkpoint.TrainState` of the last checkpoint
previous.safetensors      that of the checkpoint before it, should the last one be damaged
best.safetensors          weights of the checkpoint with the best validation mean AUC
colorizer.safetensors     T of the best checkpoint, for --init_from
color_table.png, .csv     the colour of each gray value, where that T is a color_map
lr_find.json, .csv, .png  what the LR finder saw (--max_lr=auto)
result.json               written last: the run is finished
tensorboard/              event files
evaluation-SPLIT.json     AUC and counts of a split, whatever evaluated it
predictions-SPLIT.csv     its labels and probabilities
colorized-SPLIT.png       its first images and what T makes of them
decision.json             calibration and threshold per observation; see runs/decision.py
operating-points-SPLIT.json  what those give on a split
subgroups-SPLIT.json, .csv   a split by group (evaluate --by)
units-SPLIT.json, .csv    a split per study or patient (evaluate --unit)
manifest.json             SHA-256 of every file that a command reads, and a copy of log.csv
manifest-SPLIT.json       the same of the files of a split
saved_model/              the exported model, unless --out says another place
.lock                     empty; held by the one process that writes
========================= ====================================================================

Every file is compared with its manifest when it is read; a folder without one (of version 0.1) is
read as it is, and that is said. No other module knows these names. Studies and reports ask for
them, so importing this module imports no Keras; what needs it is imported where it is used.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medcolor_tf import __version__
from medcolor_tf.catalog import DATASET_JSON, MODEL_JSON, RUN_EXPECTED
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256
from medcolor_tf.locks import LOCK, only_writer
from medcolor_tf.private_paths import origin_without_folders
from medcolor_tf.progress import say
from medcolor_tf.runs import contents
from medcolor_tf.runs.checked import CheckedFolder
from medcolor_tf.runs.config import changed_options
from medcolor_tf.runs.manifest import Manifest

if TYPE_CHECKING:
    from medcolor_tf.models.spec import ModelSpec
    from medcolor_tf.parallel.multihost import Processes

CONFIG, MODEL, LOG, RESULT = "config.json", MODEL_JSON, "log.csv", "result.json"
LAST, BEST, COLORIZER = "last.safetensors", "best.safetensors", "colorizer.safetensors"
PREVIOUS, BACKBONE = "previous.safetensors", "backbone.keras"
LR_FINDER, LR_FINDER_TABLE, LR_FINDER_PLOT = "lr_find.json", "lr_find.csv", "lr_find.png"
COLOR_TABLE, COLOR_TABLE_PICTURE = "color_table.csv", "color_table.png"
SAVED_MODEL = "saved_model"
# TensorBoard's files; a run of an earlier version has them in the folder "tensorboard".
EVENTS = "events.out.tfevents.*"
DECISION = "decision.json"
# Which weights -> file.
WEIGHTS = {"best": BEST, "last": LAST}
# Of a split.
EVALUATION, PREDICTIONS, PICTURES = "evaluation-{}.json", "predictions-{}.csv", "colorized-{}.png"
OPERATING_POINTS = "operating-points-{}.json"
SUBGROUPS, UNITS = "subgroups-{}.json", "units-{}.json"
MANIFEST, MANIFEST_OF_SPLIT = "manifest.json", "manifest-{}.json"
# What the manifest lists.
LISTED = (
    *(CONFIG, MODEL, BACKBONE, LOG, LAST, PREVIOUS, BEST, COLORIZER, LR_FINDER, RESULT),
    *(COLOR_TABLE_PICTURE, COLOR_TABLE, DECISION),
)
_OF_SPLIT = re.compile(
    r"(evaluation|predictions|colorized|operating-points|subgroups|units)-(\w+)\.\w+"
)
# What a JSON file has to hold.
_CONTENTS = {
    CONFIG: contents.CONFIG,
    RESULT: contents.RESULT,
    LR_FINDER: contents.LR_FINDER,
    DECISION: contents.DECISION,
}

_CONTENTS_OF_SPLIT = {
    "evaluation": contents.EVALUATION,
    "operating-points": contents.OPERATING_POINTS,
    "subgroups": contents.SUBGROUPS,
    "units": contents.UNITS,
}

# Names of runs in a message, at most.
SHOWN = 5
# What a log says of a run whose loss or weights were no longer finite.
DIVERGED = "training diverged"

# Beginning of the name of a file that shows whether several processes see the same folder.
MARK = ".shared-"
# A shared file system may show a new file late: NFS caches a folder for up to a minute.
SHARED_SECONDS = 75.0


def record(config, command: str, train, source=None, bad_records: Mapping | None = None) -> dict:
    """Returns the content of config.json: options, command, data set, source and versions.

    Args:
        config: :class:`medcolor_tf.runs.config.TrainConfig`.
        command: the shell command.
        train: the training images (:class:`medcolor_tf.data.pipeline.Split`).
        source: what --init_from holds, :class:`medcolor_tf.sharing.pretrained.PretrainedParts`, or
            None.
        bad_records: split -> places of records that are left out; those without are not there.
    """
    return {
        "flags": dataclasses.asdict(config),
        **({"lr_multipliers": factors} if (factors := config.lr_factors) else {}),
        "command": command,
        "data_fingerprint": train.info.fingerprint,
        "data_source": train.info.source,
        "train_images": len(train),
        "train_labels": train.raw_counts,
        "init_from": source and _origin(source, config.private_paths),
        "versions": versions(),
        **({"bad_records": bad_records} if bad_records else {}),
    }


def _origin(source, private_paths: bool) -> dict:
    origin = source.origin_record()
    return origin_without_folders(origin) if private_paths else origin


@dataclasses.dataclass(frozen=True)
class Run(CheckedFolder):
    """A run folder, which need not be there yet."""

    def evaluation(self, split: str) -> Path:
        """Returns the path of the AUCs and counts of a split."""
        return self.folder / EVALUATION.format(split)

    def predictions(self, split: str) -> Path:
        """Returns the path of the labels and probabilities of a split."""
        return self.folder / PREDICTIONS.format(split)

    def pictures(self, split: str) -> Path:
        """Returns the path of a split's first images beside what T makes of them."""
        return self.folder / PICTURES.format(split)

    def operating_points(self, split: str) -> Path:
        """Returns the path of what the decision's thresholds give on a split."""
        return self.folder / OPERATING_POINTS.format(split)

    def subgroups(self, split: str) -> Path:
        """Returns the path of what a split gives by group."""
        return self.folder / SUBGROUPS.format(split)

    def units(self, split: str) -> Path:
        """Returns the path of what a split gives per study or patient."""
        return self.folder / UNITS.format(split)

    def read_result(self) -> dict:
        """Returns the content of result.json; the run is finished."""
        return self.read_json(RESULT)

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
        return any((self.folder / name).is_file() for name in (LAST, PREVIOUS))

    @property
    def last_step(self) -> int:
        """Step of the last checkpoint, 0 where there is none that can be read."""
        from medcolor_tf.runs import checkpoint

        for name in (LAST, PREVIOUS):
            with contextlib.suppress(InputError):
                return checkpoint.load_metadata(self.folder / name)["step"]
        return 0

    def _manifest_path(self, name: str) -> Path:
        match = _OF_SPLIT.fullmatch(name)
        return self.folder / (MANIFEST_OF_SPLIT.format(match[2]) if match else MANIFEST)

    def _check_content(self, path: Path, content: dict) -> None:
        of_split = _OF_SPLIT.fullmatch(path.name)
        check = _CONTENTS_OF_SPLIT.get(of_split[1]) if of_split else _CONTENTS.get(path.name)
        if check is not None:
            check(content, str(path))

    def _new_manifest(self, path: Path) -> Manifest:
        """A manifest of what is there, for a folder of an older version."""
        if path.name != MANIFEST:
            return Manifest(path)
        log = self.folder / LOG
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        return Manifest.of_files(path, LISTED, text)

    def note_unlisted(self) -> None:
        """Says that there is no manifest."""
        if not (self.folder / MANIFEST).is_file():
            say(
                f"note: {self.folder}: no {MANIFEST}, so its files are read as they are (runs of "
                "version 0.1 have none)"
            )

    # -- claiming ----------------------------------------------------------------------------------

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
        elif self.lists(CONFIG):
            self.checked(CONFIG)
        elif not self.is_empty:
            raise InputError(
                f"--run_dir={self.folder}: not empty and no run; expected a new folder, or one "
                "that this command made"
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there but what a start leaves: the lock, marks, temporary files."""
        return all(
            name.startswith((MARK, LOCK))
            or name == MANIFEST
            or (name.startswith(".") and name.endswith(".tmp"))
            for name in self._names()
        )

    @contextlib.contextmanager
    def only_writer(self) -> Iterator[None]:
        """Holds the folder against other processes; see :func:`medcolor_tf.locks.only_writer`.

        A finished run in a folder that cannot be written to is read all the same.
        """
        if self.finished and not os.access(self.folder, os.W_OK):
            yield
            return
        with only_writer(self.folder, "--run_dir"):
            yield

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
        stored = self.read_json(CONFIG)
        changed = changed_options(stored["flags"], record["flags"])
        was, now = stored.get("lr_multipliers", {}), record.get("lr_multipliers", {})
        if was != now and not changed:  # a recipe of another version
            changed.append(f"learning-rate factors {now or 1} (there: {was or 1})")
        if stored["data_fingerprint"] != record["data_fingerprint"]:
            changed.append(f"--data_dir={record['flags']['data_dir']} (there: another data set)")
        left_out = [content.get("bad_records", {}) for content in (stored, record)]
        if "command" in record and left_out[0] != left_out[1]:
            there, now = (sum(map(len, places.values())) for places in left_out)
            changed.append(
                f"{now} bad records left out (there: {there}, or others; with them goes the order "
                "of the images)"
            )
        return changed

    def claim(self, record: dict) -> None:
        """Writes config.json; a run without a checkpoint starts with nothing of an older try."""
        if self.started:
            if self.manifest(CONFIG) is None:
                self.note_unlisted()
                self._new_manifest(self.folder / MANIFEST).save()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        stale = [BEST, LOG, RESULT]
        if (self.folder / CONFIG).is_file():
            old = self.read_json(CONFIG)["flags"]
            stale += [LR_FINDER] if old != json.loads(json.dumps(record["flags"])) else []
        if manifest := self.manifest(CONFIG):
            manifest.resolved().without(stale).save()
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        self.write({CONFIG: record})

    def save_model_spec(self, spec: "ModelSpec") -> "ModelSpec":
        """Writes model.json and, for a backbone from a file, copies that file into the folder.

        Returns:
            The spec with the path of the copy.

        Raises:
            InputError: a backbone file other than the one that the run began with.
        """
        files: dict[str, dict | bytes] = {}
        if spec.backbone.endswith(".keras"):
            copy, given = self.folder / BACKBONE, Path(spec.backbone)
            manifest = self.manifest(BACKBONE)
            entry = manifest.files.get(BACKBONE) if manifest and self.started else None
            if entry is not None and file_sha256(given) not in entry.allowed:
                raise InputError(
                    f"--backbone={given}: not the file that this run began with, of which {copy} "
                    "is a copy"
                )
            if not copy.is_file() or manifest is None or manifest.problem(BACKBONE):
                files[BACKBONE] = given.read_bytes()
            spec = dataclasses.replace(spec, backbone=str(copy))
        files[MODEL] = spec.to_dict()
        self.write(files)
        return spec

    def source(self, init_from: str) -> str:
        """Returns where a run's --init_from is read: the commit that a run which began read then.

        Args:
            init_from: the flag's value, which may name a branch of a repository on the hub.
        """
        if not self.started or not (self.folder / CONFIG).is_file():
            return init_from
        stored = self.read_json(CONFIG)
        origin = (stored.get("init_from") or {}).get("path")
        same = stored["flags"].get("init_from") == init_from
        return str(origin) if same and "@" in str(origin) else init_from

    def resume_advice(self) -> str:
        """Returns the end of the message when another process is gone: what is kept, what to do."""
        if step := self.last_step:
            return (
                f". The checkpoint of step {step} in {self.folder} is kept: the same command on "
                "all machines goes on there"
            )
        return ". There was no checkpoint yet: the same command on all machines starts anew"

    # -- log ---------------------------------------------------------------------------------------

    def log_with(self, row: dict) -> str:
        """Returns log.csv with one more row; later ones (of an interrupted run) are dropped."""
        return contents.log_with(self.log_text(), row, self.folder / LOG)

    def log_text(self) -> str:
        """Returns the content of log.csv, "" without one; the manifest's copy of a damaged one."""
        path, manifest = self.folder / LOG, self.manifest(LOG)
        problem = manifest.problem(LOG) if manifest else ""
        if manifest and problem:
            say(f"warning: {path}: {problem}; the copy of it in {MANIFEST} is read instead")
            return manifest.log
        if not path.is_file():
            return ""
        return self.checked(LOG).read_text(encoding="utf-8", errors="replace")

    def what_is_kept(self) -> str:
        """Returns a sentence on the last checkpoint, for a run that cannot go on."""
        if step := self.last_step:
            return f"The last checkpoint, of step {step}, is kept in {self.folder}"
        return f"There was no checkpoint yet: nothing of it is kept in {self.folder}"

    def how_to_go_on(self) -> str:
        """Returns what a run that was stopped on request says at its end."""
        return (
            f"step {self.last_step} is saved in {self.folder}; the same command goes on from there"
        )

    def read_log(self) -> list[dict]:
        """Returns the rows of log.csv as text; [] when there is none.

        Rows that are damaged are left out and named; no other row is lost for them.
        """
        heads, rows = contents.log_rows(self.log_text(), self.folder / LOG)
        return [dict(zip(heads, row, strict=True)) for row in rows]


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
    from medcolor_tf.runs import checkpoint

    run, name = Run(Path(folder)), WEIGHTS[which]
    spec = load_spec(run)
    if not (run.folder / name).is_file() and not run.lists(name):
        raise InputError(
            f"{run.folder / name}: no such file; the run has not reached its first checkpoint"
        )
    run.note_unlisted()
    path = run.checked(name)
    classifier = spec.build()
    return spec, classifier, checkpoint.load_parts(classifier, path)["step"]


def load_spec(run: Run) -> "ModelSpec":
    """Reads a run's model.json; compares it, and a copy of a backbone file, with the manifest.

    Raises:
        InputError: no run there, or damaged files.
    """
    from medcolor_tf.models.spec import ModelSpec

    if run.lists(MODEL) or (run.folder / MODEL).is_file():
        run.checked(MODEL)
    spec = ModelSpec.load(run.folder / MODEL)
    if spec.backbone.endswith(".keras"):
        run.checked(BACKBONE)
    return spec


def weights_digests(folder: str | Path, which: str = "best") -> dict[str, str]:
    """Returns the SHA-256 of each file that makes a run's model, by name.

    Args:
        folder: a run folder.
        which: "best" or "last".
    """
    files = [Path(folder) / name for name in (MODEL, WEIGHTS[which], BACKBONE)]
    return {file.name: file_sha256(file) for file in files if file.is_file()}


def check_is_run(folder: str | Path) -> None:
    """Raises InputError where a folder is no run: for commands, before their imports take time."""
    run = Run(Path(folder))
    if not run.lists(MODEL) and not (run.folder / MODEL).is_file():
        below = sorted(path.parent.name for path in run.folder.glob(f"*/{MODEL}"))
        hint = f"; runs below that folder: {', '.join(below[:SHOWN])}" if below else ""
        if (run.folder / DATASET_JSON).is_file():
            hint = "; that folder is a data set, which is for --data_dir"
        raise InputError(f"{run.folder / MODEL}: {RUN_EXPECTED}{hint}")


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
