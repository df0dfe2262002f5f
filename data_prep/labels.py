"""What a label cell means, and which columns become observations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.tables import Table
from medcolor_tf.errors import InputError

BLANK = frozenset(("", "nan", "na", "n/a", "null", "none"))
WORDS = {"true": 1.0, "false": 0.0}
VALUES = (0.0, 1.0, -1.0)


@dataclass(frozen=True)
class Observation:
    """A label: its name, the column it is read from, and whether 0 and 1 change places."""

    name: str
    column: str
    negated: bool = False


def parse_cell(text: str) -> float:
    """Returns 0, 1, -1 (uncertain) or NaN (blank).

    Accepts any spelling of those numbers ("1", "1.0", "-1.00", "1e0"), true/false, and blanks
    ("", nan, NA, N/A, null, none), in any case, with spaces around.

    Raises:
        ValueError: anything else.
    """
    word = text.strip().lower()
    if word in BLANK:
        return float("nan")
    if word in WORDS:
        return WORDS[word]
    value = float(word)
    if value not in VALUES:
        raise ValueError(text)
    return value + 0.0  # -0.0 becomes 0.0


def parse_observations(entries: Sequence[str]) -> tuple[Observation, ...]:
    """Reads ``COLUMN``, ``NAME=COLUMN`` (renamed) and ``NAME=!COLUMN`` (negated) entries.

    Raises:
        InputError: an empty entry, or a name given twice.
    """
    observations = []
    for entry in entries:
        name, equals, column = (part.strip() for part in entry.partition("="))
        column = column if equals else name
        negated = bool(equals) and column.startswith("!")
        column = column[1:].strip() if negated else column
        if not name or not column:
            raise InputError(
                f"--observations: {entry!r}; expected COLUMN, NAME=COLUMN or NAME=!COLUMN"
            )
        observations.append(Observation(name, column, negated))
    names = [observation.name for observation in observations]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--observations: {name!r} is given {names.count(name)} times")
    return tuple(observations)


def parse_columns(table: Table, observations: Sequence[Observation]) -> np.ndarray:
    """Returns the (N, L) float32 raw labels of a table: 0, 1, -1 and NaN.

    Raises:
        InputError: a cell that is none of those; names the file, line and column.
    """
    raw = np.empty((len(table), len(observations)), np.float32)
    for number, observation in enumerate(observations):
        values = _parse_column(table, observation.column)
        if observation.negated:
            values = np.where(values >= 0, 1 - values, values)
        raw[:, number] = values
    return raw


def _parse_column(table: Table, column: str) -> np.ndarray:
    cells = table.columns[column]
    known: dict[str, float] = {}
    for row, text in enumerate(cells):
        if text in known:
            continue
        try:
            known[text] = parse_cell(text)
        except ValueError:
            raise InputError(
                f"{table.where(row)}, column {column!r}: label {text!r}; "
                "expected 1, 0, -1 (uncertain) or blank"
            ) from None
    return np.array([known[text] for text in cells], np.float32)
