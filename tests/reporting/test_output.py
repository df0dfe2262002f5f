"""A report's HTML, Markdown and CSV: structure, escaping, and everything that was put in."""

import base64
import csv
import dataclasses
import errno
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.locks import LOCK
from medcolor_tf.reporting.contents import (
    Cell,
    Commands,
    Figure,
    Note,
    Report,
    Section,
    Table,
)
from medcolor_tf.reporting.latex import to_latex
from medcolor_tf.reporting.output import to_csv, to_html, to_markdown, write

EVIL = """<script>alert("x")</script> & 'quotes' <img src=x onerror=alert(1)> | `*_$]("""
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"></svg>'
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Parsed(HTMLParser):
    """Elements in order with their text; fails where tags do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        element = {"tag": tag, "text": "", "inside": [e["tag"] for e in self._open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        if tag in VOID:  # <img />
            return
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]


def report_of(*contents, title="Report"):
    return Report(title, "Lead.", (Section("Results", "results", contents),))


def table(rows=(("a", "1"),), header=("Name", "Value"), **more):
    return Table("t", "Title", header, rows, **more)


@pytest.fixture(scope="module")
def parsed(full_report):
    return Parsed(to_html(full_report))


def test_html_document(parsed, full_report):
    assert to_html(full_report).startswith("<!DOCTYPE html>\n<html lang=")
    assert [element["text"] for element in parsed.all("title")] == [full_report.title]
    assert [element["text"] for element in parsed.all("h1")] == [full_report.title]
    assert [e["text"] for e in parsed.all("h2")] == [s.title for s in full_report.sections]
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))
    assert len(parsed.all("main")) == 1
    links = [a for a in parsed.all("a") if "nav" in a["inside"]]
    ends = [a["text"] for a in links if a["inside"].count("ul") == 1]
    assert ends == [s.title for s in full_report.sections]
    parts = [(a["href"], a["text"]) for a in links if a["inside"].count("ul") == 2]
    wide = full_report.sections[0].contents[3]
    assert parts[0] == ("#table-table1", wide.title)
    assert [href for href, _ in parts[1:]] == [
        *("#figure-roc", "#figure-images", "#table-folded", "#runs-1")
    ]
    assert parsed.all("a")[0]["href"] == "#content"  # the first thing one comes to: skip


def test_html_ids_and_links(parsed):
    ids = [element["id"] for element in parsed.elements if "id" in element]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in parsed.all("a")]
    assert {"#runs-1", "#table-folded"} < set(links)
    assert {link[1:] for link in links} <= set(ids)
    for element in parsed.elements:
        assert element.get("aria-labelledby", ids[0]) in ids


def test_markdown_links(full_report):
    text = to_markdown(full_report)
    anchors = set(re.findall(r'<a id="([^"]+)"></a>', text))
    links = re.findall(r"^ *- \[.*\]\(#([^)]+)\)$", text, re.M)
    assert links[:2] == ["results", "table-table1"]
    assert len(links) == 7
    assert set(links) <= anchors


def test_html_tables(parsed, full_report):
    assert len(parsed.all("table")) == len(parsed.all("caption")) == 2
    for region in (e for e in parsed.elements if e.get("role") == "region"):
        assert region["tabindex"] == "0"
        assert region["aria-label"]
    assert all("scope" in th for th in parsed.all("th"))
    scopes = [th["scope"] for th in parsed.all("th")]
    wide = full_report.sections[0].contents[3]
    assert scopes.count("col") == len(wide.header) + 3
    assert scopes.count("row") == 2 * len(wide.rows) + 2
    groups = [th["text"] for th in parsed.all("th") if th["scope"] == "rowgroup"]
    assert groups == ["Backbone: ResNet18", wide.groups[-1]]
    cells = [e["text"] for e in parsed.elements if e["tag"] in ("td", "th")]
    for row in wide.rows:
        for cell in row:
            assert (cell.text if isinstance(cell, Cell) else cell) in cells
    assert [e["text"] for e in parsed.all("strong") if "td" in e["inside"]] == ["89.6 ± 0.2"]


def test_html_asks_for_nothing(parsed, full_report):
    for element in parsed.elements:
        assert element["tag"] not in ("link", "iframe", "object", "base", "form")
        for name in ("src", "href", "srcset", "action"):
            value = element.get(name, "#")
            assert value.startswith("#") or (name == "src" and value.startswith("data:image/"))
    sheet = parsed.all("style")[0]["text"]
    assert "url(" not in sheet
    assert "@import" not in sheet
    policy = parsed.all("meta")[1]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_html_figures(parsed, pictures):
    images = parsed.all("img")
    assert len(images) == len(parsed.all("figcaption")) == 2
    for image, original in zip(images, pictures, strict=True):
        assert image["alt"]
        assert image["inside"][-2:] == ["figure", "div"]
        data = base64.b64decode(image["src"].partition(",")[2])
        assert data == (original.encode() if isinstance(original, str) else original)
    assert int(images[1]["width"]) == int.from_bytes(pictures[1][16:20], "big")


@pytest.mark.parametrize(
    ("svg", "size"), [(SVG, ("96", "48")), (SVG.replace("72pt", "100%"), (None, None))]
)
def test_size_of_svg(svg, size):
    (image,) = Parsed(to_html(report_of(Figure("f", "Title", svg, "alt")))).all("img")
    assert (image.get("width"), image.get("height")) == size


def test_html_escapes_everything(parsed):
    assert len(parsed.all("script")) == 1
    assert not any("onerror" in element for element in parsed.elements)
    for tag in ("p", "h1", "h2", "h3", "caption", "figcaption", "summary", "pre", "th"):
        assert any(EVIL in element["text"] for element in parsed.all(tag)), tag
    assert EVIL in parsed.all("img")[0]["alt"]
    assert any(EVIL in element.get("aria-label", "") for element in parsed.elements)


@pytest.mark.parametrize("text", ["a\x00b\x1b[31m", "caf\udce9.png", "\ufffe"])
def test_text_that_is_no_text(text, tmp_path):
    commands = Commands(text, "runs", ((text, text, text),))
    report = report_of(text, table(rows=((text, "1"),)), commands, title=text)
    write(report, tmp_path)
    for path in tmp_path.glob("*.*"):
        content = path.read_text(encoding="utf-8")
        assert not re.search("[\x00\x1b\ud800-\udfff\ufffe]", content)
    assert "\ufffd" in to_html(report) or "caf?.png" in to_html(report)


def test_numbers_are_aligned_words_are_not():
    rows = (("1", "78.4 ± 0.5", "one", "-0.2"), ("2", "-", "2", "<0.001"))
    report = report_of(table(rows, header=("Seed", "AUC", "Word", "p")))
    heads = [th.get("class") for th in Parsed(to_html(report)).all("th") if th["scope"] == "col"]
    assert heads == [None, "number", None, "number"]
    assert "| --- | ---: | --- | ---: |" in to_markdown(report)


def test_an_interval_stands_under_its_value_and_a_cell_may_span_the_rest():
    few = ("b", Cell("too few: 1 patient", spans=True), "-", "-")
    content = table((("a", "82.7 (76.2 to 88.8)", "1", "-"), few), ("Name", "AUC", "N", "More"))
    html = to_html(report_of(content))
    assert '<td class="number">82.7 <span class="interval">(76.2 to 88.8)</span></td>' in html
    assert '<td colspan="3">too few: 1 patient</td></tr>' in html.replace("\n", "")
    assert r"b & \multicolumn{3}{l}{too few: 1 patient} \\" in to_latex(report_of(content))
    assert "b,too few: 1 patient,-,-" in to_csv(content)


def test_details_are_closed(parsed):
    every = [e for e in parsed.all("details") if "nav" not in e["inside"]]
    assert [details["id"] for details in every] == ["images", "folded", "runs-1"]
    assert not any("open" in details for details in every)
    inside = [e for e in parsed.elements if e.get("id") in ("figure-images", "table-folded")]
    assert all("details" in element["inside"] for element in inside)
    assert len(inside) == 2


def test_stacked_cells_name_their_column(parsed):
    """For narrow screens, where the header is not above them."""
    cells = [e for e in parsed.elements if e["tag"] in ("td", "th") and "data-label" in e]
    assert [(e["data-label"], e["text"]) for e in cells] == [
        ("Row A", "/a/b c"),
        ("Row B", "many words"),
        ("p", "0.5"),
    ]


def folded():
    return dataclasses.replace(table(), summary="More")


def commands(anchor):
    return Commands("Commands", anchor, ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [commands("x"), commands("X")], "'X' occurs twice"),
        (lambda: [commands("results")], "'results' occurs twice"),
        (lambda: [commands("content")], "'content' occurs twice"),
        (lambda: [table(), table()], "'table-t' occurs twice"),
        (lambda: [folded(), table()], "'table-t' occurs twice"),
        (lambda: [folded(), commands("t")], "'t' occurs twice"),
        (lambda: [dataclasses.replace(table(), name="../t")], "table name '../t'"),
        (lambda: [Figure("a/b", "Title", SVG, "alt")], "figure name 'a/b'"),
        (lambda: [table(rows=((Cell("a", link="nowhere"), "1"),))], "link to 'nowhere'"),
        (lambda: [table(rows=(("a",),))], "a row of 1 cells, expected 2"),
        (lambda: [table(groups=("a", "b"))], "2 groups for 1 rows"),
        (lambda: [Figure("f", "Title", "a picture", "alt")], "neither SVG text nor PNG"),
        (lambda: [Figure("f", "Title", b"GIF89a", "alt")], "neither SVG text nor PNG"),
        (lambda: [Figure("f", "Title", SVG, " ")], "no alt"),
    ],
)
def test_wrong_reports(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        to_html(report_of(*make()))


def test_same_content_same_bytes(full_report, tmp_path):
    for folder in ("a", "b"):
        write(full_report, tmp_path / folder)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert [str(file) for file in files] == [
        *(LOCK, "figures/images.png", "figures/roc.svg", "folded.csv", "index.html", "report.md"),
        *("table1.csv", "tables.tex"),
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_written_files(full_report, pictures, tmp_path):
    path = write(full_report, tmp_path / "deep" / "report")
    assert path == tmp_path / "deep" / "report" / "index.html"
    assert path.read_text(encoding="utf-8") == to_html(full_report)
    assert (path.parent / "report.md").read_text(encoding="utf-8") == to_markdown(full_report)
    assert (path.parent / "figures/roc.svg").read_text(encoding="utf-8") == pictures[0]
    assert (path.parent / "figures/images.png").read_bytes() == pictures[1]


def test_a_wrong_report_leaves_the_old_one(tmp_path):
    path = write(report_of("old"), tmp_path)
    with pytest.raises(ValueError, match="link to 'nowhere'"):
        write(report_of("new", table(rows=((Cell("a", link="nowhere"), "1"),))), tmp_path)
    assert "old" in path.read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.csv"))


def test_csv():
    rows = (("a, b", Cell('say "x"', link="results", strong=True)), (EVIL, "1\n2"))
    assert list(csv.reader(io.StringIO(to_csv(table(rows))))) == [
        ["Name", "Value"],
        ["a, b", 'say "x"'],
        [EVIL, "1\n2"],
    ]
    grouped = to_csv(table(rows[:1], groups=("Backbone: ResNet18",)))
    assert grouped == 'group,Name,Value\nBackbone: ResNet18,"a, b","say ""x"""\n'


def test_markdown_as_written():
    contents = (
        "# no heading",
        table((("a|b", Cell("1", link="more")), ("c", Cell("2", strong=True))), groups=("G", "G")),
        Figure("f", "ROC", SVG, "A curve", "Caption."),
        Note("warning", "Few images."),
        Commands("More <b>", "more", (("- a run", "run ```x```", "{}"),)),
    )
    assert to_markdown(report_of(*contents)) == MARKDOWN


MARKDOWN = """# Report

Lead.

## Contents

- [Results](#results)
  - [Title](#table-t)
  - [ROC](#figure-f)
  - [More &lt;b>](#more)

<a id="results"></a>

## Results

\\# no heading

<a id="table-t"></a>

**Title**

| Name | Value |
| --- | ---: |
| **G** |  |
| a\\|b | [1](#more) |
| c | **2** |

<a id="figure-f"></a>

**ROC**

![A curve](figures/f.svg)

Caption.

> [!WARNING]
> Few images.

<a id="more"></a>

<details>
<summary>More &lt;b&gt;</summary>

\\- a run

````text
run ```x```
````

```text
{}
```

</details>
"""


@pytest.mark.parametrize(
    "text",
    [
        *(EVIL, "pixel_shuffle, _all_ __x__", "1. one", "- one", "+ one", "> one", "# one", "==="),
        *(r"C:\new\*", r"a\|b", "a|b||c", "~~no~~", "[a](b)", "&lt; &amp;", "$x$", "**", "***a***"),
        *("`", "``a`b", "!", "12) x", "---", "<!-- x -->", "a  b", "one #", "# # #"),
    ],
)
def test_markdown_reads_as_the_text(text):
    """What a Markdown renderer makes of a text is the text."""
    markdown_it = pytest.importorskip("markdown_it")
    render = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
    figure = Figure("f", text, SVG, text)
    contents = (text, table(((text, Cell(text, strong=True)),)), figure)
    found = Parsed(render(to_markdown(report_of(*contents, title=text))))
    plain = " ".join(text.split())
    assert found.all("h1")[0]["text"] == plain
    assert [e["text"] for e in found.all("p") if e["text"] == plain]
    assert [e["text"] for e in found.all("td")] == [plain, plain]
    assert found.all("strong")[-1]["text"] == plain
    assert found.all("img")[0]["alt"] == plain
    assert not found.all("script")


# (text, background) that occur together.
PAIRS = (
    ("ink", "paper"),
    ("ink", "panel"),
    ("soft", "paper"),
    ("soft", "panel"),
    ("link", "paper"),
    ("link", "panel"),
    ("warning-ink", "warning"),
    ("info-ink", "info"),
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_contrast(parsed, scheme, text, ground):
    """Contrast of 4.5 to 1 at least (WCAG 2.2, 1.4.3)."""
    blocks = re.findall(r":root \{(.*?)\}", parsed.all("style")[0]["text"], re.S)
    assert len(blocks) == 2
    block = blocks[scheme == "dark"]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(colours[text]), luminance(colours[ground])])
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_imports_neither_tensorflow_nor_matplotlib():
    code = (
        "import sys; import medcolor_tf.reporting.render; "
        "sys.exit(bool({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_first_report_that_cannot_be_written_leaves_nothing(full_report, tmp_path, monkeypatch):
    """Else the same command would be refused: files there, and no report."""
    real = os.fsync

    def fsync(descriptor):
        if "/.report.md." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=r"report\.md: cannot be written \(No space left"):
            write(full_report, tmp_path / "report")
    assert not (tmp_path / "report").exists()
    write(full_report, tmp_path / "report")
