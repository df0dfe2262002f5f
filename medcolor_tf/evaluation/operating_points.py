"""Operating points: a threshold chosen on one split, and what it gives on another.

An image is called positive where its probability is at least the threshold. Labels are 0, 1, or NaN
for unknown, and unknown ones are left out.
"""

import difflib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.bootstrap import percentiles, resample_sums
from medcolor_tf.evaluation.checks import checked, group_index

YOUDEN, SENSITIVITY, SPECIFICITY = "youden", "sensitivity", "specificity"
# Columns of a table of counts.
TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_NEGATIVE = range(4)
MEASURES = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Attributes:
        name: "youden" (the largest sensitivity + specificity), "sensitivity" or "specificity".
        target: the least sensitivity or specificity asked for, in (0, 1]; None for "youden".
    """

    name: str
    target: float | None = None

    @classmethod
    def parse(cls, text: str, flag: str = "operating_point") -> "Rule":
        """Reads ``youden``, ``sensitivity=0.9`` or ``specificity=0.9``.

        Raises:
            InputError: anything else; names ``flag``.
        """
        name, equals, number = text.partition("=")
        if name == YOUDEN and not equals:
            return cls(name)
        try:
            target = float(number)
        except ValueError:
            target = float("nan")
        if name in (SENSITIVITY, SPECIFICITY) and 0 < target <= 1:
            return cls(name, target)
        raise InputError(
            f"--{flag}={text}: expected youden, sensitivity=X or specificity=X with 0 < X <= 1"
            + _rule_hint(name, target)
        )

    def __str__(self) -> str:
        return self.name if self.target is None else f"{self.name}={self.target:g}"


def _rule_hint(name: str, target: float) -> str:
    """Says which rule was probably meant, "" where that is not clear."""
    near = difflib.get_close_matches(name.lower(), (YOUDEN, SENSITIVITY, SPECIFICITY), n=1)
    if not near:
        return ""
    if near[0] == YOUDEN:
        return f"; did you mean {YOUDEN}?"
    share = target / 100 if 10 <= target <= 100 else target
    if 0 < share <= 1:
        return f"; did you mean {near[0]}={share:g}?"
    return f"; for example {near[0]}=0.9"


def choose_threshold(labels: ArrayLike, probabilities: ArrayLike, rule: Rule) -> float | None:
    """Chooses the threshold of one observation.

    It lies half-way between two neighbouring probabilities, so that rounding does not change what
    is called positive. Of several that are equally good, ``youden`` takes the highest.
    ``sensitivity=X`` takes the highest one that reaches X, ``specificity=X`` the lowest one.

    Args:
        labels: (N,) 0, 1 or NaN.
        probabilities: (N,) in [0, 1].
        rule: how.

    Returns:
        A number in [0, 1] (just above 1 where no image is to be positive), or None where a class
        is absent.

    Raises:
        ValueError: shapes differ, no images, a wrong label or probability.
    """
    labels, values = _known(labels, probabilities)
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if not positives or not negatives:
        return None
    # From the highest threshold, at which nothing is positive, to the lowest.
    distinct = np.unique(values)[::-1]
    found = positives - np.searchsorted(np.sort(values[labels == 1]), distinct, "left")
    cleared = np.searchsorted(np.sort(values[labels == 0]), distinct, "left")
    # Counts, since sums of rounded shares would decide ties.
    found, cleared = np.append(0, found), np.append(negatives, cleared)
    bounds = np.concatenate([[1.0], distinct, [0.0]])
    thresholds = (bounds[:-1] + bounds[1:]) / 2
    if distinct[0] == 1:
        thresholds[0] = np.nextafter(1, 2)  # no image is positive
    target = rule.target or 0.0
    if rule.name == SENSITIVITY:
        place = np.argmax(found / positives >= target)
    elif rule.name == SPECIFICITY:
        place = np.flatnonzero(cleared / negatives >= target)[-1]
    else:
        place = np.argmax(found * negatives + cleared * positives)
    return float(thresholds[place])


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives for one observation.

    Attributes:
        threshold: an image with at least this probability is called positive.
        counts: (4,) int: true positives, false negatives, false positives, true negatives.
        sensitivity, specificity, ppv, npv: NaN where undefined.
        intervals: measure -> (2,) ends of its interval, by resampling patients; NaN where no
            resample defines it.
    """

    threshold: float
    counts: np.ndarray
    sensitivity: float
    specificity: float
    ppv: float
    npv: float
    intervals: dict[str, np.ndarray]


def apply_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    groups: Iterable[Hashable],
    n_resamples: int = 2000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> OperatingPoint:
    """Counts what a threshold calls right and wrong, with intervals by resampling patients.

    Args:
        labels: (N,) 0, 1 or NaN.
        probabilities: (N,) in [0, 1].
        threshold: an image with at least this probability is called positive.
        groups: (N,) hashable ids of the patients, drawn with all their images.
        n_resamples, confidence_level, seed: see
            :func:`medcolor_tf.evaluation.bootstrap.bootstrap_auc`.

    Raises:
        ValueError: shapes differ, no images, a wrong label, probability or option.
    """
    index, patients = group_index(groups, len(np.asarray(labels)))
    per_patient = patient_counts(labels, probabilities, threshold, index, patients)
    resampled = resample_sums(per_patient, n_resamples, confidence_level, seed)
    return operating_point(threshold, per_patient.sum(axis=0), resampled, confidence_level)


def patient_counts(
    labels: ArrayLike,
    probabilities: ArrayLike,
    threshold: float,
    index: np.ndarray,
    patients: int,
) -> np.ndarray:
    """Counts each patient's true positives, false negatives, false positives, true negatives.

    Args:
        labels: (N,) 0, 1 or NaN.
        probabilities: (N,) in [0, 1].
        threshold: an image with at least this probability is called positive.
        index: (N,) int, number of the image's patient.
        patients: P.

    Returns:
        (P, 4) int.
    """
    labels, values = _checked(labels, probabilities)
    known = ~np.isnan(labels)
    positive, called = labels[known] == 1, values[known] >= threshold
    outcome = np.select(
        [positive & called, positive, called],
        [TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE],
        TRUE_NEGATIVE,
    )
    return np.bincount(4 * index[known] + outcome, minlength=4 * patients).reshape(patients, 4)


def operating_point(
    threshold: float, counts: np.ndarray, resampled: np.ndarray, confidence_level: float
) -> OperatingPoint:
    """Puts an operating point together from counts, (4,), and those of resamples, (R, 4)."""
    intervals = {
        name: percentiles(values, confidence_level) for name, values in measures(resampled).items()
    }
    values = {name: float(value) for name, value in measures(counts).items()}
    return OperatingPoint(threshold, counts, **values, intervals=intervals)


def measures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Sensitivity, specificity, PPV and NPV of counts (..., 4); NaN where undefined."""
    found, missed, alarms, cleared = np.moveaxis(np.asarray(counts, float), -1, 0)
    pairs = ((found, missed), (cleared, alarms), (found, alarms), (cleared, missed))
    return {
        name: _ratio(right, right + wrong)
        for name, (right, wrong) in zip(MEASURES, pairs, strict=True)
    }


def ppv_at(sensitivity, specificity, prevalence: float) -> np.ndarray:
    """Positive predictive value where a share ``prevalence`` of the patients has the finding.

    By Bayes' rule, which takes sensitivity and specificity to be the same there as here.

    Args:
        sensitivity, specificity: numbers or arrays in [0, 1].
        prevalence: in [0, 1].
    """
    right = np.asarray(sensitivity, float) * prevalence
    return _ratio(right, right + (1 - np.asarray(specificity, float)) * (1 - prevalence))


def npv_at(sensitivity, specificity, prevalence: float) -> np.ndarray:
    """Negative predictive value at a prevalence; see :func:`ppv_at`."""
    right = np.asarray(specificity, float) * (1 - prevalence)
    return _ratio(right, right + (1 - np.asarray(sensitivity, float)) * prevalence)


def parse_prevalence(values: Sequence[str], observations: Sequence[str]) -> dict[str, float]:
    """Reads ``--prevalence``: one number for all observations, or NAME=NUMBER for some.

    Args:
        values: of the flag, as ("0.1",) or ("Edema=0.1", "Cardiomegaly=0.02").
        observations: of the model.

    Returns:
        Observation -> prevalence, for those that have one.

    Raises:
        InputError: an unknown observation, one given twice, or a number outside (0, 1).
    """
    found: dict[str, float] = {}
    for text in values:
        name, equals, number = text.rpartition("=")
        if equals and name not in observations:
            raise InputError(
                f"--prevalence={text}: the model has no {name!r}; it has {', '.join(observations)}"
            )
        try:
            share = float(number)
        except ValueError:
            share = float("nan")
        if not 0 < share < 1 or (not equals and len(values) > 1) or name in found:
            raise InputError(
                f"--prevalence={','.join(values)}: expected one number between 0 and 1, or "
                f"NAME=NUMBER once for each of some observations; received {text!r}"
            )
        found |= dict.fromkeys([name] if equals else observations, share)
    return found


def _ratio(part, whole) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, values = checked(labels, probabilities)
    if labels.ndim != 1:
        raise ValueError(f"expected labels of one observation, (N,), got {labels.shape}")
    outside = values[(values < 0) | (values > 1)]
    if len(outside):
        raise ValueError(f"expected probabilities in [0, 1], got {outside[0]}")
    return labels, values


def _known(labels: ArrayLike, probabilities: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, values = _checked(labels, probabilities)
    known = ~np.isnan(labels)
    return labels[known], values[known]
