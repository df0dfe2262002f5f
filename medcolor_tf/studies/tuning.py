"""Fair tuning before a study: every strategy chooses its options by the same number of trials.

A cell is what a study repeats: a strategy, T, E, a share of the images and where it starts from.
Each cell tries the same values on seeds that the study's tables do not use, and takes what had the
highest AUC of the validation images; test images are not looked at. Trials go by successive
halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): all values in short runs with a whole
schedule each, then the best of them in longer ones. A trial is a run folder, so that the same
command goes on.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json, write_json
from medcolor_tf.private_paths import without_folders
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.folder import Run
from medcolor_tf.studies import grid
from medcolor_tf.studies.candidates import Candidate, axes, candidates
from medcolor_tf.studies.config import StudyConfig
from medcolor_tf.studies.grid import GridPoint, PlannedRun

# In --study_dir: a folder with what was tried and chosen, and in it one of the trials' runs.
TUNING, TRIALS = "tuning", "trials"


def rounds(number: int, keep: int, budget: float) -> list[tuple[int, float]]:
    """Plans successive halving: (candidates, length as a share of a whole run) of each round.

    The fewest rounds whose last has whole runs and whose cost is within the budget; where there are
    none, all runs are shortened.

    Args:
        number: of candidates in the first round.
        keep: one in so many goes on, with runs that many times as long.
        budget: in whole runs.
    """
    sizes = [number]
    while (fewer := math.ceil(sizes[-1] / keep)) > 1:
        sizes.append(fewer)
    plan: list[tuple[int, float]] = []
    for count in range(1, len(sizes) + 1):
        plan = [(size, keep ** (place + 1.0 - count)) for place, size in enumerate(sizes[:count])]
        if cost(plan) <= budget:
            return plan
    top = budget / cost(plan)
    return [(size, share * top) for size, share in plan]


def cost(plan: Sequence[tuple[int, float]]) -> float:
    """Returns what :func:`rounds` cost in whole runs."""
    return sum(size * share for size, share in plan)


def shortened(config: TrainConfig, share: float) -> TrainConfig:
    """Returns a run of a share of the length, with as many checkpoints if it has an interval."""
    if share == 1:
        return config
    return dataclasses.replace(
        config,
        steps=max(1, round(config.steps * share)) if config.steps else 0,
        epochs=config.epochs * share,
        min_steps=round(config.min_steps * share),
        checkpoint_every=config.checkpoint_every and max(1, round(config.checkpoint_every * share)),
    )


def cells(config: StudyConfig) -> list[list[GridPoint]]:
    """Lists the cells of a study by level: those of a level start from cells of earlier ones.

    A cell is the point of the grid on the first of --tune_seeds, at --tune_fraction if that is set.
    """
    level = {}

    def place(point: GridPoint) -> int:
        if point not in level:
            source = _source(point, config)
            level[point] = 0 if source is None else 1 + place(source)
        return level[point]

    for point in grid.grid_points(config):
        place(_tried_as(point, config))
    return [[p for p in level if level[p] == n] for n in range(max(level.values()) + 1)]


def _tried_as(point: GridPoint, config: StudyConfig) -> GridPoint:
    """Returns the cell whose choice a point of the grid takes."""
    seed, fraction = config.tune_seeds[0], point.fraction
    if config.tune_fraction and point.data_dir not in config.target_dirs:  # those have one share
        fraction = config.tune_fraction
    return dataclasses.replace(point, seed=seed, subset_seed=seed, fraction=fraction)


def _source(cell: GridPoint, config: StudyConfig) -> GridPoint | None:
    """Returns the cell that one's trials start from, or None."""
    source = grid.source_of(cell, config)
    return _tried_as(source, config) if source else None


@dataclass
class Race:
    """The trials of a cell, round by round.

    Attributes:
        point: the cell.
        config: of the study.
        alive: candidates that are still in it.
        seeds: of each candidate's trials.
        plan: of :func:`rounds`, in candidates of this cell.
        init_from: run that the trials start from, or "".
        history: per round, its share of the length and (candidate, AUC of each trial), best first.
    """

    point: GridPoint
    config: StudyConfig
    alive: list[Candidate]
    seeds: tuple[str, ...]
    plan: list[tuple[int, float]]
    init_from: str
    history: list[tuple[float, list[tuple[Candidate, list[float | None]]]]] = field(
        default_factory=list
    )

    @classmethod
    def start(cls, point: GridPoint, config: StudyConfig, init_from: str) -> "Race":
        """Plans the trials of a cell."""
        found, repeats = candidates(config, point.strategy)
        budget = config.tune_cost * len(grid.repeats(config)) / len(config.tune_seeds)
        whole = rounds(len(found) * repeats, config.tune_keep, budget)
        plan = [(max(1, math.ceil(size / repeats)), share) for size, share in whole]
        return cls(point, config, found, _seeds(config, repeats), plan, init_from)

    def trials(self, number: int) -> list[PlannedRun]:
        """Returns the runs of a round; [] where the cell has nothing left to choose from."""
        if number >= len(self.plan) or len(self.alive) < 2:
            return []
        share = self.plan[number][1]
        return [self.trial(c, seed, share) for c in self.alive for seed in self.seeds]

    def trial(self, candidate: Candidate, seed: str, share: float) -> PlannedRun:
        """Returns one run; equal ones have one folder, so that a longer list of values finds it."""
        # The images stay those of the cell's own subset; order, crops and new weights vary.
        point = dataclasses.replace(self.point, seed=seed)
        words = re.sub(r"[^\w.=+-]+", "_", candidate.label) or "as_is"
        name = f"{point.cell}-{words}-s{seed}"
        whole = grid.train_config(point, self.config, dict(candidate.options), "", self.init_from)
        run = shortened(dataclasses.replace(whole, evaluate=()), share)
        name += f"-{run.steps}steps" if run.steps else f"-{run.epochs:.4g}epochs"
        folder = Path(self.config.study_dir) / TUNING / TRIALS / name
        return PlannedRun(name, dataclasses.replace(run, run_dir=str(folder)), "")

    def decide(self, number: int) -> None:
        """Reads the results of a round and keeps the best candidates."""
        if not self.trials(number):
            return
        share = self.plan[number][1]
        results = [
            (c, [validation_auc(self.trial(c, seed, share)) for seed in self.seeds])
            for c in self.alive
        ]
        results.sort(key=lambda entry: -_mean(entry[1]))  # stable: the earlier one of two equals
        self.history.append((share, results))
        left = self.plan[number + 1][0] if number + 1 < len(self.plan) else 1
        self.alive = [candidate for candidate, _ in results[:left]]
        if _mean(results[0][1]) == -math.inf:
            raise InputError(
                f"tuning {self.point.cell}: all trials diverged; expected lower rates among "
                f"{', '.join(c.label for c, _ in results)}"
            )

    @property
    def chosen(self) -> Candidate:
        """The candidate that won."""
        return self.alive[0]

    @property
    def source(self) -> PlannedRun:
        """The whole run on the first tuning seed that trials of other cells start from."""
        return self.trial(self.chosen, self.config.tune_seeds[0], 1.0)

    def record(self) -> dict:
        """Returns what was tried and chosen, for the report."""
        return {
            **dataclasses.asdict(self.point),
            "chosen": dict(self.chosen.values),
            "edges": self._edges(),
            "runs": sum(len(aucs) for _, results in self.history for _, aucs in results),
            "cost": sum(share * len(aucs) for share, res in self.history for _, aucs in res),
            "seeds": list(self.seeds),
            "rounds": [
                {
                    "share": share,
                    "trials": [{"values": dict(c.values), "aucs": aucs} for c, aucs in results],
                }
                for share, results in self.history
            ],
        }

    def _edges(self) -> list[str]:
        """Names the axes whose chosen value is the least or greatest of several numbers."""
        found, chosen = [], dict(self.chosen.values)
        for axis in axes(self.config):
            try:
                numbers = [float(value) for value in axis.values]
            except ValueError:
                continue
            ends = (min(numbers), max(numbers))
            if len(numbers) > 1 and axis.name in chosen and float(chosen[axis.name]) in ends:
                found.append(axis.name)
        return found


def _seeds(config: StudyConfig, repeats: int) -> tuple[str, ...]:
    """The tuning seeds, and further ones that neither they nor the study use."""
    used = {*config.tune_seeds, *config.seeds, *config.subset_seeds}
    start = max(map(int, config.tune_seeds)) + 1
    further = (str(number) for number in itertools.count(start) if str(number) not in used)
    missing = (repeats - 1) * len(config.tune_seeds)
    return (*config.tune_seeds, *itertools.islice(further, missing))


def validation_auc(run: PlannedRun) -> float | None:
    """Returns the best validation mean AUC of a finished trial; None where it diverged."""
    files = Run(Path(run.config.run_dir))
    return files.read_result()["best_valid_mean_auc"] if files.finished else None


def _mean(aucs: Sequence[float | None]) -> float:
    known = [auc for auc in aucs if auc is not None]
    return sum(known) / len(aucs) if known and len(known) == len(aucs) else -math.inf


def races(config: StudyConfig) -> Iterator[list[Race]]:
    """Yields the races of each level; those of the level before have to be over by then."""
    over: dict[GridPoint, Race] = {}
    for level in cells(config):
        started = []
        for point in level:
            source = _source(point, config)
            init_from = over[source].source.config.run_dir if source else ""
            started.append(Race.start(point, config, init_from))
        yield started
        over |= {race.point: race for race in started}


def tune(
    config: StudyConfig,
    run_trials: Callable[[list[PlannedRun], str], bool],
    save: bool = True,
) -> dict[str, dict[str, Any]] | None:
    """Does all trials that are left and chooses.

    Args:
        config: of a study that tunes something, checked.
        run_trials: brings runs to their end, or says False where one failed for another reason
            than that it diverged; its second argument is a title.
        save: whether to write what a report shows.

    Returns:
        Cell -> options of its runs, or None where a trial failed.

    Raises:
        InputError: all trials of a cell diverged.
    """
    finished: list[Race] = []
    levels = cells(config)
    needed = {_source(point, config) for level in levels for point in level}
    for level, started in enumerate(races(config), start=1):
        for number in range(max(len(race.plan) for race in started)):
            trials = [trial for race in started for trial in race.trials(number)]
            title = f"tuning, level {level} of {len(levels)}, round {number + 1}"
            if trials and not run_trials(trials, title):
                return None
            for race in started:
                race.decide(number)
        sources = [race.source for race in started if race.point in needed]
        if sources and not run_trials(sources, f"tuning, runs that level {level + 1} starts from"):
            return None
        finished += started
    if save:
        _save(config, finished)
    names = tuple(dict.fromkeys(axis.option for axis in axes(config)))
    chosen = {race.point: {**dict(race.chosen.options), "tuned": names} for race in finished}
    shares = config.train_fractions if config.tune_fraction else ()
    return {
        dataclasses.replace(point, fraction=share).cell: options
        for point, options in chosen.items()
        for share in (point.fraction, *shares)
    }


def _save(config: StudyConfig, finished: Sequence[Race]) -> None:
    """Writes what a report shows."""
    records = [race.record() for race in finished]
    if config.private_paths:
        records = [without_folders(record) for record in records]
    content = {
        "study": config.name,
        "keep": config.tune_keep,
        "axes": {axis.name: list(axis.values) for axis in axes(config)},
        "cells": records,
    }
    path = record_path(config)
    if not path.is_file() or read_json(path) != content:
        write_json(path, content)


def record_path(config: StudyConfig) -> Path:
    """Returns where the record of a study's tuning is."""
    return Path(config.study_dir) / TUNING / f"{config.name}.json"


def describe(config: StudyConfig) -> list[str]:
    """Says in lines of text what a study's tuning would do."""
    lines = []
    for level in cells(config):
        for point in level:
            race = Race.start(point, config, "")
            plan = ", ".join(
                f"{size} at {share:.3g} of the length" for size, share in race.plan if size > 1
            )
            runs = len(race.seeds)
            lines.append(
                f"# tuning {point.cell}: {len(race.alive)} candidates"
                + (
                    f", {runs} seeds each ({plan})"
                    if len(race.alive) > 1
                    else "; nothing to choose"
                )
            )
    return lines
