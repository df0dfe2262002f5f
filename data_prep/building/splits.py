"""Patient-disjoint splits as a pure function of the seed and the set of patients."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medcolor_tf.data.schema import SPLITS
from medcolor_tf.errors import InputError

VALID_FRACTION = 0.1
TEST_FRACTION = 0.2


def order_key(seed: int, text: str) -> bytes:
    """Returns what patients and images are sorted by: a hash of the seed and their name."""
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()


def split_by_patient(
    patients: Sequence[str],
    seed: int,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
    official: Sequence[str] | None = None,
    where: Sequence[str] | None = None,
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
    official = np.array([""] * len(patients) if official is None else official, object)
    groups = pd.DataFrame({"patient": np.asarray(patients, object), "official": official})
    groups["where"] = "" if where is None else np.asarray(where, object)
    fixed = _official_of_patients(groups)
    given = set(fixed.values())
    shares = _shares(valid_fraction, test_fraction, given)
    sizes = groups.groupby("patient", sort=False).size()
    # Only training patients may move, and only if there is something to carve out of them.
    movable = {"", "train"} if any(shares.values()) else {""}
    handed_out = [patient for patient in sizes.index if fixed.get(patient, "") in movable]
    result = {patient: fixed.get(patient, "train") for patient in sizes.index}
    result.update(_hand_out(handed_out, sizes, seed, shares))
    assigned = groups["patient"].map(result).to_numpy(object)
    assert_disjoint(groups["patient"], assigned)
    return assigned


def assert_disjoint(
    patients: Sequence[str], splits: Sequence[str], where: Sequence[str] = ""
) -> None:
    """Raises InputError, with the lines of ``where``, when a patient has images in two splits."""
    pairs = pd.DataFrame({"patient": np.asarray(patients), "split": np.asarray(splits)})
    pairs["where"] = np.asarray(where) if len(where) else ""
    pairs = pairs.drop_duplicates(["patient", "split"])
    repeated = pairs[pairs.duplicated("patient", keep=False)]
    if len(repeated):
        patient = repeated["patient"].iloc[0]
        rows = repeated[repeated["patient"] == patient].sort_values("split")
        places = [
            f"{split}: {line}" if line else split
            for split, line in zip(rows["split"], rows["where"], strict=True)
        ]
        raise InputError(
            f"patient {patient!r} is in two splits ({'; '.join(places)}); splits must be "
            f"disjoint by patient ({repeated['patient'].nunique()} such patients)"
        )


def _official_of_patients(groups: pd.DataFrame) -> dict[str, str]:
    decided = groups[groups["official"] != ""].drop_duplicates(["patient", "official"])
    assert_disjoint(decided["patient"], decided["official"], decided["where"])
    return dict(zip(decided["patient"], decided["official"], strict=True))


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
    patients: Sequence[str], sizes: pd.Series, seed: int, shares: dict[str, float]
) -> dict[str, str]:
    if not patients:
        return {}
    patients = sorted(patients, key=lambda patient: order_key(seed, patient))
    counts = sizes.loc[patients].to_numpy()
    middles = np.cumsum(counts) - counts / 2
    edges = np.cumsum(list(shares.values())) * counts.sum()
    names = [*shares, "train"]
    assert set(names) <= set(SPLITS)
    numbers = np.searchsorted(edges, middles, side="right")
    return {patient: names[number] for patient, number in zip(patients, numbers, strict=True)}
