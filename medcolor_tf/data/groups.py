"""Groups and studies of a prepared data set: ``groups-SPLIT.csv``, beside the index.

A row per record, in the order of the shards: ``image_id``, ``study`` (keyed as the patients are;
only where the build was given ``--study_column``), and a column per group (sex, age band, view,
...). ``dataset.json`` lists the values of every group and the files' SHA-256; a data set that was
built without groups and studies has neither. Nothing finer than these values is stored.
"""

import csv
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcolor_tf import schema_check as schema
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, write_atomically

IMAGE_ID, STUDY = "image_id", "study"
# Values that every group may have: cells that say nothing, and rare values together.
UNKNOWN, OTHER = "unknown", "other"
# What separates the groups of an intersection: sex*view.
CROSS = "*"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
MAX_GROUPS, MAX_VALUES, MAX_LENGTH = 20, 1000, 100
SCHEMA = schema.record(
    {
        "columns": schema.mapping_of(
            schema.list_of(schema.text(MAX_LENGTH), MAX_VALUES, 1, unique=True), MAX_GROUPS
        ),
        "studies": schema.mapping_of(schema.integer(0, 10**9), 3),
        "sha256": schema.mapping_of(schema.text(64, schema.SHA256), 3),
    }
)


@dataclass(frozen=True)
class GroupsInfo:
    """What ``dataset.json`` says of groups and studies.

    Attributes:
        columns: name of each group -> its values, in the order in which they are shown.
        studies: split -> number of studies; {} where the build was given no study.
        sha256: split -> SHA-256 of ``groups-SPLIT.csv``.
    """

    columns: Mapping[str, tuple[str, ...]]
    studies: Mapping[str, int]
    sha256: Mapping[str, str]

    @classmethod
    def from_json(cls, content: Mapping) -> "GroupsInfo":
        """Returns what :data:`SCHEMA` has accepted."""
        columns = {name: tuple(values) for name, values in content["columns"].items()}
        return cls(columns, content["studies"], content["sha256"])


@dataclass(frozen=True)
class SplitGroups:
    """What ``groups-SPLIT.csv`` holds: a row per record, in the order of the shards.

    Attributes:
        image_id: (N,) str, keyed, as in the records.
        study: (N,) str, keyed; None where no study is known.
        columns: name of each group -> (N,) str.
    """

    image_id: np.ndarray
    study: np.ndarray | None
    columns: Mapping[str, np.ndarray]

    @staticmethod
    def path(folder: str | os.PathLike, split: str) -> Path:
        """Returns the file's path."""
        return Path(folder) / f"groups-{split}.csv"

    def save(self, folder: str | os.PathLike, split: str) -> None:
        """Writes the file under a temporary name and renames it."""
        studies = {} if self.study is None else {STUDY: self.study}
        table = {IMAGE_ID: self.image_id, **studies, **self.columns}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
        write_atomically(self.path(folder, split), text.getvalue())

    @classmethod
    def load(
        cls, folder: str | os.PathLike, split: str, info: GroupsInfo | None = None
    ) -> "SplitGroups":
        """Reads the file.

        Args:
            folder: the data set's.
            split: "train", "valid" or "test".
            info: what dataset.json says of it, with which it is compared; None does not.

        Raises:
            InputError: it is missing, damaged, or another file than ``info`` describes.
        """
        path = cls.path(folder, split)
        try:
            if info is not None and file_sha256(path) != info.sha256.get(split):
                raise ValueError(
                    "SHA-256 is not the one in dataset.json: the file is damaged or another data "
                    "set's; restore it from a copy or build the data set again"
                )
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file, strict=True))
            header = rows[0] if rows else []
            if header[:1] != [IMAGE_ID] or any(len(row) != len(header) for row in rows):
                raise ValueError(f"expected rows of a table that begins with {IMAGE_ID}")
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read as a split's groups ({error})") from None
        cells = {name: np.array([row[i] for row in rows[1:]], str) for i, name in enumerate(header)}
        groups = cls(cells.pop(IMAGE_ID), cells.pop(STUDY, None), cells)
        if info is not None:
            for problem in groups.problems(info):
                raise InputError(f"{path}: {problem}")
        return groups

    def problems(self, info: GroupsInfo):
        """Yields in what the file is not as dataset.json says, as sentences."""
        if sorted(self.columns) != sorted(info.columns):
            yield f"groups {', '.join(self.columns)}; dataset.json has {', '.join(info.columns)}"
            return
        if (self.study is not None) != bool(info.studies):
            yield "studies are in one of it and dataset.json"
        for name, values in self.columns.items():
            if strange := sorted(set(values) - set(info.columns[name])):
                yield f"{name} {strange[0]!r}, which dataset.json does not list"

    def take(self, image_id: np.ndarray, path: Path) -> "SplitGroups":
        """Returns the rows of some images, in their order; InputError where one has no row."""
        row_of = {name: row for row, name in enumerate(self.image_id.tolist())}
        try:
            rows = np.array([row_of[name] for name in image_id.tolist()], np.int64)
        except KeyError as error:
            raise InputError(
                f"{path}: no row for image {error}; it is another data set's"
            ) from None
        return SplitGroups(
            self.image_id[rows],
            None if self.study is None else self.study[rows],
            {name: values[rows] for name, values in self.columns.items()},
        )


def cross(columns: Mapping[str, np.ndarray], entry: str) -> np.ndarray:
    """Values of a group, or of an intersection such as ``sex*view``: "female, AP".

    Args:
        columns: name of each group -> (N,) values.
        entry: one of the names, or several joined by ``*``.

    Returns:
        (N,) str; unknown where one of the values is.
    """
    names = entry.split(CROSS)
    parts = [columns[name] for name in names]
    joined = [", ".join(values) for values in zip(*parts, strict=True)]
    unknown = np.any([part == UNKNOWN for part in parts], axis=0)
    return np.where(unknown, UNKNOWN, np.array(joined, str))
