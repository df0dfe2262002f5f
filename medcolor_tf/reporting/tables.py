"""The tables of a report, in the paper's layout, each value linked to its runs.

Each public function makes a table of an evaluation set, or none where it does not apply.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medcolor_tf.evaluation import curves, statistics
from medcolor_tf.evaluation.bootstrap import bootstrap_auc
from medcolor_tf.progress import counted
from medcolor_tf.reporting import compare, paper_results
from medcolor_tf.reporting.collect import EvaluationSet
from medcolor_tf.reporting.contents import Cell, Note, Table
from medcolor_tf.reporting.predictions import columns, of_observation, pooled
from medcolor_tf.reporting.run_rows import MissingRun
from medcolor_tf.reporting.settings import (
    Setting,
    colorizer_label,
    full_label,
    percent,
    size_label,
    strategy_label,
    trains_backbone,
)

UNDEFINED = "-"
SIGNIFICANT = 0.05
ORIGINS = {"": "scratch", "color_module": "θM", "all": "θA"}  # the paper's superscripts
MEAN_AUC = {"mean AUC": "mean_auc"}  # as a test's measure: its column
TESTS = (
    "Two-sided paired t-tests over repeats. Family of the adjustment (Benjamini-Hochberg): the {} "
    f"of this table. {UNDEFINED} : undefined (fewer than two common repeats, or no "
    f"variance). Bold: adjusted p < {SIGNIFICANT}."
)
SAME_IMAGES = (
    "Interval: percentiles of {:,} bootstrap resamples of patients. p: DeLong's test with the "
    "images of a patient as one cluster (Obuchowski 1997). They say how sure the test images are "
    "of this difference, not whether another training would show it. Family (Benjamini-Hochberg): "
    "the {} of this table."
)


def mean_auc(group: EvaluationSet) -> Iterator[Table]:
    """Table I: colorizer, strategy, mean AUC, the paper's value where there is one."""
    if any(setting.origin for setting in group.largest):
        return
    yield _mean_auc_table(
        group,
        ("table1", "Mean AUC of the learning strategies (the paper's Table I)"),
        {
            "Colorization module": colorizer_label,
            "Learning strategy": lambda setting: strategy_label(setting, group.largest),
        },
        "Mean ± standard deviation over repeats.",
        groups=tuple(f"Backbone: {setting.backbone}" for setting in group.largest),
    )


def transfers(group: EvaluationSet) -> Iterator[Table]:
    """Table III: where E and T come from, strategy, mean AUC, the paper's value."""
    if not any(setting.origin for setting in group.largest):
        return
    yield _mean_auc_table(
        group,
        ("table3", "Mean AUC of transfers across data sets (the paper's Table III)"),
        {
            "Backbone E": _backbone_origin,
            "Colorization module T": _colorizer_origin,
            "Learning strategy": lambda setting: strategy_label(setting, group.largest),
        },
        "θI: ImageNet (or the backbone file); θM, θA: as Color Module, All left it on the data "
        "set named.",
    )


def _mean_auc_table(
    group: EvaluationSet,
    name_and_title: tuple[str, str],
    labels: Mapping[str, Callable[[Setting], str]],
    caption: str,
    groups: tuple[str, ...] = (),
) -> Table:
    """A row per setting; ``labels`` are the heads of its first columns and what they call it."""
    rows, papers = [], []
    for setting, runs in group.largest.items():
        value = _value(group, setting, runs, "mean_auc")
        rows.append((*(label(setting) for label in labels.values()), value, str(len(runs))))
        papers.append(paper_results.mean_auc(group, setting))
    header = (*labels, "Mean AUC (%)", "Repeats")
    if any(papers):
        header = (*header, "Paper")
        rows = [(*row, _printed(paper)) for row, paper in zip(rows, papers, strict=True)]
    count = len(group.observations)
    measure = group.observations[0] if count == 1 else f"mean of {count} observations"
    caption = f"{group.data}, {measure}. {caption}"
    return _table(group, *name_and_title, header, rows, caption, len(labels), groups, stacked=True)


def mean_auc_tests(group: EvaluationSet) -> Iterator[Table]:
    """Tests of Table I or III."""
    pairs = compare.pairs(group.largest)
    yield from _tests_table(group, "tests", "Tests between strategies", pairs, MEAN_AUC)


def observations(group: EvaluationSet) -> Iterator[Table]:
    """Table II: AUC of each observation, the paper's rows below ours."""
    names = group.observations
    if len(names) < 2:
        return
    ours, papers = [], []
    for setting, runs in group.largest.items():
        label = full_label(setting, group.largest)
        ours.append((label, *(_value(group, setting, runs, f"auc {name}") for name in names)))
        printed = [paper_results.observation_auc(group, setting, name) for name in names]
        if any(printed):
            papers.append((label, *map(_printed, printed)))
    if papers:
        chexpert = paper_results.TABLE_2_CHEXPERT
        papers.append(("DenseNet121, CheXpert's authors", *(f"{chexpert[n]:g}" for n in names)))
    yield _table(
        group,
        "table2",
        "AUC of each observation (the paper's Table II)",
        ("Learning strategy", *names),
        [*ours, *papers],
        "In percent, mean ± standard deviation over repeats; - where there is no AUC.",
        groups=(*["Ours"] * len(ours), *["The paper's values"] * len(papers)) if papers else (),
    )


def observation_tests(group: EvaluationSet) -> Iterator[Table]:
    """Tests of Table II."""
    if len(group.observations) > 1:
        title, measures = "Tests for each observation", {n: f"auc {n}" for n in group.observations}
        pairs = compare.colorizer_pairs(group.largest)
        yield from _tests_table(group, "observation-tests", title, pairs, measures, "Observation")


def same_images(group: EvaluationSet) -> Iterator[Table | Note]:
    """Bootstrap intervals and DeLong's tests of single repeats."""
    pairs = compare.colorizer_pairs(group.largest)
    tests, problems = compare.on_same_images(group.largest, pairs, group.n_resamples)
    yield from (Note("warning", problem) for problem in problems)
    if tests.empty:
        return
    rows = [
        (
            *(_link(group, test[k], full_label(test[k], group.largest)) for k in "ab"),
            test["measure"],
            "{}, {}".format(*test["repeat"]),
            _points(test["difference"]),
            f"{_points(test['low'])} to {_points(test['high'])}",
            *_pvalues(test),
        )
        for test in tests.to_dict("records")
    ]
    header = ("Row A", "Row B", "Observation", "Seed, subset", "A - B (points)")
    yield _table(
        group,
        "same-images",
        "Single repeats on the same test images",
        (*header, "95 % interval", "p (DeLong)", "adjusted p"),
        rows,
        SAME_IMAGES.format(group.n_resamples, _family(tests)),
        row_headers=4,
        stacked=True,
        summary="Repeat by repeat on the same test images: bootstrap over patients, DeLong",
    )


def sizes(group: EvaluationSet) -> Iterator[Table]:
    """The values of Figure 6: a row per strategy, a column per training size."""
    if len(group.fractions) < 2:
        return
    lines: dict[str, dict[float, Cell]] = {}
    heads = {}
    for setting, runs in group.own.items():
        line = lines.setdefault(size_label(setting, group.own), {})
        line[setting.fraction] = _value(group, setting, runs, "mean_auc")
        images = runs["config"].iloc[0].get("train_images")
        heads[setting.fraction] = f" ({images:,} images)" if images else ""
    yield _table(
        group,
        "figure6",
        "Mean AUC by training size (the paper's Figure 6)",
        ("Learning strategy", *(percent(size) + heads[size] for size in sorted(heads))),
        [
            (name, *(line.get(size, UNDEFINED) for size in sorted(heads)))
            for name, line in lines.items()
        ],
        "In percent, mean ± standard deviation over the random subsets.",
    )


def size_tests(group: EvaluationSet) -> Iterator[Table]:
    """Tests at each training size."""
    if len(group.fractions) > 1:
        title, pairs = "Tests at each training size", compare.colorizer_pairs(group.own)
        yield from _tests_table(group, "size-tests", title, pairs, MEAN_AUC, "Images")


def _tests_table(
    group: EvaluationSet,
    name: str,
    title: str,
    pairs: Iterable[compare.Pair],
    measures: Mapping[str, str],
    head: str = "",
) -> Iterator[Table]:
    """Paired t-tests: difference, raw and adjusted p, the family's size.

    ``head`` is that of a column for what is not the same in all rows: the observation, or the share
    of the images.
    """
    tests = compare.over_repeats(group.settings, pairs, measures)
    rows = []
    for test in tests.to_dict("records"):
        shown = test["measure"] if head == "Observation" else percent(test["a"].fraction)
        rows.append(
            (
                *(_link(group, test[k], size_label(test[k], group.settings)) for k in "ab"),
                *((shown,) if head else ()),
                _points(test["difference"]),
                str(test["repeats"]),
                *_pvalues(test),
            )
        )
    if np.isfinite(tests["pvalue"].to_numpy(float)).any():
        heads = ("Row A", "Row B", *((head,) if head else ()))
        header = (*heads, "A - B (points)", "Repeats", "p", "adjusted p")
        caption = TESTS.format(_family(tests))
        yield _table(group, name, title, header, rows, caption, len(heads), stacked=True)


def _family(tests: pd.DataFrame) -> str:
    return counted(int(np.isfinite(tests["pvalue"].to_numpy(float)).sum()), "defined test")


def calibration(group: EvaluationSet) -> Iterator[Table]:
    """Average precision, Brier score and calibration error, a row per strategy and observation."""
    for stem, backbone, settings in group.by_backbone(group.largest):
        rows = []
        for name, (setting, runs) in itertools.product(group.observations, settings.items()):
            pairs = of_observation(runs, name)
            precision = statistics.mean_std([curves.average_precision(*pair) for pair in pairs])[0]
            bins = curves.calibration(*pooled(runs, name))
            scores = (precision, bins.brier, bins.expected_error)
            label = full_label(setting, settings)
            cells = (Cell(_percent(score), csv=_three_digits(score)) for score in scores)
            rows.append((_link(group, setting, label), name, *cells))
        yield Table(
            f"calibration-{group.number}-{stem}",
            f"Average precision and calibration, {backbone}",
            ("Learning strategy", "Observation", "Average precision", "Brier score", "ECE"),
            tuple(rows),
            "In percent; the CSV file holds fractions of 1. Average precision: mean over repeats; "
            "by chance it is the share of positives. Brier score and expected calibration error "
            "(ECE, ten bins): of the predictions of all repeats together; smaller is better.",
            row_headers=2,
            stacked=True,
        )


def every_run(group: EvaluationSet) -> Iterator[Table]:
    """Every run with an interval of its own."""
    rows = []
    for setting, runs in group.settings.items():
        for run in runs.to_dict("records"):
            low, high = _interval(run, group)
            result = run["result"]
            valid = result["best_valid_mean_auc"]
            rows.append(
                (
                    _link(group, setting, run["folder"].name),
                    _percent(run["mean_auc"]),
                    f"{_percent(low)} to {_percent(high)}",
                    _percent(math.nan if valid is None else valid),
                    f"{result['best_step']:,} of {result['steps']:,}",
                    f"{result['train_images']:,}",
                    f"{result['max_lr']:.3g}",
                )
            )
    heads = ("Run", "Mean AUC (%)", "95 % interval", "Validation AUC (%)", "Best step")
    yield _table(
        group,
        "runs",
        f"Every run on {group.data}",
        (*heads, "Training images", "Peak rate"),
        rows,
        f"Intervals by bootstrap over patients, {group.n_resamples:,} resamples.",
        stacked=True,
    )


def _interval(run: Mapping[str, Any], group: EvaluationSet) -> np.ndarray:
    """Ends of the interval of a run's mean AUC."""
    content = run["predictions"]()
    labels, scores = (content[columns(k, group.observations)] for k in ("label", "probability"))
    return bootstrap_auc(labels, scores, content["patient"], group.n_resamples).mean_interval


def missing_runs(missing: Iterable[MissingRun]) -> Table:
    """What is missing and why."""
    return Table(
        "missing-runs",
        "Runs that are missing or cannot be used",
        ("Run", "Why", "Command"),
        tuple((run.name, run.reason, run.command or UNDEFINED) for run in missing),
        "Failed runs are tried again by the same study command.",
        summary="Which, why, and the commands that do them",
    )


def mean_and_std(values: Sequence[float]) -> str:
    """Mean ± std of AUCs as percent; without a std where there is one value, "-" for none."""
    mean, std, count = statistics.mean_std(values)
    if not count:
        return UNDEFINED
    left_out = f" ({len(values) - count} undefined)" if count < len(values) else ""
    spread = "" if math.isnan(std) else f" ± {100 * std:.1f}"
    return f"{100 * mean:.1f}{spread}{left_out}"


def _table(
    group: EvaluationSet,
    name: str,
    title: str,
    header: tuple[str, ...],
    rows: list,
    *more,
    **options,
) -> Table:
    return Table(f"{name}-{group.number}", title, header, tuple(rows), *more, **options)


def _value(group: EvaluationSet, setting: Setting, runs: pd.DataFrame, column: str) -> Cell:
    return _link(group, setting, mean_and_std(runs[column].tolist()))


def _link(group: EvaluationSet, setting: Setting, text: str) -> Cell:
    return Cell(text, link=group.anchor(setting))


def _printed(value: tuple[float, float] | None) -> str:
    return f"{value[0]:g} ± {value[1]:g}" if value else UNDEFINED


def _backbone_origin(setting: Setting) -> str:
    trained = trains_backbone(setting.origin)
    return f"{setting.backbone} θA {setting.origin_data}" if trained else f"{setting.backbone} θI"


def _colorizer_origin(setting: Setting) -> str:
    if not setting.has_colorizer:
        return UNDEFINED
    origin = ORIGINS.get(setting.origin, setting.origin)
    return f"{colorizer_label(setting)} ({origin} {setting.origin_data})".replace(" )", ")")


def _percent(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{100 * value:.1f}"


def _points(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{100 * value:+.1f}"


def _three_digits(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"


def _pvalues(test: Mapping) -> tuple[Cell, Cell]:
    raw, adjusted = (
        "< 0.001" if test[name] < 0.001 else _three_digits(test[name])
        for name in ("pvalue", "adjusted")
    )
    return Cell(raw), Cell(adjusted, strong=test["adjusted"] < SIGNIFICANT)
