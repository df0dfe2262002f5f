"""A page's HTML, Markdown and CSV: structure, escaping, and everything that was put in."""

import base64
import csv
import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from medcolor_tf.reporting.page import (
    Cell,
    Code,
    Details,
    Figure,
    Note,
    Page,
    Section,
    Table,
    style,
    to_csv,
    to_html,
    to_markdown,
    write,
)

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


def page_of(*blocks, title="Report"):
    return Page(title, "Lead.", (Section("Results", "results", blocks),))


def table(rows=(("a", "1"),), header=("Name", "Value"), **more):
    return Table("t", "Title", header, rows, **more)


@pytest.fixture(scope="module")
def parsed(full_page):
    return Parsed(to_html(full_page))


def test_html_document(parsed, full_page):
    assert to_html(full_page).startswith("<!DOCTYPE html>\n<html lang=")
    assert [element["text"] for element in parsed.all("title")] == [full_page.title]
    assert [element["text"] for element in parsed.all("h1")] == [full_page.title]
    assert [e["text"] for e in parsed.all("h2")] == [s.title for s in full_page.sections]
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))
    assert len(parsed.all("main")) == 1
    links = [a for a in parsed.all("a") if "nav" in a["inside"]]
    assert [a["text"] for a in links] == [s.title for s in full_page.sections]
    assert parsed.all("a")[0]["href"] == "#content"  # the first thing one comes to: skip


def test_html_ids_and_links(parsed):
    ids = [element["id"] for element in parsed.elements if "id" in element]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in parsed.all("a")]
    assert {"#runs-1", "#table-inner"} < set(links)
    assert {link[1:] for link in links} <= set(ids)
    for element in parsed.elements:
        assert element.get("aria-labelledby", ids[0]) in ids


def test_html_tables(parsed, full_page):
    assert len(parsed.all("table")) == len(parsed.all("caption")) == 2
    for region in (e for e in parsed.elements if e.get("role") == "region"):
        assert region["tabindex"] == "0"
        assert region["aria-label"]
    assert all("scope" in th for th in parsed.all("th"))
    scopes = [th["scope"] for th in parsed.all("th")]
    wide = full_page.sections[0].blocks[3]
    assert scopes.count("col") == len(wide.header) + 2
    assert scopes.count("row") == 2 * len(wide.rows) + 1
    groups = [th["text"] for th in parsed.all("th") if th["scope"] == "rowgroup"]
    assert groups == ["Backbone: ResNet18", wide.groups[-1]]
    cells = [e["text"] for e in parsed.elements if e["tag"] in ("td", "th")]
    for row in wide.rows:
        for cell in row:
            assert (cell.text if isinstance(cell, Cell) else cell) in cells
    assert [e["text"] for e in parsed.all("strong") if "td" in e["inside"]] == ["89.6 ± 0.2"]


def test_html_asks_for_nothing(parsed, full_page):
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


def test_size_of_svg():
    (image,) = Parsed(to_html(page_of(Figure("f", "Title", SVG, "alt")))).all("img")
    assert (image["width"], image["height"]) == ("96", "48")


def test_html_escapes_everything(parsed):
    assert len(parsed.all("script")) == 1
    assert not any("onerror" in element for element in parsed.elements)
    for tag in ("p", "h1", "h2", "h3", "caption", "figcaption", "summary", "pre", "th"):
        assert any(EVIL in element["text"] for element in parsed.all(tag)), tag
    assert EVIL in parsed.all("img")[0]["alt"]
    assert any(EVIL in element.get("aria-label", "") for element in parsed.elements)


@pytest.mark.parametrize("text", ["a\x00b\x1b[31m", "caf\udce9.png", "\ufffe"])
def test_text_that_is_no_text(text, tmp_path):
    page = page_of(text, table(rows=((text, "1"),)), Code(text), title=text)
    write(page, tmp_path)
    for path in tmp_path.glob("*.*"):
        content = path.read_text(encoding="utf-8")
        assert not re.search("[\x00\x1b\ud800-\udfff\ufffe]", content)
    assert "\ufffd" in to_html(page) or "caf?.png" in to_html(page)


def test_numbers_are_aligned_words_are_not():
    rows = (("1", "78.4 ± 0.5", "one", "-0.2"), ("2", "-", "2", "<0.001"))
    page = page_of(table(rows, header=("Seed", "AUC", "Word", "p")))
    heads = [th.get("class") for th in Parsed(to_html(page)).all("th") if th["scope"] == "col"]
    assert heads == [None, "number", None, "number"]
    assert "| --- | ---: | --- | ---: |" in to_markdown(page)


def test_details_are_closed_and_nest(parsed):
    outer, inner = parsed.all("details")
    assert (outer["id"], inner["id"]) == ("runs-1", "deeper")
    assert "details" in inner["inside"]
    assert not any("open" in details for details in (outer, inner))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Details("a", "x", ()), Details("b", "X", ())], "'X' occurs twice"),
        ([Details("a", "results", ())], "'results' occurs twice"),
        ([Details("a", "content", ())], "'content' occurs twice"),
        ([table(), table()], "'table-t' occurs twice"),
        ([Details("a", "x", (table(),)), table()], "'table-t' occurs twice"),
        ([Details("a", "with space", ())], "anchor 'with space'"),
        ([dataclasses.replace(table(), name="../t")], "table name '../t'"),
        ([Figure("a/b", "Title", SVG, "alt")], "figure name 'a/b'"),
        ([table(rows=((Cell("a", link="nowhere"), "1"),))], "link to 'nowhere'"),
        ([table(rows=(("a",),))], "a row of 1 cells, expected 2"),
        ([table(groups=("a", "b"))], "2 groups for 1 rows"),
        ([Figure("f", "Title", "a picture", "alt")], "neither SVG text nor PNG"),
        ([Figure("f", "Title", b"GIF89a", "alt")], "neither SVG text nor PNG"),
        ([Figure("f", "Title", SVG, " ")], "no alt"),
        ([Note("danger", "text")], "note of kind 'danger'"),
    ],
)
@pytest.mark.parametrize("render", [to_html, to_markdown])
def test_wrong_pages(blocks, message, render):
    with pytest.raises(ValueError, match=re.escape(message)):
        render(page_of(*blocks))


def test_same_content_same_bytes(full_page, tmp_path):
    for folder in ("a", "b"):
        write(full_page, tmp_path / folder)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert [str(file) for file in files] == [
        *("figures/montage.png", "figures/roc.svg", "index.html", "inner.csv", "report.md"),
        "table1.csv",
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_written_files(full_page, pictures, tmp_path):
    path = write(full_page, tmp_path / "deep" / "report")
    assert path == tmp_path / "deep" / "report" / "index.html"
    assert path.read_text(encoding="utf-8") == to_html(full_page)
    assert (path.parent / "report.md").read_text(encoding="utf-8") == to_markdown(full_page)
    assert (path.parent / "figures/roc.svg").read_text(encoding="utf-8") == pictures[0]
    assert (path.parent / "figures/montage.png").read_bytes() == pictures[1]


def test_a_wrong_page_leaves_the_old_one(tmp_path):
    path = write(page_of("old"), tmp_path)
    with pytest.raises(ValueError, match="no alt"):
        write(page_of("new", Figure("f", "Title", SVG, "")), tmp_path)
    assert "old" in path.read_text(encoding="utf-8")


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
    blocks = (
        "# no heading",
        table((("a|b", Cell("1", link="more")), ("c", Cell("2", strong=True))), groups=("G", "G")),
        Figure("f", "ROC", SVG, "A curve", "Caption."),
        Note("warning", "Few images."),
        Details("More <b>", "more", (Code("run ```x```"),)),
    )
    assert to_markdown(page_of(*blocks), "pictures") == MARKDOWN


MARKDOWN = """# Report

Lead.

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

![A curve](pictures/f.svg)

Caption.

> [!WARNING]
> Few images.

<a id="more"></a>

<details>
<summary>More &lt;b&gt;</summary>

````text
run ```x```
````

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
    blocks = (text, table(((text, Cell(text, strong=True)),)), figure)
    found = Parsed(render(to_markdown(page_of(*blocks, title=text))))
    plain = " ".join(text.split())
    assert found.all("h1")[0]["text"] == plain
    assert [e["text"] for e in found.all("p") if e["text"] == plain]
    assert [e["text"] for e in found.all("td")] == [plain, plain]
    assert found.all("strong")[-1]["text"] == plain
    assert found.all("img")[0]["alt"] == plain
    assert not found.all("script")


@pytest.mark.parametrize("colours", [style.LIGHT, style.DARK])
@pytest.mark.parametrize(("text", "ground"), style.PAIRS)
def test_contrast(colours, text, ground):
    """Contrast of 4.5 to 1 at least (WCAG 2.2, 1.4.3)."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(colours[text]), luminance(colours[ground])])
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_imports_neither_tensorflow_nor_matplotlib():
    code = (
        "import sys; import medcolor_tf.reporting.page, medcolor_tf.reporting.figures; "
        "sys.exit(bool({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
