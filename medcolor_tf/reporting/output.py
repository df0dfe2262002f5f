"""Writes a report: one HTML file that asks the network for nothing, Markdown, CSV, LaTeX, figures.

What the templates print is escaped unless it is a template's own: by jinja2 in report.html.j2, by
:func:`markdown_text` in report.md.j2. The same report gives the same bytes.
"""

import base64
import contextlib
import csv
import hashlib
import io
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from medcolor_tf.files import remove, remove_leftovers, write_atomically, writing
from medcolor_tf.locks import only_writer
from medcolor_tf.reporting.contents import Figure, Report, Table
from medcolor_tf.reporting.latex import to_latex

PAGE = "index.html"
_INVALID = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# What spreadsheets take for a formula's beginning, and our own cells that begin so: "-", "+1.2",
# "-0.3 to 0.4", "- to -", "-1.0 ± 0.2", "+0.1 (-0.2 to +0.4)".
_FORMULA = ("=", "+", "-", "@")
_SIGNED = re.compile(
    r"-( to -)?|[+-]\d[\d,.]*( (to|±) [+-]?\d[\d,.]*)?( %)?"
    r"( \((\d+ undefined|[+-]?\d[\d,.]* to [+-]?\d[\d,.]*)\))?"
)


def write(report: Report, folder: str | Path) -> Path:
    """Writes index.html, report.md, tables.tex, NAME.csv of tables and figures/NAME of figures.

    index.html comes last: where it is new, all of it is. Files of an earlier report with other
    names stay.

    Returns:
        The path of index.html.

    Raises:
        InputError: another process writes a report there, or a file cannot be written.
        ValueError: see :func:`to_html`.
    """
    folder = Path(folder)
    files: dict[str, str | bytes] = {}
    for content in (content for section in report.sections for content in section.contents):
        if isinstance(content, Table):
            files[f"{content.name}.csv"] = to_csv(content)
        elif isinstance(content, Figure):
            files[f"figures/{content.file}"] = content.data
    files |= {"tables.tex": to_latex(report), "report.md": to_markdown(report)}
    files[PAGE] = to_html(report)
    with only_writer(folder, "--out"):
        is_new = not (folder / PAGE).is_file()
        remove_leftovers(folder / "figures")
        try:
            with writing(folder / "figures"):
                (folder / "figures").mkdir(exist_ok=True)
            for name, data in files.items():
                write_atomically(folder / name, data)
        except BaseException:
            if is_new:  # else the same command would be refused: files there, and no report
                for name in files:
                    remove(folder / name)
                with contextlib.suppress(OSError):
                    (folder / "figures").rmdir()
            raise
    return folder / PAGE


def to_csv(table: Table) -> str:
    """A table as CSV: header and rows of plain text, preceded by a column of groups if any.

    A cell that a spreadsheet would compute has an apostrophe before it.
    """
    rows = [table.header, *([cell.csv or cell.text for cell in row] for row in table.cells)]
    if table.groups:
        groups = ("group", *table.groups)
        rows = [[group, *row] for group, row in zip(groups, rows, strict=True)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[_csv_cell(text) for text in r] for r in rows])
    return file.getvalue()


def to_text(table: Table) -> str:
    """A table for a terminal: title, aligned columns, and what one has to know to read it."""
    rows = [list(table.header), *([cell.text for cell in row] for row in table.cells)]
    rows = [[_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        "  ".join(
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(row, widths, table.numeric, strict=True)
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    head, *body = aligned
    return "\n".join([_line(table.title), rule, head, rule, *body, rule, _line(table.caption)])


def _csv_cell(text: str) -> str:
    text = _clean(text)
    formula = text.lstrip().startswith(_FORMULA) and not _SIGNED.fullmatch(text)
    return f"'{text}" if formula or text.startswith(("\t", "\r", "\n")) else text


def to_html(report: Report) -> str:
    """The report as HTML5, its pictures and style inside.

    A content security policy has the browser refuse all requests and foreign scripts.

    Raises:
        ValueError: an anchor or a name that occurs twice, or a link to an anchor that there is not.
    """
    html = _render("report.html.j2", report, _clean)
    # Names are files too, and some disks do not tell upper from lower case.
    anchors = re.findall(r'\sid="([^"]*)"', html)
    folded = [anchor.casefold() for anchor in anchors]
    twice = [anchor for anchor in anchors if folded.count(anchor.casefold()) > 1]
    if twice:
        raise ValueError(f"the anchor or name {twice[-1]!r} occurs twice")
    missing = set(re.findall(r'\shref="#([^"]*)"', html)) - set(anchors)
    if missing:
        raise ValueError(f"link to {min(missing)!r}, which is no anchor of the page")
    return html


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown, its pictures in the folder figures."""
    return _render("report.md.j2", report, lambda text: Markup(markdown_text(text)))


def _render(template: str, report: Report, prepare: Callable[[str], str]) -> str:
    """Fills a template; text goes through ``prepare`` and, unless it is Markup then, is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else prepare(str(value)),
    )
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode(),
        "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
        "paragraph": lambda text: Markup(_paragraph(text)),
        "code": lambda text: Markup(_code(text)),
        "html": lambda text: escape(_line(text)),
    }
    return environment.get_template(template).render(report=report).lstrip()


def _resource(name: str) -> str:
    return resources.files("medcolor_tf.reporting").joinpath(name).read_text(encoding="utf-8")


def _clean(text: str) -> str:
    """Text that is valid in UTF-8, HTML and XML.

    Paths may hold bytes that are no UTF-8 (as lone surrogates), and output of programs anything.
    """
    return _INVALID.sub("\ufffd", text.encode("utf-8", "replace").decode("utf-8"))


def _line(text: str) -> str:
    """Clean text without line breaks."""
    return " ".join(_clean(text).split())


def markdown_text(text: str) -> str:
    """Plain text as Markdown that reads the same, on one line."""
    text = _line(text).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text)
    # An underscore between letters is one; elsewhere it could start or end emphasis.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _paragraph(text: str) -> str:
    """Text whose first characters would make it a list or quotation, escaped too."""
    return re.sub(r"^(\d*)([-+>=.)])", r"\1\\\2", markdown_text(text))


def _code(text: str) -> str:
    """Fenced by more backticks than the text has in a row."""
    text = _clean(text).rstrip()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
