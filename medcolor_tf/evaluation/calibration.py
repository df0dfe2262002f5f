"""How far probabilities are from what is observed: Brier score and calibration error, resampled.

Labels are 0, 1, or NaN for unknown, and unknown ones are left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.evaluation.bootstrap import percentiles
from medcolor_tf.evaluation.checks import checked

BINS = 10


@dataclass(frozen=True)
class CalibrationErrors:
    """Two measures of an observation's probabilities, with intervals by resampling patients.

    Attributes:
        brier: mean squared difference of probability and label; NaN without known labels.
        brier_interval: (2,) its interval.
        expected_error: mean over images of |observed - predicted| of the image's bin.
        expected_error_interval: (2,) its interval. The error of a resample is on average larger
            than that of the data, since the noise of drawing again adds up in every bin. So the
            percentiles are moved by what lies between their median and the error, not below 0, and
            the interval includes the error.
    """

    brier: float
    brier_interval: np.ndarray
    expected_error: float
    expected_error_interval: np.ndarray


def patient_errors(
    labels: ArrayLike,
    probabilities: ArrayLike,
    index: np.ndarray,
    patients: int,
    bins: int = BINS,
) -> np.ndarray:
    """Sums up, per patient, what :func:`calibration_errors` needs.

    Args:
        labels: (N,) 0, 1 or NaN.
        probabilities: (N,) in [0, 1].
        index: (N,) int, number of the image's patient.
        patients: P.
        bins: of equal width, as in :func:`medcolor_tf.evaluation.curves.calibration`.

    Returns:
        (P, 2 + bins): images, squared errors, and label minus probability in each bin.
    """
    labels, chances = checked(labels, probabilities, dimensions=(1,))
    known = ~np.isnan(labels)
    labels, chances, index = labels[known], chances[known], index[known]
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], chances, side="right")
    result = np.empty((patients, 2 + bins))
    result[:, 0] = np.bincount(index, minlength=patients)
    result[:, 1] = np.bincount(index, (labels - chances) ** 2, patients)
    in_bins = np.bincount(index * bins + place, labels - chances, patients * bins)
    result[:, 2:] = in_bins.reshape(patients, bins)
    return result


def calibration_errors(
    sums: np.ndarray, resampled: np.ndarray, confidence_level: float
) -> CalibrationErrors:
    """Puts the two measures together.

    Args:
        sums: (2 + bins,) :func:`patient_errors` of all patients.
        resampled: (R, 2 + bins) the same of each resample.
        confidence_level: of the intervals.
    """
    brier, expected = _measures(sums)
    briers, errors = _measures(resampled)
    return CalibrationErrors(
        float(brier),
        percentiles(briers, confidence_level),
        float(expected),
        _moved_percentiles(errors, float(expected), confidence_level),
    )


def _moved_percentiles(values: np.ndarray, estimate: float, confidence_level: float) -> np.ndarray:
    """Percentiles of resamples that lie too high, moved to have the estimate as their median."""
    ends = percentiles(values, confidence_level)
    if np.isnan(ends).any():
        return ends
    return np.clip(ends + (estimate - np.nanmedian(values)), 0, None)


def _measures(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    return sums[..., 1] / images, np.abs(sums[..., 2:]).sum(axis=-1) / images
