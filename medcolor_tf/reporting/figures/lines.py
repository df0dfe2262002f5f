"""Diagrams of lines: ROC, precision and recall, calibration, learning curves."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcolor_tf.reporting.figures.drawing import (
    WIDTH,
    add_legend,
    drawing,
    looks,
    marker_style,
    take_literally,
)

# Lines of at most so many points have them marked: the bins of a calibration; less in learning
# curves, where many lines cross.
FEW, FEW_STEPS = 20, 6


@dataclass(frozen=True)
class Line:
    """A line of a diagram; lines of the same label look alike and share a legend entry.

    Attributes:
        label: its name in the legend.
        x, y: (N,).
        low, high: (N,) band around it, or None.
        note: what its own panel says about it ("0.89"), or "".
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    note: str = ""

    @property
    def visible(self) -> bool:
        """Whether any point has two finite coordinates."""
        return bool(np.isfinite(np.asarray(self.x, float) + np.asarray(self.y, float)).any())


def curves(
    panels: Mapping[str, Sequence[Line] | str],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    order: Iterable[str] = (),
) -> str:
    """Small multiples on unit squares: ROC, precision and recall, calibration.

    Args:
        panels: title -> lines. A str in place of the lines is why there are none; an empty list is
            for want of a second class.
        x_label, y_label: what the axes show.
        diagonal: whether to draw x = y.
        order: of labels for their looks, see :func:`medcolor_tf.reporting.figures.drawing.looks`.

    Returns:
        SVG.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("no panels to draw")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    lines = [line for found in panels.values() if not isinstance(found, str) for line in found]
    look = looks((line.label for line in lines), order)
    with drawing(max(WIDTH / 3 * columns, 4.2), 3.1 * rows) as (figure, svg):
        for number, (title, found) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, number + 1, aspect="equal")
            axes.set_gid(f"panel-{number}")
            axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
            axes.set(xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
            axes.set_title(textwrap.fill(title, 30), parse_math=False)
            axes.set_xlabel(x_label if number + columns >= len(panels) else "")
            axes.set_ylabel(y_label if number % columns == 0 else "")
            _panel(axes, found, look, diagonal)
        add_legend(figure, look, {line.label for line in lines if len(line.x) <= FEW})
    return svg.getvalue()


def _panel(axes, found: Sequence[Line] | str, look: dict, diagonal: bool) -> None:
    """The lines of one panel, or the reason why there are none."""
    if not isinstance(found, str):
        visible = [line for line in found if line.visible]
        found = visible or ("no values" if found else "one class only")
    if isinstance(found, str):
        reason = textwrap.fill(found, 24)
        axes.text(0.5, 0.5, reason, ha="center", va="center", parse_math=False)
        axes.set_facecolor("#f3f5f8")
        axes.grid(False)
        return
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#6b7785", linewidth=0.9, gid="diagonal")
    handles = [_draw(axes, n, line, look[line.label], FEW) for n, line in enumerate(found)]
    noted = [(h, line.note) for h, line in zip(handles, found, strict=True) if line.note]
    if noted:
        # ROC curves bend away from this corner; calibrations go anywhere.
        where = "lower right" if diagonal and len(found[0].x) > FEW else "best"
        noted, notes = zip(*noted, strict=True)
        notes = [textwrap.fill(note, 20) for note in notes]
        take_literally(axes.legend(noted, notes, loc=where, fontsize=9, handlelength=2.4))


def _draw(axes, number: int, line: Line, look: tuple, few: int, width: float = 1.5):
    """Draws a line with its band, and marks if it has few points; returns its legend handle."""
    colour, dash, marker = look
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    marks = marker_style(marker) if len(x) <= few else {}
    style = {"color": colour, "linestyle": dash, "linewidth": width, **marks}
    (handle,) = axes.plot(x, y, gid=f"line-{number}", **style)
    if line.low is not None and line.high is not None:
        low, high = np.asarray(line.low, float), np.asarray(line.high, float)
        band = {"color": colour, "alpha": 0.15, "linewidth": 0, "gid": f"band-{number}"}
        axes.fill_between(x, low, high, **band)
    return handle


def learning_curves(lines: Sequence[Line], order: Iterable[str] = ()) -> str:
    """Mean AUC in validation by training step; repeats share a label.

    Args:
        lines: x in steps, y as it is to be read.
        order: of labels for their looks, as in :func:`curves`.

    Returns:
        SVG.

    Raises:
        ValueError: no lines.
    """
    if not lines:
        raise ValueError("no lines to draw")
    look = looks((line.label for line in lines), order)
    with drawing(WIDTH, 4.2) as (figure, svg):
        axes = figure.add_subplot(xlabel="training step", ylabel="mean AUC in validation")
        for number, line in enumerate(lines):
            _draw(axes, number, line, look[line.label], FEW_STEPS, width=1.1)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlim(left=0)
        add_legend(figure, look, {line.label for line in lines if len(line.x) <= FEW_STEPS})
    return svg.getvalue()
