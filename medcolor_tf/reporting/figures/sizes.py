"""Values by the number of training images (Figure 6)."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medcolor_tf.reporting.figures.drawing import (
    WIDTH,
    add_legend,
    drawing,
    looks,
    marker_style,
)


@dataclass(frozen=True)
class SizeLine:
    """Something by the number of training images.

    Attributes:
        label: its name in the legend.
        images: (N,) number of training images.
        percent: (N,) what that is of all training images.
        mean: (N,) value; NaN for none.
        std: (N,) half the error bar; NaN for none.
    """

    label: str
    images: Sequence[int]
    percent: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float]


def size_curves(
    lines: Sequence[SizeLine],
    baseline_label: str = "",
    y_label: str = "mean AUC",
    order: Iterable[str] = (),
) -> str:
    """Values by training images, with error bars (Figure 6a).

    Args:
        lines: a line each strategy.
        baseline_label: the line to draw heavier, "" for none.
        y_label: what the values are.
        order: of labels for their looks, see :func:`medcolor_tf.reporting.figures.drawing.looks`.

    Returns:
        SVG.

    Raises:
        ValueError: no sizes.
    """
    look = looks((line.label for line in lines), order)
    with drawing(WIDTH * 0.8, 4.4) as (figure, svg):
        _draw(figure, lines, look, y_label, baseline_label)
        add_legend(figure, look, look)
    return svg.getvalue()


def size_differences(
    lines: Sequence[SizeLine],
    baseline_label: str,
    y_label: str = "difference in mean AUC",
    order: Iterable[str] = (),
) -> str:
    """Differences to a baseline by training images, with error bars and a zero line (Figure 6b).

    Args:
        lines: a line each strategy; ``mean`` and ``std`` are of the differences.
        baseline_label: what was subtracted, the zero line.
        y_label: what the values are.
        order: as in :func:`size_curves`; with the same one both figures' lines look alike.

    Returns:
        SVG.

    Raises:
        ValueError: no sizes.
    """
    labels = [line.label for line in lines]
    look = looks([*labels, baseline_label], order)
    with drawing(WIDTH * 0.8, 4.2) as (figure, svg):
        axes = _draw(figure, lines, look, f"{y_label}\n(minus {baseline_label})")
        colour, dash, _ = look[baseline_label]
        axes.axhline(0, color=colour, linestyle=dash, linewidth=1.4, zorder=1, gid="zero")
        add_legend(figure, look, labels)
    return svg.getvalue()


def _draw(figure, lines: Sequence[SizeLine], look: dict, y_label: str, heavy: str = ""):
    """Axes with a line with error bars each SizeLine over a logarithmic axis of sizes."""
    axes = figure.add_subplot(xscale="log", xlabel="training images")
    y_lines = [textwrap.fill(line, 40) for line in y_label.split("\n")]
    axes.set_ylabel("\n".join(y_lines), parse_math=False)
    for number, line in enumerate(lines):
        colour, dash, marker = look[line.label]
        # Side by side by 2 %, or error bars at the same size would hide each other.
        x = np.asarray(line.images, float) * 1.02 ** (number - (len(lines) - 1) / 2)
        mean, std = np.asarray(line.mean, float), np.asarray(line.std, float)
        width = 2.6 if line.label == heavy else 1.5
        style = {"color": colour, "linestyle": dash, "linewidth": width, **marker_style(marker)}
        axes.plot(x, mean, gid=f"line-{number}", **style)
        known = np.isfinite(mean) & np.isfinite(std)
        low, high = (mean - std)[known], (mean + std)[known]
        bars = axes.vlines(x[known], low, high, color=colour, linewidth=1.2)
        bars.set_gid(f"errors-{number}")
        for ends in (low, high):
            axes.plot(x[known], ends, "_", color=colour, markersize=7)
    _name_sizes(axes, lines)
    return axes


def _name_sizes(axes, lines: Sequence[SizeLine]) -> None:
    """A tick at every size, named by images and percent where there is room."""
    from matplotlib.ticker import NullLocator

    sizes: dict[int, float] = {}
    for line in lines:
        for images, percent in zip(line.images, line.percent, strict=True):
            sizes.setdefault(images, percent)
    if not sizes:
        raise ValueError("no sizes to draw")
    span = math.log(max(sizes) / min(sizes)) or 1
    names, last = [], math.inf
    for images in sorted(sizes, reverse=True):
        room = (last - math.log(images)) / span > 0.075
        names.append(f"{images:,}\n{sizes[images]:.3g} %" if room else "")
        last = math.log(images) if room else last
    axes.set_xticks(sorted(sizes, reverse=True), names)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(sizes) == 1:  # a logarithmic axis around one value would span decades
        (images,) = sizes
        axes.set_xlim(images / 1.5, images * 1.5)
