"""The figures of a report: what is drawn from which runs."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from medcolor_tf.evaluation import curves, statistics
from medcolor_tf.reporting import figures, rows
from medcolor_tf.reporting.collect import RowKey, RunRecord
from medcolor_tf.reporting.page import Cell, Details, Figure, Table

GRID = np.linspace(0, 1, 101)


def blocks(group) -> Iterator:
    """Figures 4 and 5, ROC, precision-recall, calibration and learning curves of a group."""
    yield from _colorized(group)
    yield from _label_counts(group)
    for backbone, of in _by_backbone(group.largest).items():
        yield from _curves(group, backbone, of)


def size_figures(group) -> Iterator[Figure]:
    """Figure 6a and 6b, a pair a backbone."""
    for backbone, of in _by_backbone(group.own).items():
        lines = [figures.SizeLine(*line) for line in _size_lines(of, lambda run: run.mean_auc)]
        # One look for a strategy in every figure.
        order = [line.label for line in lines]
        name = f"{group.number}-{_stem(backbone)}"
        yield Figure(
            name=f"figure6a-{name}",
            title=f"Mean AUC by training size, {backbone} (Figure 6a)",
            image=figures.size_curves(lines, order=order),
            alt=_alt("Mean AUC by training size. ", lines),
            caption="Mean and standard deviation over the random subsets.",
        )
        against = _differences(of)
        if against:
            yield Figure(
                name=f"figure6b-{name}",
                title=f"Difference to Baseline All by training size, {backbone} (Figure 6b)",
                image=figures.size_differences(against, "Baseline All", order=order),
                alt=_alt("Difference of the mean AUC to Baseline All. ", against),
                caption="Mean and standard deviation of the difference within each repeat.",
            )


def _by_backbone(of: rows.Rows) -> dict[str, rows.Rows]:
    """A figure has the rows of one backbone."""
    found: dict[str, dict] = {}
    for row, runs in of.items():
        found.setdefault(row.backbone, {})[row] = runs
    return found


def _size_lines(of: rows.Rows, measure) -> list[tuple]:
    lines: dict[str, list[RowKey]] = {}
    for row in of:
        lines.setdefault(rows.line_label(row, of), []).append(row)
    found = []
    for label, members in lines.items():
        members = sorted(members, key=lambda row: row.fraction)
        stats = [statistics.mean_std([measure(run) for run in of[row]]) for row in members]
        found.append(
            (
                label,
                [of[row][0].result["train_images"] for row in members],
                [100 * row.fraction for row in members],
                [mean for mean, _, _ in stats],
                [std for _, std, _ in stats],
            )
        )
    return found


def _differences(of: rows.Rows) -> list:
    """Each strategy minus Baseline All, repeat by repeat."""
    base = {
        (row.fraction, run.repeat): run.mean_auc
        for row, runs in of.items()
        if row.strategy == "baseline_all"
        for run in runs
    }

    def difference(run: RunRecord) -> float:
        return run.mean_auc - base.get((run.row.fraction, run.repeat), float("nan"))

    others = {row: runs for row, runs in of.items() if row.strategy != "baseline_all"}
    if not base or not others:
        return []
    return [figures.SizeLine(*line) for line in _size_lines(others, difference)]


def _colorized(group) -> Iterator[Figure]:
    """Figure 4: the same test images, gray and as each module sees them after each stage."""
    drawn: list[tuple[str, list[np.ndarray]]] = []
    gray = None
    for row, runs in group.largest.items():
        path = runs[0].folder / f"colorized-{group.key.split}.png"
        if path.is_file():
            both = np.asarray(Image.open(path).convert("RGB"))
            side = both.shape[0] // 2
            upper, lower = (
                [half[:, i : i + side] for i in range(0, half.shape[1], side)]
                for half in (both[:side], both[side:])
            )
            gray = gray or upper
            drawn.append((rows.full_label(row, group.largest), lower))
    if gray:
        names = ", ".join(label for label, _ in drawn)
        yield Figure(
            name=f"figure4-{group.number}",
            title="What the backbone sees (Figure 4)",
            image=figures.montage([("Gray", gray), *drawn]),
            alt=f"A row of gray test images, then the same images colorized by: {names}.",
            caption=(
                "The first test images, gray and colorized by the first repeat of each row. Each "
                "colorized image is scaled by its own 1st and 99th percentile over all channels."
            ),
        )


def _label_counts(group) -> Iterator[Figure]:
    """Figure 5: the training labels, of all images and of the smallest subset."""
    known = [run for run in group.runs if run.config.get("train_labels")]
    if not known:
        return
    full = max(known, key=lambda run: run.row.fraction)
    small = min(known, key=lambda run: run.row.fraction)
    of = {}
    for run in (full, small):
        counts = run.config["train_labels"]
        ordered = {name: counts[name] for name in group.key.observations if name in counts}
        images = run.config["train_images"]
        of[f"{rows.percent(run.row.fraction)} ({images:,} images)"] = ordered
    words = "; ".join(
        f"{which}: "
        + ", ".join(f"{name} {count['positive']} positive" for name, count in counts.items())
        for which, counts in of.items()
    )
    yield Figure(
        name=f"figure5-{group.number}",
        title="Training labels (Figure 5)",
        image=figures.label_counts(of),
        alt=f"Number of positive, negative and uncertain training labels. {words}.",
        caption="Labels as the source has them, before the uncertainty policy.",
    )


def _curves(group, backbone: str, of: rows.Rows) -> Iterator:
    name = f"{group.number}-{_stem(backbone)}"
    roc, pr, calibrated, scores = {}, {}, {}, []
    for column, observation in enumerate(group.key.observations):
        roc[observation], pr[observation], calibrated[observation] = [], [], []
        for row, runs in of.items():
            label = rows.full_label(row, of)
            tables = [(run.predictions, column) for run in runs]
            for panel, curve in ((roc, curves.roc_curve), (pr, curves.precision_recall)):
                if line := _mean_curve(curve, tables):
                    panel[observation].append(figures.Line(label, *line))
            pooled = _pooled(tables)
            found = curves.calibration(*pooled)
            calibrated[observation].append(
                figures.Line(label, list(found.predicted), list(found.observed))
            )
            named = Cell(label, link=group.anchor(row))
            scores.append((named, observation, _precision(tables), found))
    about, order = f"{group.key.data}, {backbone}", [rows.full_label(row, of) for row in of]
    yield Figure(
        f"roc-{name}",
        f"ROC curves, {backbone}",
        figures.curves(
            roc, "False positive rate", "True positive rate", diagonal=True, order=order
        ),
        f"ROC curves of {about}, a panel an observation; the areas are in the tables above.",
        "Mean over repeats at each false positive rate; the band spans the repeats.",
    )
    yield Figure(
        f"precision-recall-{name}",
        f"Precision and recall, {backbone}",
        figures.curves(pr, "Recall", "Precision", order=order),
        f"Precision-recall curves of {about}; their average precision is in the table below.",
        "Mean over repeats at each recall.",
    )
    yield Figure(
        f"calibration-{name}",
        f"Calibration, {backbone}",
        figures.curves(
            calibrated, "Mean predicted probability", "Observed", diagonal=True, order=order
        ),
        f"Observed frequency against predicted probability, {about}.",
        "Predictions of all repeats in ten equal bins; on the diagonal they are calibrated.",
    )
    yield _scores_table(name, backbone, scores)
    lines = [
        figures.Line(rows.full_label(row, of), *zip(*log, strict=True))
        for row, runs in of.items()
        for run in runs
        if (log := run.log())
    ]
    if lines:
        figure = Figure(
            f"learning-{name}",
            f"Learning curves, {backbone}",
            figures.learning_curves(lines, order=order),
            f"Validation mean AUC by training step, {about}, a line a run.",
            "Validation mean AUC at every checkpoint; a line a repeat.",
        )
        yield Details(f"Learning curves, {backbone}", f"learning-{name}", (figure,))


def _mean_curve(curve, tables) -> tuple | None:
    """(x, y, low, high): the mean of the repeats' curves at equal x; None without both classes."""
    found = [curve(t.labels[:, c], t.probabilities[:, c]) for t, c in tables]
    if not all(found):
        return None
    return _band([np.interp(GRID, x, y) for x, y in found])


def _band(values: list[np.ndarray]) -> tuple:
    stacked = np.stack(values)
    return GRID, stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0)


def _pooled(tables) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        np.concatenate([getattr(table, name)[:, column] for table, column in tables])
        for name in ("labels", "probabilities")
    )


def _precision(tables) -> float:
    """Average precision of one observation, mean over repeats; NaN where a class is absent."""
    values = [curves.average_precision(t.labels[:, c], t.probabilities[:, c]) for t, c in tables]
    return statistics.mean_std(values)[0]


def _scores_table(name: str, backbone: str, scores: list) -> Table:
    """Average precision, Brier score and calibration error, a row a strategy and observation."""
    body = [
        (label, observation, *map(_shown, (precision, found.brier, found.expected_error)))
        for label, observation, precision, found in scores
    ]
    return Table(
        name=f"calibration-{name}",
        title=f"Average precision and calibration, {backbone}",
        header=("Learning strategy", "Observation", "Average precision", "Brier score", "ECE"),
        rows=tuple(body),
        caption=(
            "Average precision: mean over repeats; by chance it is the share of positives. Brier "
            "score and expected calibration error (ECE, ten bins): of the predictions of all "
            "repeats together; smaller is better."
        ),
        row_headers=2,
    )


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _alt(start: str, lines) -> str:
    words = [
        f"{line.label}: "
        + ", ".join(
            f"{percent:g} % {mean:.3f}"
            for percent, mean in zip(line.percent, line.mean, strict=True)
        )
        for line in lines
    ]
    return start + "; ".join(words) + "."


def _stem(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
