"""Who is in the pictures: unknown patients, and ids that are one id in several spellings.

Splits are disjoint by patient, so an id that stands for many people ("nan") and a person with many
ids ("01", "1", "1.0") both have to be settled before splitting.
"""

import dataclasses
import re
import unicodedata

import numpy as np

from data_prep.sources.source import Source
from medcolor_tf.errors import InputError

UNKNOWN = frozenset(("", "nan", "none", "null"))
UNKNOWN_POLICIES = ("error", "each")
NUMBER = re.compile(r"0*(\d+)(?:\.0*)?")
SHOWN = 5


def is_unknown(patient: str) -> bool:
    """Tells whether a cell names no patient: empty, nan, none or null, in any case."""
    return patient.strip().lower() in UNKNOWN


def normalize_id(patient: str) -> str:
    """Returns the one spelling of an id: no white space, whole numbers without zeros around them.

    "01", "1", "1.0" and " 1 " all become "1"; what is not a number keeps its letters and case.
    """
    text = "".join(unicodedata.normalize("NFKC", patient).split())
    number = NUMBER.fullmatch(text)
    return number[1] if number else text


def settle_patients(source: Source, unknown: str, normalize: bool) -> Source:
    """Returns the source with a patient for every image.

    Images whose patient is their path (no ``--patient_column``) are left as they are.

    Args:
        source: the images.
        unknown: "error", or "each": an image whose patient is unknown is a patient of its own.
        normalize: ids become their one spelling, see :func:`normalize_id`.

    Raises:
        InputError: with the rows: an unknown patient with "error", or, without ``normalize``,
            several spellings of one id.
    """
    patients = source.records["patient"].to_numpy(object).copy()
    own = patients == source.records["path_0"].to_numpy()
    missing = np.array([is_unknown(patient) for patient in patients], bool) & ~own
    where = source.records["where"].to_numpy()
    if missing.any():
        rows = np.flatnonzero(missing)
        if unknown == "error":
            raise InputError(_unknown_message(patients, where, rows))
        keys = source.keys()
        for row in rows:
            patients[row] = "unknown patient of " + keys[row].replace("\0", "|")
        print(
            f"warning: the patient of {len(rows):,} of {len(patients):,} images is unknown; each "
            "counts as a patient of its own (--unknown_patients=each), so images of one patient "
            "may be in several splits"
        )
    named = np.flatnonzero(~missing & ~own)
    if normalize:
        patients[named] = [normalize_id(patient) for patient in patients[named]]
    else:
        _refuse_spellings(patients, where, named)
    return dataclasses.replace(source, records=source.records.assign(patient=patients))


def _unknown_message(patients: np.ndarray, where: np.ndarray, rows: np.ndarray) -> str:
    lines = [f"  {where[row]}: the patient is {patients[row] or 'empty'}" for row in rows[:SHOWN]]
    more = [f"  and {len(rows) - SHOWN:,} more"] if len(rows) > SHOWN else []
    return "\n".join(
        (
            f"the patient of {len(rows):,} of {len(patients):,} images is unknown (empty, nan, "
            "none or null):",
            *lines,
            *more,
            "expected an id, because splits are disjoint by patient; --unknown_patients=each makes "
            "each such image a patient of its own",
        )
    )


def _refuse_spellings(patients: np.ndarray, where: np.ndarray, rows: np.ndarray) -> None:
    """Raises InputError where ids differ in nothing but their spelling."""
    spellings: dict[str, dict[str, str]] = {}  # id -> spelling -> the first row with it
    for patient, row in zip(patients[rows].tolist(), where[rows].tolist(), strict=True):
        spellings.setdefault(normalize_id(patient), {}).setdefault(patient, row)
    several = [found for found in spellings.values() if len(found) > 1]
    if not several:
        return
    lines = [
        "  " + "; ".join(f"{row}: {spelling!r}" for spelling, row in found.items())
        for found in several[:SHOWN]
    ]
    more = [f"  and {len(several) - SHOWN:,} more"] if len(several) > SHOWN else []
    raise InputError(
        "\n".join(
            (
                f"{len(several):,} patient ids are spelled in several ways:",
                *lines,
                *more,
                "expected one spelling per patient; --normalize_ids says that they are one",
            )
        )
    )
