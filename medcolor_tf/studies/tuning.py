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

from medcolor_tf import catalog, commandline
from medcolor_tf.catalog import PARTS, STRATEGIES
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json, write_json
from medcolor_tf.runs.config import SharedOptions, TrainConfig, parse_multipliers
from medcolor_tf.runs.folder import Run
from medcolor_tf.studies import grid
from medcolor_tf.studies.config import StudyConfig
from medcolor_tf.studies.grid import GridPoint, PlannedRun

# In --study_dir: a folder with what was tried and chosen, and in it one of the trials' runs.
TUNING, TRIALS = "tuning", "trials"
# What --tune does not take: what a trial's length and task are, and what has a flag of its own.
_NOT_TUNED = (
    *("steps", "epochs", "min_steps", "observations", "uncertain_policy", "max_lr"),
    *("lr_multipliers", "checkpoint_every", "log_every", "devices", "cache", "deterministic"),
)


@dataclass(frozen=True)
class Axis:
    """An option, or the learning-rate factor of a part, and the values that are tried.

    Attributes:
        flag: that asked for it.
        option: of a training run.
        part: whose factor it is, or "".
        values: as text.
    """

    flag: str
    option: str
    part: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """What tables and folders call it: "max_lr", or "lr_head" for a factor."""
        return f"lr_{self.part}" if self.part else self.option


@dataclass(frozen=True)
class Candidate:
    """What a trial tries: the value of each axis that means something to its strategy."""

    values: tuple[tuple[str, str], ...]  # name of the axis, value
    options: tuple[tuple[str, Any], ...]  # of TrainConfig

    @property
    def label(self) -> str:
        """The values as text: "max_lr=0.005, lr_head=4"."""
        return ", ".join(f"{name}={value}" for name, value in self.values)


def axes(config: StudyConfig) -> list[Axis]:
    """Lists what a study tunes; [] where it tunes nothing.

    Raises:
        InputError: unknown options or values, by the flag that names them.
    """
    found = [Axis("tune_max_lr", "max_lr", "", config.tune_max_lr)]
    for part in PARTS:
        flag = f"tune_{part}"
        found.append(Axis(flag, "lr_multipliers", part, getattr(config, flag)))
    allowed = [f.name for f in dataclasses.fields(SharedOptions) if f.name not in _NOT_TUNED]
    for text in config.tune:
        option, equals, values = text.partition("=")
        if not equals or option not in allowed:
            raise InputError(
                f"--tune={text}: expected OPTION=VALUE|VALUE with an option of "
                f"{', '.join(allowed)}; learning rates have --tune_max_lr, --tune_head, "
                "--tune_colorizer and --tune_backbone"
            )
        found.append(Axis("tune", option, "", tuple(values.split("|"))))
    found = [axis for axis in found if axis.values]
    for axis in found:
        _check_values(axis)
    names = [axis.name for axis in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--tune: {twice[0]} is named twice")
    return found


def _check_values(axis: Axis) -> None:
    if len(set(axis.values)) < len(axis.values):
        raise InputError(f"--{axis.flag}={','.join(axis.values)}: a value twice")
    for value in axis.values:
        try:
            if axis.part:
                parse_multipliers(f"{axis.part}={value}")
            else:
                dataclasses.replace(
                    SharedOptions(steps=1), **{axis.option: _typed(axis.option, value)}
                ).check()
        except InputError as error:
            raise InputError(f"--{axis.flag}={','.join(axis.values)}: {error}") from None


def _typed(option: str, value: str) -> Any:
    return getattr(commandline.parse(SharedOptions, [f"--{option}={value}"]), option)


def check(config: StudyConfig) -> None:
    """Raises InputError for a tuning that cannot be run, before anything is."""
    tuned = axes(config)
    if not tuned:
        if config.tune_only:
            raise InputError("--tune_only: nothing to tune; expected --tune_max_lr=... or the like")
        return
    for seed in config.tune_seeds:
        if not seed.isdecimal():
            raise InputError(f"--tune_seeds: {seed!r} received, expected whole numbers from 0")
    if both := sorted(set(config.tune_seeds) & {*config.seeds, *config.subset_seeds}):
        raise InputError(
            f"--tune_seeds={','.join(config.tune_seeds)}: {', '.join(both)} in the study's own "
            "seeds too; expected others, so that no table shows a run that was chosen"
        )
    if not config.tune_seeds or config.tune_keep < 2 or not 0 < config.tune_cost <= 1000:
        raise InputError(
            f"expected --tune_seeds of at least one value, --tune_keep of at least 2 and "
            f"--tune_cost above 0, received --tune_seeds={','.join(config.tune_seeds)} "
            f"--tune_keep={config.tune_keep} --tune_cost={config.tune_cost:g}"
        )
    if config.max_lr == "auto" and not config.tune_max_lr:
        raise InputError(
            "--max_lr=auto: the LR finder suggests another rate for each trial; expected a number, "
            "or --tune_max_lr"
        )
    options = {axis.option for axis in tuned}
    for strategy, own in grid.parse_overrides(config.overrides).items():
        if clash := sorted(options & own.keys()):
            raise InputError(
                f"--overrides={strategy}:{clash[0]}=...: tuning chooses that option; leave one out"
            )


def candidates(config: StudyConfig, strategy: str) -> tuple[list[Candidate], int]:
    """Lists what a strategy can try, and how often it tries each.

    A factor of a part that the strategy does not train changes nothing. Its trials are not lost:
    the strategy has the others' number, and repeats its own candidates with further seeds.

    Returns:
        (candidates in the order of the flags, trials of each per tuning seed).
    """
    tuned, trains = axes(config), STRATEGIES[strategy].trains
    useful = [axis for axis in tuned if not axis.part or axis.part in trains]
    repeats = math.prod(len(axis.values) for axis in tuned if axis not in useful)
    found = []
    for values in itertools.product(*(axis.values for axis in useful)):
        pairs = list(zip(useful, values, strict=True))
        options = {a.option: _typed(a.option, value) for a, value in pairs if not a.part}
        factors = {axis.part: value for axis, value in pairs if axis.part}
        if factors:
            recipe = catalog.RECIPES[options.get("recipe", config.recipe)]
            text = config.lr_multipliers or recipe.lr_multipliers.get(strategy, "")
            others = {part: f"{factor:g}" for part, factor in parse_multipliers(text).items()}
            merged = others | factors
            options["lr_multipliers"] = ",".join(f"{p}={merged[p]}" for p in PARTS if p in merged)
        values = tuple((axis.name, value) for axis, value in pairs)
        found.append(Candidate(values, tuple(options.items())))
    return found, repeats


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
    """Returns a run of a share of the length, with as many checkpoints where they were told."""
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

    A cell is the point of the grid on the first of --tune_seeds.
    """
    seed, level = config.tune_seeds[0], {}

    def place(point: GridPoint) -> int:
        if point not in level:
            source = grid.source_of(point, config)
            level[point] = 0 if source is None else 1 + place(source)
        return level[point]

    for point in grid.grid_points(config):
        place(dataclasses.replace(point, seed=seed, subset_seed=seed))
    return [[p for p in level if level[p] == n] for n in range(max(level.values()) + 1)]


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
            source = grid.source_of(point, config)
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
    needed = {grid.source_of(point, config) for level in levels for point in level}
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
    return {race.point.cell: {**dict(race.chosen.options), "tuned": names} for race in finished}


def _save(config: StudyConfig, finished: Sequence[Race]) -> None:
    """Writes what a report shows."""
    content = {
        "study": config.name,
        "keep": config.tune_keep,
        "axes": {axis.name: list(axis.values) for axis in axes(config)},
        "cells": [race.record() for race in finished],
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
