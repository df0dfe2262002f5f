"""Percentile intervals by resampling patients: of AUCs, their differences, and any counts.

Labels are 0, 1, or NaN for unknown, and unknown ones are left out; what is undefined is NaN.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.evaluation.checks import checked, group_index
from medcolor_tf.evaluation.metrics import mean_auc, ranks, roc_auc

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Multiplicities in one block of resamples; measured: smaller or larger ones take longer.
BLOCK_CELLS = 1_600_000


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals of L observations' AUCs, or of their differences between two models.

    Attributes:
        estimate: (L,) on the data as it is; NaN where a class is absent.
        interval: (L, 2) lower and upper end; NaN where no resample is usable.
        usable: (L,) int, resamples in which the observation has both classes.
        mean: mean of the defined estimates.
        mean_interval: (2,) its interval.
        mean_usable: resamples in which every one of those observations has both classes. Only
            these count, since a mean over fewer observations would be another quantity.
        n_resamples: resamples drawn.
        confidence_level: of the intervals, such as 0.95.
    """

    estimate: np.ndarray
    interval: np.ndarray
    usable: np.ndarray
    mean: float
    mean_interval: np.ndarray
    mean_usable: int
    n_resamples: int
    confidence_level: float


def bootstrap_auc(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Iterable[Hashable],
    n_resamples: int = 2000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Intervals of each observation's AUC and of the mean, by resampling patients.

    Patients, not images, are drawn with replacement (all of a patient's images come together as
    often as the patient is drawn), because images of one patient are not independent. The same
    seed gives the same answer. An interval of few positive patients is too narrow, and that of a
    perfect AUC is [1, 1]: no resample can show an error that the data do not hold.

    Args:
        labels: (N, L) or (N,), 0, 1 or NaN.
        scores: same shape, finite; any monotone scale.
        groups: (N,) hashable ids of the patients.
        n_resamples: how many resamples.
        confidence_level: between 0 and 1.
        seed: of the draws.

    Raises:
        ValueError: shapes differ, no images, a wrong label, score, id or option.
    """
    labels, scores = checked(labels, scores)
    resampled = _resampled(labels, [scores], groups, n_resamples, confidence_level, seed)[0]
    return _summary(roc_auc(labels, scores), resampled, confidence_level)


def bootstrap_difference(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    groups: Iterable[Hashable],
    n_resamples: int = 2000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Intervals of AUC(a) - AUC(b), per observation and of the mean.

    Both models are scored on the same resamples, those of :func:`bootstrap_auc`, so that what they
    share (the difficulty of the patients drawn) cancels. Arguments and errors as there.
    """
    labels, a, b = checked(labels, a, b)
    resampled = _resampled(labels, [a, b], groups, n_resamples, confidence_level, seed)
    return _summary(
        roc_auc(labels, a) - roc_auc(labels, b), resampled[0] - resampled[1], confidence_level
    )


def resample_weights(
    patients: int, n_resamples: int, confidence_level: float, seed: int, block: int = 0
) -> Iterator[np.ndarray]:
    """Draws patients with replacement; yields how often each is in each resample, (P, B) int32.

    Args:
        patients: P.
        n_resamples: the sum of all B.
        confidence_level: checked here, since every interval begins with the draws.
        seed: the same one gives the same resamples, whatever ``block`` is.
        block: the largest B; 0 lets the counts of a block stay in the processor's cache.

    Raises:
        ValueError: fewer than one resample, or a confidence level outside (0, 1).
    """
    if n_resamples < 1 or not 0 < confidence_level < 1:
        raise ValueError(
            "expected n_resamples >= 1 and confidence_level between 0 and 1, "
            f"got {n_resamples}, {confidence_level}"
        )
    random = np.random.default_rng(seed)
    block = block or max(1, BLOCK_CELLS // max(patients, 1))
    for start in range(0, n_resamples, block):
        draws = random.integers(patients, size=(min(block, n_resamples - start), patients))
        counts = [np.bincount(draw, minlength=patients) for draw in draws]
        yield np.stack(counts, axis=1, dtype=np.int32, casting="same_kind")


def resample_sums(
    per_patient: np.ndarray, n_resamples: int, confidence_level: float, seed: int
) -> np.ndarray:
    """Sums of per-patient numbers over each resample, those of :func:`resample_weights`.

    Args:
        per_patient: (P, C), such as counts. Counts add up exactly.
        n_resamples, confidence_level, seed: see there.

    Returns:
        (n_resamples, C) float64.
    """
    values = np.asarray(per_patient, np.float64)
    blocks = resample_weights(len(values), n_resamples, confidence_level, seed)
    return np.concatenate([weights.T.astype(np.float64) @ values for weights in blocks])


@dataclass(frozen=True)
class _Order:
    """One observation's images in the order of one model's scores, for many weightings.

    The smaller class is `few`, the other `many`. Images of `many` that lie between the same images
    of `few` are added up first, by a sparse matrix: there are mostly few of these intervals.

    Attributes:
        few: (m,) int, patient of each image of the smaller class, by increasing score.
        many: (K, P) sparse int32, how many images of each patient lie in each interval.
        below, through: (K,) int, how many of `few` score less than, and at most as much as, an
            interval's images; those between are ties.
        few_are_positive: which class `few` is.
    """

    few: np.ndarray
    many: "csr_array"
    below: np.ndarray
    through: np.ndarray
    few_are_positive: bool


def _order(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, patients: int) -> _Order:
    from scipy.sparse import csr_array

    few_are_positive = bool((labels == 1).sum() <= (labels == 0).sum())
    few, many = labels == int(few_are_positive), labels == int(not few_are_positive)
    order = np.argsort(scores[few], kind="stable")
    places = np.stack(ranks(scores[few][order], scores[many]))
    (below, through), interval = np.unique(places, axis=1, return_inverse=True)
    cells = np.ones(len(interval), np.int32), (interval, groups[many])
    matrix = csr_array(cells, shape=(len(below), patients))
    return _Order(groups[few][order], matrix, below, through, few_are_positive)


def _weighted_auc(order: _Order, weights: np.ndarray) -> np.ndarray:
    """AUC under int32 patient weights (P, B): (B,), NaN where a class weighs nothing.

    Counts pairs in integers, hence exact: twice the weight of `few` below, once the ties'.
    """
    cumulative = np.zeros((len(order.few) + 1, weights.shape[1]), np.int32)
    np.cumsum(weights[order.few], axis=0, out=cumulative[1:])
    many = order.many @ weights
    below = cumulative[order.below] + cumulative[order.through]
    won = np.multiply(many, below, dtype=np.int64).sum(axis=0)
    pairs = 2 * many.sum(axis=0, dtype=np.int64) * cumulative[-1]
    won = pairs - won if order.few_are_positive else won
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def _resampled(
    labels: np.ndarray,
    models: Sequence[np.ndarray],
    groups: Iterable[Hashable],
    n_resamples: int,
    confidence_level: float,
    seed: int,
) -> np.ndarray:
    """AUC of every model, resample and observation: (models, samples, L)."""
    index, patients = group_index(groups, len(labels))
    labels = labels.reshape(len(labels), -1)
    orders = [
        [_order(*columns, index, patients) for columns in zip(labels.T, model.T, strict=True)]
        for model in (model.reshape(labels.shape) for model in models)
    ]
    result = np.empty((len(models), n_resamples, labels.shape[1]))
    block, start = max(1, BLOCK_CELLS // len(labels)), 0
    for weights in resample_weights(patients, n_resamples, confidence_level, seed, block):
        rows = slice(start, start := start + weights.shape[1])
        for model, observations in enumerate(orders):
            for column, order in enumerate(observations):
                result[model, rows, column] = _weighted_auc(order, weights)
    return result


def _summary(estimate: np.ndarray, resampled: np.ndarray, confidence_level: float) -> Bootstrap:
    usable = (~np.isnan(resampled)).sum(axis=0)
    defined = ~np.isnan(estimate)
    means = resampled[:, defined].mean(axis=1) if defined.any() else np.full(len(resampled), np.nan)
    return Bootstrap(
        estimate=estimate,
        interval=np.array([percentiles(column, confidence_level) for column in resampled.T]),
        usable=usable,
        mean=mean_auc(estimate),
        mean_interval=percentiles(means, confidence_level),
        mean_usable=int((~np.isnan(means)).sum()),
        n_resamples=len(resampled),
        confidence_level=confidence_level,
    )


def percentiles(values: np.ndarray, confidence_level: float) -> np.ndarray:
    """Returns the (2,) ends of a percentile interval of the values that are not NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.full(2, np.nan)
    return np.quantile(values, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])


def subset_auc(
    labels: np.ndarray,
    scores: np.ndarray,
    index: np.ndarray,
    patients: int,
    subsets: Sequence[np.ndarray],
    n_resamples: int,
    confidence_level: float,
    seed: int,
) -> np.ndarray:
    """AUCs of subsets of the images, in the same resamples of all patients.

    Args:
        labels: (N,) 0, 1 or NaN, one observation.
        scores: (N,) finite.
        index: (N,) int, number of the image's patient.
        patients: P.
        subsets: (N,) masks.
        n_resamples, confidence_level, seed: see :func:`resample_weights`.

    Returns:
        (subsets, n_resamples); NaN where a class is absent.
    """
    orders = [_order(labels[m], scores[m], index[m], patients) for m in subsets]
    blocks = resample_weights(patients, n_resamples, confidence_level, seed)
    return np.concatenate(
        [np.stack([_weighted_auc(order, weights) for order in orders]) for weights in blocks],
        axis=1,
    )
