"""The figures of a report: what is drawn from which runs.

Each public function makes a figure of an evaluation set, one per backbone where lines would be too
many, or none where it does not apply.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from PIL import Image

from medcolor_tf.evaluation import curves, statistics
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.reporting.collect import EvaluationSet, Settings
from medcolor_tf.reporting.contents import Figure, Note
from medcolor_tf.reporting.figures.charts import (
    Line,
    bar_panels,
    learning_curves,
    line_panels,
    size_chart,
)
from medcolor_tf.reporting.figures.color_tables import color_tables
from medcolor_tf.reporting.figures.image_grid import image_grid
from medcolor_tf.reporting.predictions import of_observation, pooled, read_log
from medcolor_tf.reporting.run_rows import REPEAT
from medcolor_tf.reporting.settings import Setting, full_label, percent, size_label
from medcolor_tf.runs.folder import Run

GRID = np.linspace(0, 1, 101)  # false positive rates or recalls at which repeats are averaged
REFERENCE = "baseline_all"  # of Figure 6b


def auc_by_size(group: EvaluationSet) -> Iterator[Figure]:
    """Figure 6a: mean AUC by training size."""
    for stem, backbone, settings in _several_sizes(group):
        values = {s: runs["mean_auc"].to_numpy(float) for s, runs in settings.items()}
        lines = _size_lines(settings, values)
        yield Figure(
            f"figure6a-{group.number}-{stem}",
            f"Mean AUC by training size, {backbone} (Figure 6a)",
            size_chart(lines, _percents(settings), "mean AUC (%)"),
            _words("Mean AUC in percent by training size. ", lines, _percents(settings)),
            "Mean and standard deviation over the random subsets.",
        )


def difference_by_size(group: EvaluationSet) -> Iterator[Figure]:
    """Figure 6b: each strategy minus Baseline All, repeat by repeat."""
    for stem, backbone, settings in _several_sizes(group):
        columns = ["fraction", *REPEAT, "mean_auc"]
        references = [runs[columns] for s, runs in settings.items() if s.strategy == REFERENCE]
        others = {s: runs for s, runs in settings.items() if s.strategy != REFERENCE}
        if not references or not others:
            continue
        reference = pd.concat(references).groupby(columns[:-1]).tail(1).set_index(columns[:-1])
        reference = reference.rename(columns={"mean_auc": "reference"})
        values = {}
        for setting, runs in others.items():
            both = runs[columns].join(reference, columns[:-1])
            values[setting] = (both["mean_auc"] - both["reference"]).to_numpy(float)
        lines, percents = _size_lines(others, values), _percents(others)
        yield Figure(
            f"figure6b-{group.number}-{stem}",
            f"Difference to Baseline All by training size, {backbone} (Figure 6b)",
            size_chart(
                lines,
                percents,
                "difference in mean AUC, points\n(minus Baseline All)",
                zero="Baseline All",
                order=[size_label(setting, settings) for setting in settings],
            ),
            _words("Difference of the mean AUC to Baseline All in points. ", lines, percents),
            "Mean and standard deviation of the difference within each repeat.",
        )


def colorized(group: EvaluationSet) -> Iterator[Figure]:
    """Figure 4: the same test images, gray and as each module sees them after each stage."""
    rows: list[tuple[str, list[np.ndarray]]] = []
    for setting, runs in group.largest.items():
        run = Run(runs["folder"].iloc[0])
        path = run.pictures(group.split)
        if not path.is_file() and not run.lists(path.name):
            continue
        run.checked(path)
        strips = np.array_split(np.asarray(Image.open(path).convert("RGB")), 2)
        side, width, _ = strips[0].shape
        gray, colours = (np.split(strip, range(side, width, side), axis=1) for strip in strips)
        rows = rows or [("Gray", gray)]
        rows.append((full_label(setting, group.largest), colours))
    if rows:
        yield Figure(
            f"figure4-{group.number}",
            "What the backbone sees (Figure 4)",
            image_grid(rows),
            "A row of gray test images, then the same images colorized by: "
            f"{', '.join(label for label, _ in rows[1:])}.",
            "The first test images, gray and colorized by the first repeat of each row. Each "
            "colorized image is scaled by its own 1st and 99th percentile over all channels.",
        )


def gray_to_color(group: EvaluationSet) -> Iterator[Figure | Note]:
    """The colour of each gray value, of the colorizers that are such a map."""
    tables: dict[str, ColorTable] = {}
    for setting, runs in group.largest.items():
        run = Run(runs["folder"].iloc[0])
        path = run.color_table
        listed = run.lists(path.name)
        if listed:
            run.checked(path)
        elif not path.is_file():
            continue
        elif run.manifest(path.name):  # of a development version, which wrote it beside the others
            words = "its manifest does not list it, so it is read as it is"
            yield Note("info", f"{run.folder.name}/{path.name}: {words}.")
        tables[full_label(setting, group.largest)] = ColorTable.from_csv(path)
    if tables:
        yield Figure(
            f"gray-to-color-{group.number}",
            "From gray value to colour",
            color_tables(tables),
            "Red, green and blue over the gray value, and the colours as a bar. "
            + " ".join(f"{label}: {_in_words(table)}." for label, table in tables.items()),
            "The first repeat of each row. Colours are T's output on the scale of the gray image, "
            "0 for black and 1 for white; the bar ends there, T need not.",
        )


def _in_words(table: ColorTable) -> str:
    """Black, middle gray and white as red, green and blue."""
    places = {"black": 0, "middle gray": len(table.values) // 2, "white": -1}
    return ", ".join(
        f"{name} becomes {' '.join(f'{part:.2f}' for part in table.colors[place])}"
        for name, place in places.items()
    )


def training_labels(group: EvaluationSet) -> Iterator[Figure]:
    """Figure 5: the training labels, of all images and of the smallest subset."""
    runs = [run for run in group.runs.to_dict("records") if run["config"].get("train_labels")]
    if not runs:
        return
    panels = {}
    for chosen in (max, min):
        run = chosen(runs, key=lambda run: run["fraction"])
        counts, images = run["config"]["train_labels"], run["config"]["train_images"]
        title = f"{percent(run['fraction'])} ({images:,} images)"
        panels[title] = {name: counts[name] for name in group.observations if name in counts}
    words = "; ".join(
        f"{title}: " + ", ".join(f"{name} {n['positive']} positive" for name, n in counts.items())
        for title, counts in panels.items()
    )
    yield Figure(
        f"figure5-{group.number}",
        "Training labels (Figure 5)",
        bar_panels(panels),
        f"Number of positive, negative and uncertain training labels. {words}.",
        "Labels as the source has them, before the uncertainty policy.",
    )


def roc(group: EvaluationSet) -> Iterator[Figure]:
    """ROC curves, a panel per observation."""
    yield from _panel_figures(
        group,
        ("roc", "ROC curves", "False positive rate (%)", "True positive rate (%)"),
        functools.partial(_mean_curve, curves.roc_curve),
        "ROC curves of {}, a panel an observation; the areas are in the tables above.",
        "Mean over repeats at each false positive rate; the band spans the repeats.",
        diagonal=True,
    )


def precision_recall(group: EvaluationSet) -> Iterator[Figure]:
    """Precision-recall curves, a panel per observation."""
    yield from _panel_figures(
        group,
        ("precision-recall", "Precision and recall", "Recall (%)", "Precision (%)"),
        functools.partial(_mean_curve, curves.precision_recall),
        "Precision-recall curves of {}; their average precision is in the table below.",
        "Mean over repeats at each recall.",
    )


def calibration(group: EvaluationSet) -> Iterator[Figure]:
    """Observed frequency against predicted probability, a panel per observation."""
    yield from _panel_figures(
        group,
        ("calibration", "Calibration", "Mean predicted probability (%)", "Observed (%)"),
        _calibration_line,
        "Observed frequency against predicted probability, {}.",
        "Predictions of all repeats in ten equal bins; on the diagonal they are calibrated.",
        diagonal=True,
    )


def learning(group: EvaluationSet) -> Iterator[Figure]:
    """Validation mean AUC at every checkpoint."""
    for stem, backbone, settings in group.by_backbone(group.largest):
        lines = []
        for setting, runs in settings.items():
            for log in map(read_log, runs["folder"]):
                if len(log):
                    label = full_label(setting, settings)
                    lines.append(Line(label, log["step"], log["valid_mean_auc"]))
        if lines:
            title = f"Learning curves, {backbone}"
            yield Figure(
                f"learning-{group.number}-{stem}",
                title,
                learning_curves(lines, [full_label(setting, settings) for setting in settings]),
                f"Validation mean AUC by training step, {group.data}, {backbone}, a line a run.",
                "Validation mean AUC at every checkpoint; a line a repeat.",
                summary=title,
            )


def _several_sizes(group: EvaluationSet) -> list[tuple[str, str, Settings]]:
    return group.by_backbone(group.own) if len(group.fractions) > 1 else []


def _size_lines(settings: Settings, values: Mapping[Setting, np.ndarray]) -> list[Line]:
    """A line per strategy through the means at each size, with standard deviations."""
    points: dict[str, list[tuple[int, float, float]]] = {}
    for setting, runs in sorted(settings.items(), key=lambda item: item[0].fraction):
        mean, std, _ = statistics.mean_std(values[setting])
        points.setdefault(size_label(setting, settings), []).append((_images(runs), mean, std))
    order = dict.fromkeys(size_label(setting, settings) for setting in settings)
    arrays = ((label, np.array(points[label]).T) for label in order)
    return [Line(label, x, mean, mean - std, mean + std) for label, (x, mean, std) in arrays]


def _images(runs: pd.DataFrame) -> int:
    return runs["result"].iloc[0]["train_images"]


def _percents(settings: Settings) -> dict[int, float]:
    return {_images(runs): 100 * setting.fraction for setting, runs in settings.items()}


def _words(start: str, lines: list[Line], percents: Mapping[int, float]) -> str:
    """What a chart over sizes shows, for who cannot see it."""
    words = [
        f"{line.label}: "
        + ", ".join(
            f"{percents[x]:g} % of the images {100 * mean:.1f}" for x, mean in line.points()[:2].T
        )
        for line in lines
    ]
    return start + "; ".join(words) + "."


def _panel_figures(
    group: EvaluationSet,
    titles: tuple[str, str, str, str],
    line: Callable[[str, pd.DataFrame, str], Line | None],
    alt: str,
    caption: str,
    diagonal: bool = False,
) -> Iterator[Figure]:
    """A figure per backbone with a panel per observation and a line per setting.

    Args:
        group: the runs.
        titles: name, title, and what the axes show.
        line: makes a line of a label, its runs and an observation; None for want of a class.
        alt: with {} for data set and backbone.
        caption: of the figure.
        diagonal: whether to draw x = y.
    """
    name, title, x_label, y_label = titles
    for stem, backbone, settings in group.by_backbone(group.largest):
        labels = {setting: full_label(setting, settings) for setting in settings}
        panels = {}
        for observation in group.observations:
            lines = (line(labels[s], runs, observation) for s, runs in settings.items())
            panels[observation] = [entry for entry in lines if entry is not None]
        yield Figure(
            f"{name}-{group.number}-{stem}",
            f"{title}, {backbone}",
            line_panels(panels, x_label, y_label, diagonal, labels.values()),
            alt.format(f"{group.data}, {backbone}"),
            caption,
        )


def _mean_curve(curve: Callable, label: str, runs: pd.DataFrame, observation: str) -> Line | None:
    """The mean of the repeats' curves at equal x, in their range; None without both classes."""
    repeats = [curve(*arrays) for arrays in of_observation(runs, observation)]
    if not all(repeats):
        return None
    values = np.stack([np.interp(GRID, x, y) for x, y in repeats])
    return Line(label, GRID, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _calibration_line(label: str, runs: pd.DataFrame, observation: str) -> Line:
    bins = curves.calibration(*pooled(runs, observation))
    return Line(label, bins.predicted, bins.observed)
