"""What all charts share: the style of a label's line, matplotlib's set-up, the legend.

The same input gives the same bytes. Nothing is told by colour alone: lines differ in dashes and,
where their points are few, in markers; bars are hatched. Type has at least 9 points.
"""

import io
import math
import textwrap
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Okabe and Ito's palette without its yellow, which white paper swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
# Five dashes and seven colours share no divisor: the first 35 labels all differ in the pair.
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
INK = "#1a2330"
WIDTH = 9.2  # inches of the widest figure, the page's column
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dde2e7",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "medcolor_tf",
}


def line_styles(labels: Iterable[str], order: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker of every label, as arguments of matplotlib's lines.

    Styles are given out to the labels of ``order`` first, then as labels come. Who passes the same
    order everywhere has the same style for a label in all figures.

    Returns:
        label -> style, of ``labels`` alone, in the order in which styles were given out.
    """
    labels = dict.fromkeys(labels)
    return {
        label: {
            "color": PALETTE[number % len(PALETTE)],
            "linestyle": DASHES[number % len(DASHES)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 6,
            "markeredgecolor": "white",
        }
        for number, label in enumerate(dict.fromkeys([*order, *labels]))
        if label in labels
    }


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Any, io.StringIO]]:
    """(figure, StringIO that holds its SVG afterwards), in our style whatever the user's is.

    Args:
        width, height: inches.
    """
    import matplotlib  # slow to import
    from matplotlib.figure import Figure

    svg = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), facecolor="white")
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, hspace=0.06)
        yield figure, svg
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=nothing)


def in_percent(*axes) -> None:
    """Has matplotlib's axes name fractions of 1 in percent."""
    for axis in axes:
        axis.set_major_formatter(_percent)


def _percent(value: float, _: int) -> str:
    return f"{round(100 * value, 6) + 0.0:g}".replace("-", "\N{MINUS SIGN}")


def add_legend(figure, styles: dict[str, dict[str, Any]], marked: Collection[str] = ()) -> None:
    """One legend of all labels below the figure, which grows by it; as many columns as fit.

    Args:
        figure: matplotlib's.
        styles: of :func:`line_styles`.
        marked: labels whose points are marked.
    """
    from matplotlib.lines import Line2D

    if not styles:
        return
    handles = [
        Line2D([], [], linewidth=1.6, **style if label in marked else dict(style, marker=""))
        for label, style in styles.items()
    ]
    width, letter, sample = figure.get_figwidth(), 0.08, 0.8  # inches
    labels = [textwrap.fill(label, int((width - sample) / letter)) for label in styles]
    lines = [label.split("\n") for label in labels]
    longest = max(len(line) for label in lines for line in label)
    columns = max(1, min(len(labels), int(width / (sample + letter * longest))))
    rows = math.ceil(len(labels) / columns) * max(map(len, lines))
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    below = {"loc": "outside lower center", "ncols": columns, "handlelength": 3.2}
    for text in figure.legend(handles, labels, **below).get_texts():
        text.set_parse_math(False)  # a "$" in a name starts no formula
