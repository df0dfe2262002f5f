"""Cells of group columns to values: ages in bands, rare values together, studies under keyed ids.

What is stored is no finer than these values. A column with nearly as many values as patients would
tell who somebody is, and is refused.
"""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.sources.patients import UNKNOWN as UNKNOWN_IDS
from data_prep.sources.patients import UNKNOWN_POLICIES
from data_prep.sources.source import GROUP, STUDY, Source
from medcolor_tf.data.groups import CROSS, MAX_LENGTH, MAX_VALUES, OTHER, UNKNOWN
from medcolor_tf.errors import InputError

AGE, SEX = "age", "sex"
AGE_BANDS = ("18", "40", "60", "80")
# A band of fewer years, or one that begins later, could single a person out.
LEAST_YEARS, LAST_AGE = 5, 90
OLDEST = 130
MIN_PATIENTS = 10
# Columns of fewer values are taken whatever the number of patients.
FEW_VALUES = 10
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}
BLANK = frozenset(("", "nan", "na", "n/a", "none", "null", "unknown", "u", "?", "-"))
# 57, 57.0, and as DICOM and ChestX-ray14 have it: 057Y, 006M, 010W, 012D.
_AGE = re.compile(r"(\d{1,4}(?:\.\d*)?)\s*([YMWD]?)", re.I)
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
SHOWN = 5


@dataclass(frozen=True)
class GroupPlan:
    """What is stored of groups and studies.

    Attributes:
        columns: name of each group -> its values, in the order in which they are shown.
        min_patients: values of fewer patients became "other".
        study: whether studies are stored.
    """

    columns: dict[str, list[str]]
    min_patients: int
    study: bool


def parse_bands(entries: Sequence[str]) -> list[int]:
    """Reads ``--age_bands``: the ages at which a band begins, but for the first.

    Raises:
        InputError: no ascending whole numbers, bands of fewer than LEAST_YEARS years, or a last
            band that begins after LAST_AGE.
    """
    expected = (
        f"expected ascending whole numbers, at least {LEAST_YEARS} years apart, from {LEAST_YEARS} "
        f"to {LAST_AGE}, such as {','.join(AGE_BANDS)}"
    )
    try:
        edges = [int(entry) for entry in entries]
    except ValueError:
        edges = []
    starts = [0, *edges]
    narrow = any(b - a < LEAST_YEARS for a, b in itertools.pairwise(starts))
    if not edges or narrow or edges[-1] > LAST_AGE:
        raise InputError(f"--age_bands={','.join(entries)}: {expected}")
    return edges


def band_names(edges: Sequence[int]) -> list[str]:
    """Returns "0-17", "18-39", ..., "80+"."""
    starts = [0, *edges]
    closed = [f"{a}-{b - 1}" for a, b in itertools.pairwise(starts)]
    return [*closed, f"{starts[-1]}+"]


def age_band(cell: str, edges: Sequence[int]) -> str | None:
    """Returns the band of an age such as 57, 57.0, 057Y or 006M; None for what is no age.

    Args:
        cell: text.
        edges: of :func:`parse_bands`.
    """
    match = _AGE.fullmatch(cell.strip())
    years = float(match[1]) / _PER_YEAR[match[2].upper()] if match else OLDEST + 1.0
    if years > OLDEST:
        return None
    return band_names(edges)[int(np.searchsorted(edges, years, side="right"))]


def settle_groups(source: Source, config) -> tuple[Source, GroupPlan | None]:
    """Returns the source with the values of its groups, and what they are; None without any.

    Says how many cells are unknown and which values were joined.

    Args:
        source: the images that are taken.
        config: the build's options.

    Raises:
        InputError: a column that would tell who somebody is, too many values, or an image whose
            study is unknown.
    """
    if not source.group_names and not source.has_studies:
        return source, None
    patients = source.records["patient"].to_numpy()
    columns, values = {}, {}
    for name in source.group_names:
        cells = source.records[GROUP + name].to_numpy()
        known = _values(name, cells, source, config)
        _refuse_identifier(name, known, patients)
        values[name] = _join_rare(name, known, patients, config.group_min_patients)
        columns[GROUP + name] = values[name]
    if source.has_studies:
        columns[STUDY] = _studies(source, config.unknown_patients)
    listed = {name: _in_order(name, column, config) for name, column in values.items()}
    plan = GroupPlan(listed, config.group_min_patients, source.has_studies)
    return source.with_columns(columns), plan


def _values(name: str, cells: np.ndarray, source: Source, config) -> np.ndarray:
    """Cells in one spelling each; UNKNOWN for what says nothing."""
    edges = parse_bands(config.age_bands)
    value_of: dict[str, str] = {}
    strange: dict[str, int] = {}
    spelling: dict[str, str] = {}  # in lower case -> the first spelling in order
    for cell in sorted(set(cells.tolist())):
        text = " ".join(unicodedata.normalize("NFKC", cell).split())
        lower = text.lower()
        if lower in BLANK:
            value_of[cell] = UNKNOWN
        elif name.lower() == AGE:
            value_of[cell] = age_band(text, edges) or UNKNOWN
            if value_of[cell] == UNKNOWN:
                strange[cell] = int((cells == cell).sum())
        elif name.lower() == SEX:
            value_of[cell] = SEXES.get(lower, text)
        else:
            value_of[cell] = OTHER if lower == OTHER else spelling.setdefault(lower, text)
    if strange:
        shown = ", ".join(map(repr, list(strange)[:SHOWN]))
        print(
            f"note: {name}: {sum(strange.values()):,} images have no age from 0 to {OLDEST} "
            f"({shown}{', ...' if len(strange) > SHOWN else ''}): {UNKNOWN}"
        )
    for cell, value in value_of.items():
        if len(value) > MAX_LENGTH or not value.isprintable() or CROSS in value:
            row = int(np.flatnonzero(cells == cell)[0])
            raise InputError(
                f"{source.records['where'].iloc[row]}: {name} {value[:60]!r}; expected at most "
                f"{MAX_LENGTH} printable characters without {CROSS}"
            )
    return np.array([value_of[cell] for cell in cells.tolist()], object)


def _refuse_identifier(name: str, values: np.ndarray, patients: np.ndarray) -> None:
    known = values != UNKNOWN
    distinct, people = len(set(values[known])), len(set(patients[known]))
    if distinct > FEW_VALUES and 2 * distinct > people:
        raise InputError(
            f"--group_columns: {name} has {distinct:,} values for {people:,} patients: it would "
            "tell who somebody is; expected a column whose values many patients share"
        )


def _join_rare(name: str, values: np.ndarray, patients: np.ndarray, least: int) -> np.ndarray:
    pairs = set(zip(values.tolist(), patients.tolist(), strict=True))
    count = Counter(value for value, _ in pairs)
    rare = sorted(v for v in count if count[v] < least and v not in (UNKNOWN, OTHER))
    joined = np.array([OTHER if value in set(rare) else value for value in values], object)
    if rare:
        images = sum(value in rare for value in values.tolist())
        print(
            f"note: {name}: {len(rare):,} values of fewer than {least} patients "
            f"({images:,} images) became {OTHER!r} (--group_min_patients)"
        )
    unknown = int((values == UNKNOWN).sum())
    if unknown:
        print(f"note: {name}: {unknown:,} of {len(values):,} images are of {UNKNOWN!r}")
    if len(set(joined.tolist())) > MAX_VALUES:
        raise InputError(
            f"--group_columns: {name} has {len(set(joined.tolist())):,} values, expected at most "
            f"{MAX_VALUES:,}"
        )
    return joined


def _in_order(name: str, values: np.ndarray, config) -> list[str]:
    """Bands by age, other values by the alphabet; then "other" and "unknown"."""
    there = set(values.tolist())
    bands = band_names(parse_bands(config.age_bands)) if name.lower() == AGE else []
    last = [value for value in (OTHER, UNKNOWN) if value in there]
    first = [band for band in bands if band in there]
    return [*first, *sorted(there - {*first, *last}), *last]


def _studies(source: Source, unknown: str) -> np.ndarray:
    """Each image's study with its patient: a patient's study1 is not another one's."""
    studies = source.records[STUDY].to_numpy(object).copy()
    missing = [row for row, text in enumerate(studies) if text.strip().lower() in UNKNOWN_IDS]
    if missing and unknown == UNKNOWN_POLICIES[0]:
        where = source.records["where"]
        lines = [f"  {where.iloc[row]}" for row in missing[:SHOWN]]
        more = [f"  and {len(missing) - SHOWN:,} more"] if len(missing) > SHOWN else []
        raise InputError(
            "\n".join(
                (
                    f"the study of {len(missing):,} of {len(studies):,} images is empty, nan, none "
                    "or null:",
                    *lines,
                    *more,
                    "expected an id; --unknown_patients=each makes each such image a study of its "
                    "own",
                )
            )
        )
    keys = source.keys()
    for row in missing:
        studies[row] = f"unknown study of {keys[row]}"
    if missing:
        print(f"note: the study of {len(missing):,} images is unknown; each is one of its own")
    patients = source.records["patient"].to_numpy()
    return np.array([f"{p}\0{s}" for p, s in zip(patients, studies, strict=True)], object)
