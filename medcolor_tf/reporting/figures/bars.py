"""Bars of label counts (Figure 5)."""

import textwrap
from collections.abc import Mapping

import numpy as np

from medcolor_tf.reporting.figures.drawing import INK, WIDTH, drawing

KINDS = {  # of labels: colour, hatch
    "positive": ("#D55E00", ""),
    "negative": ("#9ad2f0", "///"),
    "uncertain": ("#F0E442", "..."),
    "blank": ("#FFFFFF", "xxx"),
}


def label_counts(halves: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """Labels of each kind per observation, in all images and in a subset of them (Figure 5).

    Args:
        halves: title of a half ("100 %") -> observation -> kind (positive, negative, uncertain,
            blank) -> images. The halves stand side by side, each with its own scale; a kind that
            occurs nowhere is left out.

    Returns:
        SVG.

    Raises:
        ValueError: no observations, or another kind.
    """
    observations = list(dict.fromkeys(name for half in halves.values() for name in half))
    if not observations:
        raise ValueError("no labels to count")
    rows = [row for half in halves.values() for row in half.values()]
    unknown = {kind for row in rows for kind in row} - set(KINDS)
    if unknown:
        raise ValueError(f"labels of kind {sorted(unknown)}, expected {', '.join(KINDS)}")
    kinds = [kind for kind in KINDS if any(row.get(kind) for row in rows)] or ["positive"]
    names = [textwrap.fill(name, 22) for name in observations]
    lines = 1 + max(name.count("\n") for name in names)
    group = max(0.2 * len(kinds), 0.17 * lines) + 0.18  # inches
    with drawing(WIDTH, 1.4 + len(observations) * group) as (figure, svg):
        every = figure.subplots(1, len(halves), sharey=True, squeeze=False)[0]
        for axes, (title, half) in zip(every, halves.items(), strict=True):
            handles = _bars(axes, half, observations, kinds)
            axes.set_title(textwrap.fill(title, 44), parse_math=False)
        every[0].set_yticks(range(len(names)), names, parse_math=False)
        every[0].invert_yaxis()
        figure.legend(handles, kinds, loc="outside lower center", ncols=len(kinds))
    return svg.getvalue()


def _bars(axes, counts: Mapping, observations: list[str], kinds: list[str]) -> list:
    """Horizontal bars, a group each observation, with the count at every bar's end."""
    height = 0.84 / len(kinds)
    handles = []
    for place, kind in enumerate(kinds):
        colour, hatch = KINDS[kind]
        values = [counts.get(name, {}).get(kind, 0) for name in observations]
        at = np.arange(len(observations)) + (place - (len(kinds) - 1) / 2) * height
        style = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.6}
        bars = axes.barh(at, values, height * 0.9, **style)
        for number, bar in enumerate(bars):
            bar.set_gid(f"bar-{kind}-{number}")
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=3, fontsize=9)
        handles.append(bars)
    _images_axis(axes)
    return handles


def _images_axis(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.22)  # room for the largest bar's count
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
