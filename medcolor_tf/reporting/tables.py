"""The tables of a report, in the paper's layout, each value linked to its runs."""

import math
from collections.abc import Iterable

from medcolor_tf.evaluation import statistics
from medcolor_tf.reporting import paper_results, rows
from medcolor_tf.reporting.collect import Gap, RowKey, RunRecord
from medcolor_tf.reporting.compare import Comparison, SameImages
from medcolor_tf.reporting.page import Cell, Table

UNDEFINED = "-"
SIGNIFICANT = 0.05
ORIGIN_T = {"": "scratch", "color_module": "θM", "all": "θA"}


def mean_auc_table(group) -> Table:
    """Table I: colorizer, strategy, mean AUC, the paper's value where there is one."""
    papers = {row: paper_results.mean_auc(group.key, row) for row in group.largest}
    header = ["Colorization module", "Learning strategy", "Mean AUC (%)", "Repeats"]
    body = [
        (
            rows.colorizer_label(row),
            rows.strategy_label(row, group.largest),
            _value(group, row, [run.mean_auc for run in runs]),
            str(len(runs)),
        )
        for row, runs in group.largest.items()
    ]
    header, body = _with_paper(header, body, list(papers.values()))
    return Table(
        name=f"table1-{group.number}",
        title="Mean AUC of the learning strategies (the paper's Table I)",
        header=tuple(header),
        rows=tuple(body),
        caption=f"{group.key.data}, {_labels(group)}. Mean ± standard deviation over repeats.",
        row_headers=2,
        groups=tuple(f"Backbone: {row.backbone}" for row in group.largest),
    )


def observation_table(group) -> Table:
    """Table II: AUC of each observation, the paper's rows below ours."""
    names = group.key.observations
    body, titles = [], []
    for row, runs in group.largest.items():
        values = [_value(group, row, [run.auc(name) for run in runs]) for name in names]
        body.append((rows.full_label(row, group.largest), *values))
        titles.append("Ours")
    for row in group.largest:
        printed = [paper_results.observation_auc(group.key, row, name) for name in names]
        if any(printed):
            body.append((rows.full_label(row, group.largest), *map(_printed, printed)))
            titles.append("The paper's values")
    if "The paper's values" in titles:
        chexpert = dict(
            zip(paper_results.OBSERVATIONS, paper_results.TABLE_2_CHEXPERT, strict=True)
        )
        body.append(("DenseNet121, CheXpert's authors", *(f"{chexpert[name]:g}" for name in names)))
        titles.append("The paper's values")
    return Table(
        name=f"table2-{group.number}",
        title="AUC of each observation (the paper's Table II)",
        header=("Learning strategy", *names),
        rows=tuple(body),
        caption="In percent, mean ± standard deviation over repeats; - where there is no AUC.",
        groups=tuple(titles) if len(set(titles)) > 1 else (),
    )


def transfer_table(group) -> Table:
    """Table III: where E and T come from, strategy, mean AUC, the paper's value."""
    header = ["Backbone E", "Colorization module T", "Learning strategy", "Mean AUC (%)", "Repeats"]
    body = []
    for row, runs in group.largest.items():
        body.append(
            (
                _backbone_origin(row),
                _colorizer_origin(row),
                rows.strategy_label(row, group.largest),
                _value(group, row, [run.mean_auc for run in runs]),
                str(len(runs)),
            )
        )
    printed = [paper_results.mean_auc(group.key, row) for row in group.largest]
    header, body = _with_paper(header, body, printed)
    return Table(
        name=f"table3-{group.number}",
        title="Mean AUC of transfers across data sets (the paper's Table III)",
        header=tuple(header),
        rows=tuple(body),
        caption=(
            f"{group.key.data}, {_labels(group)}. θI: ImageNet (or the backbone file); θM, θA: as "
            "Color Module, All left it on the data set named."
        ),
        row_headers=3,
    )


def size_table(group) -> Table:
    """The values of Figure 6: a row a strategy, a column a training size."""
    own = group.own
    sizes = sorted({row.fraction for row in own})
    lines: dict[str, dict[float, RowKey]] = {}
    for row in own:
        lines.setdefault(rows.line_label(row, own), {})[row.fraction] = row
    body = []
    for label, by_size in lines.items():
        cells = [
            _value(group, by_size[size], [run.mean_auc for run in own[by_size[size]]])
            if size in by_size
            else UNDEFINED
            for size in sizes
        ]
        body.append((label, *cells))
    images = {row.fraction: runs[0].config.get("train_images") for row, runs in own.items()}
    heads = [
        f"{rows.percent(size)} ({images[size]:,} images)" if images[size] else rows.percent(size)
        for size in sizes
    ]
    return Table(
        name=f"figure6-{group.number}",
        title="Mean AUC by training size (the paper's Figure 6)",
        header=("Learning strategy", *heads),
        rows=tuple(body),
        caption="In percent, mean ± standard deviation over the random subsets.",
    )


def tests_table(group, name: str, found: list[Comparison]) -> Table:
    """Paired t-tests over repeats: difference, raw and adjusted p, and the family's size."""
    of = group.rows if name == "size-tests" else group.largest
    # A column for what is not the same in all rows: the observation, or the share of the images.
    column, shown = {
        "tests": ((), lambda one: ()),
        "observation-tests": (("Observation",), lambda one: (one.what,)),
        "size-tests": (("Images",), lambda one: (rows.percent(one.a.fraction),)),
    }[name]
    body = [
        (
            Cell(rows.line_label(one.a, of), link=group.anchor(one.a)),
            Cell(rows.line_label(one.b, of), link=group.anchor(one.b)),
            *shown(one),
            _points(one.difference),
            str(one.repeats),
            _p(one.p),
            Cell(_p(one.adjusted), strong=one.adjusted < SIGNIFICANT),
        )
        for one in found
    ]
    family = sum(not math.isnan(one.p) for one in found)
    return Table(
        name=f"{name}-{group.number}",
        title={
            "tests": "Tests between strategies",
            "observation-tests": "Tests for each observation",
            "size-tests": "Tests at each training size",
        }[name],
        header=("Row A", "Row B", *column, "A - B (points)", "Repeats", "p", "adjusted p"),
        rows=tuple(body),
        caption=(
            f"Two-sided paired t-tests over repeats. Family of the adjustment (Benjamini-Hochberg):"
            f" the {family} defined tests of this table. - : undefined (fewer than two common "
            f"repeats, or no variance). Bold: adjusted p < {SIGNIFICANT}."
        ),
        row_headers=2 + len(column),
    )


def same_images_table(group, found: list[SameImages]) -> Table:
    """Bootstrap intervals and DeLong's tests of single repeats."""
    body = [
        (
            Cell(rows.full_label(one.a, group.largest), link=group.anchor(one.a)),
            Cell(rows.full_label(one.b, group.largest), link=group.anchor(one.b)),
            one.what,
            f"{one.repeat[0]}, {one.repeat[1]}",
            _points(one.difference),
            f"{_points(one.low)} to {_points(one.high)}",
            _p(one.p),
            Cell(_p(one.adjusted), strong=one.adjusted < SIGNIFICANT),
        )
        for one in found
    ]
    family = sum(not math.isnan(one.p) for one in found)
    header = ("Row A", "Row B", "Observation", "Seed, subset", "A - B (points)")
    return Table(
        name=f"same-images-{group.number}",
        title="Single repeats on the same test images",
        header=(*header, "95 % interval", "p (DeLong)", "adjusted p"),
        rows=tuple(body),
        caption=(
            f"Interval: percentiles of {group.samples:,} bootstrap resamples of patients. p: "
            "DeLong's test with the images of a patient as one cluster (Obuchowski 1997). They say "
            "how sure the test images are of this difference, not whether another training would "
            f"show it. Family (Benjamini-Hochberg): the {family} defined tests of this table."
        ),
        row_headers=4,
    )


def runs_table(group) -> Table:
    """Every run with an interval of its own."""
    body = []
    for row, runs in group.rows.items():
        for run in runs:
            low, high = _interval(run, group.samples)
            valid = run.result["best_valid_mean_auc"]
            body.append(
                (
                    Cell(run.folder.name, link=group.anchor(row)),
                    _percent(run.mean_auc),
                    f"{_percent(low)} to {_percent(high)}",
                    _percent(float("nan") if valid is None else valid),
                    f"{run.result['best_step']:,} of {run.result['steps']:,}",
                    f"{run.result['train_images']:,}",
                    f"{run.result['max_lr']:.3g}",
                )
            )
    return Table(
        name=f"runs-{group.number}",
        title=f"Every run on {group.key.data}",
        header=(
            *("Run", "Mean AUC (%)", "95 % interval", "Validation AUC (%)"),
            *("Best step", "Training images", "Peak rate"),
        ),
        rows=tuple(body),
        caption=f"Intervals by bootstrap over patients, {group.samples:,} resamples.",
    )


def gaps(found: Iterable[Gap]) -> Table:
    """What is missing and why."""
    return Table(
        name="missing-runs",
        title="Runs that are missing or cannot be used",
        header=("Run", "Why", "Command"),
        rows=tuple((gap.name, gap.reason, gap.command or UNDEFINED) for gap in found),
        caption="Failed runs are tried again by the same study command.",
    )


def _interval(run: RunRecord, samples: int):
    table = run.predictions
    found = statistics.bootstrap_auc(
        table.labels, table.probabilities, table.patient, n_resamples=samples
    )
    return found.mean_interval


def _value(group, row: RowKey, values: list[float]) -> Cell:
    return Cell(mean_and_std(values), link=group.anchor(row))


def mean_and_std(values: list[float]) -> str:
    """Mean ± std of AUCs as percent; without a std where there is one value, "-" for none."""
    mean, std, count = statistics.mean_std(values)
    if not count:
        return UNDEFINED
    left_out = f" ({len(values) - count} undefined)" if count < len(values) else ""
    spread = "" if math.isnan(std) else f" ± {100 * std:.1f}"
    return f"{100 * mean:.1f}{spread}{left_out}"


def _with_paper(header: list[str], body: list[tuple], printed: list) -> tuple[list, list]:
    """Adds the paper's column where it has a value for any row."""
    if not any(printed):
        return header, body
    paired = zip(body, printed, strict=True)
    return [*header, "Paper"], [(*row, _printed(value)) for row, value in paired]


def _printed(value: tuple[float, float] | None) -> str:
    return f"{value[0]:g} ± {value[1]:g}" if value else UNDEFINED


def _backbone_origin(row: RowKey) -> str:
    if row.origin == "all":
        return f"{row.backbone} θA {row.origin_data}"
    return f"{row.backbone} θI"


def _colorizer_origin(row: RowKey) -> str:
    if row.colorizer == "none":
        return "-"
    where = ORIGIN_T.get(row.origin, row.origin)
    return f"{rows.colorizer_label(row)} ({where} {row.origin_data})".replace(" )", ")")


def _labels(group) -> str:
    count = len(group.key.observations)
    return group.key.observations[0] if count == 1 else f"mean of {count} observations"


def _percent(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{100 * value:.1f}"


def _points(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{100 * value:+.1f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
