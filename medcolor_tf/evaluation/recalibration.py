"""Probabilities that mean what they say: how far they do, and two ways to mend them.

Labels are 0, 1, or NaN for unknown, and unknown ones are left out.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.catalog import RECALIBRATIONS
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.checks import checked, group_index

METHODS = RECALIBRATIONS
# Images of each class below which a fit would follow the noise. One number is fitted, or two.
LEAST_OF_A_CLASS = {"temperature": 5, "platt": 10}


@dataclass(frozen=True)
class Recalibration:
    """A straight line on the logit: ``probability = sigmoid(slope * logit + intercept)``.

    Its slope is positive, so that no image changes places with another: AUCs stay what they were.

    Attributes:
        method: "temperature" (``slope`` is 1 / temperature, ``intercept`` 0) or "platt".
        slope, intercept: of the line.
    """

    method: str
    slope: float
    intercept: float

    def __call__(self, logits: ArrayLike) -> np.ndarray:
        """Logits (any shape) to probabilities of that shape, float64."""
        from scipy.special import expit

        return expit(self.slope * np.asarray(logits, np.float64) + self.intercept)


def fit_recalibration(
    labels: ArrayLike, logits: ArrayLike, method: str, least: int | None = None
) -> Recalibration:
    """Fits an observation's line by maximum likelihood.

    Args:
        labels: (N,) 0, 1 or NaN.
        logits: (N,) finite.
        method: one of :data:`METHODS`. Platt's labels are his: (n₊+1)/(n₊+2) and 1/(n₋+2), which
            keep the line finite where the classes do not overlap.
        least: images of each class that are needed; None: :data:`LEAST_OF_A_CLASS`.

    Raises:
        InputError: too few images of a class, or a fit that would turn the order of the images.
        ValueError: shapes differ, no images, a wrong label, logit or method.

    Source: Guo et al. 2017 (arXiv:1706.04599); Platt 1999, "Probabilistic outputs for support
    vector machines".
    """
    from scipy import optimize

    if method not in METHODS:
        raise ValueError(f"expected method {' or '.join(METHODS)}, got {method!r}")
    labels, logits = _known(labels, logits)
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    least = LEAST_OF_A_CLASS[method] if least is None else least
    if min(positives, negatives) < least:
        raise InputError(
            f"{positives} positive and {negatives} negative images; {method} needs {least} of each"
        )
    scale = float(np.std(logits)) or 1.0
    x = logits / scale
    if method == "platt":
        target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        design = np.stack([x, np.ones_like(x)], axis=1)
    else:
        target, design = labels, x[:, None]
    start = np.zeros(design.shape[1])
    fit = optimize.minimize(
        _loss, start, (design, target), jac=_gradient, hess=_hessian, method="trust-exact"
    )
    slope = float(fit.x[0]) / scale
    if not np.isfinite(fit.x).all() or slope <= 0:
        raise InputError(
            f"the fitted slope is {slope:.3g}: higher scores are not more often positive here"
        )
    # Of separable classes the likelihood has no maximum without Platt's labels.
    if method == "temperature" and _is_separable(labels, logits):
        raise InputError("no image is on the wrong side of 0.5: the temperature would be 0")
    return Recalibration(method, slope, float(fit.x[1]) if method == "platt" else 0.0)


def _is_separable(labels: np.ndarray, logits: np.ndarray) -> bool:
    return bool(np.all((logits > 0) == (labels == 1)))


def _loss(weights, design, target) -> float:
    logit = design @ weights
    return float(np.mean(np.logaddexp(0, logit) - target * logit))


def _gradient(weights, design, target) -> np.ndarray:
    from scipy.special import expit

    return design.T @ (expit(design @ weights) - target) / len(target)


def _hessian(weights, design, target) -> np.ndarray:
    from scipy.special import expit

    chance = expit(design @ weights)
    return (design.T * (chance * (1 - chance))) @ design / len(target)


@dataclass(frozen=True)
class CalibrationLine:
    """What logistic regression of the labels on the logits finds.

    Attributes:
        slope: 1 where probabilities are as spread as they should be, less where they are too
            extreme; NaN where undefined.
        slope_interval: (2,) its interval.
        intercept: calibration in the large, with the slope held at 1: 0 where as many are positive
            as the probabilities say, negative where fewer are.
        intercept_interval: (2,) its interval.
    """

    slope: float
    slope_interval: np.ndarray
    intercept: float
    intercept_interval: np.ndarray


def calibration_line(
    labels: ArrayLike,
    logits: ArrayLike,
    groups: Iterable[Hashable],
    confidence_level: float = 0.95,
) -> CalibrationLine:
    """Calibration slope and intercept, with intervals that are robust to several images a patient.

    Args:
        labels: (N,) 0, 1 or NaN.
        logits: (N,) finite.
        groups: (N,) hashable ids of the patients.
        confidence_level: between 0 and 1.

    Returns:
        NaN throughout where a class is absent or the logits separate the classes.

    Raises:
        ValueError: shapes differ, no images, a wrong label, logit, id or option.

    Source: Cox 1958; Van Calster et al. 2019, "Calibration: the Achilles heel of predictive
    analytics". Intervals by the sandwich estimator over patients (``statsmodels``).
    """
    if not 0 < confidence_level < 1:
        raise ValueError(f"expected confidence_level between 0 and 1, got {confidence_level}")
    checked_labels, checked_logits = checked(labels, logits, dimensions=(1,))
    index, _ = group_index(groups, len(checked_labels))
    known = ~np.isnan(checked_labels)
    labels, logits, index = checked_labels[known], checked_logits[known], index[known]
    nan = np.full(2, np.nan)
    positive, negative = logits[labels == 1], logits[labels == 0]
    if not len(positive) or not len(negative) or len(np.unique(index)) < 2:
        return CalibrationLine(np.nan, nan, np.nan, nan)
    ones = np.ones((len(labels), 1))
    intercept, intercept_interval = _regression(labels, ones, index, confidence_level, logits)
    if positive.min() > negative.max() or positive.max() < negative.min():
        return CalibrationLine(np.nan, nan, intercept[0], intercept_interval[0])
    design = np.column_stack([ones, logits])
    line, line_interval = _regression(labels, design, index, confidence_level)
    return CalibrationLine(line[1], line_interval[1], intercept[0], intercept_interval[0])


def _regression(labels, design, index, confidence_level: float, offset=None):
    """Logistic regression: coefficients, (K,), and their intervals, (K, 2).

    The sandwich is computed here: statsmodels' own divides by zero where a probability is 0 or 1
    up to rounding, as those of an overconfident model are.
    """
    import statsmodels.api as sm
    from scipy import stats

    fit = sm.GLM(labels, design, family=sm.families.Binomial(), offset=offset).fit()
    chance = fit.fittedvalues
    scores = np.zeros((index.max() + 1, design.shape[1]))
    np.add.at(scores, index, design * (labels - chance)[:, None])
    images, coefficients = design.shape
    clusters = len(np.unique(index))
    bread = np.linalg.inv((design.T * (chance * (1 - chance))) @ design)
    # As for statsmodels, a few clusters are a small sample.
    small = clusters / (clusters - 1) * (images - 1) / (images - coefficients)
    variance = np.diag(bread @ scores.T @ scores @ bread) * small
    half = stats.norm.ppf((1 + confidence_level) / 2) * np.sqrt(variance)
    return fit.params, fit.params[:, None] + half[:, None] * np.array([-1, 1])


def _known(labels: ArrayLike, logits: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, logits = checked(labels, logits, dimensions=(1,))
    known = ~np.isnan(labels)
    return labels[known], logits[known]
