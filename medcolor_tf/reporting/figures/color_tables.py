"""What a map from gray value to colour does: its red, green and blue over the gray values (SVG)."""

import math
import textwrap
from collections.abc import Mapping

import numpy as np

from medcolor_tf.evaluation.color_table import ENTRIES, ColorTable
from medcolor_tf.reporting.figures.drawing import DASHES, WIDTH, add_legend, drawing

COLORS = {"red": "#D55E00", "green": "#009E73", "blue": "#0072B2", "unchanged": "#6b7785"}
STYLES = {
    name: {"color": color, "linestyle": dashes, "marker": ""}
    for (name, color), dashes in zip(COLORS.items(), DASHES, strict=False)
}


def color_tables(tables: Mapping[str, ColorTable]) -> str:
    """A panel per table: its three curves, and below them the gray values over their colours.

    Args:
        tables: title -> table.

    Raises:
        ValueError: no tables.
    """
    if not tables:
        raise ValueError("no tables of colours to draw")
    columns = min(3, len(tables))
    rows = math.ceil(len(tables) / columns)
    gray = np.linspace(0, 1, ENTRIES)
    with drawing(max(WIDTH / 3 * columns, 4.2), 3.4 * rows) as (figure, svg):
        grid = figure.add_gridspec(2 * rows, columns, height_ratios=[5, 1] * rows)
        for number, (title, table) in enumerate(tables.items()):
            row, column = divmod(number, columns)
            axes = figure.add_subplot(grid[2 * row, column])
            axes.set_gid(f"panel-{number}")
            axes.set_title(textwrap.fill(title, 30), parse_math=False)
            for curve, values in zip(STYLES, [*table.colors.T, gray], strict=True):
                axes.plot(gray, values, gid=f"line-{curve}", linewidth=1.5, **STYLES[curve])
            axes.set(xlim=(0, 1), ylabel="Colour" if column == 0 else "")
            axes.tick_params(labelbottom=False)
            _draw_bar(figure.add_subplot(grid[2 * row + 1, column], sharex=axes), gray, table)
        add_legend(figure, STYLES)
    return svg.getvalue()


def _draw_bar(axes, gray: np.ndarray, table: ColorTable) -> None:
    """The gray values from black to white, and their colours below."""
    ramp = np.repeat(np.round(gray * 255).astype(np.uint8)[:, None], 3, axis=1)
    bar = np.stack([ramp, table.rgb])
    # Without interpolation a picture of 256 colours is stored as it is, and scaled by the browser.
    axes.imshow(bar, aspect="auto", extent=(0, 1, 0, 2), interpolation="none")
    axes.set(yticks=[0.5, 1.5], yticklabels=["colour", "gray"], xticks=np.linspace(0, 1, 5))
    axes.set_xlabel("Gray value (0 black, 1 white)")
    axes.grid(False)
