"""What all figures share: the look of a label, matplotlib's set-up, the legend."""

import io
import math
import textwrap
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

# Okabe and Ito's palette without its yellow, which white paper swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
# Five dashes and seven colours share no divisor: the first 35 labels all differ in the pair.
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
INK = "#1a2330"
WIDTH = 9.2  # inches of the widest figure, the page's column
_STYLE = {
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


def looks(labels: Iterable[str], order: Iterable[str] = ()) -> dict[str, tuple]:
    """(colour, dash, marker) of every label.

    Looks are given out to the labels of ``order`` first, then as labels come. Who passes the same
    order everywhere has the same look for a label in all figures.

    Returns:
        label -> look, of ``labels`` alone, in the order in which looks were given out.
    """
    wanted = dict.fromkeys(labels)
    return {
        label: (
            PALETTE[number % len(PALETTE)],
            DASHES[number % len(DASHES)],
            MARKERS[number % len(MARKERS)],
        )
        for number, label in enumerate(dict.fromkeys([*order, *wanted]))
        if label in wanted
    }


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple]:
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
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.06)
        yield figure, svg
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=nothing)


def add_legend(figure, looks: dict[str, tuple], marked: Collection[str] = ()) -> None:
    """One legend of all labels below the figure, which grows by it; as many columns as fit.

    Args:
        figure: matplotlib's.
        looks: of :func:`looks`.
        marked: labels whose points are marked.
    """
    from matplotlib.lines import Line2D

    if not looks:
        return
    handles = []
    for label, (colour, dash, marker) in looks.items():
        marks = marker_style(marker) if label in marked else {}
        handles.append(Line2D([], [], color=colour, linestyle=dash, linewidth=1.6, **marks))
    width, letter, sample = figure.get_figwidth(), 0.08, 0.8  # inches
    labels = [textwrap.fill(label, int((width - sample) / letter)) for label in looks]
    lines = [label.split("\n") for label in labels]
    longest = max(len(line) for label in lines for line in label)
    columns = max(1, min(len(labels), int(width / (sample + letter * longest))))
    rows = math.ceil(len(labels) / columns) * max(map(len, lines))
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    below = {"loc": "outside lower center", "ncols": columns, "handlelength": 3.2}
    take_literally(figure.legend(handles, labels, **below))


def marker_style(marker: str) -> dict:
    """Arguments of a line whose points are marked."""
    return {"marker": marker, "markersize": 6, "markeredgecolor": "white"}


def take_literally(legend) -> None:
    """Has a legend show "$" in a name as it is, not as the start of a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
