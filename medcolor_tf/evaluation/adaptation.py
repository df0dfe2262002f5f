"""Calibration and thresholds from the films of a new place, and what they are worth there.

What is fitted on a film says nothing about that film. So "after" is measured by cross-validation
over patients: each patient's films are calibrated and called by what was fitted without them.
Labels are 0, 1, or NaN for unknown, and unknown ones are left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.bootstrap import percentiles, resample_sums
from medcolor_tf.evaluation.calibration import patient_errors
from medcolor_tf.evaluation.checks import group_index
from medcolor_tf.evaluation.decisions import (
    CALIBRATION_MEASURES,
    CONFIDENCE_LEVEL,
    N_RESAMPLES,
    aligned,
    assess,
    estimate,
    spell_estimate,
    spell_threshold,
)
from medcolor_tf.evaluation.metrics import roc_auc
from medcolor_tf.evaluation.operating_points import Rule, choose_threshold
from medcolor_tf.evaluation.recalibration import (
    LEAST_OF_A_CLASS,
    Recalibration,
    fit_recalibration,
)

FOLDS = 10
SHOWN = ("sensitivity", "specificity", *CALIBRATION_MEASURES)


@dataclass(frozen=True)
class Adaptation:
    """What the films of a place give for one observation.

    Attributes:
        recalibration: fitted on all films.
        threshold: of the calibrated probability, chosen on all films.
        logits: (N,) calibrated logits, each by what was fitted without the film's patient.
        called: (N,) bool, whether the film is positive by a threshold chosen without its patient.
    """

    recalibration: Recalibration
    threshold: float
    logits: np.ndarray
    called: np.ndarray


def adapt(
    labels: np.ndarray, logits: np.ndarray, patients: Iterable, method: str, rule: Rule
) -> Adaptation:
    """Fits one observation's calibration and threshold, and cross-validates both.

    Args:
        labels: (N,) 0, 1 or NaN.
        logits: (N,) finite, of the model.
        patients: (N,) ids; a patient's films are in one fold.
        method: one of :data:`medcolor_tf.evaluation.recalibration.METHODS`.
        rule: how the threshold is chosen.

    Raises:
        InputError: too few positive or negative films or patients, or a fit that fails, on all
            films or without those of a fold.
    """
    index, count = group_index(patients, len(labels))
    _check_patients(labels, index, method)
    _check_order(labels, logits)
    recalibration, threshold = _fit(labels, logits, method, rule)
    fold = assign_folds(labels, index, count)
    held_out, called = np.empty(len(labels)), np.empty(len(labels), bool)
    for number in range(fold.max() + 1):
        rows = fold != number
        try:
            line, bound = _fit(labels[rows], logits[rows], method, rule, least=1)
        except InputError as error:
            raise InputError(
                f"not stable: without the films of one of {fold.max() + 1} parts of the patients, "
                f"{error}"
            ) from None
        held_out[~rows] = line.slope * logits[~rows] + line.intercept
        called[~rows] = line(logits[~rows]) >= bound
    return Adaptation(recalibration, threshold, held_out, called)


def _check_patients(labels: np.ndarray, index: np.ndarray, method: str) -> None:
    positive, negative = (len(np.unique(index[labels == kind])) for kind in (1, 0))
    least = LEAST_OF_A_CLASS[method]
    if min(positive, negative) < least:
        raise InputError(
            f"positive films of {positive} and negative films of {negative} patients; {method} "
            f"needs {least} of each"
        )


def _check_order(labels: np.ndarray, logits: np.ndarray) -> None:
    """A temperature alone can be fitted to scores in the wrong order too."""
    auc = float(roc_auc(labels, logits)[0])
    if not auc > 0.5:
        raise InputError(f"the AUC here is {auc:.2f}: higher scores are not more often positive")


def _fit(
    labels: np.ndarray, logits: np.ndarray, method: str, rule: Rule, least: int | None = None
) -> tuple[Recalibration, float]:
    recalibration = fit_recalibration(labels, logits, method, least)
    threshold = choose_threshold(labels, recalibration(logits), rule)
    assert threshold is not None  # both classes are there, or the fit had failed
    return recalibration, threshold


def assign_folds(labels: np.ndarray, index: np.ndarray, patients: int) -> np.ndarray:
    """Deals patients to FOLDS parts, those with a positive film evenly; the same every time.

    Args:
        labels: (N,) 0, 1 or NaN.
        index: (N,) int, number of the film's patient.
        patients: P.

    Returns:
        (N,) int, number of the part, from 0.
    """
    order = np.random.default_rng(0).permutation(patients)
    has_positive = np.bincount(index, labels == 1, patients) > 0
    has_label = np.bincount(index, ~np.isnan(labels), patients) > 0
    rank = np.where(has_positive, 0, np.where(has_label, 1, 2))
    order = order[np.argsort(rank[order], kind="stable")]
    fold = np.empty(patients, int)
    fold[order] = np.arange(patients) % min(FOLDS, patients)
    return fold[index]


def compare(
    observations: Sequence[str],
    labels: np.ndarray,
    before: Mapping[str, np.ndarray],
    thresholds: Sequence[float | None],
    adapted: Mapping[str, Adaptation],
    patients: Iterable,
    n_resamples: int = N_RESAMPLES,
) -> dict:
    """Measures the model as it came and as it was adapted, on the same films.

    Args:
        observations: L names.
        labels: (N, L) 0, 1 or NaN.
        before: "logits" and "probabilities", each (N, L), as they came.
        thresholds: L as they came, None for none.
        adapted: observation -> :func:`adapt`, of those that could be.
        patients: (N,) ids.
        n_resamples: of the intervals.

    Returns:
        "before" and "after", both as :func:`medcolor_tf.evaluation.decisions.assess`; "after" is
        cross-validated and has the observations of ``adapted`` alone; "brier_change", after minus
        before, as {"value", "interval"}; "folds", "n_resamples", "confidence_level".
    """
    from scipy.special import expit

    patients = list(patients)
    index, count = group_index(patients, len(labels))
    columns = [list(observations).index(name) for name in adapted]
    logits = np.stack([one.logits for one in adapted.values()], axis=1)
    called = np.stack([one.called for one in adapted.values()], axis=1)
    after = assess(
        list(adapted),
        labels[:, columns],
        logits,
        expit(logits),
        [one.threshold for one in adapted.values()],
        patients,
        called=called,
        n_resamples=n_resamples,
    )
    change = {
        name: _brier_change(
            labels[:, column],
            before["probabilities"][:, column],
            chances,
            index,
            count,
            n_resamples,
        )
        for name, column, chances in zip(adapted, columns, expit(logits).T, strict=True)
    }
    return {
        "before": assess(
            observations,
            labels,
            before["logits"],
            before["probabilities"],
            thresholds,
            patients,
            n_resamples=n_resamples,
        ),
        "after": after,
        "brier_change": change,
        "folds": min(FOLDS, count),
        "n_resamples": n_resamples,
        "confidence_level": CONFIDENCE_LEVEL,
    }


def _brier_change(labels, before, after, index, patients: int, n_resamples: int) -> dict:
    """After minus before on the same resamples, so that what both share cancels."""
    tables = [
        patient_errors(labels, chances, index, patients)[:, :2] for chances in (before, after)
    ]
    change = np.stack([tables[0][:, 0], tables[1][:, 1] - tables[0][:, 1]], axis=1)
    drawn = resample_sums(change, n_resamples, CONFIDENCE_LEVEL, 0)
    images = np.where(drawn[:, 0] > 0, drawn[:, 0], np.nan)
    value = float(change[:, 1].sum() / change[:, 0].sum())
    return estimate(value, percentiles(drawn[:, 1] / images, CONFIDENCE_LEVEL))


def comparison_table(comparison: Mapping) -> str:
    """Returns :func:`compare` as text for the terminal: two lines per observation."""
    heads = ("sensitivity", "specificity", "Brier score", "ECE", "slope", "intercept")
    rows = [["observation", "", "threshold", *heads, "Brier change"]]
    for name, row in comparison["before"].items():
        rows.append([name, "before", *_cells(row), ""])
        if after := comparison["after"].get(name):
            change = spell_estimate(comparison["brier_change"][name])
            rows.append(["", "after", *_cells(after), change])
        else:
            rows.append(["", "after", *(["-"] * (2 + len(heads)))])
    return "\n".join(aligned(rows))


def _cells(row: Mapping) -> list[str]:
    return [spell_threshold(row["threshold"]), *(spell_estimate(row.get(name)) for name in SHOWN)]
