"""What the JSON files and the log of a run have to hold; imports no Keras."""

import csv
import math
from collections.abc import Sequence

from medcolor_tf import schema_check as schema

_AUC = schema.number(0, 1, null=True)
_STEP = schema.integer(0, 10**12)
CONFIG = schema.record(
    {
        "flags": schema.mapping_of(schema.anything, 1000),
        "data_fingerprint": schema.text(),
        "command": schema.text(100_000),
    },
    more=True,
)
RESULT = schema.record(
    {
        "best_step": _STEP,
        "steps": _STEP,
        "best_valid_mean_auc": _AUC,
        "max_lr": schema.number(0, 1e30),
        "train_images": _STEP,
    },
    more=True,
)
LR_FINDER = schema.record({"suggestion": schema.number(1e-30, 1e30)}, more=True)
_OBSERVATION = schema.record({"auc": _AUC, "positive": _STEP, "negative": _STEP}, more=True)
EVALUATION = schema.record(
    {
        "mean_auc": _AUC,
        "observations": schema.mapping_of(_OBSERVATION, 10_000),
        "data_fingerprint": schema.text(),
        "images": _STEP,
    },
    more=True,
)


def cells(line: str) -> list[str]:
    """Returns the cells of a line of CSV; none where it is not one."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def is_log_row(row: Sequence[str], columns: int) -> bool:
    """Whether a row of log.csv is whole: a step, then numbers."""
    if len(row) != columns or not row[0].isdecimal():
        return False
    try:
        return not any(math.isinf(float(cell)) for cell in row)
    except ValueError:
        return False
