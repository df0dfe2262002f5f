"""What a report's page holds, as plain data, and the checks that its renderers rely on."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A table's cell: text, the anchor it links to ("" for none), and whether it stands out."""

    text: str
    link: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; its anchor is ``table-NAME``.

    Attributes:
        name: stem of its CSV file: letters, digits, "_" and "-".
        title: one line.
        header: the columns' names.
        rows: as many cells each as the header has.
        caption: what one has to know to read it.
        row_headers: how many leading columns name the row.
        groups: () or the group's title of each row; neighbours of the same group share a heading,
            "" is none.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    caption: str = ""
    row_headers: int = 1
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A picture, SVG as text or PNG as bytes; its anchor is ``figure-NAME``.

    Attributes:
        name: stem of its file: letters, digits, "_" and "-".
        title: one line.
        image: the picture.
        alt: what it shows, for who cannot see it.
        caption: what one has to know to read it.
    """

    name: str
    title: str
    image: bytes | str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Note:
    """A remark that stands out; ``kind`` is "warning" or "info"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Code:
    """Preformatted text: a command, a traceback."""

    text: str


@dataclass(frozen=True)
class Details:
    """Blocks behind a summary, collapsed until one opens it or follows a link into it."""

    summary: str
    anchor: str
    blocks: tuple["Block", ...]


Block = str | Table | Figure | Note | Code | Details  # a str is a paragraph


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page: title, a paragraph under it, sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]


NOTES = {"warning": "Warning", "info": "Note"}
_ANCHOR = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DASHES = "-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"
_NUMBER = re.compile(rf"[<>≤≥≈]?\s*[+{_DASHES}]?\.?\d.{{0,24}}|[{_DASHES}]?|n/a|nan", re.I)
_INVALID = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PNG = b"\x89PNG\r\n\x1a\n"


def check(page: Page) -> None:
    """Checks a page's content.

    Raises:
        ValueError: an anchor or a name that is malformed or occurs twice, a link to an anchor that
            does not exist, a table whose rows, header and groups do not fit, an image that is
            neither SVG text nor PNG bytes, a figure without a description, an unknown kind of
            note.
    """
    anchors, links = ["content"], []
    for block in (*page.sections, *blocks_of(page)):
        if isinstance(block, Section | Details):
            anchors.append(_matching(_ANCHOR, block.anchor, "anchor"))
        elif isinstance(block, Table):
            anchors.append(f"table-{_matching(_NAME, block.name, 'table name')}")
            links += [cell.link for row in cells_of(block) for cell in row if cell.link]
        elif isinstance(block, Figure):
            anchors.append(f"figure-{_matching(_NAME, block.name, 'figure name')}")
            _check_figure(block)
        elif isinstance(block, Note) and block.kind not in NOTES:
            raise ValueError(f"note of kind {block.kind!r}, expected one of {', '.join(NOTES)}")
    # Names are files too, and some disks do not tell upper from lower case.
    folded = [anchor.casefold() for anchor in anchors]
    twice = [anchor for anchor in anchors if folded.count(anchor.casefold()) > 1]
    if twice:
        raise ValueError(f"the anchor or name {twice[-1]!r} occurs twice")
    missing = [link for link in links if link not in anchors]
    if missing:
        raise ValueError(f"link to {missing[0]!r}, which is no anchor of the page")


def _matching(pattern: re.Pattern, name: str, what: str) -> str:
    if not pattern.fullmatch(name):
        raise ValueError(f"{what} {name!r}, expected ASCII letters, digits, '_' and '-'")
    return name


def cells_of(table: Table) -> list[list[Cell]]:
    """The rows with a Cell for every str, checked."""
    columns = len(table.header)
    wrong = [len(row) for row in table.rows if len(row) != columns]
    if wrong:
        raise ValueError(f"table {table.name}: a row of {wrong[0]} cells, expected {columns}")
    if table.groups and len(table.groups) != len(table.rows):
        raise ValueError(
            f"table {table.name}: {len(table.groups)} groups for {len(table.rows)} rows"
        )
    return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in table.rows]


def _check_figure(figure: Figure) -> None:
    image = figure.image
    is_svg = isinstance(image, str) and image.lstrip().startswith(("<?xml", "<svg"))
    if not is_svg and not (isinstance(image, bytes) and image.startswith(_PNG)):
        raise ValueError(f"figure {figure.name}: neither SVG text nor PNG bytes: {image[:20]!r}")
    if not figure.alt.strip():
        raise ValueError(f"figure {figure.name}: no alt, a description for who cannot see it")


def blocks_of(page: Page) -> Iterator[Block]:
    """All blocks of a page, those inside Details after them."""
    waiting = [block for section in page.sections for block in section.blocks]
    while waiting:
        block = waiting.pop(0)
        yield block
        if isinstance(block, Details):
            waiting[:0] = block.blocks


def grouped(table: Table) -> Iterator[tuple[str, list[list[Cell]]]]:
    """(title, rows) of each run of rows of the same group."""
    rows = cells_of(table)
    groups = table.groups or ("",) * len(rows)
    pairs = zip(groups, rows, strict=True)
    for title, run in itertools.groupby(pairs, key=lambda pair: pair[0]):
        yield title, [row for _, row in run]


def numeric_columns(table: Table) -> list[bool]:
    """Which columns hold nothing but numbers and dashes; these are aligned to the right."""
    columns = zip(*cells_of(table), strict=True) if table.rows else [()] * len(table.header)
    numeric = [all(_NUMBER.fullmatch(c.text.strip()) for c in column) for column in columns]
    return [n and i >= table.row_headers for i, n in enumerate(numeric)]


def clean(text: str) -> str:
    """Text that is valid in UTF-8, HTML and XML.

    Paths may hold bytes that are no UTF-8 (as lone surrogates), and output of programs anything.
    """
    return _INVALID.sub("\ufffd", text.encode("utf-8", "replace").decode("utf-8"))


def line(text: str) -> str:
    """Clean text without line breaks."""
    return " ".join(clean(text).split())


def file_name(figure: Figure) -> str:
    """Name of a figure's file."""
    return f"{figure.name}.{'svg' if isinstance(figure.image, str) else 'png'}"
