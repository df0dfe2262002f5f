"""Studies and patients: predictions of images put together, and what they are worth together.

Labels are 0, 1, or NaN for unknown, and unknown ones are left out. A study or patient is positive
where any of its images is, unknown where none is positive and one is unknown, else negative.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.bootstrap import bootstrap_auc, percentiles, resample_sums
from medcolor_tf.evaluation.checks import checked, group_index
from medcolor_tf.evaluation.decisions import estimate, say_chance, spell_estimate
from medcolor_tf.evaluation.operating_points import MEASURES, measures, patient_counts

IMAGE, STUDY, PATIENT = "image", "study", "patient"
UNITS = (IMAGE, STUDY, PATIENT)
AGGREGATES = ("mean", "max")
PLURAL = {IMAGE: "images", STUDY: "studies", PATIENT: "patients"}
# MURA's own: a study is called abnormal where the mean probability of its images is above it.
HALF = 0.5


@dataclass(frozen=True)
class BreakdownOptions:
    """Options of ``evaluate`` about groups and units.

    Attributes:
        by: groups, or intersections of several such as "sex*view".
        unit: "image", "study" or "patient".
        aggregate: "mean" or "max" of the probabilities of a unit's images.
    """

    by: Sequence[str] = ()
    unit: str = IMAGE
    aggregate: str = AGGREGATES[0]

    def check(self) -> None:
        """Raises InputError for flags that contradict each other."""
        if self.unit == IMAGE and self.aggregate != BreakdownOptions.aggregate:
            raise InputError(
                f"--aggregate={self.aggregate} without --unit=study or --unit=patient: there is "
                "nothing to put together"
            )
        for entry in self.by:
            if list(self.by).count(entry) > 1:
                raise InputError(f"--by: {entry!r} is given {list(self.by).count(entry)} times")


@dataclass(frozen=True)
class UnitPredictions:
    """Predictions of U studies or patients and L observations.

    Attributes:
        unit: (U,) str, ids, in the order in which they first appear.
        patient: (U,) str, ids.
        images: (U,) int, how many images each has.
        labels: (U, L) 0, 1 or NaN.
        probabilities: (U, L), the mean or the largest of the images'.
        disagreeing: (L,) int, units with a positive and a negative image.
        first: (U,) int, row of each unit's first image.
        index: (N,) int, the unit of each image.
    """

    unit: np.ndarray
    patient: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    disagreeing: np.ndarray
    first: np.ndarray
    index: np.ndarray

    def values(self, of_images: np.ndarray, several: str = "several") -> np.ndarray:
        """Returns each unit's value of a grouping; ``several`` where its images differ.

        Args:
            of_images: (N,) str.
            several: the value of units with more than one.
        """
        own = of_images[self.first]
        differ = np.bincount(self.index, of_images != own[self.index], len(self.first)) > 0
        return np.where(differ, several, own)


def aggregate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    units: np.ndarray,
    patients: np.ndarray,
    how: str,
) -> UnitPredictions:
    """Puts the images of each unit together.

    Args:
        labels: (N, L) 0, 1 or NaN.
        probabilities: (N, L) in [0, 1].
        units: (N,) ids of the studies or patients.
        patients: (N,) ids of the patients.
        how: "mean" or "max" of the probabilities. Of raw probabilities: calibration and thresholds
            of single images are not those of several together.

    Raises:
        ValueError: shapes differ, no images, a wrong label or probability, a unit of two patients,
            or another ``how``.
    """
    labels, probabilities = checked(labels, probabilities, dimensions=(2,))
    if how not in AGGREGATES:
        raise ValueError(f"expected {' or '.join(AGGREGATES)}, got {how!r}")
    index, count = group_index(units, len(labels))
    patients = np.asarray(patients)
    first = np.full(count, -1)
    first[index[::-1]] = np.arange(len(index))[::-1]
    strange = np.flatnonzero(patients != patients[first][index])
    if len(strange):
        raise ValueError(f"unit {str(units[strange[0]])!r} has images of two patients")
    images = np.bincount(index, minlength=count)
    positive, unknown, negative = (
        np.stack([np.bincount(index, column, count) > 0 for column in cells.T], axis=1)
        for cells in (labels == 1, np.isnan(labels), labels == 0)
    )
    together = np.where(positive, 1.0, np.where(unknown, np.nan, 0.0))
    if how == "max":
        scores = np.zeros((count, labels.shape[1]))
        np.maximum.at(scores, index, probabilities)
    else:
        sums = [np.bincount(index, column, count) for column in probabilities.T]
        scores = np.stack(sums, axis=1) / images[:, None]
    return UnitPredictions(
        unit=np.asarray(units)[first],
        patient=patients[first],
        images=images,
        labels=together,
        probabilities=np.clip(scores, 0, 1),
        disagreeing=(positive & negative).sum(axis=0),
        first=first,
        index=index,
    )


def cohen_kappa(counts: ArrayLike) -> np.ndarray:
    """Cohen's kappa of labels and decisions: agreement beyond chance, MURA's official score.

    Args:
        counts: (..., 4) true positives, false negatives, false positives, true negatives.

    Returns:
        (...) float64; NaN where labels and decisions are all of one class.

    Source: Cohen 1960; computed as by ``sklearn.metrics.cohen_kappa_score``.
    """
    found, missed, alarms, cleared = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    total = found + missed + alarms + cleared
    positive, called = found + missed, found + alarms
    chance = positive * called + (total - positive) * (total - called)
    whole = total * total
    room = np.where(whole > chance, whole - chance, np.nan)
    return (total * (found + cleared) - chance) / room


def assess(
    observations: Sequence[str],
    predictions: UnitPredictions,
    thresholds: Sequence[float | None],
    n_resamples: int = 2000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict]:
    """AUC, kappa and operating point of every observation, with intervals over patients.

    Args:
        observations: L names.
        predictions: of studies or patients.
        thresholds: L; a unit with at least this probability is called positive; None: none.
        n_resamples, confidence_level, seed: of the bootstrap over patients.

    Returns:
        Observation -> "positive", "negative", "unknown", "disagreeing": counts of units; "auc",
        "kappa", "kappa_at_half" (at a probability of 0.5), "sensitivity", "specificity", "ppv",
        "npv": {"value", "interval"}, None where undefined; "threshold".
    """
    labels, chances = predictions.labels, predictions.probabilities
    options = n_resamples, confidence_level, seed
    auc = bootstrap_auc(labels, chances, predictions.patient, *options)
    index, patients = group_index(predictions.patient, len(labels))
    found = {}
    for column, (name, threshold) in enumerate(zip(observations, thresholds, strict=True)):
        label, chance = labels[:, column], chances[:, column]
        half = patient_counts(label, chance, HALF, index, patients)
        entry = {
            "positive": int((label == 1).sum()),
            "negative": int((label == 0).sum()),
            "unknown": int(np.isnan(label).sum()),
            "disagreeing": int(predictions.disagreeing[column]),
            "threshold": threshold,
            "auc": estimate(auc.estimate[column], auc.interval[column]),
            "kappa_at_half": _kappa(half, options)[0],
        }
        if threshold is not None:
            counts = patient_counts(label, chance, threshold, index, patients)
            entry["kappa"], resampled = _kappa(counts, options)
            values, drawn = measures(counts.sum(axis=0)), measures(resampled)
            for measure in MEASURES:
                interval = percentiles(drawn[measure], confidence_level)
                entry[measure] = estimate(float(values[measure]), interval)
        found[name] = entry
    return found


def _kappa(counts: np.ndarray, options: tuple[int, float, int]) -> tuple[dict, np.ndarray]:
    """The estimate, and the resampled counts."""
    resampled = resample_sums(counts, *options)
    interval = percentiles(cohen_kappa(resampled), options[1])
    return estimate(float(cohen_kappa(counts.sum(axis=0))), interval), resampled


def table(content: Mapping) -> str:
    """Returns the content of ``units-SPLIT.json`` as text for the terminal."""
    names = list(content["observations"])
    heads = ("AUC", "kappa", "sensitivity", "specificity", "kappa at 0.5")
    keys = ("auc", "kappa", "sensitivity", "specificity", "kappa_at_half")
    lines: list[tuple[str, ...]] = [("observation", "positive", "negative", "threshold", *heads)]
    for name in names:
        row = content["observations"][name]
        threshold = "-" if row["threshold"] is None else f"{row['threshold']:.4f}"
        counts = f"{row['positive']:,}", f"{row['negative']:,}"
        lines.append((name, *counts, threshold, *(spell_estimate(row.get(key)) for key in keys)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    unit = content["unit"]
    patients = "" if unit == PATIENT else f" of {content['patients']:,} patients"
    start = (
        f"{content['split']}: {content['units']:,} {PLURAL[unit]}{patients}, the "
        f"{content['aggregate']} of their images' probabilities; {content['threshold_from']}"
    )
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    disagreeing = {n: row["disagreeing"] for n, row in content["observations"].items()}
    notes = [
        f"warning: {count:,} {PLURAL[unit]} have positive and negative images of {name}; they "
        "count as positive"
        for name, count in disagreeing.items()
        if count and unit == STUDY
    ]
    chance = {n: say_chance(row["auc"]) for n, row in content["observations"].items()}
    notes += [f"warning: {name}: {text}" for name, text in chance.items() if text]
    return "\n".join([start, *rows, *notes])


def to_csv(observations: Sequence[str], predictions: UnitPredictions) -> str:
    """Returns a row per study or patient: keyed ids, images, label and probability of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"{kind} {name}" for name in observations for kind in ("label", "probability")]
    writer.writerow(["unit", "patient", "images", *heads])
    for row, (unit, patient) in enumerate(zip(predictions.unit, predictions.patient, strict=True)):
        cells = []
        for label, chance in zip(
            predictions.labels[row], predictions.probabilities[row], strict=True
        ):
            cells += ["" if np.isnan(label) else int(label), f"{chance:.7g}"]
        writer.writerow([unit, patient, int(predictions.images[row]), *cells])
    return text.getvalue()
