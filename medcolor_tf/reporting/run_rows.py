"""Reads a run folder as a row of the table of runs; imports no TensorFlow."""

import csv
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medcolor_tf.catalog import NO_COLORIZER
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.reporting.predictions import columns, read_predictions
from medcolor_tf.reporting.settings import Setting
from medcolor_tf.runs import folder as run_folder
from medcolor_tf.runs.config import data_name, differing_options
from medcolor_tf.runs.folder import Run

REPEAT = ["seed", "subset_seed"]  # columns that tell repeats apart
# Any of these files shows a run, should others be lost.
SIGNS = frozenset((run_folder.CONFIG, run_folder.MANIFEST, run_folder.LAST))
_OWN_SIGNS = (run_folder.MODEL, run_folder.MANIFEST, run_folder.LAST)  # no other program's
# Options that columns hold or that change no result.
_NOT_FURTHER_OPTIONS = (
    *("data_dir", "run_dir", "init_from", "evaluate", "strategy", "backbone", "colorizer"),
    *("colorizer_init", "observations", "train_fraction", "log_every", "checkpoint_every"),
    *REPEAT,
)


@dataclass(frozen=True)
class MissingRun:
    """A run that should be there and is not, or cannot be used.

    Attributes:
        name: of the run or its folder.
        reason: in words.
        command: that would do it, or "".
    """

    name: str
    reason: str
    command: str = ""


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: other programs have a config.json too."""
    if any((folder / name).is_file() for name in _OWN_SIGNS):
        return True
    try:
        return "flags" in read_json(folder / run_folder.CONFIG)
    except InputError:
        return False


def read_run(folder: Path, split: str) -> dict[str, Any] | MissingRun:
    """A run's row, or the reason why it has none.

    The columns are the fields of :class:`medcolor_tf.reporting.settings.Setting`, those of REPEAT,
    and these. data_fingerprint, observations, split and policy: what runs that may be compared
    share. data, source: name and kind ("chexpert", "table", ...) of the data set of the evaluation.
    mean_auc and "auc NAME" of each observation: on that split, NaN where undefined. predictions: a
    function that reads them once. folder; config, model, result and evaluation: contents
    of JSON files.
    """
    try:
        run = Run(folder)
        config = run.read_json(run_folder.CONFIG)
        if not run.finished and not run.lists(run_folder.RESULT):
            return MissingRun(folder.name, "not finished", config["command"])
        evaluation = run.evaluation(split)
        if not evaluation.is_file() and not run.lists(evaluation.name):
            command = (
                f"python -m medcolor_tf.evaluate --run_dir={folder} "
                f"--data_dir={config['flags']['data_dir']} --split={split}"
            )
            return MissingRun(folder.name, f"not evaluated on {split}", command)
        return _columns(folder, config, split)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        return MissingRun(folder.name, f"unreadable: {error}")


def _columns(folder: Path, config: Mapping, split: str) -> dict[str, Any]:
    """A row of the table of runs."""
    run = Run(folder)
    model, result = (run.read_json(name) for name in (run_folder.MODEL, run_folder.RESULT))
    evaluation = run.read_json(run.evaluation(split))
    observations = tuple(model["observations"])
    predictions = run.checked(run.predictions(split))
    _check_columns(predictions, observations)
    same_data = evaluation["data_fingerprint"] == config["data_fingerprint"]
    return {
        **vars(_setting(config, model)),
        **{name: int(config["flags"][name]) for name in REPEAT},
        "data_fingerprint": evaluation["data_fingerprint"],
        "data": data_name(evaluation["data_dir"]),
        "source": config.get("data_source", "") if same_data else "",
        "observations": observations,
        "split": evaluation["split"],
        "policy": _policy(evaluation["uncertain_policy"], observations),
        "mean_auc": _number(evaluation["mean_auc"]),
        **{f"auc {n}": _number(evaluation["observations"][n]["auc"]) for n in observations},
        "predictions": functools.cache(partial(read_predictions, predictions, observations)),
        "folder": folder,
        "config": config,
        "model": model,
        "result": result,
        "evaluation": evaluation,
    }


def _setting(config: Mapping, model: Mapping) -> Setting:
    flags, source = config["flags"], config.get("init_from") or {}
    transfers = source and source.get("data_fingerprint") != config["data_fingerprint"]
    changed = differing_options({}, flags)
    # Each setting has its own value of these, which its repeats share.
    tuned = tuple(flags.get("tuned", ()))
    return Setting(
        strategy=flags["strategy"],
        origin=(source.get("strategy") or "colorizer file") if transfers else "",
        origin_data=(source.get("data_name") or "") if transfers else "",
        origin_source=(source.get("data_source") or "unknown") if transfers else "",
        colorizer=model["colorizer"],
        colorizer_init="paper" if model["colorizer"] == NO_COLORIZER else model["colorizer_init"],
        backbone=_backbone_name(flags, source, model),
        fraction=float(flags["train_fraction"]),
        options=tuple(
            (name, str(value))
            for name, (_, value) in changed.items()
            if name not in _NOT_FURTHER_OPTIONS and name not in tuned
        )
        + ((("tuned", ", ".join(tuned)),) if tuned else ()),
    )


def _backbone_name(flags: Mapping, source: Mapping, model: Mapping) -> str:
    """E's name; a run's own copy of a backbone file is called after the file it came from."""
    if not model["backbone"].endswith(".keras"):
        return model["backbone"]
    return Path(flags["backbone"] or source.get("backbone") or model["backbone"]).stem


def _policy(policy: Mapping | str, observations: Iterable[str]) -> str:
    """The policy of the labels at hand, as one comparable text."""
    if isinstance(policy, str):
        return json.dumps(policy)
    return json.dumps({name: policy[name] for name in observations if name in policy})


def _check_columns(path: Path, observations: Iterable[str]) -> None:
    """The columns only: the rows are read where they are needed."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    expected = {*columns("label", observations), *columns("probability", observations)}
    if absent := sorted(expected - set(header)):
        raise InputError(f"{path}: no column {', '.join(absent)}; evaluate the run anew")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
