"""What every source gives the build: one row per image, before splitting and decoding."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medcolor_tf.errors import InputError

# A text per image: a list, or an array of objects.
Texts = Sequence[str] | np.ndarray
# Beginning of the names of columns with groups, and the column with the study, where there are any.
GROUP, STUDY = "group ", "study"


@dataclass(frozen=True)
class Source:
    """The images and labels of a data set.

    Attributes:
        observations: the L label names.
        root: folder that relative image paths start from.
        channels: images per record.
        records: one row per image (or group of channels), with text columns ``path_0`` ...
            ``path_{channels - 1}``, ``patient``, ``split`` ("train", "valid", "test" where
            officially given, else "") and ``where`` ("FILE line N", for messages). Where they were
            asked for, also ``study`` and a column ``group NAME`` per group.
        raw: (N, L) float32 raw labels, in the rows' order.
    """

    observations: tuple[str, ...]
    root: Path
    channels: int
    records: pd.DataFrame
    raw: np.ndarray

    @property
    def path_columns(self) -> list[str]:
        """Names of the path columns."""
        return [f"path_{channel}" for channel in range(self.channels)]

    @property
    def group_names(self) -> list[str]:
        """Names of the groups."""
        names = map(str, self.records.columns)
        return [name.removeprefix(GROUP) for name in names if name.startswith(GROUP)]

    @property
    def has_studies(self) -> bool:
        """Whether the study of each image is known."""
        return STUDY in self.records.columns

    def with_columns(self, columns: Mapping[str, Texts]) -> "Source":
        """Returns the source with other columns of its records, a text per image."""
        table = {name: np.array(column, object) for name, column in columns.items()}
        return dataclasses.replace(self, records=self.records.assign(**table))

    def keys(self) -> list[str]:
        """Returns what identifies each image: its path or paths as the table has them."""
        columns = [self.records[name] for name in self.path_columns]
        return ["\0".join(paths) for paths in zip(*columns, strict=True)]

    def take(self, rows: np.ndarray) -> "Source":
        """Returns the source with only these rows (positions, or a boolean mask)."""
        positions = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Source(
            self.observations,
            self.root,
            self.channels,
            self.records.take(positions).reset_index(drop=True),
            self.raw[positions],
        )


def make_source(
    observations: Sequence[str],
    root: Path,
    paths: Sequence[Texts],
    patient: Texts,
    split: Texts,
    where: Texts,
    raw: np.ndarray,
    more: Mapping[str, Texts] | None = None,
) -> Source:
    """Builds a source and checks what must hold for each of them.

    Args:
        paths: for each channel, the N paths.
        raw: (N, L); the other arguments are as in :class:`Source`.
        more: groups and studies, see :func:`data_prep.sources.groups.table_cells`.

    Raises:
        InputError: an empty path.
    """
    columns = {f"path_{channel}": column for channel, column in enumerate(paths)}
    records = pd.DataFrame(
        {**columns, "patient": patient, "split": split, "where": where, **(more or {})},
        dtype=object,
    )
    for name in columns:
        empty = np.flatnonzero((records[name] == "").to_numpy())
        if len(empty):
            raise InputError(f"{records['where'][empty[0]]}: the image path is empty")
    return Source(tuple(observations), Path(root), len(columns), records, raw)


def concatenate(parts: Sequence[Source]) -> Source:
    """Joins sources with the same observations and root."""
    first = parts[0]
    records = pd.concat([part.records for part in parts], ignore_index=True)
    columns = [records[name].to_numpy() for name in first.path_columns]
    raw = np.concatenate([part.raw for part in parts])
    return make_source(
        first.observations,
        first.root,
        columns,
        records["patient"].to_numpy(),
        records["split"].to_numpy(),
        records["where"].to_numpy(),
        raw,
        {name: records[name].to_numpy() for name in records if name == STUDY or GROUP in str(name)},
    )


def require_folder(path: str, flag: str) -> Path:
    """Returns the folder, or raises an InputError that names the flag."""
    folder = Path(path)
    if not path or not folder.is_dir():
        raise InputError(f"--{flag}={path}: no such folder; expected the data set's root folder")
    return folder
