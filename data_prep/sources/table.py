"""Any CSV or TSV file with a path column and label columns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.labels import parse_columns, parse_observations
from data_prep.sources.groups import table_cells
from data_prep.sources.source import Source, make_source
from data_prep.tables import read_table
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Options:
    """Options of this source alone."""

    table: str = option(
        "", "CSV or TSV file with paths and labels (chestxray14: Data_Entry*.csv).", group="Tables"
    )
    image_root: str = option(
        "", "Folder that the table's paths start from; default: the table's.", group="Tables"
    )
    path_column: tuple[str, ...] = option(
        ("path",),
        "Column with the image's path; several columns make several channels.",
        group="Tables",
    )
    patient_column: str = option(
        "", "Column with the patient; without it, an image is a patient.", group="Tables"
    )
    split_column: str = option(
        "", "Column with train, valid or test, if the table decides.", group="Tables"
    )


def read(config) -> Source:
    """Reads ``--table``; without ``--patient_column`` each image is a patient of its own."""
    if not config.table:
        raise InputError("--source=table needs --table=FILE, the CSV or TSV file with the labels")
    if not config.observations:
        raise InputError(
            "--source=table needs --observations=COLUMN,NAME=COLUMN,NAME=!COLUMN,... to say "
            "which columns are labels"
        )
    observations = parse_observations(config.observations)
    optional = {config.patient_column: "--patient_column", config.split_column: "--split_column"}
    flags = {
        **dict.fromkeys(config.path_column, "--path_column"),
        **{observation.column: "--observations" for observation in observations},
        **{name: flag for name, flag in optional.items() if name},
    }
    table = read_table(config.table, tuple(flags), flags=flags)
    root = Path(config.image_root) if config.image_root else table.file.parent
    if not root.is_dir():
        raise InputError(f"--image_root={config.image_root}: no such folder")
    paths = [table.columns[name] for name in config.path_column]
    if config.patient_column:
        patient = table.columns[config.patient_column]
    else:
        print(
            "warning: no --patient_column: each image counts as a patient of its own, so images "
            "of one patient may be in several splits"
        )
        patient = paths[0]
    return make_source(
        [observation.name for observation in observations],
        root,
        paths,
        patient,
        _read_splits(table, config.split_column),
        [table.where(row) for row in range(len(table))],
        parse_columns(table, observations),
        table_cells(config, table.file),
    )


def _read_splits(table, column: str) -> np.ndarray:
    if not column:
        return np.array([""] * len(table), object)
    splits = []
    for row, text in enumerate(table.columns[column]):
        split = SPLIT_NAMES.get(text.lower())
        if split is None:
            raise InputError(
                f"{table.where(row)}, column {column!r}: split {text!r}; expected one of "
                f"{', '.join(SPLIT_NAMES)}"
            )
        splits.append(split)
    return np.array(splits, object)
