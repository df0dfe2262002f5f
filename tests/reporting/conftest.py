"""A report with everything in it, and a real browser to open pages in."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest

EVIL = """<script>alert("x")</script> & 'quotes' <img src=x onerror=alert(1)> | `*_$]("""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# A page of ours around the one under test, which stays as it is: an iframe is as wide as asked,
# which windows are not, and has the width that media queries see.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><title>not loaded</title>
<iframe width="{width}" height="{height}" style="border: 0"></iframe>
<script>
const frame = document.querySelector("iframe");
const pause = () => new Promise((resolve) => setTimeout(resolve, 50));
const run = async (page, document) => {{ {script} }};
frame.onload = async () => {{
  await pause();
  const page = frame.contentWindow;
  const answer = {{}};
  try {{
    answer.result = await run(page, page.document);
  }} catch (error) {{
    answer.error = String(error);
  }}
  await pause();
  answer.requests = page.performance.getEntriesByType("resource").map((entry) => entry.name);
  answer.broken_images = [...page.document.images].filter((i) => !i.naturalWidth).length;
  answer.inner_width = page.innerWidth;
  answer.scroll_width = page.document.documentElement.scrollWidth;
  document.title = "answer:" + encodeURIComponent(JSON.stringify(answer));
}};
frame.src = "{url}";
</script>
"""


@dataclass(frozen=True)
class Opened:
    """What a browser saw of a page.

    Attributes:
        console: every message on the console, of errors, refusals and the page's own.
        requests: what the page asked for beside itself and data: URIs, whether it came or not.
        broken_images: images that could not be decoded or loaded.
        inner_width: of the page's viewport, in pixels.
        scroll_width: of the document; larger than inner_width where it scrolls sideways.
        result: what the script returned.
    """

    console: tuple[str, ...]
    requests: tuple[str, ...]
    broken_images: int
    inner_width: int
    scroll_width: int
    result: object

    def assert_clean(self):
        assert not self.console
        assert not self.requests
        assert not self.broken_images
        assert self.scroll_width <= self.inner_width


@pytest.fixture(scope="session")
def open_in_chromium(tmp_path_factory):
    """Function that opens a local HTML file in headless Chromium; see :func:`_open`."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")

    scratch = tmp_path_factory.mktemp("browser")

    def opened(path, width=360, height=800, anchor="", script="return null") -> Opened:
        return _open(binary, scratch, Path(path), width, height, anchor, script)

    return opened


def _open(binary, scratch, path, width, height, anchor, script) -> Opened:
    """Opens a page, runs a script, and tells what happened.

    Args:
        binary: the browser.
        scratch: folder for its profile.
        path: HTML file.
        width, height: of the viewport, in pixels.
        anchor: the URL's fragment.
        script: body of an async JavaScript function with the arguments ``page`` (its window) and
            ``document``; returns something JSON can hold. ``await pause()`` lets events happen.
    """
    url = path.resolve().as_uri() + (f"#{quote(anchor)}" if anchor else "")
    probe = scratch / "probe.html"
    probe.write_text(PROBE.format(width=width, height=height, script=script, url=url), "utf-8")
    command = [
        *(binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--hide-scrollbars", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--allow-file-access-from-files", f"--user-data-dir={scratch / 'profile'}"),
        *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom"),
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, errors="replace")
    title = re.search("<title>answer:(.*?)</title>", done.stdout)
    assert title, f"no answer from {binary}: {done.stdout[-500:]}\n{done.stderr[-2000:]}"
    answer = json.loads(unquote(title[1]))
    assert "error" not in answer, answer["error"]
    console = re.findall(r"CONSOLE[:(]\d+\)?\] (.*?), source: .*? \(\d+\)\n", done.stderr, re.S)
    return Opened(console=tuple(console), requests=tuple(answer.pop("requests")), **answer)


@pytest.fixture(scope="session")
def pictures():
    """An SVG of three panels and a PNG of rows of images, drawn by our own functions."""
    from medcolor_tf.reporting.figures.charts import Line, line_panels
    from medcolor_tf.reporting.figures.image_grid import image_grid

    x = np.linspace(0, 1, 30)
    panels = {name: [Line("Baseline", x, x**0.4)] for name in ("Edema", EVIL)}
    gray = [np.full((64, 64, 3), 90 * n, np.uint8) for n in range(3)]
    return (
        line_panels(panels | {"Fracture": []}, "False positive rate", "True positive rate"),
        image_grid([("Gray", gray), ("ColorU, Color Module", gray)]),
    )


@pytest.fixture(scope="session")
def full_report(pictures):
    """A report with every kind of content, and text that must be escaped."""
    from medcolor_tf.reporting.contents import (
        Cell,
        Commands,
        Figure,
        Note,
        Report,
        Section,
        Table,
    )

    svg, png = pictures
    wide = Table(
        name="table1",
        title=f"Mean AUC {EVIL}",
        header=("Colorizer", "Strategy", "Mean AUC", *(f"Observation {n}" for n in range(9))),
        rows=(
            ("-", "Baseline", "78.4 ± 0.5", *["-"] * 9),
            (EVIL, "All", Cell("89.6 ± 0.2", link="runs-1", strong=True), *["1.0"] * 9),
            ("ColorU", "All", Cell("88", link="table-folded"), *["1.0"] * 9),
        ),
        caption=f"Mean and deviation. {EVIL}",
        row_headers=2,
        groups=("Backbone: ResNet18", "Backbone: ResNet18", f"Backbone: {EVIL}"),
    )
    folded = Table(
        name="folded",
        title="Tests",
        header=("Row A", "Row B", "p"),
        rows=(("/a/b c", "many words", "0.5"),),
        row_headers=2,
        summary=f"Folded {EVIL}",
        stacked=True,
    )
    long = "/data/" + "very_long_name_without_a_place_to_break/" * 6
    first = (
        f"A paragraph. {EVIL} {long}",
        Note("warning", f"Few images. {EVIL}"),
        Note("info", "Two data sets."),
        wide,
        Figure("roc", f"ROC {EVIL}", svg, f"Curves {EVIL}", f"Caption {EVIL}"),
        Figure("images", "What the backbone sees", png, "Rows of images", summary="Images"),
        folded,
    )
    run = (f"Run 1 {EVIL}", f"python -m x --data={long} {EVIL}", f'{{"options": "{EVIL}"}}')
    sections = (
        Section(f"Results {EVIL}", "results", first),
        Section("Runs", "runs", (Commands(f"Commands {EVIL} {long}", "runs-1", (run,)),)),
    )
    return Report(f"Report {EVIL}", f"Lead {EVIL}", sections)
