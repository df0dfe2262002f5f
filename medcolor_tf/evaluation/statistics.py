"""The statistics of a report: repeats, patients, and one model against another (section IV-C).

The paper gives mean ± standard deviation of three repeats, paired t-tests between strategies and
Benjamini-Hochberg. Three repeats leave a t-test 2 degrees of freedom, so there are also intervals
and tests of single runs: a bootstrap over patients (:mod:`medcolor_tf.evaluation.bootstrap`), and
DeLong's test with its clustered form.

Everywhere a label is 0, 1, or NaN for unknown, and unknown ones are left out; what is undefined is
NaN (None for a curve), never 0 and never a warning.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.evaluation.checks import checked, group_index
from medcolor_tf.evaluation.metrics import ranks

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
    won[positive] = sum(ranks(np.sort(scores[negative]), scores[positive])) / 2
    won[negative] = sum(ranks(np.sort(-scores[positive]), -scores[negative])) / 2
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


def _clusters(labels: np.ndarray, groups: Iterable[Hashable] | None) -> np.ndarray:
    return np.arange(len(labels)) if groups is None else group_index(groups, len(labels))[0]


def _repeats(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if np.isinf(values).any():
        raise ValueError(f"expected {name} finite or NaN, got {values[np.isinf(values)][0]}")
    return values


def _divide(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")
