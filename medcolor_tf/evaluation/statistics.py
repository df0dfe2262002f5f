"""The statistics of a report: repeats, patients, and one model against another (section IV-C).

The paper gives mean ± standard deviation of three repeats, paired t-tests between strategies and
Benjamini-Hochberg. Three repeats leave a t-test 2 degrees of freedom, so there are also intervals
and tests of single runs: a bootstrap over patients, and DeLong's test with its clustered form.

Everywhere a label is 0, 1, or NaN for unknown, and unknown ones are left out; what is undefined is
NaN (None for a curve), never 0 and never a warning.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.evaluation.metrics import mean_auc, roc_auc

# Multiplicities in one block of resamples; small enough that a block stays in the cache.
BLOCK_CELLS = 400_000


# -- repeats -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedTTest:
    """Two-sided paired t-test.

    Attributes:
        difference: mean of a - b.
        statistic: Student's t.
        pvalue: two-sided.
        pairs: how many were complete.
    """

    difference: float
    statistic: float
    pvalue: float
    pairs: int


def mean_std(values: ArrayLike) -> tuple[float, float, int]:
    """Mean, sample standard deviation (ddof=1) and count of the values that are not NaN.

    The mean of none and the standard deviation of fewer than two are NaN.

    Raises:
        ValueError: an infinite value.
    """
    values = _repeats("values", values).ravel()
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else float("nan")
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return mean, std, len(values)


def paired_t_test(a: ArrayLike, b: ArrayLike) -> PairedTTest:
    """Student's paired t-test, two-sided, of two strategies on the same repeats.

    Statistic and p-value are NaN, undefined, with fewer than two complete pairs, and where the
    difference is the same in every pair up to rounding: without variance the test would call any
    difference, however small, certain.

    Args:
        a, b: (R,), one value per repeat in the same order; a pair with a NaN is left out.

    Raises:
        ValueError: shapes differ or are not (R,), or an infinite value.
    """
    from scipy import stats

    a, b = _repeats("a", a), _repeats("b", b)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected a and b of one shape (R,); got {a.shape} and {b.shape}")
    difference = a - b
    complete = ~np.isnan(difference)
    mean, std, pairs = mean_std(difference)
    # Equal differences of unequal decimals (0.8 - 0.7, 0.9 - 0.8) differ by a few roundings.
    scale = max(np.abs(a[complete]).max(initial=0), np.abs(b[complete]).max(initial=0))
    if pairs < 2 or std <= 8 * np.finfo(np.float64).eps * scale:
        return PairedTTest(mean, float("nan"), float("nan"), pairs)
    t = mean / (std / np.sqrt(pairs))
    return PairedTTest(mean, float(t), float(2 * stats.t.sf(abs(t), pairs - 1)), pairs)


def benjamini_hochberg(pvalues: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's (1995) adjusted p-values of one family.

    Args:
        pvalues: of any shape; NaN (an undefined test) does not count in the family's size.

    Returns:
        float64 of the same shape, NaN where ``pvalues`` is.

    Raises:
        ValueError: a value outside [0, 1].
    """
    from statsmodels.stats.multitest import multipletests

    pvalues = np.asarray(pvalues, np.float64)
    defined = ~np.isnan(pvalues)
    outside = pvalues[defined & ~((pvalues >= 0) & (pvalues <= 1))]
    if len(outside):
        raise ValueError(f"expected p-values in [0, 1] or NaN, got {outside[0]}")
    adjusted = np.full(pvalues.shape, np.nan)
    if defined.any():
        adjusted[defined] = multipletests(pvalues[defined], method="fdr_bh")[1]
    return adjusted


# -- bootstrap over patients ---------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Order:
    """One observation's images in the order of one model's scores, for many weightings.

    Attributes:
        positive: (m,) int, patient of each positive image.
        negative: (n,) int, patient of each negative image, by increasing score.
        below, through: (m,) int, how many negatives score less than, and at most as much as, each
            positive; those between are ties.
    """

    positive: np.ndarray
    negative: np.ndarray
    below: np.ndarray
    through: np.ndarray


def _order(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> _Order:
    positive, negative = labels == 1, labels == 0
    order = np.argsort(scores[negative], kind="stable")
    ascending = scores[negative][order]
    return _Order(groups[positive], groups[negative][order], *_ranks(ascending, scores[positive]))


def _ranks(ascending: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of ``ascending`` are less than, and at most, each value; those between are ties."""
    return np.searchsorted(ascending, values, "left"), np.searchsorted(ascending, values, "right")


def _weighted_auc(order: _Order, weights: np.ndarray) -> np.ndarray:
    """AUC under integer patient weights (P, B): (B,), NaN where a class weighs nothing.

    Counts pairs in integers, hence exact: twice the weight of the negatives below, once the ties'.
    """
    cumulative = np.zeros((len(order.negative) + 1, weights.shape[1]), np.int64)
    np.cumsum(weights[order.negative], axis=0, out=cumulative[1:])
    positive = weights[order.positive]
    won = (positive * (cumulative[order.below] + cumulative[order.through])).sum(axis=0)
    pairs = 2 * positive.sum(axis=0) * cumulative[-1]
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
    if n_resamples < 1 or not 0 < confidence_level < 1:
        raise ValueError(
            "expected n_resamples >= 1 and confidence_level between 0 and 1, "
            f"got {n_resamples}, {confidence_level}"
        )
    index, patients = _group_index(groups, len(labels))
    labels = labels.reshape(len(labels), -1)
    orders = [
        [_order(*columns, index) for columns in zip(labels.T, model.T, strict=True)]
        for model in (model.reshape(labels.shape) for model in models)
    ]
    random = np.random.default_rng(seed)
    result = np.empty((len(models), n_resamples, labels.shape[1]))
    block = max(1, BLOCK_CELLS // len(labels))
    for start in range(0, n_resamples, block):
        rows = range(start, min(start + block, n_resamples))
        draws = random.integers(patients, size=(len(rows), patients))
        weights = np.stack([np.bincount(draw, minlength=patients) for draw in draws], axis=1)
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
        interval=np.array([_percentiles(column, confidence_level) for column in resampled.T]),
        usable=usable,
        mean=mean_auc(estimate),
        mean_interval=_percentiles(means, confidence_level),
        mean_usable=int((~np.isnan(means)).sum()),
        n_resamples=len(resampled),
        confidence_level=confidence_level,
    )


def _percentiles(values: np.ndarray, confidence_level: float) -> np.ndarray:
    values = values[~np.isnan(values)]
    if not len(values):
        return np.full(2, np.nan)
    return np.quantile(values, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])


# -- DeLong --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DelongTest:
    """Two models' AUCs on the same images.

    Attributes:
        auc_a, auc_b: of each model.
        difference: AUC of a - b.
        standard_error: of the difference.
        statistic: the difference over its standard error, standard normal where the AUCs are equal.
        pvalue: two-sided.
    """

    auc_a: float
    auc_b: float
    difference: float
    standard_error: float
    statistic: float
    pvalue: float


@dataclass(frozen=True)
class DelongInterval:
    """One model's AUC with the ends of its confidence interval."""

    auc: float
    standard_error: float
    low: float
    high: float


def delong_test(
    labels: ArrayLike, a: ArrayLike, b: ArrayLike, groups: Iterable[Hashable] | None = None
) -> DelongTest:
    """Tests two models' AUCs on the same images for a difference, one observation.

    DeLong, DeLong and Clarke-Pearson (1988), with each image's structural component from sorted
    scores in O(N log N) as by Sun and Xu (2014). With ``groups``, the variance of Obuchowski
    (1997) for clustered data; it is DeLong's when every image has its own patient.

    Models that win the same pairs with every image (identical scores, or one a monotone function
    of the other) have p-value 1. All is NaN without a positive and a negative image; the standard
    error, statistic and p-value are NaN unless two patients (images, without ``groups``) have a
    positive and two a negative one; the last two are NaN for any other difference without variance.

    Args:
        labels: (N,) 0, 1 or NaN.
        a, b: (N,) finite scores, each of any monotone scale.
        groups: (N,) hashable ids of the patients; None: each image is one.

    Raises:
        ValueError: shapes differ, no images, a wrong label, score or id.
    """
    from scipy import stats

    labels, a, b = checked(labels, a, b, dimensions=(1,))
    cluster = _clusters(labels, groups)
    pairs_a, pairs_b = _pairs_won(labels, a), _pairs_won(labels, b)
    auc_a, auc_b = _auc(labels, pairs_a), _auc(labels, pairs_b)
    won = pairs_a - pairs_b
    error = _standard_error(labels, won, cluster)
    z = 0.0 if error == 0 and not won.any() else _divide(_auc(labels, won), error)
    return DelongTest(auc_a, auc_b, _auc(labels, won), error, z, float(2 * stats.norm.sf(abs(z))))


def delong_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    confidence_level: float = 0.95,
) -> DelongInterval:
    """Confidence interval of one observation's AUC from the variance of :func:`delong_test`.

    Normal on the logit scale, which keeps the ends inside (0, 1) and covers better near 1. The ends
    are NaN where the variance is undefined or zero, as it is for an AUC of 0 or 1. Arguments and
    errors as in :func:`delong_test`; ``confidence_level`` lies between 0 and 1.
    """
    from scipy import special, stats

    if not 0 < confidence_level < 1:
        raise ValueError(f"expected confidence_level between 0 and 1, got {confidence_level}")
    labels, scores = checked(labels, scores, dimensions=(1,))
    won = _pairs_won(labels, scores)
    auc = _auc(labels, won)
    error = _standard_error(labels, won, _clusters(labels, groups))
    half = stats.norm.ppf((1 + confidence_level) / 2) * _divide(error, auc * (1 - auc))
    if not half > 0:
        return DelongInterval(auc, error, float("nan"), float("nan"))
    low, high = special.expit(special.logit(auc) + half * np.array([-1, 1]))
    return DelongInterval(auc, error, float(low), float(high))


def _pairs_won(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Correctly ordered pairs that each image takes part in, ties half: (N,), 0 for unknown.

    DeLong's structural components times the size of the other class: multiples of a half, so that
    sums and comparisons of them are exact.
    """
    won = np.zeros(len(labels))
    positive, negative = labels == 1, labels == 0
    won[positive] = sum(_ranks(np.sort(scores[negative]), scores[positive])) / 2
    won[negative] = sum(_ranks(np.sort(-scores[positive]), -scores[negative])) / 2
    return won


def _auc(labels: np.ndarray, won: np.ndarray) -> float:
    return _divide(won[labels == 1].sum(), (labels == 1).sum() * (labels == 0).sum())


def _standard_error(labels: np.ndarray, won: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of the AUC, or difference of two, whose components ``won`` holds.

    Obuchowski (1997): with x and y a cluster's shares in the deviation of the AUC through its
    positive and its negative images, var = f1 Σx² + f0 Σy² + 2f Σxy, where f1, f0 and f are
    I / (I - 1) for the I clusters with a positive image, with a negative one, with either. When
    every image is its own cluster, the last term is 0 and the others are DeLong's variance.
    """
    sizes = {kind: float((labels == kind).sum()) for kind in (1, 0)}
    shares, clusters = [], []
    for kind, other in ((1, 0), (0, 1)):
        of_kind = labels == kind
        # Divided last, so that what has no variance sums to exactly 0.
        deviation = sizes[kind] * won[of_kind] - won[of_kind].sum()
        total = np.bincount(cluster[of_kind], deviation, minlength=len(labels))
        shares.append(total * sizes[other])
        clusters.append(len(np.unique(cluster[of_kind])))
    if min(clusters) < 2:
        return float("nan")
    f1, f0, f = (i / (i - 1) for i in (*clusters, len(np.unique(cluster[~np.isnan(labels)]))))
    x, y = (share / (sizes[0] * sizes[1]) ** 2 for share in shares)
    # The formula above as a sum of squares (f1, f0 >= f), which rounding cannot make negative.
    variance = f * ((x + y) ** 2).sum() + (f1 - f) * (x**2).sum() + (f0 - f) * (y**2).sum()
    return float(np.sqrt(variance))


# -- shared --------------------------------------------------------------------------------------


def checked(
    labels: ArrayLike, *scores: ArrayLike, dimensions: Sequence[int] = (1, 2)
) -> list[np.ndarray]:
    """Labels and scores as float64 arrays of one shape, or ValueError saying what is wrong."""
    labels = np.asarray(labels, np.float64)
    if labels.ndim not in dimensions or not len(labels):
        expected = " or ".join({1: "(N,)", 2: "(N, L)"}[count] for count in dimensions)
        raise ValueError(f"expected labels of shape {expected} with N > 0, got {labels.shape}")
    wrong = labels[~(np.isin(labels, (0.0, 1.0)) | np.isnan(labels))]
    if len(wrong):
        raise ValueError(f"expected labels 0, 1 or NaN, got {wrong[0]}")
    arrays = [np.asarray(array, np.float64) for array in scores]
    for array in arrays:
        if array.shape != labels.shape:
            raise ValueError(
                f"expected scores of the labels' shape {labels.shape}, got {array.shape}"
            )
        wrong = array[~np.isfinite(array)]
        if len(wrong):
            raise ValueError(f"expected finite scores, got {wrong[0]} ({len(wrong)} not finite)")
    return [labels, *arrays]


def _group_index(groups: Iterable[Hashable], images: int) -> tuple[np.ndarray, int]:
    """Groups numbered in the order in which they appear, (N,), and how many there are."""
    ids = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if len(ids) != images:
        raise ValueError(
            f"expected a group (a patient's id) for each of {images} images, got {len(ids)}"
        )
    numbers: dict[Hashable, int] = {}
    for row, name in enumerate(ids):
        # A missing id would make one group of all images that lack one.
        if not isinstance(name, Hashable) or name is None or name != name:
            raise ValueError(f"expected a hashable patient id, got {name!r} for image {row}")
        numbers.setdefault(name, len(numbers))
    return np.array([numbers[name] for name in ids]), len(numbers)


def _clusters(labels: np.ndarray, groups: Iterable[Hashable] | None) -> np.ndarray:
    return np.arange(len(labels)) if groups is None else _group_index(groups, len(labels))[0]


def _repeats(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if np.isinf(values).any():
        raise ValueError(f"expected {name} finite or NaN, got {values[np.isinf(values)][0]}")
    return values


def _divide(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")
