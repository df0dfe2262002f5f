"""A study: a small grid of runs that start from one another, as data (sections IV and V)."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medcolor_tf import commandline
from medcolor_tf.catalog import COLORIZER_INITS, COLORIZERS, NO_COLORIZER, STRATEGIES
from medcolor_tf.data import schema
from medcolor_tf.errors import InputError
from medcolor_tf.runs.config import SharedOptions, TrainConfig, data_name
from medcolor_tf.studies.config import ORIGINS, TRANSFERRED, StudyConfig

# In --study_dir: folders, and the plan of a study of some name.
RUNS, LOGS, FAILURES, PLAN = "runs", "logs", "failures", "{}.plan.json"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Attributes:
        name: of its folder.
        config: its options.
        needs: name of the run that it starts from, or "".
    """

    name: str
    config: TrainConfig
    needs: str

    @property
    def command(self) -> str:
        """The shell command that does this run and nothing else."""
        return commandline.command_line("medcolor_tf.train", self.config)


@dataclass(frozen=True)
class GridPoint:
    """A point of the grid."""

    data_dir: str
    strategy: str
    origin: str
    colorizer: str
    colorizer_init: str
    backbone: str
    fraction: str
    seed: str
    subset_seed: str

    @property
    def name(self) -> str:
        """Folder name; equal for equal runs, so that studies in one folder share them."""
        words = [self.cell, f"s{self.seed}"]
        if float(self.fraction) < 1 and self.subset_seed != self.seed:
            words.append(f"subset{self.subset_seed}")
        return "-".join(words)

    @property
    def cell(self) -> str:
        """What it is a repeat of."""
        init = "" if self.colorizer_init == "paper" else f"_{self.colorizer_init}"
        words = [
            data_name(self.data_dir),
            self.strategy + (f"_from_{self.origin}" if self.origin else ""),
            *([] if self.colorizer == "none" else [self.colorizer + init]),
            Path(self.backbone).stem,
            f"f{float(self.fraction):g}",
        ]
        return "-".join(words)


def plan(
    config: StudyConfig, chosen: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> list[PlannedRun]:
    """Lists the runs of a study, each after the one it starts from.

    Args:
        config: options.
        chosen: options of each cell (:attr:`GridPoint.cell`), as tuning chose them.

    Raises:
        InputError: a value that does not exist, contradictory values, or data that does not fit.
    """
    check(config)
    planned: dict[str, PlannedRun] = {}
    for point in grid_points(config):
        _add(planned, point, config, chosen)
    return list(planned.values())


def shard_of(planned: list[PlannedRun], shard: str) -> list[PlannedRun]:
    """Returns the runs of one of several machines; no run waits for another machine's.

    Whole chains are dealt out, the longest first, each to the machine with the least so far.

    Args:
        planned: of :func:`plan`.
        shard: "2/8", or "" for all.
    """
    number, count = commandline.parse_shard(shard) or (1, 1)
    first = {}
    for run in planned:
        first[run.name] = first.get(run.needs, run.name)
    chains: dict[str, list[PlannedRun]] = {}
    for run in planned:
        chains.setdefault(first[run.name], []).append(run)
    loads, mine = [0.0] * count, []
    for chain in sorted(chains.values(), key=_weight, reverse=True):
        least = loads.index(min(loads))
        loads[least] += _weight(chain)
        if least == number - 1:
            mine += chain
    chosen = {run.name for run in mine}
    return [run for run in planned if run.name in chosen]


def _weight(chain: list[PlannedRun]) -> float:
    return sum(run.config.train_fraction for run in chain)


def grid_points(config: StudyConfig) -> Iterator[GridPoint]:
    """Yields the grid: what learns on the data set, then what learns on the targets."""
    parts = list(itertools.product(config.backbones, config.colorizers, config.colorizer_inits))
    seeds = repeats(config)
    for fraction, (seed, subset) in itertools.product(config.train_fractions, seeds):
        for (backbone, colorizer, init), strategy in itertools.product(parts, config.strategies):
            yield _grid_point(
                config.data_dir, strategy, "", colorizer, init, backbone, fraction, seed, subset
            )
    for target, (seed, subset) in itertools.product(config.target_dirs, seeds):
        for backbone, colorizer, init in parts:
            rest = (colorizer, init, backbone, "1", seed, subset)
            for strategy in config.target_strategies:
                yield _grid_point(target, strategy, "", *rest)
            for transfer in config.transfers:
                yield _grid_point(target, *transfer.split("@"), *rest)


def _grid_point(data_dir, strategy, origin, colorizer, init, *rest) -> GridPoint:
    if strategy not in TRANSFERRED:  # one and the same run for every colorizer
        colorizer, init = NO_COLORIZER, "paper"
    return GridPoint(data_dir, strategy, origin, colorizer, init, *rest)


def repeats(config: StudyConfig) -> list[tuple[str, str]]:
    """Returns the seed and subset of each repeat."""
    if config.subset_seeds:
        return list(itertools.product(config.seeds, config.subset_seeds))
    return [(seed, seed) for seed in config.seeds]


def _add(
    planned: dict, point: GridPoint, config: StudyConfig, chosen: Mapping[str, Mapping[str, Any]]
) -> str:
    """Adds a run after the run it starts from; returns its name."""
    if point.name in planned:
        return point.name
    source = source_of(point, config)
    needs = _add(planned, source, config, chosen) if source else ""
    runs = Path(config.study_dir) / RUNS
    options, init_from = chosen.get(point.cell, {}), str(runs / needs) if needs else ""
    built = train_config(point, config, options, str(runs / point.name), init_from)
    planned[point.name] = PlannedRun(point.name, built, needs)
    return point.name


def source_of(point: GridPoint, config: StudyConfig) -> GridPoint | None:
    """Returns the point of the grid that one starts from, or None."""
    if point.origin:
        largest = max(config.train_fractions, key=float)
        return dataclasses.replace(
            point, data_dir=config.data_dir, strategy=point.origin, origin="", fraction=largest
        )
    before = STRATEGIES[point.strategy].starts_from
    return dataclasses.replace(point, strategy=before) if before else None


def train_config(
    point: GridPoint,
    config: StudyConfig,
    chosen: Mapping[str, Any],
    run_dir: str,
    init_from: str,
) -> TrainConfig:
    """Builds the options of a run.

    Args:
        point: of the grid.
        config: of the study.
        chosen: options that tuning chose.
        run_dir: folder of the run.
        init_from: folder of the run that it starts from, or "".

    Raises:
        InputError: options that contradict each other.
    """
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(SharedOptions)}
    is_target = point.data_dir in config.target_dirs
    own = {
        "data_dir": point.data_dir,
        "run_dir": run_dir,
        "strategy": point.strategy,
        "train_fraction": float(point.fraction),
        # Without a subset its seed means nothing; one value lets such runs be shared.
        "subset_seed": int(point.subset_seed) if float(point.fraction) < 1 else 0,
        "seed": int(point.seed),
        "evaluate": (config.evaluate,),
        "observations": config.target_observations if is_target else config.observations,
    }
    if init_from:
        own["init_from"] = init_from
        if point.origin:
            own["normalization"] = config.transfer_normalization
    else:
        own["backbone"] = point.backbone
        if point.colorizer != "none":
            own |= {"colorizer": point.colorizer, "colorizer_init": point.colorizer_init}
    overrides = parse_overrides(config.overrides).get(point.strategy, {})
    built = TrainConfig(**(shared | own | overrides | dict(chosen)))
    built.check()
    return built


def parse_overrides(texts: tuple[str, ...]) -> dict[str, dict]:
    """Parses "baseline:max_lr=0.02" into {"baseline": {"max_lr": "0.02"}}, typed as the option is.

    Raises:
        InputError: not of that form, an unknown strategy or option, or a bad value.
    """
    found: dict[str, dict] = {}
    allowed = {field.name for field in dataclasses.fields(SharedOptions)}
    for text in texts:
        strategy, colon, setting = text.partition(":")
        name, equals, _ = setting.partition("=")
        if not colon or not equals or strategy not in STRATEGIES or name not in allowed:
            raise InputError(
                f"--overrides={text}: expected STRATEGY:OPTION=VALUE with a strategy of "
                f"{', '.join(STRATEGIES)} and an option of a training run's recipe"
            )
        parsed = commandline.parse(SharedOptions, [f"--{setting}"])
        found.setdefault(strategy, {})[name] = getattr(parsed, name)
        if name == "steps":
            found[strategy].setdefault("epochs", 0.0)
        elif name == "epochs":
            found[strategy].setdefault("steps", 0)
    return found


def check(config: StudyConfig) -> None:
    """Raises InputError for what cannot be run, before anything is."""
    config.check()
    commandline.parse_shard(config.shard)
    if config.cluster and config.gpus:
        raise InputError(
            f"--gpus={','.join(config.gpus)}: the workers of --cluster have their own "
            "(CUDA_VISIBLE_DEVICES and --resources GPU=1, see docs/studies.md)"
        )
    for flag, allowed in (
        ("strategies", STRATEGIES),
        ("target_strategies", STRATEGIES),
        ("colorizers", COLORIZERS),
        ("colorizer_inits", COLORIZER_INITS),
    ):
        _check_each(config, flag, lambda value, allowed=allowed: value in allowed, allowed)
    known = tuple(f"{s}@{o}" for s in TRANSFERRED for o in ORIGINS)
    _check_each(config, "transfers", known.__contains__, known)
    whole = ("whole numbers from 0",)
    for flag in ("seeds", "subset_seeds", "gpus"):
        _check_each(config, flag, str.isdecimal, whole)
    _check_each(config, "train_fractions", _is_fraction, ("numbers above 0 and up to 1",))
    if config.tune_fraction and not _is_fraction(config.tune_fraction):
        raise InputError(
            f"--tune_fraction={config.tune_fraction}: expected a number above 0 and up to 1"
        )
    for flag in ("strategies", "colorizers", "colorizer_inits", "backbones", "seeds"):
        if not getattr(config, flag):
            raise InputError(f"--{flag}: expected at least one value")
    _check_stems("backbones", config.backbones, lambda value: Path(value).stem)
    _check_stems("target_dirs", (config.data_dir, *config.target_dirs), data_name)
    _check_data(config)


def _check_each(config, flag: str, accepts, allowed: Iterable[str]) -> None:
    values = getattr(config, flag)
    for value in values:
        if not accepts(value):
            raise InputError(f"--{flag}: {value!r} received, expected {', '.join(allowed)}")
    if len(set(values)) < len(values):
        raise InputError(f"--{flag}={','.join(values)}: a value twice")


def _check_stems(flag: str, values: tuple[str, ...], stem) -> None:
    """Two values that end in one folder name would share their runs."""
    stems = [stem(value) for value in values]
    twice = [value for value, own in zip(values, stems, strict=True) if stems.count(own) > 1]
    if twice:
        raise InputError(f"--{flag}: {' and '.join(twice)} have one name; rename a file or folder")


def _check_data(config: StudyConfig) -> None:
    """Labels, splits and sizes of every data set, read from its description alone."""
    for folder in (config.data_dir, *config.target_dirs):
        info = schema.DatasetInfo.load(folder)
        wanted = config.observations if folder == config.data_dir else config.target_observations
        unknown = [name for name in wanted if name not in info.observations]
        if unknown:
            raise InputError(
                f"{folder}: no observation {', '.join(unknown)}; it has "
                f"{', '.join(info.observations)}"
            )
        for split in ("train", "valid", config.evaluate):
            if not info.images.get(split):
                raise InputError(f"{folder}: no images in split {split!r}, which the study needs")
    images = schema.DatasetInfo.load(config.data_dir).images["train"]
    for fraction in config.train_fractions:
        if round(float(fraction) * images) < config.batch_size:
            raise InputError(
                f"--train_fractions: {fraction} of {images:,} images is fewer than "
                f"--batch_size={config.batch_size}; lower that or leave the share out"
            )


def _is_fraction(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False
