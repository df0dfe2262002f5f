"""Which settings answer a question, and the tests between them: over repeats, over patients."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from medcolor_tf.catalog import STRATEGIES
from medcolor_tf.evaluation import statistics
from medcolor_tf.evaluation.bootstrap import bootstrap_difference
from medcolor_tf.reporting.collect import Settings
from medcolor_tf.reporting.predictions import columns
from medcolor_tf.reporting.run_rows import REPEAT
from medcolor_tf.reporting.settings import (
    Setting,
    has_default_init,
    table_order,
    trains_backbone,
)

Pair = tuple[Setting, Setting]


def pairs(settings: Iterable[Setting]) -> list[Pair]:
    """Pairs of settings that differ in one thing: what a table's tests compare.

    With T against without it; stage 2 against stage 1; one colorizer, initialisation, backbone or
    origin against another. The share of the training images is always the same.
    """
    return [
        (b, a) if _treatment(b) > _treatment(a) else (a, b)
        for a, b in itertools.combinations(settings, 2)
        if a.fraction == b.fraction and _differ_in_one_thing(a, b)
    ]


def colorizer_pairs(settings: Iterable[Setting]) -> list[Pair]:
    """The pairs of :func:`pairs` that ask what T brings, and those that compare its starts."""
    return [
        (a, b)
        for a, b in pairs(settings)
        if a.has_colorizer != b.has_colorizer
        or (a.strategy == b.strategy and a.colorizer_init != b.colorizer_init)
    ]


def _differ_in_one_thing(a: Setting, b: Setting) -> bool:
    if a.backbone != b.backbone:
        return _start(a) == _start(b)
    if a.has_colorizer != b.has_colorizer:
        treated, plain = (a, b) if a.has_colorizer else (b, a)
        entry = STRATEGIES.get(treated.strategy)
        return bool(entry) and entry.without_colorizer == plain.strategy and not plain.origin
    if (a.colorizer, a.colorizer_init) != (b.colorizer, b.colorizer_init):
        same_init = a.colorizer_init == b.colorizer_init
        same_init = same_init or (has_default_init(a) and has_default_init(b))
        one = a.colorizer == b.colorizer or same_init
        return one and (a.strategy, a.origin) == (b.strategy, b.origin)
    if a.strategy != b.strategy:
        return a.origin == b.origin and not _learns_head_alone(a) and not _learns_head_alone(b)
    return a.origin != b.origin or a.options != b.options


def _start(setting: Setting) -> tuple:
    return setting.strategy, setting.origin, setting.colorizer, setting.colorizer_init


def _learns_head_alone(setting: Setting) -> bool:
    """Whether T and E are another run's, as they were: no stage of learning on this data set."""
    entry = STRATEGIES.get(setting.strategy)
    return bool(entry) and entry.colorizer == "source" and entry.trains == ("head",)


def _treatment(setting: Setting) -> tuple:
    """The larger one is told minus the smaller: T, the later stage, gray, the transfer."""
    return (
        setting.has_colorizer,
        table_order(setting.strategy),
        setting.colorizer_init == "gray",
        bool(setting.origin),
        trains_backbone(setting.origin),
    )


def most_common_repeats(settings: Settings, compared: Iterable[Pair]) -> int:
    """How many repeats (seed and subset) two compared settings share at most, 0 without a pair."""
    repeats = {s: {*runs[REPEAT].itertuples(index=False)} for s, runs in settings.items()}
    return max((len(repeats[a] & repeats[b]) for a, b in compared), default=0)


def over_repeats(
    settings: Settings, compared: Iterable[Pair], measures: Mapping[str, str]
) -> pd.DataFrame:
    """Paired t-tests of one table over the repeats that both settings have; all are one family.

    Args:
        settings: runs of every setting.
        compared: pairs of them.
        measures: "mean AUC" or an observation -> the column of the runs that holds its AUC.

    Returns:
        A row per pair and measure: a, b, measure, repeats (complete pairs), difference (mean of
        a - b), pvalue (NaN where undefined), adjusted (after Benjamini-Hochberg).
    """
    rows = []
    for a, b in compared:
        both = _by_repeat(settings, a, b, [*measures.values()])
        for measure, column in measures.items():
            values = both[[f"{column}_a", f"{column}_b"]].to_numpy(float)
            test = statistics.paired_t_test(values[:, 0], values[:, 1])
            rows.append((a, b, measure, test.pairs, test.difference, test.pvalue))
    return _adjusted(rows, ["a", "b", "measure", "repeats", "difference", "pvalue"])


def on_same_images(
    settings: Settings, compared: Iterable[Pair], n_resamples: int
) -> tuple[pd.DataFrame, list[str]]:
    """Compares the runs of each repeat with each other; all DeLong tests are one family.

    Args:
        settings: runs of every setting.
        compared: pairs of them.
        n_resamples: of the bootstrap over patients.

    Returns:
        A row per couple of runs and observation (and the mean of several): a, b, measure, repeat
        (seed, subset seed), difference (AUC of a - b), low and high (its 95 % interval by bootstrap
        over patients), pvalue (DeLong's with patients as clusters; NaN where undefined, and for the
        mean), adjusted; and reasons why a couple of runs could not be compared.
    """
    rows, problems = [], []
    for a, b in compared:
        for couple in _by_repeat(settings, a, b, ["folder", "predictions"]).to_dict("records"):
            observations = settings[a]["observations"].iloc[0]
            contents = couple["predictions_a"](), couple["predictions_b"]()
            same = ["image_id", *columns("label", observations)]
            if not contents[0][same].equals(contents[1][same]):
                problems.append(
                    f"{couple['folder_a'].name} and {couple['folder_b'].name} were evaluated on "
                    "other images or labels: not compared image by image"
                )
                continue
            repeat = tuple(couple[name] for name in REPEAT)
            for measure, *numbers in _single_tests(contents, observations, n_resamples):
                rows.append((a, b, measure, repeat, *numbers))
    names = ["a", "b", "measure", "repeat", "difference", "low", "high", "pvalue"]
    return _adjusted(rows, names), problems


def _single_tests(
    contents: tuple[pd.DataFrame, pd.DataFrame], observations: Sequence[str], n_resamples: int
) -> list[tuple[Any, ...]]:
    """(measure, difference, low, high, pvalue) of two runs' predictions of the same images."""
    labels = contents[0][columns("label", observations)].to_numpy()
    a, b = (content[columns("probability", observations)].to_numpy() for content in contents)
    groups = contents[0]["patient"].to_numpy()
    bootstrap = bootstrap_difference(labels, a, b, groups, n_resamples)
    tests = []
    for i, name in enumerate(observations):
        test = statistics.delong_test(labels[:, i], a[:, i], b[:, i], groups)
        tests.append((name, test.difference, *bootstrap.interval[i], test.pvalue))
    if len(tests) > 1:
        tests.append(("mean AUC", bootstrap.mean, *bootstrap.mean_interval, float("nan")))
    return tests


def _by_repeat(settings: Settings, a: Setting, b: Setting, names: list[str]) -> pd.DataFrame:
    """Columns NAME_a and NAME_b, a row for each repeat that both settings have."""
    runs_a, runs_b = (settings[setting][[*REPEAT, *names]] for setting in (a, b))
    return runs_a.merge(runs_b, on=REPEAT, suffixes=("_a", "_b"))


def _adjusted(rows: list[tuple[Any, ...]], names: list[str]) -> pd.DataFrame:
    tests = pd.DataFrame(rows, columns=pd.Index(names))
    return tests.assign(adjusted=statistics.benjamini_hochberg(tests["pvalue"].to_numpy(float)))
