"""Patient-disjoint splits as a pure function of the seed and the set of patients."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.sources.source import Texts
from medcolor_tf.data.schema import SPLITS
from medcolor_tf.errors import InputError

VALID_FRACTION = 0.1
TEST_FRACTION = 0.2


def order_key(seed: int, text: str) -> bytes:
    """Returns what patients and images are sorted by: a hash of the seed and their name."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()


def split_by_patient(
    patients: Texts,
    seed: int,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
    official: Texts | None = None,
    where: Texts | None = None,
) -> np.ndarray:
    """Assigns every image to a split, all images of a patient to the same one.

    Patients are sorted by a hash of (seed, patient) and handed out by cumulative number of
    images, so the result depends on the seed and the set of patients, not on the rows' order, and
    each split's share is off by at most half the images of one patient.

    Official splits are kept. Where some are given but no "valid", valid is carved out of the
    official training patients (as is test, if ``test_fraction`` asks for it).

    Args:
        patients: (N,) patient of each image.
        seed: any integer.
        valid_fraction: of the images to hand out; None: 0.1 unless valid is official.
        test_fraction: likewise; None: 0.2 without official splits, else none.
        official: (N,) "train", "valid", "test" or "" (undecided) for each image.
        where: (N,) "FILE line N" of each image, for the error message.

    Returns:
        (N,) object array of "train", "valid", "test".

    Raises:
        InputError: a patient in two official splits, fractions outside [0, 1), or a fraction given
            for a split that is official.
    """
    official = [""] * len(patients) if official is None else official
    fixed = _official_of_patients(patients, official, where)
    given = set(fixed.values())
    shares = _shares(valid_fraction, test_fraction, given)
    sizes = Counter(patients)
    # Only training patients may move, and only if there is something to carve out of them.
    movable = {"", "train"} if any(shares.values()) else {""}
    handed_out = [patient for patient in sizes if fixed.get(patient, "") in movable]
    result = {patient: fixed.get(patient, "train") for patient in sizes}
    result.update(_hand_out(handed_out, sizes, seed, shares))
    assigned = np.array([result[patient] for patient in patients], object)
    assert_disjoint(patients, assigned)
    return assigned


def assert_disjoint(patients: Texts, splits: Texts, where: Texts | None = None) -> None:
    """Raises InputError, with the lines of ``where``, when a patient has images in two splits."""
    first_lines: dict[str, dict[str, str]] = {}  # patient -> split -> the first of its lines
    lines = [""] * len(patients) if where is None else where
    for patient, split, line in zip(patients, splits, lines, strict=True):
        first_lines.setdefault(patient, {}).setdefault(split, line)
    repeated = {patient: lines for patient, lines in first_lines.items() if len(lines) > 1}
    if repeated:
        patient, line_of = next(iter(repeated.items()))
        places = [f"{split}: {line}" if line else split for split, line in sorted(line_of.items())]
        raise InputError(
            f"patient {patient!r} is in two splits ({'; '.join(places)}); splits must be "
            f"disjoint by patient ({len(repeated)} such patients)"
        )


def _official_of_patients(patients: Texts, official: Texts, where: Texts | None) -> dict[str, str]:
    decided = [row for row, split in enumerate(official) if split]
    assert_disjoint(
        [patients[row] for row in decided],
        [official[row] for row in decided],
        None if where is None else [where[row] for row in decided],
    )
    return {patients[row]: official[row] for row in decided}


def _shares(valid: float | None, test: float | None, given: set[str]) -> dict[str, float]:
    """Returns the share of the handed-out images that each split gets, test first."""
    for name, value in (("valid", valid), ("test", test)):
        if value and name in given:
            raise InputError(
                f"--{name}_fraction={value}: the data set has an official {name} split; "
                "leave the flag out"
            )
        if value is not None and not 0 <= value < 1:
            raise InputError(f"--{name}_fraction={value}: expected a number from 0 to below 1")
    shares = {
        "test": (0.0 if given else TEST_FRACTION) if test is None else test,
        "valid": (0.0 if "valid" in given else VALID_FRACTION) if valid is None else valid,
    }
    if sum(shares.values()) >= 1:
        raise InputError(
            f"--valid_fraction={shares['valid']} and --test_fraction={shares['test']} leave "
            "nothing to train on"
        )
    return shares


def _hand_out(
    patients: Sequence[str], sizes: Mapping[str, int], seed: int, shares: dict[str, float]
) -> dict[str, str]:
    if not patients:
        return {}
    patients = sorted(patients, key=lambda patient: order_key(seed, patient))
    counts = np.array([sizes[patient] for patient in patients])
    middles = np.cumsum(counts) - counts / 2
    edges = np.cumsum(list(shares.values())) * counts.sum()
    names = [*shares, "train"]
    assert set(names) <= set(SPLITS)
    numbers = np.searchsorted(edges, middles, side="right")
    return {patient: names[number] for patient, number in zip(patients, numbers, strict=True)}
