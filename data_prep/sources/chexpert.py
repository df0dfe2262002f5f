"""CheXpert (Irvin et al., AAAI 2019), full size or -small, as it is downloaded.

The root folder holds ``train.csv`` and ``valid.csv``. Their paths start with the name that the
folder had at Stanford, which is left out, so the folder may be called anything.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.labels import parse_columns, parse_observations
from data_prep.sources.groups import PATH, table_cells
from data_prep.sources.source import Source, concatenate, make_source, require_folder
from data_prep.tables import Table, read_header, read_table
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

PATIENT = re.compile(r"patient\d+")
STUDY = re.compile(r"patient\d+/(study\d+)/")
# Name of a group -> the column of it.
GROUP_COLUMNS = {
    "sex": "Sex",
    "age": "Age",
    "view": "Frontal/Lateral",
    "projection": "AP/PA",
}
VIEW_COLUMN = "Frontal/Lateral"
VIEWS = ("frontal", "lateral")
ALL_VIEWS = "all"
FOURTEEN = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


@dataclass(frozen=True)
class Options:
    """Options of this source alone."""

    views: str = option(
        ALL_VIEWS, "CheXpert's views to take.", (ALL_VIEWS, *VIEWS), group="CheXpert"
    )
    test_csv: str = option(
        "", "CheXpert's later test set: its table; valid.csv is then valid.", group="CheXpert"
    )


def read(config) -> Source:
    """Reads the two tables.

    ``valid.csv`` (radiologists' labels) is the test split, as in the paper, whose validation
    images come from the training patients. With ``--test_csv`` (CheXpert's test set, released
    later) it is the validation split.
    """
    root = find_root(require_folder(config.data_root, "data_root"))
    files = [(root / "train.csv", "train"), (root / "valid.csv", "test")]
    if config.test_csv:
        files = [files[0], (root / "valid.csv", "valid"), (Path(config.test_csv), "test")]
    if config.missing == "skip" and not (root / "valid.csv").is_file():
        print(
            f"note: no valid.csv in {root}, left out (--missing=skip)"
            + ("" if config.test_csv else "; --test_fraction=0.2 takes a test split from train.csv")
        )
        files = [(file, split) for file, split in files if file != root / "valid.csv"]
    return concatenate([_read_file(config, root, file, split) for file, split in files])


def find_root(folder: Path) -> Path:
    """Returns ``folder``, or its one ``CheXpert*`` sub-folder if that holds ``train.csv``."""
    if (folder / "train.csv").is_file():
        return folder
    inner = [path.parent for path in sorted(folder.glob("CheXpert*/train.csv"))]
    if len(inner) == 1:
        return inner[0]
    raise InputError(
        f"{folder / 'train.csv'}: no such file; expected CheXpert's root folder, which holds "
        "train.csv, valid.csv and the folders train and valid"
    )


def _read_file(config, root: Path, file: Path, split: str) -> Source:
    observations = parse_observations(config.observations)
    columns = ["Path", *(observation.column for observation in observations)]
    if config.views != ALL_VIEWS and VIEW_COLUMN in read_header(file):
        columns.append(VIEW_COLUMN)
    table = read_table(file, tuple(dict.fromkeys(columns)))
    raw = parse_columns(table, observations)
    patients = [_patient(table, row) for row in range(len(table))]
    source = make_source(
        [observation.name for observation in observations],
        root,
        [[relative_path(path) for path in table.columns["Path"]]],
        patients,
        [split] * len(table),
        [table.where(row) for row in range(len(table))],
        raw,
        table_cells(
            config,
            file,
            GROUP_COLUMNS,
            {"study": _studies(table)} if config.study_column == PATH else {"study": ()},
            columns_of=root / "train.csv",
        ),
    )
    return source.take(_chosen_views(table, config.views))


def relative_path(path: str) -> str:
    """Leaves out the first folder if it is Stanford's (``CheXpert-v1.0-small/...``)."""
    first, _, rest = path.replace("\\", "/").partition("/")
    return rest if first.lower().startswith("chexpert") and rest else path


def _patient(table: Table, row: int) -> str:
    path = table.columns["Path"][row]
    match = PATIENT.search(path)
    if not match:
        raise InputError(
            f"{table.where(row)}: path {path!r}; expected .../patientNNNNN/studyN/viewN_frontal.jpg"
        )
    return match[0]


def _studies(table: Table) -> list[str]:
    """Returns the folder of each image's study, which is unique inside its patient."""
    studies = []
    for row, path in enumerate(table.columns["Path"]):
        match = STUDY.search(path)
        if not match:
            raise InputError(
                f"{table.where(row)}: path {path!r}; expected .../patientNNNNN/studyN/NAME.jpg "
                "(--study_column=path)"
            )
        studies.append(match[1])
    return studies


def _chosen_views(table: Table, views: str) -> np.ndarray:
    """Returns the (N,) mask of the rows to keep; the test set's table has no column of views."""
    if views == ALL_VIEWS:
        return np.ones(len(table), bool)
    from_names = VIEW_COLUMN not in table.columns
    cells = table.columns["Path" if from_names else VIEW_COLUMN]
    mask = np.empty(len(table), bool)
    for row, cell in enumerate(cells):
        view = next((view for view in VIEWS if view in Path(cell.lower()).name), None)
        if view is None or (not from_names and cell.lower() != view):
            raise InputError(
                f"{table.where(row)}: view {cell!r}; expected Frontal or Lateral "
                f"(--views={views} needs it)"
            )
        mask[row] = view == views
    return mask
