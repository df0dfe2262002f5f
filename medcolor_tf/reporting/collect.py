"""Finds runs in folders and gathers them in one table, a row per run; imports no TensorFlow."""

import dataclasses
import fnmatch
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from medcolor_tf import schema_check as schema
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.private_paths import (
    command_without_folders,
    last_component,
    origin_without_folders,
    text_without_folders,
    without_folders,
)
from medcolor_tf.reporting import tuning
from medcolor_tf.reporting.contents import Section
from medcolor_tf.reporting.run_rows import REPEAT, SIGNS, MissingRun, is_run, read_run
from medcolor_tf.reporting.settings import Setting, table_order
from medcolor_tf.studies.grid import FAILURES, PLAN
from medcolor_tf.studies.tuning import TRIALS, TUNING

# Columns of the table: what repeats share, what tells them apart, what comparable runs share.
SETTING = [entry.name for entry in dataclasses.fields(Setting)]
COMPARABLE = ["data_fingerprint", "observations", "split", "policy"]
_TEXT = schema.text(100_000)
_PLAN = schema.record(
    {
        "name": _TEXT,
        "runs": schema.list_of(schema.record({"name": _TEXT, "command": _TEXT}, more=True), 10**6),
    },
    more=True,
)
_FAILURE = schema.record({"exit_status": schema.anything, "reason": _TEXT}, more=True)


@dataclass
class Collected:
    """All that was found.

    Attributes:
        runs: finished and evaluated ones, a row each, with the columns that
            :func:`medcolor_tf.reporting.run_rows.read_run` gives.
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


@dataclass
class _Found:
    """Paths of what a report reads, as keys: each counts once and has its place.

    Attributes:
        runs: folders of runs.
        plans: of studies.
        tunings: records of tuned studies.
    """

    runs: dict[Path, None] = field(default_factory=dict)
    plans: dict[Path, None] = field(default_factory=dict)
    tunings: dict[Path, None] = field(default_factory=dict)

    def search(self, top: Path) -> None:
        """Walks through a folder once, in the order of names."""
        plans = []
        for name, folders, files in os.walk(top):
            folder = Path(name)
            folders.sort()
            is_tuning = folder.name == TUNING
            if is_tuning and folder != top and TRIALS in folders:
                folders.remove(TRIALS)  # chosen among, never reported beside the study's runs
            if not SIGNS.isdisjoint(files) and is_run(folder):
                self.runs[folder.resolve()] = None
            for file in sorted(files):
                if fnmatch.fnmatchcase(file, PLAN.format("*")):
                    plans.append(folder / file)
                elif is_tuning and file.endswith(".json"):
                    self.tunings[folder.resolve() / file] = None
        self.plans.update(dict.fromkeys(sorted(plans)))


def collect(paths: Collection[str | Path], split: str = "test") -> Collected:
    """Reads every run in the given folders (study folders, run folders, or folders of those).

    Args:
        paths: where to look; folders are searched through.
        split: whose evaluations to read.

    Raises:
        InputError: a path is no folder, or there is no run in any of them.
    """
    found = _Found()
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; expected a study's or a run's folder")
        found.search(path)
    entries = [read_run(folder, split) for folder in found.runs]
    collected = Collected(
        pd.DataFrame([entry for entry in entries if isinstance(entry, dict)], dtype=object),
        [entry for entry in entries if isinstance(entry, MissingRun)],
    )
    for plan in found.plans:
        _read_plan(plan, {folder.name for folder in found.runs}, collected)
    collected.tuning = list(tuning.sections(found.tunings))
    if collected.runs.empty and not collected.missing and not collected.tuning:
        raise InputError(
            f"no run in {', '.join(map(str, paths))}; expected folders made by "
            "medcolor_tf.experiment or medcolor_tf.train"
        )
    if not collected.runs.empty:
        _drop_duplicates(collected)
        _sort(collected)
    return collected


def _without_folders(config: Mapping) -> dict:
    """Returns a config.json's content without the folders that lead to its paths."""
    origin = config.get("init_from")
    return dict(config) | {
        "flags": without_folders(config["flags"]),
        "command": command_without_folders(config["command"]),
        "init_from": origin and origin_without_folders(origin),
    }


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
