"""For whom a model does better or worse: each group of images against all other images.

Labels are 0, 1, or NaN for unknown, and unknown ones are left out. A group is what
``data_prep.build --group_columns`` has stored: a sex, a band of ages, a view, ... Patients are
resampled with all their images, those of a group and of the others in the same resamples, so that a
patient who is in both counts once.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.evaluation.bootstrap import percentiles, resample_sums, subset_auc
from medcolor_tf.evaluation.checks import checked, group_index
from medcolor_tf.evaluation.metrics import roc_auc
from medcolor_tf.evaluation.operating_points import measures, patient_counts
from medcolor_tf.evaluation.recalibration import calibration_line
from medcolor_tf.evaluation.statistics import benjamini_hochberg

# Values at the end of a table: rare ones, unknown ones, studies whose images are in several groups.
LAST = ("other", "several", "unknown")
# Patients with a positive, and with a negative image, below which nothing is computed of a group,
# and below which nothing is tested: of fewer, one test in ten finds a difference where there is
# none (measured; at least 20: one in 12 to 20).
LEAST, LEAST_TESTED = 10, 20
N_RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95
SIGNIFICANT = 0.05
# What is compared. The gap is the mean probability minus the share of positives: above 0 the model
# says too much, below too little.
AUC, GAP = "auc", "calibration_gap"
MEASURES = (AUC, "sensitivity", "specificity", GAP)
TITLES = {
    AUC: "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    GAP: "calibration gap",
}
# Probabilities of 0 and 1 have no logit; float64 ends about there.
_SMALLEST = 1e-15


@dataclass(frozen=True)
class Comparison:
    """One measure in a group and in all other images.

    Attributes:
        value: in the group.
        interval: (2,) its interval; NaN where no resample defines it.
        rest: in all other images; NaN where these are too few.
        difference: value - rest.
        difference_interval: (2,) its interval.
        pvalue: two-sided, of no difference: the difference over its standard deviation in the
            resamples, as Student's t with one degree of freedom less than the smaller of the two
            has patients (of a sensitivity: with a positive image, ...); NaN where undefined, and
            for fewer than :data:`LEAST_TESTED` patients.
        adjusted: after Benjamini and Hochberg over the family; NaN until :func:`adjust`.
    """

    value: float
    interval: np.ndarray
    rest: float
    difference: float
    difference_interval: np.ndarray
    pvalue: float
    adjusted: float = float("nan")


@dataclass(frozen=True)
class GroupResult:
    """One observation in one group.

    Attributes:
        by: the grouping, such as "sex" or "sex*view".
        group: value of the grouping.
        observation: name.
        images, patients: of the group with a known label.
        positive, negative: images.
        few: why nothing is computed, "" where there are enough.
        measures: of :data:`MEASURES`, those that are defined.
        slope, slope_interval, intercept, intercept_interval: of
            :func:`medcolor_tf.evaluation.recalibration.calibration_line`; NaN where undefined.
    """

    by: str
    group: str
    observation: str
    images: int
    patients: int
    positive: int
    negative: int
    few: str
    measures: Mapping[str, Comparison]
    slope: float = float("nan")
    slope_interval: Sequence[float] | np.ndarray = (float("nan"), float("nan"))
    intercept: float = float("nan")
    intercept_interval: Sequence[float] | np.ndarray = (float("nan"), float("nan"))


def compare_groups(
    observations: Sequence[str],
    labels: ArrayLike,
    probabilities: ArrayLike,
    thresholds: Sequence[float | None],
    groupings: Mapping[str, np.ndarray],
    patients: Iterable[Hashable],
    least: int = LEAST,
    n_resamples: int = N_RESAMPLES,
    confidence_level: float = CONFIDENCE_LEVEL,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[GroupResult]:
    """Compares each group with all other images, for every observation; one family of tests.

    Args:
        observations: L names.
        labels: (N, L) 0, 1 or NaN.
        probabilities: (N, L) in [0, 1].
        thresholds: L; an image with at least this probability is called positive. None: sensitivity
            and specificity are left out.
        groupings: name -> (N,) value of each image.
        patients: (N,) hashable ids.
        least: patients with a positive image, and with a negative one, that a group and the others
            must have each.
        n_resamples, confidence_level, seed: of the bootstrap over patients.
        progress: called with 1 after each observation.

    Raises:
        ValueError: shapes differ, no images, a wrong label, probability, id or option.
    """
    labels, probabilities = checked(labels, probabilities, dimensions=(2,))
    index, count = group_index(patients, len(labels))
    options = (least, n_resamples, confidence_level, seed)
    results = []
    for name, label, chance, threshold in zip(
        observations, labels.T, probabilities.T, thresholds, strict=True
    ):
        results += _of_observation(name, label, chance, threshold, groupings, index, count, options)
        if progress:
            progress(1)
    order = list(groupings)
    return adjust(sorted(results, key=lambda result: order.index(result.by)))


def adjust(results: Sequence[GroupResult]) -> list[GroupResult]:
    """Returns the results with p-values adjusted over all of them, one family."""
    places = [(row, name) for row, result in enumerate(results) for name in result.measures]
    adjusted = benjamini_hochberg([results[row].measures[name].pvalue for row, name in places])
    found = [dict(result.measures) for result in results]
    for (row, name), value in zip(places, adjusted, strict=True):
        found[row][name] = replace(found[row][name], adjusted=float(value))
    return [
        replace(result, measures=of_result)
        for result, of_result in zip(results, found, strict=True)
    ]


def _of_observation(
    name: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | None,
    groupings: Mapping[str, np.ndarray],
    index: np.ndarray,
    count: int,
    options: tuple[int, int, float, int],
) -> Iterator[GroupResult]:
    """Every group of every grouping, for one observation."""
    least, _, level, _ = options
    known = ~np.isnan(labels)
    counted, masks = [], []
    for by, values in groupings.items():
        for value in sorted(set(values.tolist()), key=_place):
            group = known & (values == value)
            few = _too_few(labels, index, group, least)
            positive = int((labels[group] == 1).sum())
            counted.append(
                GroupResult(
                    by=by,
                    group=value,
                    observation=name,
                    images=int(group.sum()),
                    patients=len(np.unique(index[group])),
                    positive=positive,
                    negative=int(group.sum()) - positive,
                    few=few,
                    measures={},
                )
            )
            rest = known & (values != value)
            masks.append((group, rest))
    rows = [number for number, result in enumerate(counted) if not result.few]
    pairs = [masks[number] for number in rows]
    compared = _compare(labels, probabilities, threshold, index, count, pairs, options)
    lines = {
        row: calibration_line(labels[group], _logit(probabilities[group]), index[group], level)
        for row, (group, _) in zip(rows, pairs, strict=True)
    }
    found = dict(zip(rows, compared, strict=True))
    for number, result in enumerate(counted):
        if number in found:
            yield replace(result, measures=found[number], **vars(lines[number]))
        else:
            yield result


def _place(value: str) -> tuple:
    """Bands by their first number, others by the alphabet, what is no group of its own last."""
    number = re.match(r"\d+", value)
    return value in LAST, int(number[0]) if number else 0, value


def _too_few(labels: np.ndarray, index: np.ndarray, images: np.ndarray, least: int) -> str:
    """Says why a set of images is too small, "" where it is not."""
    for word, people in _people(labels, index, images).items():
        if people < least:
            patients = "patient" if people == 1 else "patients"
            return f"too few: {people} {patients} with a {word} image, expected {least}"
    return ""


def _people(labels: np.ndarray, index: np.ndarray, images: np.ndarray) -> dict[str, int]:
    """Patients with a positive, and with a negative image."""
    kinds = (("positive", 1), ("negative", 0))
    return {word: len(np.unique(index[images & (labels == kind)])) for word, kind in kinds}


def _smallest(labels: np.ndarray, index: np.ndarray, *sets: np.ndarray) -> dict[str, int]:
    """Of how many patients each measure is known, in the smallest of some sets of images."""
    people = [_people(labels, index, images) for images in sets]
    positive, negative = (min(p[word] for p in people) for word in ("positive", "negative"))
    both = min(positive, negative)
    return {AUC: both, "sensitivity": positive, "specificity": negative, GAP: both}


def _compare(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | None,
    index: np.ndarray,
    count: int,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    options: tuple[int, int, float, int],
) -> list[dict[str, Comparison]]:
    """Measures of each (group, all others)."""
    if not pairs:
        return []
    least, n_resamples, level, seed = options
    masks = [mask for pair in pairs for mask in pair]
    # Of two groups that share all images, each is the other's rest: its AUC is computed once.
    distinct = {mask.tobytes(): mask for mask in masks}
    names = list(distinct)
    place = [names.index(mask.tobytes()) for mask in masks]
    aucs = subset_auc(
        labels, probabilities, index, count, [*distinct.values()], n_resamples, level, seed
    )
    sums = np.concatenate(
        [_sums(labels, probabilities, threshold, index, count, mask) for mask in distinct.values()],
        axis=1,
    )
    drawn = resample_sums(sums, n_resamples, level, seed)
    resampled, whole = [], []
    for number, mask in enumerate(distinct.values()):
        columns = slice(6 * number, 6 * number + 6)
        resampled.append({AUC: aucs[number], **_from_sums(drawn[:, columns])})
        auc = float(roc_auc(labels[mask], probabilities[mask])[0])
        whole.append({AUC: auc, **_from_sums(sums[:, columns].sum(axis=0))})
    left_out = () if threshold is not None else ("sensitivity", "specificity")
    found = []
    for number, pair in enumerate(pairs):
        people = _smallest(labels, index, *pair)
        group, rest = place[2 * number], place[2 * number + 1]
        found.append(
            {
                name: _comparison(
                    (whole[group][name], whole[rest][name]),
                    (resampled[group][name], resampled[rest][name]),
                    level,
                    people[name] if min(people.values()) >= least else 0,
                )
                for name in MEASURES
                if name not in left_out and not np.isnan(whole[group][name])
            }
        )
    return found


def _sums(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | None,
    index: np.ndarray,
    count: int,
    images: np.ndarray,
) -> np.ndarray:
    """(P, 6) per patient: the four counts, number of images, probability minus label."""
    labels, probabilities, index = labels[images], probabilities[images], index[images]
    result = np.empty((count, 6))
    result[:, :4] = patient_counts(labels, probabilities, threshold or 0.0, index, count)
    result[:, 4] = np.bincount(index, minlength=count)
    result[:, 5] = np.bincount(index, probabilities - labels, count)
    return result


def _from_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Sensitivity, specificity and gap of sums (..., 6)."""
    shares = measures(sums[..., :4])
    images = np.where(sums[..., 4] > 0, sums[..., 4], np.nan)
    return {
        "sensitivity": shares["sensitivity"],
        "specificity": shares["specificity"],
        GAP: sums[..., 5] / images,
    }


def _comparison(
    values: tuple[float, float],
    resampled: tuple[np.ndarray, np.ndarray],
    level: float,
    people: int,
) -> Comparison:
    """Puts a comparison together; of no ``people`` in all others the value alone."""
    from scipy import stats

    interval = percentiles(resampled[0], level)
    nan = float("nan")
    if not people:
        return Comparison(float(values[0]), interval, nan, nan, np.full(2, nan), nan)
    difference, differences = values[0] - values[1], resampled[0] - resampled[1]
    defined = differences[~np.isnan(differences)]
    error = float(defined.std(ddof=1)) if len(defined) > 1 else nan
    pvalue = nan
    if people >= LEAST_TESTED and error > 0:
        statistic = abs(difference) / error * np.sqrt((people - 1) / people)
        pvalue = float(2 * stats.t.sf(statistic, people - 1))
    return Comparison(
        float(values[0]),
        interval,
        float(values[1]),
        float(difference),
        percentiles(differences, level),
        pvalue,
    )


def _logit(probabilities: np.ndarray) -> np.ndarray:
    from scipy.special import logit

    return logit(np.clip(probabilities, _SMALLEST, 1 - _SMALLEST))
