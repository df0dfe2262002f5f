"""Charts as SVG text: lines in panels, over training steps, over training sizes; bars of counts.

NaN is a gap. Charts are drawn for being shown at their own size.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from medcolor_tf.reporting.figures.drawing import (
    INK,
    WIDTH,
    add_legend,
    drawing,
    in_percent,
    line_styles,
)

# Lines of at most so many points have them marked: the bins of a calibration; less in learning
# curves, where many lines cross.
FEW, FEW_STEPS = 20, 6
KINDS = {  # of labels: colour, hatch
    "positive": ("#D55E00", ""),
    "negative": ("#9ad2f0", "///"),
    "uncertain": ("#F0E442", "..."),
    "blank": ("#FFFFFF", "xxx"),
}


@dataclass(frozen=True)
class Line:
    """A line of a chart; lines of the same label look alike and share a legend entry.

    Attributes:
        label: its name in the legend.
        x, y: (N,).
        low, high: (N,) ends of the band or the error bars around it, or None.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None

    def points(self) -> np.ndarray:
        """x, y, low and high, NaN where there are none: (4, N) float."""
        x, y = np.asarray(self.x, float), np.asarray(self.y, float)
        ends = [x * np.nan if end is None else end for end in (self.low, self.high)]
        return np.array([x, y, *ends], float)


def line_panels(
    panels: Mapping[str, Sequence[Line]],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    order: Iterable[str] = (),
) -> str:
    """Small multiples on unit squares: ROC, precision and recall, calibration; axes in percent.

    Args:
        panels: title -> lines; none where a class is absent.
        x_label, y_label: what the axes show.
        diagonal: whether to draw x = y.
        order: of labels for their styles, see
            :func:`medcolor_tf.reporting.figures.drawing.line_styles`.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("no panels to draw")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    lines = [line for members in panels.values() for line in members]
    styles = line_styles((line.label for line in lines), order)
    with drawing(max(WIDTH / 3 * columns, 4.2), 3.1 * rows) as (figure, svg):
        for number, (title, members) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, number + 1, aspect="equal")
            axes.set_gid(f"panel-{number}")
            axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
            axes.set(xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
            in_percent(axes.xaxis, axes.yaxis)
            axes.set_title(textwrap.fill(title, 30), parse_math=False)
            axes.set_xlabel(x_label if number + columns >= len(panels) else "")
            axes.set_ylabel(y_label if number % columns == 0 else "")
            _fill_panel(axes, members, styles, diagonal)
        add_legend(figure, styles, {line.label for line in lines if len(line.points().T) <= FEW})
    return svg.getvalue()


def _fill_panel(axes, lines: Sequence[Line], styles: Mapping, diagonal: bool) -> None:
    """The lines of one panel, or the reason why there are none."""
    visible = [line for line in lines if np.isfinite(line.points()[:2].sum(axis=0)).any()]
    if not visible:
        reason = "no values" if lines else "one class only"
        axes.text(0.5, 0.5, reason, ha="center", va="center")
        axes.set_facecolor("#f3f5f8")
        axes.grid(False)
        return
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#6b7785", linewidth=0.9, gid="diagonal")
    for number, line in enumerate(visible):
        _draw(axes, number, line, styles[line.label], FEW)


def _draw(axes, number: int, line: Line, style: dict[str, Any], few: int, width=1.5) -> None:
    """A line with its band, and marks if it has few points."""
    x, y, low, high = line.points()
    style = style if len(x) <= few else dict(style, marker="")
    axes.plot(x, y, gid=f"line-{number}", linewidth=width, **style)
    if line.low is not None:
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0, "gid": f"band-{number}"}
        axes.fill_between(x, low, high, **band)


def learning_curves(lines: Sequence[Line], order: Iterable[str] = ()) -> str:
    """Mean AUC in validation, in percent, by training step; repeats share a label.

    Args:
        lines: x in steps, y as fractions of 1.
        order: as in :func:`line_panels`.

    Raises:
        ValueError: no lines.
    """
    if not lines:
        raise ValueError("no lines to draw")
    styles = line_styles((line.label for line in lines), order)
    with drawing(WIDTH, 4.2) as (figure, svg):
        axes = figure.add_subplot(xlabel="training step", ylabel="mean AUC in validation (%)")
        in_percent(axes.yaxis)
        for number, line in enumerate(lines):
            _draw(axes, number, line, styles[line.label], FEW_STEPS, width=1.1)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(left=0)
        few = {line.label for line in lines if len(line.points().T) <= FEW_STEPS}
        add_legend(figure, styles, few)
    return svg.getvalue()


def size_chart(
    lines: Sequence[Line],
    percents: Mapping[int, float],
    y_label: str,
    zero: str = "",
    order: Iterable[str] = (),
) -> str:
    """Values by training images, with error bars (Figure 6).

    Args:
        lines: a line per strategy; x in training images, y as fractions of 1, drawn in percent.
        percents: training images -> what that is of all, in percent; the ticks.
        y_label: what the values are.
        zero: where they are differences, the label of what was subtracted: the zero line.
        order: as in :func:`line_panels`; with the same one both figures' lines look alike.

    Raises:
        ValueError: no sizes.
    """
    if not percents:
        raise ValueError("no sizes to draw")
    labels = [line.label for line in lines]
    styles = line_styles([*labels, zero] if zero else labels, order)
    with drawing(WIDTH * 0.8, 4.2 if zero else 4.4) as (figure, svg):
        axes = figure.add_subplot(xscale="log", xlabel="training images")
        y_lines = [textwrap.fill(text, 40) for text in y_label.split("\n")]
        axes.set_ylabel("\n".join(y_lines), parse_math=False)
        in_percent(axes.yaxis)
        for number, line in enumerate(lines):
            # Side by side by 2 %, or error bars at the same size would hide each other.
            aside = 1.02 ** (number - (len(lines) - 1) / 2)
            _draw_with_errors(axes, number, line, styles[line.label], aside)
        _name_sizes(axes, percents)
        if zero:
            style = dict(styles[zero], marker="", linewidth=1.4)
            axes.axhline(0, zorder=1, gid="zero", **style)
        add_legend(figure, styles, labels)
    return svg.getvalue()


def _draw_with_errors(axes, number: int, line: Line, style: dict[str, Any], aside: float) -> None:
    x, y, low, high = line.points()
    axes.plot(x * aside, y, gid=f"line-{number}", linewidth=1.5, **style)
    known = np.isfinite(y) & np.isfinite(low) & np.isfinite(high)
    x, low, high = x[known] * aside, low[known], high[known]
    axes.vlines(x, low, high, color=style["color"], linewidth=1.2).set_gid(f"errors-{number}")
    for ends in (low, high):
        axes.plot(x, ends, "_", color=style["color"], markersize=7)


def _name_sizes(axes, percents: Mapping[int, float]) -> None:
    """A tick at every size, named by images and percent where there is room."""
    from matplotlib.ticker import NullLocator

    sizes = sorted(percents, reverse=True)
    span = math.log(sizes[0] / sizes[-1]) or 1
    names, last = [], math.inf
    for images in sizes:
        room = (last - math.log(images)) / span > 0.075
        names.append(f"{images:,}\n{percents[images]:.3g} %" if room else "")
        last = math.log(images) if room else last
    axes.set_xticks(sizes, names)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(sizes) == 1:  # a logarithmic axis around one value would span decades
        axes.set_xlim(sizes[0] / 1.5, sizes[0] * 1.5)


def bar_panels(panels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Labels of each kind per observation, in all images and in a subset of them (Figure 5).

    Args:
        panels: title ("100 %") -> observation -> kind (positive, negative, uncertain, blank) ->
            images. The panels stand side by side, each with its own scale; a kind that occurs
            nowhere is left out.

    Raises:
        ValueError: no observations, or another kind.
    """
    rows = [row for counts in panels.values() for row in counts.values()]
    if not rows:
        raise ValueError("no labels to count")
    if unknown := {kind for row in rows for kind in row} - set(KINDS):
        raise ValueError(f"labels of kind {sorted(unknown)}, expected {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS if any(row.get(kind) for row in rows)] or ["positive"]
    observations = list(dict.fromkeys(name for counts in panels.values() for name in counts))
    names = [textwrap.fill(name, 22) for name in observations]
    lines = 1 + max(name.count("\n") for name in names)
    group = max(0.2 * len(kinds), 0.17 * lines) + 0.18  # inches
    with drawing(WIDTH, 1.4 + len(observations) * group) as (figure, svg):
        subplots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, counts) in zip(subplots, panels.items(), strict=True):
            table = pd.DataFrame(counts).reindex(index=kinds, columns=observations)
            _draw_bars(axes, table.fillna(0).astype(int))
            axes.set_title(textwrap.fill(title, 44), parse_math=False)
        subplots[0].set_yticks(range(len(names)), names, parse_math=False)
        subplots[0].invert_yaxis()
        handles = subplots[0].containers
        figure.legend(handles, kinds, loc="outside lower center", ncols=len(kinds))
    return svg.getvalue()


def _draw_bars(axes, counts: pd.DataFrame) -> None:
    """Horizontal bars, a group per observation, with the count at every bar's end."""
    from matplotlib.ticker import MaxNLocator

    height = 0.84 / len(counts)
    for place, (kind, values) in enumerate(counts.iterrows()):
        colour, hatch = KINDS[str(kind)]
        at = np.arange(len(values)) + (place - (len(counts) - 1) / 2) * height
        style = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.6}
        bars = axes.barh(at, values, height * 0.9, **style)
        for number, bar in enumerate(bars):
            bar.set_gid(f"bar-{kind}-{number}")
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=3, fontsize=9)
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.22)  # room for the largest bar's count
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
