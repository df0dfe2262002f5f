"""What the JSON files and the log of a run have to hold; imports no Keras."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from medcolor_tf import schema_check as schema
from medcolor_tf.progress import say

_AUC = schema.number(0, 1, null=True)
_STEP = schema.integer(0, 10**12)
CONFIG = schema.record(
    {
        "flags": schema.mapping_of(schema.anything, 1000),
        "data_fingerprint": schema.text(),
    },
    {"command": schema.text(100_000)},
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
    {"mean_auc": _AUC},
    {
        "observations": schema.mapping_of(_OBSERVATION, 10_000),
        "data_fingerprint": schema.text(),
        "images": _STEP,
    },
    more=True,
)


def cells(line: str) -> list[str]:
    """Returns the cells of a line of CSV; none where it is not one."""
    try:
        return next(csv.reader([line.rstrip("\r")]), [])
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


def log_rows(text: str, path: Path) -> tuple[list[str], list[list[str]]]:
    """Reads a log: its head and its rows, whose first cell is the step.

    Each line is read by itself; those that are damaged are left out and named.

    Args:
        text: the file's content.
        path: of the file, for messages.
    """
    lines = text.rstrip("\n").split("\n") if text else []
    heads, rows, steps = cells(lines[0]) if lines else [], [], set()
    for number, line in enumerate(lines[1:], start=2):
        row = cells(line)
        if is_log_row(row, len(heads)) and row[0] not in steps:
            steps.add(row[0])
            rows.append(row)
        else:
            say(
                f"warning: {path} line {number}: damaged, left out; expected a step of its own and "
                f"{len(heads) - 1} numbers"
            )
    return heads, rows


def log_with(text: str, row: Mapping, path: Path) -> str:
    """Returns a log with one more row; those of the same or a later step are dropped.

    Args:
        text, path: see :func:`log_rows`.
        row: name -> value, the step first.
    """
    heads, rows = log_rows(text, path)
    if rows and heads != list(row):
        say(f"warning: {path} line 1: damaged; columns are taken in order")
    rows = [old for old in rows if int(old[0]) < int(row["step"]) and len(old) == len(row)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([list(row), *rows, row.values()])
    return file.getvalue()
