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

_ESTIMATE = schema.record(
    {
        "value": schema.number(-1e30, 1e30, null=True),
        "interval": schema.list_of(schema.number(-1e30, 1e30, null=True), 2, 2),
    }
)
_SIGNED = schema.number(-1e30, 1e30)
# A threshold of which no image is positive lies just above 1.
_THRESHOLD = schema.number(0, math.nextafter(1, 2), null=True)
_CALIBRATION_MEASURES = (
    *("brier", "expected_calibration_error", "calibration_slope", "calibration_intercept"),
)
DATA_OF_DECISION = schema.record(
    {
        "name": schema.text(),
        "fingerprint": schema.text(),
        "split": schema.one_of(("train", "valid", "test", "all")),
        "uncertain_policy": schema.mapping_of(schema.text(), 10_000),
        "images": _STEP,
        "patients": _STEP,
    }
)
DECISION = schema.record(
    {
        "format_version": schema.one_of((1,)),
        "made_by": schema.one_of(("evaluate", "calibrate")),
        "rule": schema.text(),
        "weights": schema.one_of(("best", "last")),
        "step": _STEP,
        "digests": schema.mapping_of(
            schema.text(64, schema.SHA256, "a SHA-256 in hexadecimal digits"), 10
        ),
        "data": DATA_OF_DECISION,
        "observation_order": schema.list_of(schema.text(), 10_000, least=1, unique=True),
        "observations": schema.mapping_of(
            schema.record(
                {
                    "threshold": _THRESHOLD,
                    "method": schema.one_of(("none", "temperature", "platt")),
                    "slope": schema.number(5e-324, 1e30),
                    "intercept": _SIGNED,
                    "positive": _STEP,
                    "negative": _STEP,
                    "unknown": _STEP,
                    "reason": schema.text(),
                }
            ),
            10_000,
        ),
    },
    {
        "comparison": schema.mapping_of(schema.anything, 10_000),
        "previous": schema.mapping_of(schema.anything, 100),
    },
)
OPERATING_POINTS = schema.record(
    {
        "rule": schema.text(),
        "decision_sha256": schema.text(64, schema.SHA256, "a SHA-256 in hexadecimal digits"),
        "data_fingerprint": schema.text(),
        "uncertain_policy": schema.mapping_of(schema.text(), 10_000),
        "same_images": schema.anything,
        "chosen_on": DATA_OF_DECISION,
        "observations": schema.mapping_of(
            schema.record(
                {
                    "threshold": _THRESHOLD,
                    "positive": _STEP,
                    "negative": _STEP,
                    **dict.fromkeys(_CALIBRATION_MEASURES, _ESTIMATE),
                },
                dict.fromkeys(("sensitivity", "specificity", "ppv", "npv"), _ESTIMATE),
                more=True,
            ),
            10_000,
        ),
    },
    more=True,
)


_BROKEN_DOWN = {
    "unit": schema.one_of(("image", "study", "patient")),
    "aggregate": schema.maybe(schema.one_of(("mean", "max"))),
    "split": schema.one_of(("train", "valid", "test")),
    "data_fingerprint": schema.text(),
    "threshold_from": schema.text(),
    "predictions_sha256": schema.text(64, schema.SHA256, "a SHA-256 in hexadecimal digits"),
    "n_resamples": _STEP,
    "confidence_level": schema.number(0, 1),
}
_NULLABLE = schema.number(-1e30, 1e30, null=True)
_ENDS = schema.list_of(_NULLABLE, 2, 2)
_COMPARISON = schema.record(
    {
        **dict.fromkeys(("value", "rest", "difference", "pvalue", "adjusted"), _NULLABLE),
        **dict.fromkeys(("interval", "difference_interval"), _ENDS),
    }
)
_GROUP = schema.record(
    {
        **dict.fromkeys(("by", "group", "observation", "few"), schema.text()),
        **dict.fromkeys(("images", "patients", "positive", "negative"), _STEP),
        **dict.fromkeys(("slope", "intercept"), _NULLABLE),
        **dict.fromkeys(("slope_interval", "intercept_interval"), _ENDS),
        "measures": schema.mapping_of(
            _COMPARISON, 4, ("auc", "sensitivity", "specificity", "calibration_gap")
        ),
    }
)
# Of the decision that was used, null without one; older files lack it.
_OF_DECISION = {
    "decision_digest": schema.maybe(
        schema.text(64, schema.SHA256, "a SHA-256 in hexadecimal digits")
    )
}
SUBGROUPS = schema.record(
    {
        **_BROKEN_DOWN,
        "by": schema.list_of(schema.text(), 1000),
        **dict.fromkeys(("least", "least_tested"), _STEP),
        "thresholds": schema.mapping_of(_THRESHOLD, 10_000),
        "groups": schema.list_of(_GROUP, 1_000_000),
    },
    _OF_DECISION,
)
_OF_UNITS = schema.record(
    {
        **dict.fromkeys(("positive", "negative", "unknown", "disagreeing"), _STEP),
        "threshold": _THRESHOLD,
        **dict.fromkeys(("auc", "kappa_at_half"), _ESTIMATE),
    },
    dict.fromkeys(("kappa", "sensitivity", "specificity", "ppv", "npv"), _ESTIMATE),
)
UNITS = schema.record(
    {
        **_BROKEN_DOWN,
        **dict.fromkeys(("units", "images", "patients"), _STEP),
        "observations": schema.mapping_of(_OF_UNITS, 10_000),
    },
    _OF_DECISION,
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
