"""Rows of a table: what they are called, and which pairs of them answer a question."""

import itertools
from collections.abc import Iterable, Mapping

from medcolor_tf.catalog import COLORIZERS, NO_COLORIZER, STRATEGIES
from medcolor_tf.reporting.collect import RowKey, RunRecord

Rows = Mapping[RowKey, list[RunRecord]]


def rows_of(runs: Iterable[RunRecord]) -> dict[RowKey, list[RunRecord]]:
    """Gathers repeats."""
    rows: dict[RowKey, list[RunRecord]] = {}
    for run in runs:
        rows.setdefault(run.row, []).append(run)
    return rows


def title(table: Mapping, name: str) -> str:
    """A variant as tables call it; one that this version does not know keeps its name."""
    if name == NO_COLORIZER:
        return "-"
    return table[name].title if name in table else name


def colorizer_label(row: RowKey) -> str:
    """T as a table calls it."""
    init = "" if row.colorizer_init == "paper" else f" ({row.colorizer_init} init)"
    return title(COLORIZERS, row.colorizer) + init


def strategy_label(row: RowKey, rows: Iterable[RowKey]) -> str:
    """The strategy, with the options in which the row differs from others that look like it."""
    label = title(STRATEGIES, row.strategy)
    alike = [other for other in rows if _visible(other) == _visible(row)]
    common = set.intersection(*(set(other.options) for other in alike)) if alike else set()
    special = [f"{name}={value}" for name, value in row.options if (name, value) not in common]
    if len(alike) > 1:
        label += f" [{', '.join(special) or 'other options at their defaults'}]"
    return label


def full_label(row: RowKey, rows: Iterable[RowKey]) -> str:
    """A row's name where there are no columns: colorizer, strategy, and what else differs."""
    rows = list(rows)
    words = [] if row.colorizer == "none" else [colorizer_label(row)]
    words.append(strategy_label(row, rows))
    if row.origin:
        words.append(f"from {title(STRATEGIES, row.origin)} on {row.origin_data}".strip())
    text = " ".join(words)
    if len({other.backbone for other in rows}) > 1:
        text += f", {row.backbone}"
    if len({other.fraction for other in rows}) > 1:
        text += f", {percent(row.fraction)} of the images"
    return text


def line_label(row: RowKey, rows: Iterable[RowKey]) -> str:
    """As :func:`full_label`, for a line over training sizes."""
    alike = [other for other in rows if other.fraction == row.fraction]
    return full_label(row, alike)


def percent(fraction: float) -> str:
    """A share of the training images: 0.001 is "0.1 %"."""
    return f"{100 * fraction:g} %"


def related(rows: Iterable[RowKey]) -> list[tuple[RowKey, RowKey]]:
    """Pairs of rows that differ in one thing: what a table's tests compare.

    With T against without it; stage 2 against stage 1; one colorizer, initialisation, backbone or
    origin against another. The share of the training images is always the same.
    """
    rows = list(rows)
    return [
        (b, a) if _second_is_treatment(a, b) else (a, b)
        for a, b in itertools.combinations(rows, 2)
        if a.fraction == b.fraction and _one_difference(a, b)
    ]


def with_and_without_t(rows: Iterable[RowKey]) -> list[tuple[RowKey, RowKey]]:
    """The pairs of :func:`related` that ask what T brings, and those that compare its starts."""
    return [
        (a, b)
        for a, b in related(rows)
        if (a.colorizer == "none") != (b.colorizer == "none")
        or (a.strategy == b.strategy and a.colorizer_init != b.colorizer_init)
    ]


def _one_difference(a: RowKey, b: RowKey) -> bool:
    if a.backbone != b.backbone:
        return _core(a) == _core(b)
    if (a.colorizer == "none") != (b.colorizer == "none"):
        treated, plain = (b, a) if a.colorizer == "none" else (a, b)
        return STRATEGIES[treated.strategy].without_colorizer == plain.strategy and not plain.origin
    if (a.colorizer, a.colorizer_init) != (b.colorizer, b.colorizer_init):
        one = a.colorizer == b.colorizer or a.colorizer_init == b.colorizer_init
        return one and (a.strategy, a.origin) == (b.strategy, b.origin)
    if a.strategy != b.strategy:
        return a.origin == b.origin and "last_layer" not in (a.strategy, b.strategy)
    return a.origin != b.origin or a.options != b.options


def _second_is_treatment(a: RowKey, b: RowKey) -> bool:
    """The difference is told as treatment minus plain: T, the later stage, gray, the transfer."""

    def rank(row):
        stage = ("baseline", "last_layer", "color_module", "baseline_all", "all")
        return (
            row.colorizer != "none",
            stage.index(row.strategy),
            row.colorizer_init == "gray",
            bool(row.origin),
            row.origin == "all",
        )

    return rank(b) > rank(a)


def _core(row: RowKey) -> tuple:
    return (row.strategy, row.origin, row.colorizer, row.colorizer_init)


def _visible(row: RowKey) -> tuple:
    return (*_core(row), row.origin_data, row.backbone, row.fraction)
