"""Reads label tables (CSV, TSV, plain lists) by column name, keeping each row's line for messages.

Cells stay text: what a cell means is decided in one place, :mod:`data_prep.labels`.
"""

import csv
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcolor_tf.errors import InputError

DELIMITERS = ",\t;|"


@dataclass(frozen=True)
class Table:
    """The asked-for columns of a file.

    Attributes:
        file: where it was read from, for messages.
        header: every column the file has.
        columns: name -> (N,) object array of stripped text.
        lines: (N,) int64, the line each row ends on, counted from 1 with the header.
    """

    file: Path
    header: tuple[str, ...]
    columns: dict[str, np.ndarray]
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Returns "FILE line N" for a row counted from 0."""
        return f"{self.file} line {self.lines[row]}"


def read_table(
    path: str | os.PathLike,
    columns: Sequence[str],
    wide_rows: bool = False,
    flags: Mapping[str, str] | None = None,
) -> Table:
    """Reads columns of a delimited text file with a header line.

    Args:
        path: the file; ``.tsv`` and ``.tab`` are tab-separated, otherwise the first line tells.
        columns: names to read.
        wide_rows: accept rows with more cells than the header, as ChestX-ray14's table has (its
            quoted header ``"OriginalImage[Width,Height]"`` names two columns). Otherwise a row
            of another width is an error, because its cells may have shifted.
        flags: column -> option that names it, for the message where that one is missing.

    Raises:
        InputError: no such file, not text, empty, no data rows, a column that is missing or named
            twice, a row of the wrong width, a quotation mark that is missing.
    """
    path = Path(path)
    rows = _rows(path)
    header, _ = next(rows, ([], 0))
    if not any(header):
        raise InputError(f"{path}: empty file; expected a header line with column names")
    numbers = [_column_number(path, header, name, (flags or {}).get(name)) for name in columns]
    cells: list[list[str]] = [[] for _ in columns]
    lines = []
    for row, line in rows:
        if not any(row):
            continue
        if len(row) < len(header) or (len(row) > len(header) and not wide_rows):
            raise InputError(
                f"{path} line {line}: expected {len(header)} cells as in the header, got {len(row)}"
            )
        for column, number, name in zip(cells, numbers, columns, strict=True):
            if "\n" in row[number] or "\r" in row[number]:
                raise InputError(
                    f"{path} line {line}: the cell of column {name!r} has a line break in it; "
                    "expected one line, perhaps a quotation mark is missing"
                )
            column.append(row[number])
        lines.append(line)
    if not lines:
        raise InputError(f"{path}: a header but no rows; expected one row per image")
    arrays = {name: np.array(cell, object) for name, cell in zip(columns, cells, strict=True)}
    return Table(path, tuple(header), arrays, np.array(lines, np.int64))


def read_header(path: str | os.PathLike) -> tuple[str, ...]:
    """Returns the names of a table's columns."""
    return tuple(next(_rows(Path(path)), ([], 0))[0])


def read_list(path: str | os.PathLike, name: str = "path") -> Table:
    """Reads a file with one entry per line and no header, as a table with one column ``name``."""
    path = Path(path)
    rows = [(cells[0], line) for cells, line in _rows(path) if cells and cells[0]]
    if not rows:
        raise InputError(f"{path}: empty file; expected one entry per line")
    entries, lines = zip(*rows, strict=True)
    return Table(path, (name,), {name: np.array(entries, object)}, np.array(lines, np.int64))


def _rows(path: Path):
    """Yields (stripped cells, line number)."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        # utf-8-sig: spreadsheet programs put a byte-order mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(path, file.readline())
            file.seek(0)
            # Strict: a quotation mark that is missing would take the rest of the file for one cell.
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                for row in reader:
                    yield [cell.strip() for cell in row], reader.line_num
            except csv.Error as error:
                raise InputError(f"{path} line {reader.line_num}: not a table ({error})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a UTF-8 text file ({error.reason}); expected a table with commas, "
            "semicolons or tabs; save it as UTF-8"
        ) from None


def _delimiter(path: Path, first_line: str) -> str:
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    return max(DELIMITERS, key=first_line.count)


def _column_number(path: Path, header: Sequence[str], name: str, flag: str | None) -> int:
    count = header.count(name)
    if count == 1:
        return header.index(name)
    if count:
        raise InputError(f"{path}: {count} columns are called {name!r}; expected one")
    near = difflib.get_close_matches(name, header, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    present = ", ".join(repr(column) for column in header if column)
    named_by = f" ({flag} names it)" if flag else ""
    raise InputError(f"{path}: no column {name!r}{hint}; the file has {present}{named_by}")
