"""MURA (Rajpurkar et al., 2018): bone X-rays of seven body parts, normal or abnormal by study."""

import re
from dataclasses import dataclass

import numpy as np

from data_prep.sources.groups import parse_group_columns, table_cells
from data_prep.sources.source import Source, concatenate, make_source, require_folder
from data_prep.tables import read_list
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

OBSERVATION = "Abnormal"
BODY_PARTS = ("shoulder", "elbow", "finger", "forearm", "hand", "humerus", "wrist")
ALL_PARTS = "all"
# MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png
PATH = re.compile(
    r"(?:[^/]*/)?(?P<path>(?:train|valid)/XR_(?P<part>[A-Z]+)/(?P<patient>patient\d+)"
    r"/(?P<study>study\d+)_(?P<label>positive|negative)/[^/]+)"
)
GROUP_COLUMNS = {"body_part": "body_part"}
# The official validation set is the test split; validation patients come from the training set.
FILES = {"train_image_paths.csv": "train", "valid_image_paths.csv": "test"}


@dataclass(frozen=True)
class Options:
    """Options of this source alone."""

    body_part: str = option("shoulder", "MURA's body part.", (*BODY_PARTS, ALL_PARTS), group="MURA")


def read(config) -> Source:
    """Reads the two lists of paths, which have no header; the label is in the study's name.

    A patient is the patient folder's name wherever it occurs: one patient may have had several
    body parts X-rayed.
    """
    root = require_folder(config.data_root, "data_root")
    return concatenate([_read_list(root, name, split, config) for name, split in FILES.items()])


def _read_list(root, name: str, split: str, config) -> Source:
    table = read_list(root / name)
    matches, where = [], []
    for row, text in enumerate(table.columns["path"]):
        match = PATH.fullmatch(text)
        if not match:
            raise InputError(
                f"{table.where(row)}: path {text!r}; expected "
                "MURA-v1.1/train/XR_SHOULDER/patientNNNNN/studyN_positive/imageN.png"
            )
        if config.body_part in (ALL_PARTS, match["part"].lower()):
            matches.append(match)
            where.append(table.where(row))
    if not matches:
        raise InputError(f"{table.file}: no image of --body_part={config.body_part}")
    for group in parse_group_columns(config.group_columns, {}):
        if group.column not in GROUP_COLUMNS:
            raise InputError(
                f"--group_columns={group.column}: MURA has no tables; expected "
                f"{' or '.join(GROUP_COLUMNS)}, from its paths"
            )
    # A patient may have had several body parts X-rayed, each with a study1.
    studies = [f"{match['part']}/{match['study']}" for match in matches]
    parts = [match["part"].lower() for match in matches]
    raw = np.array([[match["label"] == "positive"] for match in matches], np.float32)
    return make_source(
        [OBSERVATION],
        root,
        [[match["path"] for match in matches]],
        [match["patient"] for match in matches],
        [split] * len(matches),
        where,
        raw,
        table_cells(config, table.file, from_paths={"study": studies, "body_part": parts}),
    )
