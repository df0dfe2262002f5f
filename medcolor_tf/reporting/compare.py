"""Tests between the rows of a table: over repeats, and within each repeat over its patients."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from medcolor_tf.evaluation import statistics
from medcolor_tf.reporting.collect import RowKey, RunRecord
from medcolor_tf.reporting.rows import Rows

Pair = tuple[RowKey, RowKey]


@dataclass(frozen=True)
class Comparison:
    """Row a against row b over their common repeats.

    Attributes:
        a, b: the rows.
        what: the observation, or "mean AUC".
        repeats: number of complete pairs.
        difference: mean of a - b.
        p: of the paired t-test; NaN where undefined.
        adjusted: p after Benjamini-Hochberg within the table.
    """

    a: RowKey
    b: RowKey
    what: str
    repeats: int
    difference: float
    p: float
    adjusted: float


@dataclass(frozen=True)
class SameImages:
    """Two runs of one repeat on the same test images.

    Attributes:
        a, b: the rows.
        what: the observation, or "mean AUC".
        repeat: (seed, subset seed).
        difference: AUC of a - b.
        low, high: of its 95 % interval by bootstrap over patients.
        p: of DeLong's test with patients as clusters; NaN where undefined, and for the mean.
        adjusted: p after Benjamini-Hochberg within the table.
    """

    a: RowKey
    b: RowKey
    what: str
    repeat: tuple[int, int]
    difference: float
    low: float
    high: float
    p: float
    adjusted: float


def over_repeats(
    rows: Rows, pairs: Iterable[Pair], measures: dict[str, Callable[[RunRecord], float]]
) -> list[Comparison]:
    """Paired t-tests of one table; all of them are one family.

    Args:
        rows: repeats of every row.
        pairs: what to compare.
        measures: name -> the value of a run ("mean AUC", or an observation's AUC).
    """
    found = []
    for a, b in pairs:
        couples = _couples(rows, a, b)
        for what, measure in measures.items():
            values = np.array([[measure(one), measure(other)] for one, other in couples])
            test = statistics.paired_t_test(*values.reshape(-1, 2).T)
            found.append((a, b, what, test.pairs, test.difference, test.pvalue))
    adjusted = statistics.benjamini_hochberg([row[-1] for row in found])
    return [Comparison(*row, float(p)) for row, p in zip(found, adjusted, strict=True)]


def on_same_images(
    rows: Rows, pairs: Iterable[Pair], samples: int
) -> tuple[list[SameImages], list[str]]:
    """Compares the runs of each repeat with each other; all DeLong tests are one family.

    Args:
        rows: repeats of every row.
        pairs: what to compare.
        samples: bootstrap resamples.

    Returns:
        (comparisons, reasons why a couple of runs could not be compared).
    """
    found, problems = [], []
    for a, b in pairs:
        for one, other in _couples(rows, a, b):
            labels = one.predictions.labels
            if not _same_images(one, other):
                problems.append(
                    f"{one.folder.name} and {other.folder.name} were evaluated on other images "
                    "or labels: not compared image by image"
                )
                continue
            patient = one.predictions.patient
            scores = one.predictions.probabilities, other.predictions.probabilities
            boot = statistics.bootstrap_difference(labels, *scores, patient, samples)
            for column, name in enumerate(one.group.observations):
                test = statistics.delong_test(
                    labels[:, column], *(score[:, column] for score in scores), patient
                )
                ends = boot.interval[column]
                found.append((a, b, name, one.repeat, test.difference, *ends, test.pvalue))
            if len(one.group.observations) > 1:
                ends = boot.mean_interval
                found.append((a, b, "mean AUC", one.repeat, boot.mean, *ends, float("nan")))
    adjusted = statistics.benjamini_hochberg([row[-1] for row in found])
    return [SameImages(*row, float(p)) for row, p in zip(found, adjusted, strict=True)], problems


def _couples(rows: Rows, a: RowKey, b: RowKey) -> list[tuple[RunRecord, RunRecord]]:
    """The runs of the repeats that both rows have.

    At all of the images a subset seed says nothing; a run without one pairs by its seed.
    """
    of_b = {run.repeat: run for run in rows[b]}
    return [(run, of_b[run.repeat]) for run in rows[a] if run.repeat in of_b]


def _same_images(one: RunRecord, other: RunRecord) -> bool:
    a, b = one.predictions, other.predictions
    return np.array_equal(a.image_id, b.image_id) and np.array_equal(
        a.labels, b.labels, equal_nan=True
    )
