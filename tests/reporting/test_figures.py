"""Figures hold what they were given, where it belongs."""

import base64
import html
import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.reporting.figures.charts import (
    Line,
    bar_panels,
    learning_curves,
    line_panels,
    size_chart,
)
from medcolor_tf.reporting.figures.color_tables import color_tables
from medcolor_tf.reporting.figures.drawing import line_styles
from medcolor_tf.reporting.figures.image_grid import image_grid

NAN = float("nan")
X = [0, 0.25, 0.5, 1]
TABLE = ColorTable(
    np.arange(256), np.stack([np.linspace(*ends, 256) for ends in ((0, 2), (1, 0), (0, 1))], axis=1)
)
PERCENTS = {224: 0.1, 2243: 1, 22431: 10}


def ids(svg, start):
    """Elements whose id starts so, in order; several panels repeat ids."""
    return [e for e in ET.fromstring(svg).iter() if e.get("id", "").startswith(start)]


def texts(svg):
    """Texts in order; they are drawn as paths, each after a comment that holds it."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", svg, re.S)]


def points(element):
    """(N, 2) of a line's first path, y upwards."""
    path = next(e for e in element.iter() if e.tag.endswith("path"))
    numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", path.get("d"))]
    return np.reshape(numbers, (-1, 2)) * [1, -1]


def assert_linear(drawn, given):
    """Drawn coordinates are an increasing linear function of the values."""
    slope, start = np.polyfit(given, drawn, 1)
    assert slope > 0
    np.testing.assert_allclose(slope * np.asarray(given) + start, drawn, atol=0.01)


def size_line(label, mean, std=(0.01, 0.02, 0.03)):
    mean, std = np.array(mean), np.array(std)
    return Line(label, list(PERCENTS), mean, mean - std, mean + std)


def sizes(*lines, y_label="mean AUC", zero=""):
    return size_chart(lines, PERCENTS, y_label, zero)


FIGURES = {
    "panels": lambda: line_panels(
        {"Edema": [Line("A", X, X)], "Mass": []}, "x", "y", diagonal=True
    ),
    "learning": lambda: learning_curves([Line("A", [1, 2, 3], [0.5, 0.6, 0.7])]),
    "sizes": lambda: sizes(size_line("A", [0.6, 0.7, 0.8])),
    "differences": lambda: sizes(size_line("A", [0.1, 0.0, -0.1]), zero="B"),
    "counts": lambda: bar_panels({"all": {"Edema": {"positive": 3, "negative": 4}}}),
    "colours": lambda: color_tables({"A": TABLE, "B": TABLE}),
    "images": lambda: image_grid([("Gray", [np.zeros((9, 9, 3), np.uint8)])]),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_same_bytes_whatever_the_users_style(draw):
    first = draw()
    theirs: Any = {"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "none"}
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        assert draw() == first
        assert dict(matplotlib.rcParams) == before
    if isinstance(first, str):
        assert "dc:date" not in first
        assert "<text" not in first  # paths: the same everywhere, whatever fonts there are


@pytest.mark.parametrize(
    "name", ["panels", "learning", "sizes", "differences", "counts", "colours"]
)
def test_type_of_nine_points_at_least(name):
    scales = re.findall(r"scale\(([\d.]+) -", FIGURES[name]())
    assert len(scales) > 5
    assert min(map(float, scales)) >= 0.09  # of glyphs of 100 units


def test_curves_hold_every_line():
    panels = {
        "Edema": [Line("A", X, [0, 0.5, 0.7, 1]), Line("B", X, [0, 0.6, 0.9, 1])],
        "Mass": [Line("B", X, X)],
    }
    svg = line_panels(panels, "False positive rate", "True positive rate", diagonal=True)
    lines = ids(svg, "line-")
    assert len(lines) == 3
    given = [line for found in panels.values() for line in found]
    for drawn, line in zip(lines, given, strict=True):
        assert_linear(points(drawn)[:, 0], line.x)
        assert_linear(points(drawn)[:, 1], line.y)
    assert len(ids(svg, "diagonal")) == 2
    shown = texts(svg)
    assert shown.count("A") == shown.count("B") == 1  # one legend for all panels
    assert {"Edema", "Mass", "False positive rate", "True positive rate"} < set(shown)


def test_curves_without_diagonal_at_most_three_columns():
    svg = line_panels({str(n): [Line("A", X, X)] for n in range(7)}, "x", "y")
    assert not ids(svg, "diagonal")
    panels = [points(next(iter(panel))) for panel in ids(svg, "panel-")]
    corners = np.round([panel.min(axis=0) for panel in panels], 1)
    assert len(corners) == 7
    assert len(set(corners[:, 0])) == 3
    assert len(set(corners[:, 1])) == 3


def test_panels_say_why_they_are_empty():
    svg = line_panels(
        {
            "Mass": [],
            "Edema": [Line("A", [0, 1], [NAN, NAN])],
            "None": [Line("A", [], [])],
        },
        "x",
        "y",
    )
    assert not ids(svg, "line-")
    assert {"one class only", "no values"} < set(texts(svg))


def test_bands():
    band = Line("A", X, X, low=[0, 0.1, NAN, 1], high=[0, 0.4, NAN, 1])
    svg = line_panels({"Edema": [band, Line("B", X, X)]}, "x", "y")
    assert len(ids(svg, "band-")) == 1


def test_lines_of_few_points_are_marked():
    few, many = np.linspace(0, 1, 10), np.linspace(0, 1, 200)
    marked, plain = (
        ids(line_panels({"": [Line("A", x, x)]}, "", ""), "line-")[0] for x in (few, many)
    )
    assert len([e for e in marked.iter() if e.tag.endswith("use")]) == 10
    assert not [e for e in plain.iter() if e.tag.endswith("use")]
    (single,) = ids(line_panels({"": [Line("A", [0.5], [0.5])]}, "", ""), "line-")
    assert [e for e in single.iter() if e.tag.endswith("use")]


def test_nan_is_a_gap():
    svg = line_panels({"": [Line("A", X, [0, NAN, 0.5, 1])]}, "", "")
    (line,) = ids(svg, "line-")
    assert len(points(line)) == 3
    path = next(e for e in line.iter() if e.tag.endswith("path")).get("d", "")
    assert path.split()[::3] == ["M", "M", "L"]  # nothing leads to the second point drawn
    assert len([e for e in line.iter() if e.tag.endswith("use")]) == 3


@pytest.mark.parametrize("name", ["_private $x", "a$b$ <&>", "%--% " + "ä" * 60])
def test_names_are_taken_literally(name, recwarn):
    svgs = [
        line_panels({name: [Line(name, X, X)]}, "x", "y"),
        learning_curves([Line(name, X, X)]),
        sizes(size_line(name, [0.6, 0.7, 0.8]), y_label=name),
        sizes(size_line("A", [0.6, 0.7, 0.8]), zero=name),
        bar_panels({name: {name: {"positive": 1}}}),
    ]
    assert not recwarn.list  # of a layout that fails, a formula that is none
    start = name[:10].replace("--", "- -")  # two dashes would end the comment
    for svg in svgs:
        assert any(start in html.unescape(text) for text in texts(svg))


def test_long_legends_make_the_figure_higher():
    def height(lines):
        return float(ET.fromstring(learning_curves(lines)).get("height", "")[:-2])

    few = height([Line("Baseline", X, X)])
    many = height([Line(f"{n} " + "long " * 30, X, X) for n in range(20)])
    assert many - few > 20 * 2 * 10


@pytest.mark.parametrize(
    ("svg", "ticks"),
    [
        (lambda: line_panels({"": [Line("A", X, X)]}, "x", "y"), {"0", "20", "100"}),
        (lambda: learning_curves([Line("A", [1, 2, 3], [0.5, 0.6, 0.7])]), {"50", "60"}),
        (lambda: size_chart([Line("A", [9], [-0.1], [-0.3], [0.1])], {9: 100}, "y"), {"\u221220"}),
    ],
)
def test_axes_are_in_percent(svg, ticks):
    found = {text for text in texts(svg()) if re.fullmatch(r"[-\u2212\d.]+", text)}
    assert ticks <= found
    assert not {text for text in found if re.fullmatch(r"[-\u2212]?0\.\d+", text)}


def test_learning_curves_share_a_legend_entry():
    steps = [0, 4800, 9600]
    repeats = [Line("ColorU, All", steps, [0.5, 0.6, 0.6 + n / 50]) for n in range(3)]
    svg = learning_curves([*repeats, Line("Baseline", steps, [0.5, NAN, 0.7])])
    lines = ids(svg, "line-")
    assert len(lines) == 4
    assert texts(svg).count("ColorU, All") == texts(svg).count("Baseline") == 1
    assert "4,000" in texts(svg)
    assert_linear(points(lines[2])[:, 0], steps)
    assert_linear(
        np.concatenate([points(line)[:, 1] for line in lines[:3]]),
        np.concatenate([np.asarray(line.y) for line in repeats]),
    )


def test_size_curves():
    lines = [
        size_line("Baseline", [0.6, 0.7, 0.8]),
        size_line("All", [0.65, 0.75, 0.78], std=[0.01, NAN, NAN]),
        size_line("Alone", [0.7, NAN, 0.8], std=[NAN] * 3),
    ]
    svg = sizes(*lines)
    drawn = ids(svg, "line-")
    assert len(drawn) == 3
    assert_linear(points(drawn[0])[:, 0], np.log(list(PERCENTS)))
    both = np.concatenate([points(line)[:, 1] for line in drawn[:2]])
    assert_linear(both, np.concatenate([np.asarray(line.y) for line in lines[:2]]))
    bars = [len([e for e in group.iter() if e.tag.endswith("path")]) for group in ids(svg, "err")]
    assert bars[:2] == [3, 1]
    assert sum(bars) == 4
    low, high = points(ids(svg, "errors-0")[0])
    assert low[0] == high[0]
    middle = points(drawn[0])[0]
    assert (low[1] + high[1]) / 2 == pytest.approx(middle[1], abs=0.01)
    shown = texts(svg)
    for part in ("224\n0.1 %", "2,243\n1 %", "22,431\n10 %"):
        assert part in shown or all(p in shown for p in part.split("\n"))
    assert {"Baseline", "All", "Alone"} < set(shown)


def test_size_names_that_would_overlap_are_left_out():
    percents = {1000: 10, 1010: 10.1, 5000: 50}
    svg = size_chart([Line("A", list(percents), [0.5, 0.6, 0.7])], percents, "mean AUC")
    shown = "\n".join(texts(svg))
    assert "5,000" in shown
    assert "1,010" in shown
    assert "1,000" not in shown


def test_one_size():
    svg = size_chart([Line("A", [500], [0.7], [0.6], [0.8])], {500: 100}, "mean AUC")
    assert "500" in "\n".join(texts(svg))
    assert len(ids(svg, "line-")) == 1


def test_size_differences():
    svg = sizes(size_line("All", [0.1, 0.05, 0.0]), zero="Baseline All")
    (zero,), (line,) = ids(svg, "zero"), ids(svg, "line-")
    assert points(line)[2, 1] == pytest.approx(points(zero)[0, 1], abs=0.01)
    assert points(line)[0, 1] > points(zero)[0, 1]
    assert {"All", "Baseline All"} < set(texts(svg))


def test_line_styles_are_shared_and_differ():
    order = [f"strategy {n}" for n in range(35)]
    every = line_styles(order)
    assert len({(style["color"], style["linestyle"]) for style in every.values()}) == 35
    some = line_styles(["new", order[7], order[3], order[7]], order)
    assert list(some) == [order[3], order[7], "new"]
    assert some[order[7]] == every[order[7]]


def test_label_counts():
    full = {
        "Edema": {"positive": 65000, "negative": 20000, "uncertain": 13000, "blank": 0},
        "Mass": {"positive": 100, "negative": 130000, "uncertain": 0},
    }
    subset = {name: {kind: n // 1000 for kind, n in row.items()} for name, row in full.items()}
    svg = bar_panels({"100 %": full, "0.1 %": subset})
    assert len(ids(svg, "bar-")) == 2 * 2 * 3  # no bars for blank, which does not occur
    widths = {}
    for bar in ids(svg, "bar-")[:6]:
        widths[bar.get("id")] = np.ptp(points(bar)[:, 0])
    drawn = [widths[f"bar-{k}-{n}"] for n in (0, 1) for k in ("positive", "negative", "uncertain")]
    assert_linear(drawn, [65000, 20000, 13000, 100, 130000, 0])
    shown = texts(svg)
    for value in ("65,000", "20,000", "13,000", "130,000", "65", "13"):
        assert value in shown
    assert {"Edema", "Mass", "100 %", "0.1 %", "positive", "negative", "uncertain"} < set(shown)
    assert "blank" not in shown
    assert "url(#" in svg  # hatches


def test_label_counts_of_one_half_and_other_observations():
    svg = bar_panels({"a": {"Edema": {"positive": 5}}, "b": {"Mass": {"blank": 7}}})
    assert {"Edema", "Mass", "positive", "blank", "5", "7"} < set(texts(svg))
    assert len(ids(bar_panels({"all": {"Edema": {"positive": 5}}}), "bar-")) == 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda: line_panels({}, "x", "y"),
        lambda: learning_curves([]),
        lambda: size_chart([], {}, "mean AUC"),
        lambda: bar_panels({}),
        lambda: bar_panels({"all": {"Edema": {"maybe": 1}}}),
        lambda: color_tables({}),
        lambda: image_grid([]),
        lambda: image_grid([("Gray", [])]),
    ],
)
def test_nothing_to_draw(draw):
    with pytest.raises(ValueError, match=r"no |maybe"):
        draw()


def opened(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_colours_of_gray_values():
    """A bar of exactly the table's colours under the curves; one beyond white is drawn there."""
    svg = color_tables({"ColorMap $1$": TABLE, "Other": TABLE})
    lines = ids(svg, "line-")
    assert len(lines) == 8
    red, green, blue, gray = (points(line) for line in lines[:4])
    np.testing.assert_allclose(blue, gray)  # this table's blue is the gray value
    slopes = [np.ptp(line[:, 1]) / np.ptp(line[:, 0]) for line in (red, green, gray)]
    assert slopes == pytest.approx([2 * slopes[2], slopes[2], slopes[2]], rel=0.01)
    assert {"ColorMap $1$", "Other", "red", "green", "blue", "colour"} < set(texts(svg))
    encoded = re.search(r"data:image/png;base64,([^\"]+)", svg)
    assert encoded
    bar = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGB"))
    assert bar.shape == (2, 256, 3)
    shown = {tuple(row[0]) + tuple(row[255]) for row in bar}  # SVG counts upwards or downwards
    assert shown == {(0, 0, 0, 255, 255, 255), (0, 255, 0, 255, 0, 255)}


def test_image_grid_is_pixel_exact():
    random = np.random.default_rng(0)
    gray, coloured = (
        [random.integers(0, 256, (50, 60, 3), np.uint8) for _ in range(4)] for _ in range(2)
    )
    picture = opened(image_grid([("Gray", gray), ("ColorU, Color Module", coloured)]))
    height, width = 150, 180  # three times as large: the longer side has 128 pixels at least
    left = picture.shape[1] - (4 * width + 3 * 8)
    assert picture.shape[0] == 2 * height + 8
    for row, images in enumerate((gray, coloured)):
        for column, image in enumerate(images):
            top, start = row * (height + 8), left + column * (width + 8)
            shown = picture[top : top + height, start : start + width]
            np.testing.assert_array_equal(shown, image.repeat(3, axis=0).repeat(3, axis=1))
        label = picture[row * (height + 8) :][:height, :left]
        assert label.min() < 100  # dark ink
    assert (picture[:10, :left] == 255).all()  # the label stands in the middle


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), 128), ((127, 100), 254), ((200, 9), 200), ((640, 320), 256)]
)
def test_image_grid_sizes(size, shown):
    image = np.full((*size[::-1], 3), 128, np.uint8)
    picture = opened(image_grid([("", [image])]))
    gray = (picture == 128).all(axis=-1)
    assert gray.any(axis=0).sum() == shown


def test_image_grid_rows_of_different_lengths_and_long_labels():
    image = np.zeros((128, 128, 3), np.uint8)
    label = "a label that takes " * 20
    picture = opened(image_grid([("Gray", [image] * 3), (label, [image])]))
    left = picture.shape[1] - (3 * 128 + 2 * 8)
    height = (picture.shape[0] - 8) // 2
    assert height > 128
    assert (picture[:128, left : left + 128] == 0).all()
    assert (picture[height + 8 :, left + 136 :] == 255).all()
