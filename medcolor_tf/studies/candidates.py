"""What a study's tuning tries: options and learning-rate factors, and their combinations."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any

from medcolor_tf import commandline
from medcolor_tf.catalog import PARTS, STRATEGIES
from medcolor_tf.errors import InputError
from medcolor_tf.runs.config import SharedOptions, parse_multipliers
from medcolor_tf.studies import grid
from medcolor_tf.studies.config import StudyConfig

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
        if config.tune_fraction:
            raise InputError(
                f"--tune_fraction={config.tune_fraction}: nothing to tune; expected "
                "--tune_max_lr=... or the like"
            )
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
            tried = dataclasses.replace(config, recipe=options.get("recipe", config.recipe))
            others = tried.stated_multipliers(strategy)
            merged = {part: f"{factor:g}" for part, factor in others.items()} | factors
            options["lr_multipliers"] = ",".join(f"{p}={merged[p]}" for p in PARTS if p in merged)
        values = tuple((axis.name, value) for axis, value in pairs)
        found.append(Candidate(values, tuple(options.items())))
    return found, repeats
