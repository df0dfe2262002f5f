"""ChestX-ray14 (Wang et al., CVPR 2017), as the NIH Clinical Center distributes it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.labels import parse_observations
from data_prep.sources.groups import table_cells
from data_prep.sources.paths import walk_files
from data_prep.sources.source import Source, make_source, require_folder
from data_prep.tables import Table, read_list, read_table
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

# The whole data set's table, or that of the sample of 5,606 images.
TABLE_PATTERNS = ("Data_Entry*.csv", "sample_labels.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
NO_FINDING = "No Finding"
# NIH's word -> CheXpert's, so that a model of one data set can be tested on the other.
RENAMED = {"Effusion": "Pleural Effusion"}
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
# Name of a group -> the column of it.
GROUP_COLUMNS = {"sex": "Patient Gender", "age": "Patient Age", "view": "View Position"}
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Options:
    """Options of this source alone."""

    train_list: str = option(
        "", "ChestX-ray14's train_val_list.txt, if not in the root folder.", group="ChestX-ray14"
    )
    test_list: str = option(
        "", "ChestX-ray14's test_list.txt, if not in the root folder.", group="ChestX-ray14"
    )


def read(config) -> Source:
    """Reads the table of findings, the official lists when they are there, and finds the images."""
    root = require_folder(config.data_root, "data_root")
    file = Path(config.table) if config.table else _find_table(root)
    table = read_table(file, ("Image Index", "Finding Labels", "Patient ID"), wide_rows=True)
    observations = parse_observations(config.observations)
    for observation in observations:
        if canonical(observation.column) not in map(canonical, (*FINDINGS, NO_FINDING)):
            raise InputError(
                f"--observations: ChestX-ray14 has no {observation.column!r}; "
                f"it has {', '.join((*map(canonical, FINDINGS), NO_FINDING))}"
            )
    paths = _find_images(root, config.allow_outside_root)
    names = table.columns["Image Index"]
    return make_source(
        [canonical(observation.name) for observation in observations],
        root,
        # An image that was not found keeps its plain name, which the build reports as missing.
        [[str(paths.get(name, name)) for name in names]],
        table.columns["Patient ID"],
        _official_splits(config, root, table),
        [table.where(row) for row in range(len(table))],
        _labels(table, observations),
        table_cells(config, file, GROUP_COLUMNS, wide_rows=True),
    )


def canonical(finding: str) -> str:
    """Returns the common name of a finding."""
    return RENAMED.get(finding, finding)


def _labels(table: Table, observations) -> np.ndarray:
    known = {canonical(name) for name in (*FINDINGS, NO_FINDING)}
    raw = np.zeros((len(table), len(observations)), np.float32)
    for row, cell in enumerate(table.columns["Finding Labels"]):
        findings = {canonical(word.strip()) for word in cell.split("|")}
        if not findings <= known or (NO_FINDING in findings and len(findings) > 1):
            raise InputError(
                f"{table.where(row)}, column 'Finding Labels': {cell!r}; expected {NO_FINDING!r} "
                f"or names joined by '|' out of {', '.join(FINDINGS)}"
            )
        for number, observation in enumerate(observations):
            raw[row, number] = (canonical(observation.column) in findings) != observation.negated
    return raw


def _find_table(root: Path) -> Path:
    files = next((f for f in (sorted(root.glob(name)) for name in TABLE_PATTERNS) if f), [])
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        patterns = " or ".join(TABLE_PATTERNS)
        raise InputError(f"{root}: expected one file {patterns}, found {names}; give --table")
    return files[0]


def _find_images(root: Path, allow_outside: bool) -> dict[str, str]:
    """Returns file name -> path from root, for images in any sub-folder (images_001/images/...)."""
    paths: dict[str, str] = {}
    for folder, files in walk_files(root, allow_outside):
        relative = os.path.relpath(folder, root)
        for name in files:
            if name.lower().endswith(SUFFIXES):
                path = os.path.normpath(os.path.join(relative, name))
                # The same file unpacked twice: the first path in order, on every run.
                paths[name] = min(paths.get(name, path), path)
    return paths


def _official_splits(config, root: Path, table: Table) -> np.ndarray:
    given = {"train": config.train_list, "test": config.test_list}
    files = {split: Path(given[split] or root / LISTS[split]) for split in LISTS}
    present = [split for split in files if given[split] or files[split].is_file()]
    if not present:
        print(f"note: no {' and '.join(LISTS.values())} in {root}: splitting by patient instead")
        return np.array([""] * len(table), object)
    if len(present) < len(files):
        absent = next(split for split in files if split not in present)
        raise InputError(f"{files[absent]}: no such file, but {files[present[0]]} is there")
    splits = np.array([""] * len(table), object)
    for split, file in files.items():
        _enter_list(splits, split, table, file, files["train"], config.missing == "skip")
    left_out = np.flatnonzero(splits == "")
    if len(left_out):
        raise InputError(
            f"{table.where(left_out[0])}: image {table.columns['Image Index'][left_out[0]]} is in "
            f"neither official list ({len(left_out)} such images)"
        )
    return splits


def _enter_list(
    splits: np.ndarray, split: str, table: Table, file: Path, train_file: Path, skip: bool
) -> None:
    """Enters an official list into the rows' splits; ``skip`` leaves out what has no row."""
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(table.columns["Image Index"]):
        rows_of.setdefault(name, []).append(row)
    entries, without_row = read_list(file), 0
    for entry_row, name in enumerate(entries.columns["path"]):
        rows = rows_of.get(name, [])
        if not rows and skip:
            without_row += 1
            continue
        if not rows:
            raise InputError(
                f"{entries.where(entry_row)}: image {name} is not in {table.file}; "
                "--missing=skip leaves out what the table has not"
            )
        if splits[rows[0]] not in ("", split):
            raise InputError(f"{entries.where(entry_row)}: image {name} is in {train_file} too")
        splits[rows] = split
    if without_row:
        print(
            f"note: {file.name}: {len(entries) - without_row:,} of {len(entries):,} images are in "
            f"{table.file.name}; the others are left out (--missing=skip)"
        )
