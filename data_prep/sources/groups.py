"""Which columns become groups (``--group_columns``) and studies (``--study_column``).

A source reads their cells as text, into columns ``group NAME`` and ``study`` of its records;
:mod:`data_prep.building.groups` makes bands and values of them once it is known which images are
taken.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.sources.source import GROUP, STUDY, Source, Texts
from data_prep.tables import Table, read_header, read_table
from medcolor_tf.data.groups import IMAGE_ID, MAX_GROUPS, NAME, OTHER, UNKNOWN
from medcolor_tf.errors import InputError
from medcolor_tf.progress import progressing

DICOM = "dicom:"
# Elements of a DICOM header that may be read, and what their group is called unless it is named.
DICOM_GROUPS = {
    "PatientSex": "sex",
    "PatientAge": "age",
    "ViewPosition": "view",
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "model",
    "BodyPartExamined": "body_part",
}
DICOM_STUDY = "StudyInstanceUID"
# What --study_column and a group's column are called where a source takes them from its paths.
PATH = "path"
_RESERVED = (IMAGE_ID, "study", "patient", "image", UNKNOWN, OTHER)


@dataclass(frozen=True)
class GroupColumn:
    """A group: its name, and the column or ``dicom:ELEMENT`` that it is read from."""

    name: str
    column: str

    @property
    def element(self) -> str:
        """The DICOM element, "" for a column of a table."""
        return self.column.removeprefix(DICOM) if self.column.startswith(DICOM) else ""


def parse_group_columns(
    entries: Sequence[str], aliases: Mapping[str, str]
) -> tuple[GroupColumn, ...]:
    """Reads ``COLUMN``, ``NAME=COLUMN`` and ``NAME=dicom:ELEMENT`` entries.

    Args:
        entries: of the flag.
        aliases: name of a group -> the source's column for it.

    Raises:
        InputError: an empty entry, a name that is none or is given twice, an element of a DICOM
            header that may not be read.
    """
    columns = []
    for entry in entries:
        name, equals, column = (part.strip() for part in entry.partition("="))
        if not equals:
            column = aliases.get(name, name)
            name = DICOM_GROUPS.get(column.removeprefix(DICOM), name) if DICOM in column else name
        group = GroupColumn(name, column)
        if group.element and group.element not in DICOM_GROUPS:
            raise InputError(
                f"--group_columns={entry}: expected one of "
                f"{', '.join(DICOM + element for element in DICOM_GROUPS)}"
            )
        if not column or not NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise InputError(
                f"--group_columns={entry}: expected COLUMN, NAME=COLUMN or NAME=dicom:ELEMENT, "
                f"NAME of letters, digits and _, and none of {', '.join(_RESERVED)}"
            )
        columns.append(group)
    names = [group.name for group in columns]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--group_columns: {name!r} is given {names.count(name)} times")
    if len(names) > MAX_GROUPS:
        raise InputError(f"--group_columns: {len(names)} groups, expected at most {MAX_GROUPS}")
    return tuple(columns)


def table_cells(
    config,
    file: Path,
    aliases: Mapping[str, str] | None = None,
    from_paths: Mapping[str, Texts] | None = None,
    wide_rows: bool = False,
    columns_of: Path | None = None,
) -> dict[str, Texts]:
    """Returns the cells of groups and studies that a source's table has, a text per row.

    Those of DICOM headers are read later, by :func:`with_headers`.

    Args:
        config: the build's options.
        file: the table.
        aliases: name of a group -> the table's column for it.
        from_paths: what the source reads from its paths: name of a group, or "study" -> cells.
        wide_rows: as in :func:`data_prep.tables.read_table`.
        columns_of: another table of the source: a column that it has and ``file`` has not is
            unknown in ``file``, and that is said.

    Raises:
        InputError: a column is missing, or the source has no studies in its paths.
    """
    from_paths = from_paths or {}
    groups = parse_group_columns(config.group_columns, aliases or {})
    wanted = {GROUP + group.name: group for group in groups if not group.element}
    cells: dict[str, Texts] = {
        key: from_paths[group.column] for key, group in wanted.items() if group.column in from_paths
    }
    named = {key: group.column for key, group in wanted.items() if key not in cells}
    if config.study_column == PATH and STUDY in from_paths:
        cells[STUDY] = from_paths[STUDY]
    elif STUDY in from_paths and config.study_column:
        raise InputError(
            f"--study_column={config.study_column}: expected {PATH}, since the studies of "
            f"--source={config.source} are in its paths"
        )
    elif config.study_column and not config.study_column.startswith(DICOM):
        cells[STUDY] = _read(file, config.study_column, "--study_column", wide_rows)
    for key, column in named.items():
        other = read_header(columns_of) if columns_of else ()
        if column in other and column not in read_header(file):
            print(f"note: {file} has no column {column!r}: unknown for its images")
            cells[key] = [""] * len(read_table(file, ()))
        else:
            cells[key] = _read(file, column, "--group_columns", wide_rows)
    return cells


def _read(file: Path, column: str, flag: str, wide_rows: bool) -> np.ndarray:
    table: Table = read_table(file, (column,), wide_rows, {column: flag})
    return table.columns[column]


def with_headers(source: Source, config, aliases: Mapping[str, str]) -> Source:
    """Returns the source with the cells that stand in DICOM headers.

    Images that are not there, and headers that cannot be read, give empty cells: the build rejects
    these files by itself.

    Args:
        source: the images.
        config: the build's options.
        aliases: of the source's group columns.

    Raises:
        InputError: a file that is there and is no DICOM, or another element than may be read.
    """
    groups = parse_group_columns(config.group_columns, aliases)
    elements = {GROUP + group.name: group.element for group in groups if group.element}
    if config.study_column.startswith(DICOM):
        if config.study_column != DICOM + DICOM_STUDY:
            raise InputError(
                f"--study_column={config.study_column}: expected a column, or {DICOM}{DICOM_STUDY}"
            )
        elements[STUDY] = DICOM_STUDY
    if not elements:
        return source
    from data_prep import dicom
    from data_prep.raster import MAX_PIXELS

    names = tuple(elements.values())
    files = [os.path.join(source.root, path) for path in source.records["path_0"]]
    where = source.records["where"].tolist()
    rows = []
    watched = progressing(files, "reading headers", len(files), "headers")
    for file, line in zip(watched, where, strict=True):
        try:
            rows.append(dicom.read_elements(Path(file), names, MAX_PIXELS))
        except ValueError as error:
            raise InputError(
                f"{line}: {file}: {error}; {DICOM}... of --group_columns and --study_column reads "
                "DICOM headers"
            ) from None
        except ImportError:
            raise InputError(
                f"--group_columns: DICOM headers need pydicom: {dicom.INSTALL}"
            ) from None
    cells = {key: [row[element] for row in rows] for key, element in elements.items()}
    return source.with_columns(cells)
