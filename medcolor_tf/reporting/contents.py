"""What a report consists of, as plain data; output.py writes it as HTML, Markdown and CSV.

All text is plain text from anywhere (paths, commands, names of observations); the templates escape
what they print.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DASHES = "-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"
_NUMBER = re.compile(rf"[<>≤≥≈]?\s*[+{_DASHES}]?\.?\d.{{0,24}}|[{_DASHES}]?|n/a|nan", re.I)
_WITH_INTERVAL = re.compile(r"(\S+) (\([-+.,\d]+ to [-+.,\d]+\))")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: what one reads.
        link: the anchor it links to, "" for none.
        strong: whether it stands out.
        csv: what the CSV file holds instead, "" for the text.
        spans: whether the page and LaTeX show it in place of all cells to its right.
    """

    text: str
    link: str = ""
    strong: bool = False
    csv: str = ""
    spans: bool = False

    @property
    def parts(self) -> tuple[str, str]:
        """The value, and its interval where it has one, which the page shows under it."""
        match = _WITH_INTERVAL.fullmatch(self.text)
        return (match[1], match[2]) if match else (self.text, "")


@dataclass(frozen=True)
class Table:
    """A table; its anchor is ``table-NAME``. ValueError where its parts do not fit together."""

    kind: ClassVar = "table"
    name: str  # stem of its CSV file: ASCII letters, digits, "_" and "-"
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]  # as many cells each as the header has
    caption: str = ""  # what one has to know to read it
    row_headers: int = 1  # how many leading columns name the row
    groups: tuple[str, ...] = ()  # title of each row's group, "" for none; neighbours share it
    summary: str = ""  # if any, all that is shown until one opens it; its anchor is NAME
    stacked: bool = False  # on a narrow screen, what a row is of stands above its numbers

    def __post_init__(self):
        _check_name(self.kind, self.name)
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"table {self.name}: a row of {len(row)} cells, expected {len(self.header)}"
                )
        if self.groups and len(self.groups) != len(self.rows):
            raise ValueError(
                f"table {self.name}: {len(self.groups)} groups for {len(self.rows)} rows"
            )

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with a Cell for every str."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]

    @staticmethod
    def shown(row: list[Cell]) -> list[Cell]:
        """The cells of a row up to one that spans the rest."""
        ends = [number for number, cell in enumerate(row, start=1) if cell.spans]
        return row[: ends[0]] if ends else row

    def by_group(self) -> Iterator[tuple[str, list[list[Cell]]]]:
        """(title, rows) of each run of rows of the same group."""
        pairs = zip(self.groups or ("",) * len(self.rows), self.cells, strict=True)
        for title, members in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield title, [row for _, row in members]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold nothing but numbers and dashes; these are aligned to the right."""
        columns = zip(*self.cells, strict=True) if self.rows else [()] * len(self.header)
        return [
            number >= self.row_headers
            and all(c.spans or _NUMBER.fullmatch(c.text.strip()) for c in column)
            for number, column in enumerate(columns)
        ]


@dataclass(frozen=True)
class Figure:
    """A picture; its anchor is ``figure-NAME``. ValueError where it is none, or has no alt."""

    kind: ClassVar = "figure"
    name: str  # stem of its file, as in Table
    title: str
    image: bytes | str  # PNG or SVG
    alt: str  # what it shows, for who cannot see it
    caption: str = ""  # what one has to know to read it
    summary: str = ""  # as in Table

    def __post_init__(self):
        _check_name(self.kind, self.name)
        is_svg = isinstance(self.image, str) and self.image.lstrip().startswith(("<?xml", "<svg"))
        if not is_svg and not self.data.startswith(_PNG):
            raise ValueError(f"figure {self.name}: neither SVG text nor PNG: {self.image[:20]!r}")
        if not self.alt.strip():
            raise ValueError(f"figure {self.name}: no alt, a description for who cannot see it")

    @property
    def data(self) -> bytes:
        """Content of its file."""
        return self.image.encode("utf-8") if isinstance(self.image, str) else self.image

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.{'svg' if isinstance(self.image, str) else 'png'}"

    @property
    def size(self) -> list[int]:
        """Width and height in pixels, so that pages do not jump; empty where unknown."""
        if isinstance(self.image, bytes):  # PNG's first chunk
            return [int.from_bytes(self.image[at : at + 4], "big") for at in (16, 20)]
        opening = re.search(r"<svg[^>]*>", self.image)
        sides = re.findall(r'\s(?:width|height)="([\d.]+)pt"', opening[0] if opening else "")
        return [round(float(side) * 96 / 72) for side in sides] if len(sides) == 2 else []


@dataclass(frozen=True)
class Note:
    """A remark that stands out."""

    kind: ClassVar = "note"
    level: Literal["warning", "info"]
    text: str


@dataclass(frozen=True)
class Commands:
    """What stands behind a setting's values, shown when one opens it or follows a link to it."""

    kind: ClassVar = "commands"
    summary: str
    anchor: str
    runs: tuple[tuple[str, str, str], ...]  # heading, command and options of each


Content = str | Table | Figure | Note | Commands  # a str is a paragraph


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    title: str
    anchor: str
    contents: tuple[Content, ...]

    @property
    def parts(self) -> list[tuple[str, str]]:
        """(anchor, title) of what its contents list: tables, figures, and what one opens."""
        parts = []
        for content in self.contents:
            if isinstance(content, Table | Figure):
                parts.append((f"{content.kind}-{content.name}", content.title))
            elif isinstance(content, Commands):
                parts.append((content.anchor, content.summary))
        return parts


@dataclass(frozen=True)
class Report:
    """A report: title, a paragraph under it, sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name!r}, expected ASCII letters, digits, '_' and '-'")
