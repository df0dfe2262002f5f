"""Finds runs in folders and reads what a report needs of them, without TensorFlow."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.runs.config import data_name, differing_options
from medcolor_tf.studies.grid import FAILURES, PLAN

# Options that a row's other fields hold, that tell its repeats apart, or that change no result.
_ROW_OPTIONS = (
    *("data_dir", "run_dir", "init_from", "evaluate", "strategy", "backbone", "colorizer"),
    *("colorizer_init", "observations", "train_fraction", "log_every", "checkpoint_every"),
    *("seed", "subset_seed"),
)


@dataclass(frozen=True)
class RowKey:
    """What runs share that are repeats of each other: a row of a table.

    Attributes:
        strategy: as in design and flags.
        origin: strategy of the run that T (and E) come from, if that was on another data set.
        origin_data, origin_source: name and kind of that data set, or "".
        colorizer, colorizer_init: T and its initialisation; "none" and "paper" without one.
        backbone: name of E, a file's stem.
        fraction: share of the training images.
        options: (name, value) of every further option that is not at its default.
    """

    strategy: str
    origin: str
    origin_data: str
    origin_source: str
    colorizer: str
    colorizer_init: str
    backbone: str
    fraction: float
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class GroupKey:
    """What runs must share to be compared at all: the test images and their labels.

    Attributes:
        data_fingerprint: of the data set.
        data: its name.
        source: its kind ("chexpert", "table", ...).
        observations: labels in order.
        split: on which the runs were evaluated.
        policy: of uncertain labels there, as text.
    """

    data_fingerprint: str
    data: str = field(compare=False)
    source: str = field(compare=False)
    observations: tuple[str, ...]
    split: str
    policy: str


@dataclass(frozen=True)
class RunRecord:
    """A finished and evaluated run.

    Attributes:
        folder: of the run.
        group, row: what it is compared with, and as what.
        repeat: (seed, subset seed).
        config: content of config.json.
        result: content of result.json.
        evaluation: content of evaluation-SPLIT.json.
    """

    folder: Path
    group: GroupKey
    row: RowKey
    repeat: tuple[int, int]
    config: Mapping
    result: Mapping
    evaluation: Mapping

    @property
    def mean_auc(self) -> float:
        """Mean test AUC; NaN when undefined."""
        return _nan(self.evaluation["mean_auc"])

    def auc(self, observation: str) -> float:
        """Test AUC of one observation; NaN when undefined."""
        return _nan(self.evaluation["observations"][observation]["auc"])

    @cached_property
    def predictions(self) -> "PredictionTable":
        """Labels and probabilities of every image."""
        return PredictionTable.read(
            self.folder / f"predictions-{self.group.split}.csv", self.group.observations
        )

    def log(self) -> list[tuple[int, float]]:
        """(step, validation mean AUC) of every checkpoint."""
        path = self.folder / "log.csv"
        if not path.is_file():
            return []
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [(int(row["step"]), float(row["valid_mean_auc"])) for row in rows]


@dataclass(frozen=True)
class PredictionTable:
    """Content of predictions-SPLIT.csv.

    Attributes:
        image_id, patient: (N,) str, keyed.
        labels: (N, L) float, NaN for unknown.
        probabilities: (N, L) float.
    """

    image_id: np.ndarray
    patient: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def read(cls, path: Path, observations: Iterable[str]) -> "PredictionTable":
        """Reads the file; InputError when it is missing, cut or of other observations."""
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            columns = [
                np.array(
                    [
                        [float(row[f"{kind} {name}"] or "nan") for name in observations]
                        for row in rows
                    ]
                )
                for kind in ("label", "probability")
            ]
            ids = (np.array([row[name] for row in rows]) for name in ("image_id", "patient"))
            if not np.isfinite(columns[1]).all():
                raise ValueError("a row without a probability")
            return cls(*ids, *columns)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read as predictions ({error!r}); "
                "`python -m medcolor_tf.evaluate` writes it anew"
            ) from None


@dataclass(frozen=True)
class Gap:
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
class Collection:
    """All that was found.

    Attributes:
        runs: finished and evaluated ones.
        gaps: planned, failed, unfinished or unreadable ones.
        studies: names of the studies whose plans were found.
    """

    runs: list[RunRecord] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)

    def groups(self) -> dict[GroupKey, list[RunRecord]]:
        """Runs by what may be compared, largest group first."""
        found: dict[GroupKey, list[RunRecord]] = {}
        for run in self.runs:
            found.setdefault(run.group, []).append(run)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0].data)))


def collect(paths: Iterable[str | Path], split: str = "test") -> Collection:
    """Reads every run in the given folders (study folders, run folders, or folders of those).

    Args:
        paths: where to look; folders are searched through.
        split: whose evaluations to read.

    Raises:
        InputError: a path is no folder, or there is no run in any of them.
    """
    found = Collection()
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; expected a study's or a run's folder")
        for config in sorted(path.rglob("config.json")):
            if (config.parent / "model.json").is_file() or _has_flags(config):
                folders[config.parent.resolve()] = None
    for folder in folders:
        _read_run(folder, split, found)
    for path in map(Path, paths):
        for plan in sorted(path.rglob(PLAN.format("*"))):
            _read_plan(plan, folders, found)
    _drop_duplicates(found)
    if not found.runs and not found.gaps:
        raise InputError(
            f"no run in {', '.join(map(str, paths))}; expected folders made by "
            "medcolor_tf.experiment or medcolor_tf.train"
        )
    found.runs.sort(key=lambda run: (run.group.data, _row_order(run.row), run.repeat))
    return found


def _has_flags(path: Path) -> bool:
    try:
        return "flags" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _read_run(folder: Path, split: str, found: Collection) -> None:
    """Adds a run, or the reason why it is none that counts."""
    evaluation = folder / f"evaluation-{split}.json"
    try:
        config = read_json(folder / "config.json")
        if not (folder / "result.json").is_file():
            found.gaps.append(Gap(folder.name, "not finished", config["command"]))
        elif not evaluation.is_file():
            command = (
                f"python -m medcolor_tf.evaluate --run_dir={folder} "
                f"--data_dir={config['flags']['data_dir']} --split={split}"
            )
            found.gaps.append(Gap(folder.name, f"not evaluated on {split}", command))
        else:
            model, result = read_json(folder / "model.json"), read_json(folder / "result.json")
            _check_predictions(folder / f"predictions-{split}.csv", model["observations"])
            found.runs.append(_record(folder, config, model, result, read_json(evaluation)))
    except (InputError, KeyError, TypeError, AttributeError) as error:
        found.gaps.append(Gap(folder.name, f"unreadable: {error}"))


def _check_predictions(path: Path, observations: Iterable[str]) -> None:
    """The columns only: the rows are read where they are needed."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    wanted = {f"{kind} {name}" for name in observations for kind in ("label", "probability")}
    if missing := sorted(wanted - set(header)):
        raise InputError(f"{path}: no column {', '.join(missing)}; evaluate the run anew")


def _record(folder, config, model, result, evaluation) -> RunRecord:
    flags, source = config["flags"], config.get("init_from") or {}
    same_data = source.get("data_fingerprint") == config["data_fingerprint"]
    transfers = bool(source) and not same_data
    row = RowKey(
        strategy=flags["strategy"],
        origin=(source.get("strategy") or "colorizer file") if transfers else "",
        origin_data=(source.get("data_name") or "") if transfers else "",
        origin_source=(source.get("data_source") or "unknown") if transfers else "",
        colorizer=model["colorizer"],
        colorizer_init=model["colorizer_init"] if model["colorizer"] != "none" else "paper",
        backbone=_backbone_name(config, model),
        fraction=float(flags["train_fraction"]),
        options=_further_options(flags),
    )
    group = GroupKey(
        data_fingerprint=evaluation["data_fingerprint"],
        data=data_name(evaluation["data_dir"]),
        source=config.get("data_source", "")
        if evaluation["data_fingerprint"] == config["data_fingerprint"]
        else "",
        observations=tuple(model["observations"]),
        split=evaluation["split"],
        policy=_policy(evaluation["uncertain_policy"], model["observations"]),
    )
    repeat = int(flags["seed"]), int(flags["subset_seed"])
    return RunRecord(folder, group, row, repeat, config, result, evaluation)


def _policy(policy: Mapping | str, observations: Iterable[str]) -> str:
    """The policy of the labels at hand, as one comparable text."""
    if isinstance(policy, str):
        return json.dumps(policy)
    return json.dumps({name: policy[name] for name in observations if name in policy})


def _backbone_name(config: Mapping, model: Mapping) -> str:
    """E's name; a run's own copy of a backbone file is called after the file it came from."""
    if not model["backbone"].endswith(".keras"):
        return model["backbone"]
    source = config.get("init_from") or {}
    name = config["flags"]["backbone"] or source.get("backbone") or model["backbone"]
    return Path(name).stem


def _further_options(flags: Mapping) -> tuple[tuple[str, str], ...]:
    changed = differing_options({}, flags)
    return tuple((name, str(now)) for name, (_, now) in changed.items() if name not in _ROW_OPTIONS)


def _read_plan(path: Path, folders: Mapping, found: Collection) -> None:
    """Adds a gap for every planned run that has no folder, with the failure's reason if any."""
    plan = read_json(path)
    found.studies.append(plan["name"])
    known = {folder.name for folder in folders}
    counted = {run.folder.name for run in found.runs}
    told = {gap.name: number for number, gap in enumerate(found.gaps)}
    for run in plan["runs"]:
        failure = path.parent / FAILURES / f"{run['name']}.json"
        if failure.is_file():
            about = read_json(failure)
            reason = f"failed with exit status {about['exit_status']}: {about['reason']}"
            gap = Gap(run["name"], reason, run["command"])
            if run["name"] in told:
                found.gaps[told[run["name"]]] = gap
            elif run["name"] not in counted:
                found.gaps.append(gap)
        elif run["name"] not in known:
            found.gaps.append(Gap(run["name"], "planned, not run", run["command"]))


def _drop_duplicates(found: Collection) -> None:
    """Two runs of one repeat would count twice: the first by folder stays, the other is told."""
    seen: dict[tuple, RunRecord] = {}
    for run in list(found.runs):
        key = (run.group, run.row, run.repeat)
        if key in seen:
            found.runs.remove(run)
            reason = f"the same repeat as {seen[key].folder.name}, which is the one that counts"
            found.gaps.append(Gap(str(run.folder), reason))
        else:
            seen[key] = run


ROW_STRATEGIES = ("baseline", "color_module", "last_layer", "baseline_all", "all")


def _row_order(row: RowKey) -> tuple:
    order = ROW_STRATEGIES.index(row.strategy)
    return (row.backbone, order, row.colorizer, row.colorizer_init, row.origin, row.fraction)


def _nan(value) -> float:
    return float("nan") if value is None else float(value)
