"""Finds runs in folders and gathers them in one table, a row per run; imports no TensorFlow."""

import csv
import dataclasses
import functools
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcolor_tf import schema_check as schema
from medcolor_tf.catalog import NO_COLORIZER
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, read_json
from medcolor_tf.private_paths import (
    command_without_folders,
    last_component,
    origin_without_folders,
    text_without_folders,
    without_folders,
)
from medcolor_tf.reporting import tuning
from medcolor_tf.reporting.contents import Section
from medcolor_tf.reporting.settings import Setting, table_order
from medcolor_tf.runs import folder as run_folder
from medcolor_tf.runs.config import data_name, differing_options
from medcolor_tf.runs.folder import Run
from medcolor_tf.studies.grid import FAILURES, PLAN
from medcolor_tf.studies.tuning import TRIALS, TUNING

# Columns of the table: what repeats share, what tells them apart, what comparable runs share.
SETTING = [entry.name for entry in dataclasses.fields(Setting)]
REPEAT = ["seed", "subset_seed"]
COMPARABLE = ["data_fingerprint", "observations", "split", "policy"]
# Any of these files shows a run, should others be lost.
_SIGNS = (run_folder.CONFIG, run_folder.MANIFEST, run_folder.LAST)
_TEXT = schema.text(100_000)
_PLAN = schema.record(
    {
        "name": _TEXT,
        "runs": schema.list_of(schema.record({"name": _TEXT, "command": _TEXT}, more=True), 10**6),
    },
    more=True,
)
_FAILURE = schema.record({"exit_status": schema.anything, "reason": _TEXT}, more=True)
_EVALUATE_AGAIN = "`python -m medcolor_tf.evaluate` writes it anew"
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


@dataclass
class Collected:
    """All that was found.

    Attributes:
        runs: finished and evaluated ones, a row each, with the columns of :func:`_columns`.
        missing: planned, failed, unfinished or unreadable ones.
        studies: names of the studies whose plans were found.
        tuning: a section for each study that was tuned.
    """

    runs: pd.DataFrame
    missing: list[MissingRun] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)
    tuning: list[Section] = field(default_factory=list)

    def without_folders(self, given: Sequence[str]) -> "Collected":
        """Returns the same with paths by their last component (--private_paths).

        Args:
            given: the folders that were searched.
        """
        runs = self.runs
        if not runs.empty:
            runs = runs.assign(config=[_without_folders(config) for config in runs["config"]])
        missing = [
            MissingRun(
                last_component(run.name),
                text_without_folders(run.reason, given),
                run.command and command_without_folders(run.command),
            )
            for run in self.missing
        ]
        return Collected(runs, missing, self.studies, self.tuning)

    def evaluation_sets(self, n_resamples: int) -> "list[EvaluationSet]":
        """Runs by what may be compared, the largest set first."""
        if self.runs.empty:
            return []
        sets = [runs for _, runs in self.runs.groupby(COMPARABLE, sort=False, dropna=False)]
        sets.sort(key=lambda runs: (-len(runs), runs["data"].iloc[0]))
        return [
            EvaluationSet(
                number,
                *(runs[name].iloc[0] for name in ("data", "source", "observations", "split")),
                runs=runs,
                n_resamples=n_resamples,
            )
            for number, runs in enumerate(sets, start=1)
        ]


Settings = Mapping[Setting, pd.DataFrame]  # runs of each


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Runs that may be compared: they were evaluated on the same images and labels.

    Attributes:
        number: 1, 2, ... for names and anchors.
        data, source: name and kind ("chexpert", "table", ...) of the data set.
        observations: labels in order.
        split: on which the runs were evaluated.
        runs: a row per run.
        n_resamples: of the bootstrap over patients.
    """

    number: int
    data: str
    source: str
    observations: tuple[str, ...]
    split: str
    runs: pd.DataFrame
    n_resamples: int

    @cached_property
    def settings(self) -> Settings:
        """Repeats of each setting, in the order of the tables."""
        groups = self.runs.groupby(SETTING, sort=False, dropna=False)
        return {Setting(*runs[SETTING].iloc[0]): runs for _, runs in groups}

    @cached_property
    def fractions(self) -> list[float]:
        """The shares of the training images that occur, increasing."""
        return sorted({setting.fraction for setting in self.settings})

    @cached_property
    def largest(self) -> Settings:
        """The settings with the largest share of the training images."""
        top = self.fractions[-1]
        return {setting: runs for setting, runs in self.settings.items() if setting.fraction == top}

    @cached_property
    def own(self) -> Settings:
        """The settings that did not come from another data set."""
        return {setting: runs for setting, runs in self.settings.items() if not setting.origin}

    def by_backbone(self, settings: Settings) -> list[tuple[str, str, Settings]]:
        """(its name as a part of file names, its name, its settings) of each backbone."""
        groups: dict[str, dict[Setting, pd.DataFrame]] = {}
        for setting, runs in settings.items():
            groups.setdefault(setting.backbone, {})[setting] = runs
        return [(re.sub("[^A-Za-z0-9]", "-", name), name, group) for name, group in groups.items()]

    def anchor(self, setting: Setting) -> str:
        """Of the place where a setting's runs are listed."""
        return f"runs-{self.number}-{list(self.settings).index(setting) + 1}"


def collect(paths: Collection[str | Path], split: str = "test") -> Collected:
    """Reads every run in the given folders (study folders, run folders, or folders of those).

    Args:
        paths: where to look; folders are searched through.
        split: whose evaluations to read.

    Raises:
        InputError: a path is no folder, or there is no run in any of them.
    """
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; expected a study's or a run's folder")
        for folder in sorted({file.parent for name in _SIGNS for file in path.rglob(name)}):
            if (TUNING, TRIALS) in itertools.pairwise(folder.relative_to(path).parts):
                continue  # chosen among, never reported beside the study's runs
            if _is_run(folder):
                folders[folder.resolve()] = None
    entries = [_read_run(folder, split) for folder in folders]
    collected = Collected(
        pd.DataFrame([entry for entry in entries if isinstance(entry, dict)], dtype=object),
        [entry for entry in entries if isinstance(entry, MissingRun)],
    )
    for path in map(Path, paths):
        for plan in sorted(path.rglob(PLAN.format("*"))):
            _read_plan(plan, {folder.name for folder in folders}, collected)
    collected.tuning = list(tuning.sections(paths))
    if collected.runs.empty and not collected.missing and not collected.tuning:
        raise InputError(
            f"no run in {', '.join(map(str, paths))}; expected folders made by "
            "medcolor_tf.experiment or medcolor_tf.train"
        )
    if not collected.runs.empty:
        _drop_duplicates(collected)
        _sort(collected)
    return collected


def columns(kind: str, observations: Iterable[str]) -> list[str]:
    """Columns of predictions that hold each observation's "label" or "probability"."""
    return [f"{kind} {name}" for name in observations]


def of_observation(runs: pd.DataFrame, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(labels, probabilities), each (N,), of one observation in each run's predictions."""
    contents: list[pd.DataFrame] = [read() for read in runs["predictions"]]
    return [(c[f"label {name}"].to_numpy(), c[f"probability {name}"].to_numpy()) for c in contents]


def pooled(runs: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of one observation, those of all runs one after the other."""
    labels, probabilities = zip(*of_observation(runs, name), strict=True)
    return np.concatenate(labels), np.concatenate(probabilities)


def _read_predictions(path: Path, observations: Iterable[str]) -> pd.DataFrame:
    """Keyed ids of image and patient, labels (NaN for unknown) and probabilities, a row per image.

    Raises:
        InputError: the file is missing, cut or of other observations.
    """
    probabilities = columns("probability", observations)
    numbers = [*columns("label", observations), *probabilities]
    table = _read_csv(path, ["image_id", "patient"], numbers, "predictions", _EVALUATE_AGAIN)
    if table[probabilities].isna().to_numpy().any():
        raise InputError(
            f"{path}: cannot be read as predictions (a row without a probability); "
            f"{_EVALUATE_AGAIN}"
        )
    return table


def read_log(folder: Path) -> pd.DataFrame:
    """Step and validation mean AUC (``valid_mean_auc``) of every checkpoint of a run."""
    names, path = ["step", "valid_mean_auc"], folder / run_folder.LOG
    text = Run(folder).log_text()
    if not text:
        return pd.DataFrame(columns=pd.Index(names))
    remedy = "without it there is no learning curve of the run"
    return _read_csv(path, [], names, "a log", remedy, text)


def _read_csv(
    path: Path, texts: list[str], numbers: list[str], content: str, remedy: str, text: str = ""
) -> pd.DataFrame:
    """Columns of a CSV file: texts as they are, numbers to the last digit, NaN for an empty one.

    ``text`` is the file's content, where it has been read.
    """
    try:
        source = io.StringIO(text) if text else path
        table = pd.read_csv(
            source, usecols=[*texts, *numbers], dtype=object, keep_default_na=False, index_col=False
        )
        # As Python reads them: pandas' own parser rounds in some of its versions.
        return table.assign(**table[numbers].replace("", "nan").astype(float))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {content} ({error}); {remedy}") from None


def _without_folders(config: Mapping) -> dict:
    """Returns a config.json's content without the folders that lead to its paths."""
    origin = config.get("init_from")
    return dict(config) | {
        "flags": without_folders(config["flags"]),
        "command": command_without_folders(config["command"]),
        "init_from": origin and origin_without_folders(origin),
    }


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's: other programs have a config.json too."""
    if any((folder / name).is_file() for name in (run_folder.MODEL, *_SIGNS[1:])):
        return True
    try:
        return "flags" in read_json(folder / run_folder.CONFIG)
    except InputError:
        return False


def _read_run(folder: Path, split: str) -> dict[str, Any] | MissingRun:
    """A run's row, or the reason why it has none."""
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
    """A row of the table of runs: the columns of SETTING, REPEAT and COMPARABLE, and these.

    data, source: name and kind ("chexpert", "table", ...) of the data set of the evaluation;
    mean_auc and "auc NAME" of each observation: on that split, NaN where undefined; predictions: a
    function that reads them once; folder; config, result and evaluation: contents of JSON files;
    subgroups, units: likewise, or why they cannot be used, "" where there are none.
    """
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
        "predictions": functools.cache(partial(_read_predictions, predictions, observations)),
        "folder": folder,
        "config": config,
        "result": result,
        "evaluation": evaluation,
        "subgroups": _broken_down(run, run.subgroups(split), predictions),
        "units": _broken_down(run, run.units(split), predictions),
    }


def _broken_down(run: Run, path: Path, predictions: Path) -> dict | str:
    """The content of a file by group or unit; why it cannot be used, "" where there is none."""
    if not path.is_file() and not run.lists(path.name):
        return ""
    try:
        content = run.read_json(path)
    except InputError as error:
        return str(error)
    if content["predictions_sha256"] != file_sha256(predictions):
        return (
            f"{path}: of other predictions than {predictions.name}; evaluate the run by group or "
            "unit anew"
        )
    return content


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


def _read_plan(path: Path, known: Collection[str], collected: Collected) -> None:
    """Adds every planned run that has no folder, with the failure's reason if there is one."""
    plan = read_json(path)
    _PLAN(plan, str(path))
    collected.studies.append(plan["name"])
    missing = collected.missing
    usable = set() if collected.runs.empty else {folder.name for folder in collected.runs["folder"]}
    places = {run.name: number for number, run in enumerate(missing)}
    for run in plan["runs"]:
        name = run["name"]
        failure = path.parent / FAILURES / f"{name}.json"
        if failure.is_file():
            content = read_json(failure)
            _FAILURE(content, str(failure))
            reason = f"failed with exit status {content['exit_status']}: {content['reason']}"
            failed = MissingRun(name, reason, run["command"])
            if name in places:
                missing[places[name]] = failed
            elif name not in usable:
                missing.append(failed)
        elif name not in known:
            missing.append(MissingRun(name, "planned, not run", run["command"]))


def _drop_duplicates(collected: Collected) -> None:
    """Two runs of one repeat would count twice: the first by folder stays, the other is named."""
    runs, keys = collected.runs, [*COMPARABLE, *SETTING, *REPEAT]
    again = runs.duplicated(keys)
    firsts = runs.loc[~again].set_index(keys)["folder"].to_dict()
    for run in runs.loc[again].to_dict("records"):
        first = firsts[tuple(run[key] for key in keys)].name
        reason = f"the same repeat as {first}, which is the one that counts"
        collected.missing.append(MissingRun(str(run["folder"]), reason))
    collected.runs = runs.loc[~again]


def _sort(collected: Collected) -> None:
    """Data sets by name; within one, backbones, strategies in the order of tables, repeats."""
    runs = collected.runs
    order = ["data", "backbone", "place", "colorizer", "colorizer_init", "origin", "fraction"]
    placed = runs.assign(place=runs["strategy"].map(table_order))
    collected.runs = runs.loc[placed.sort_values([*order, *REPEAT], kind="stable").index]
