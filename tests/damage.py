"""Damages files of runs and data sets one by one, and sees what the commands that read them say.

Each trial ends in one of three ways that are well: "same", the result of the undamaged files, with
or without a warning; "error", a message for the user that names the file. All others are failures:
"silent" (another result), "unnamed" (an error that does not name the file), "traceback".
"""

import contextlib
import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig

WELL = ("same", "error")


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def emptied(data: bytes) -> bytes:
    return b""


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def flipped(place: float) -> Callable[[bytes], bytes]:
    """Flips a bit at a share of the length, the lowest but one: "0" becomes "2", still a digit."""

    def flip(data: bytes) -> bytes:
        position = min(int(place * len(data)), len(data) - 1)
        return data[:position] + bytes([data[position] ^ 2]) + data[position + 1 :]

    return flip


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": truncated,
    "emptied": emptied,
    "zeroed": zeroed,
    **{f"flipped at {place:.0%}": flipped(place) for place in (0.0, 0.31, 0.62, 0.999)},
}
REMOVED, SWAPPED, SIBLING = "removed", "another folder's", "a sibling's"


@dataclass(frozen=True)
class Trial:
    """What came of one damage: the file, what was done to it, the command, the outcome in words."""

    file: str
    kind: str
    command: str
    outcome: str
    detail: str = ""


def damaged_copies(
    whole: Path, name: str, work: Path, other: Path | None, kinds=None
) -> Iterator[tuple[str, Path]]:
    """Yields (kind, copy of a folder in which one file is damaged); each copy replaces the last.

    Args:
        whole: the folder.
        name: of the file.
        work: where the copies are made.
        other: a folder of the same kind whose file of that name takes its place.
        kinds: names of DAMAGES, REMOVED, SWAPPED and SIBLING (a file of the same suffix in the same
            folder); None for all.
    """
    content = (whole / name).read_bytes()
    siblings = sorted(whole.glob(f"*{Path(name).suffix}"))
    sibling = siblings[(siblings.index(whole / name) + 1) % len(siblings)]
    for kind in kinds or [*DAMAGES, REMOVED, SWAPPED, SIBLING]:
        copy = work / whole.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        if kind == REMOVED:
            (copy / name).unlink()
        elif kind in (SWAPPED, SIBLING):
            taken = sibling if kind == SIBLING else other and other / name
            if taken is None or not taken.is_file() or taken.read_bytes() == content:
                continue  # a description may be the same in both
            shutil.copyfile(taken, copy / name)
        else:
            changed = DAMAGES[kind](content)
            if changed == content:
                continue
            (copy / name).write_bytes(changed)
        yield kind, copy


def answer(function: Callable, *arguments) -> tuple[Any, str]:
    """Calls a function; returns (its result, "") or (None, what an InputError says)."""
    try:
        return function(*arguments), ""
    except InputError as error:
        return None, str(error)


def run_trial(read: Callable[[Path], Any], folder: Path, name: str, expected: Any) -> tuple:
    """Calls a command on a damaged folder; returns (outcome, detail)."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            result = read(folder)
    except InputError as error:
        return ("error" if name in str(error) else "unnamed"), str(error)
    except Exception as error:  # whatever a user would see as a traceback
        return "traceback", f"{type(error).__name__}: {error}"
    if same(result, expected):
        return "same", output.getvalue()
    return "silent", f"{output.getvalue()[-500:]}\n{result!r:.300}\nexpected\n{expected!r:.300}"


def same(result: Any, expected: Any) -> bool:
    """Equality of nested containers with arrays."""
    if isinstance(expected, dict):
        return (
            isinstance(result, dict)
            and result.keys() == expected.keys()
            and all(same(result[key], expected[key]) for key in expected)
        )
    if isinstance(expected, (list, tuple)):
        return len(result) == len(expected) and all(map(same, result, expected))
    if isinstance(expected, np.ndarray):
        return np.array_equal(result, expected, equal_nan=expected.dtype.kind == "f")
    return result == expected


def campaign(
    whole: Path,
    other: Path,
    work: Path,
    readers: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]],
    kinds=None,
) -> list[Trial]:
    """Damages files and reads them.

    Args:
        whole: an undamaged folder.
        other: another one of the same kind.
        work: for copies.
        readers: command -> (function of a folder, the files that it reads).
        kinds: see :func:`damaged_copies`.
    """
    trials = []
    for command, (read, names) in readers.items():
        copy = work / whole.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            expected = read(copy)
        for name in names:
            for kind, damaged in damaged_copies(whole, name, work, other, kinds):
                outcome = run_trial(read, damaged, name, expected)
                trials.append(Trial(name, kind, command, *outcome))
    return trials


# Runs


def tiny_backbone(path: Path) -> str:
    """Writes a .keras file of a few weights; returns its path."""
    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="conv1")(inputs)
    keras.Model(inputs, outputs, name="tiny").save(path)
    return str(path)


class StopTraining(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def make_run(config: TrainConfig, stop_after: int = 0) -> Path:
    """Trains; with ``stop_after``, is killed after that many checkpoints."""
    from medcolor_tf.runs import resume
    from medcolor_tf.training.trainer import train

    original, count = resume.write_checkpoint, 0

    def write(*arguments, **options):
        nonlocal count
        original(*arguments, **options)
        count += 1
        if count == stop_after:
            raise StopTraining

    resume.write_checkpoint = write
    try:
        with contextlib.suppress(StopTraining):
            train(config)
    finally:
        resume.write_checkpoint = original
    return Path(config.run_dir)


def resumed(config: TrainConfig) -> Callable[[Path], dict[str, bytes]]:
    """Returns a reader: trains a folder to its end; name -> bytes of what it leaves."""
    from medcolor_tf.training.trainer import train

    def read(folder: Path) -> dict[str, bytes]:
        train(dataclasses.replace(config, run_dir=str(folder)))
        names = (runs.LAST, runs.PREVIOUS, runs.BEST, runs.LOG, runs.RESULT)
        return {name: (folder / name).read_bytes() for name in names}

    return read


def weights_of(which: str) -> Callable[[Path], dict]:
    """Returns a reader: the classifier as predict, evaluate and export load it."""

    def read(folder: Path) -> dict:
        spec, classifier, step = runs.load_classifier(folder, which)
        arrays = checkpoint.to_arrays(checkpoint.named_weights(classifier))
        return {"spec": spec.to_dict(), "step": step, "arrays": arrays}

    return read


def pretrained_parts(folder: Path) -> dict:
    """A reader: --init_from=RUN."""
    from medcolor_tf.sharing.pretrained import read_parts

    parts = read_parts(str(folder))
    origin = {k: v for k, v in parts.origin_record().items() if k != "path"}
    return {"arrays": dict(parts.arrays), "spec": parts.spec.to_dict(), "origin": origin}


def colorizer_alone(folder: Path) -> dict:
    """A reader: --init_from=RUN/colorizer.safetensors."""
    from medcolor_tf.sharing.pretrained import read_parts

    parts = read_parts(str(folder / runs.COLORIZER))
    return {"arrays": dict(parts.arrays), "spec": parts.spec.to_dict()}


def saved_colorizer(folder: Path) -> dict:
    """A reader: colorizer save RUN."""
    from medcolor_tf.sharing import colorizer_file

    colorizer = colorizer_file.read(str(folder))
    return {"arrays": dict(colorizer.arrays), "card": dict(colorizer.card)}


def collected(folder: Path) -> dict:
    """A reader: what a report takes from a run; InputError where it lists the run as unusable."""
    from medcolor_tf.reporting import figures
    from medcolor_tf.reporting.collect import collect
    from medcolor_tf.reporting.predictions import read_log

    found = collect([folder])
    if found.missing:
        raise InputError("; ".join(run.reason for run in found.missing))
    (run,) = found.runs.to_dict("records")
    (group,) = found.evaluation_sets(10)
    return {
        "auc": run["mean_auc"],
        "result": run["result"],
        "evaluation": run["evaluation"],
        "predictions": run["predictions"]().to_dict("list"),
        "log": read_log(folder).to_dict("list"),
        "pictures": [figure.data for figure in figures.colorized(group)],
    }


def finished(config: TrainConfig) -> Callable[[Path], dict]:
    """Returns a reader: the training command on a finished run, which evaluates where it has to."""
    from medcolor_tf.training.trainer import train

    def read(folder: Path) -> dict:
        result = train(dataclasses.replace(config, run_dir=str(folder)))
        assert result is not None
        evaluations = [{**e, "run_dir": ""} for e in result["evaluations"]]
        predictions = runs.Run(folder).predictions("test").read_bytes()
        return {**result, "evaluations": evaluations, "predictions": predictions}

    return read


# Data sets


def plan(splits=("train", "valid", "test")) -> Callable[[Path], dict]:
    """Returns a reader: all that training and evaluation take from a data set."""
    from medcolor_tf.data.pipeline import Split

    def read(folder: Path) -> dict:
        found = {}
        for name in splits:
            split = Split(folder, name)
            found[name] = [
                split.labels,
                split.patient,
                split.info.pixel_mean,
                *(images for images, _ in split.batches(64).as_numpy_iterator()),
            ]
        return found

    return read


def verified(folder: Path) -> str:
    """A reader: data_prep.verify; InputError with what it says."""
    from data_prep.verify import find_problems

    if problems := list(find_problems(folder)):
        raise InputError("\n".join(problems))
    return "all is well"
