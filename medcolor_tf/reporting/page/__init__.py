"""A report's page: its content as plain data, and the same content as HTML, Markdown and CSV.

All text is plain text from anywhere (paths, commands, names of observations) and is escaped by the
renderers. The same content gives the same bytes.
"""

import csv
import io
from pathlib import Path

from medcolor_tf.files import write_atomically
from medcolor_tf.reporting.page.content import (
    Block,
    Cell,
    Code,
    Details,
    Figure,
    Note,
    Page,
    Section,
    Table,
    blocks_of,
    cells_of,
    clean,
    file_name,
)
from medcolor_tf.reporting.page.markdown import to_markdown
from medcolor_tf.reporting.page.markup import to_html

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Details",
    "Figure",
    "Note",
    "Page",
    "Section",
    "Table",
    "to_csv",
    "to_html",
    "to_markdown",
    "write",
]


def to_csv(table: Table) -> str:
    """A table as CSV: header and rows of plain text, preceded by a column of groups if any."""
    rows = [list(table.header), *([cell.text for cell in row] for row in cells_of(table))]
    if table.groups:
        groups = ("group", *table.groups)
        rows = [[group, *row] for group, row in zip(groups, rows, strict=True)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[clean(text) for text in r] for r in rows])
    return file.getvalue()


def write(page: Page, folder: str | Path) -> Path:
    """Writes index.html, report.md, NAME.csv of every table and figures/NAME of every figure.

    index.html comes last: where it is new, all of it is. Files of an earlier page with other
    names stay.

    Returns:
        The path of index.html.

    Raises:
        ValueError: see :func:`medcolor_tf.reporting.page.content.check`.
    """
    folder = Path(folder)
    html, markdown = to_html(page), to_markdown(page)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for block in blocks_of(page):
        if isinstance(block, Table):
            write_atomically(folder / f"{block.name}.csv", to_csv(block))
        elif isinstance(block, Figure):
            write_atomically(folder / "figures" / file_name(block), block.image)
    write_atomically(folder / "report.md", markdown)
    write_atomically(folder / "index.html", html)
    return folder / "index.html"
