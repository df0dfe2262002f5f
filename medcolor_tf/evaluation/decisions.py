"""Thresholds of all observations, and what they and the probabilities are worth on a split.

Knows no run: arrays in, JSON and text out. ``None`` stands for what is undefined.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcolor_tf.data.labels import count_labels
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.bootstrap import bootstrap_auc, percentiles, resample_sums
from medcolor_tf.evaluation.calibration import calibration_errors, patient_errors
from medcolor_tf.evaluation.checks import group_index
from medcolor_tf.evaluation.operating_points import (
    MEASURES,
    Rule,
    choose_threshold,
    measures,
    npv_at,
    operating_point,
    patient_counts,
    ppv_at,
)
from medcolor_tf.evaluation.recalibration import calibration_line

N_RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95
CALIBRATION_MEASURES = (
    *("brier", "expected_calibration_error", "calibration_slope", "calibration_intercept"),
)
AT_PREVALENCE = ("ppv_at_prevalence", "npv_at_prevalence")


@dataclass(frozen=True)
class DecisionOptions:
    """Options of ``evaluate`` about decisions.

    Attributes:
        operating_point: how to choose thresholds on validation; "" uses the decision that is there.
        prevalence: of --prevalence, see
            :func:`medcolor_tf.evaluation.operating_points.parse_prevalence`.
        decision: another decision than the run's: a file, or "none".
        replace_decision: whether another decision may be written over.
    """

    operating_point: str = ""
    prevalence: Sequence[str] = ()
    decision: str = ""
    replace_decision: bool = False

    @property
    def rule(self) -> Rule | None:
        """How thresholds are chosen; None where they are not."""
        return Rule.parse(self.operating_point) if self.operating_point else None

    def check(self) -> None:
        """Checks the flags against each other.

        Raises:
            InputError: no such rule, or flags that contradict each other.
        """
        if self.replace_decision and self.rule is None:
            raise InputError("--replace_decision without --operating_point: nothing is chosen")
        if self.decision and self.rule is not None:
            raise InputError(
                f"--decision={self.decision} and --operating_point={self.operating_point}: "
                "expected one of them"
            )


def choose_thresholds(
    observations: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    rule: Rule,
    counted: str = "images",
) -> dict[str, dict]:
    """Chooses a threshold per observation.

    Args:
        observations: L names.
        labels: (N, L) 0, 1 or NaN.
        probabilities: (N, L) in [0, 1]: those that are compared with the threshold later.
        rule: how.
        counted: what the rows are, for the reason.

    Returns:
        Observation -> "threshold" (None without a positive and a negative image, with the
        "reason"), and "positive", "negative", "unknown" counts.
    """
    counts = count_labels(labels, observations)
    chosen = {}
    for column, name in enumerate(observations):
        threshold = choose_threshold(labels[:, column], probabilities[:, column], rule)
        count = counts[name]
        reason = (
            ""
            if threshold is not None
            else (
                f"{count['positive']} positive and {count['negative']} negative {counted}; a "
                "threshold needs one of each"
            )
        )
        chosen[name] = {"threshold": threshold, "reason": reason, **count}
    return chosen


def warn_of_chance(
    observations: Sequence[str], labels: np.ndarray, logits: np.ndarray, patients: Iterable
) -> dict[str, str]:
    """Returns what thresholds mean nothing: of scores that may be no better than chance.

    Args:
        observations: L names.
        labels: (N, L) 0, 1 or NaN.
        logits: (N, L) finite.
        patients: (N,) ids, drawn with all their images.

    Returns:
        Observation -> its AUC with the interval, and what that says: of those whose AUC is at most
        0.5 or whose interval includes 0.5. One without both classes has no AUC and is left out.
    """
    found = bootstrap_auc(labels, logits, patients, N_RESAMPLES, CONFIDENCE_LEVEL)
    said = {
        name: say_chance(estimate(auc, interval))
        for name, auc, interval in zip(observations, found.estimate, found.interval, strict=True)
    }
    return {name: text for name, text in said.items() if text}


def say_chance(auc: Mapping) -> str:
    """Says what an AUC's {"value", "interval"} means for a threshold; "" where it is above chance.

    An undefined AUC, of one class alone, says nothing.
    """
    low = auc["interval"][0]
    if auc["value"] is None or (low is not None and low > 0.5):
        return ""
    spelled = f"AUC {spell_estimate(auc)}"
    if auc["value"] <= 0.5:
        return f"{spelled}: no better than chance; its threshold means nothing"
    return f"{spelled}: not shown to be better than chance; its threshold may mean nothing"


def assess(
    observations: Sequence[str],
    labels: np.ndarray,
    logits: np.ndarray,
    probabilities: np.ndarray,
    thresholds: Sequence[float | None],
    patients: Iterable,
    prevalence: Mapping[str, float] | None = None,
    called: np.ndarray | None = None,
    n_resamples: int = N_RESAMPLES,
    confidence_level: float = CONFIDENCE_LEVEL,
    seed: int = 0,
) -> dict[str, dict]:
    """Measures thresholds and probabilities on labelled images, with intervals over patients.

    Args:
        observations: L names.
        labels: (N, L) 0, 1 or NaN.
        logits: (N, L) finite, whose sigmoid the probabilities are.
        probabilities: (N, L) in [0, 1].
        thresholds: L, None where there is none.
        patients: (N,) ids, drawn with all their images.
        prevalence: observation -> share of patients with the finding, for PPV and NPV there.
        called: (N, L) bool, what was called positive, where that is not by one threshold.
        n_resamples, confidence_level, seed: see
            :func:`medcolor_tf.evaluation.bootstrap.bootstrap_auc`.

    Returns:
        Observation -> "threshold", "positive", "negative", "unknown", "counts" (a mapping of four,
        None without threshold), and, each as {"value", "interval": [low, high]}: sensitivity,
        specificity, ppv, npv, those of :data:`AT_PREVALENCE` (with "prevalence" beside), brier,
        expected_calibration_error, calibration_slope and calibration_intercept.
    """
    index, count = group_index(patients, len(labels))
    tables = []
    for column, bound in enumerate(thresholds):
        truth, chances = labels[:, column], probabilities[:, column]
        if bound is not None and called is not None:
            tables.append(patient_counts(truth, called[:, column].astype(float), 0.5, index, count))
        elif bound is not None:
            tables.append(patient_counts(truth, chances, bound, index, count))
        tables.append(patient_errors(truth, chances, index, count))
    sums = iter(_sums(tables, n_resamples, confidence_level, seed))
    label_counts = count_labels(labels, observations)
    result = {}
    for column, name in enumerate(observations):
        bound = thresholds[column]
        entry = {"threshold": bound, **label_counts[name], "counts": None}
        if bound is not None:
            share = (prevalence or {}).get(name)
            entry |= _decisions(bound, *next(sums), share, confidence_level)
        errors = calibration_errors(*next(sums), confidence_level)
        line = calibration_line(labels[:, column], logits[:, column], index, confidence_level)
        entry |= {
            "brier": estimate(errors.brier, errors.brier_interval),
            "expected_calibration_error": estimate(
                errors.expected_error, errors.expected_error_interval
            ),
            "calibration_slope": estimate(line.slope, line.slope_interval),
            "calibration_intercept": estimate(line.intercept, line.intercept_interval),
        }
        result[name] = entry
    return result


def _sums(tables: Sequence[np.ndarray], n_resamples: int, confidence_level: float, seed: int):
    """Yields each table's sums over all patients, (C,), and over each resample, (R, C).

    The resamples are drawn once, for all tables: one matrix product is much the faster.
    """
    resampled = resample_sums(np.concatenate(tables, axis=1), n_resamples, confidence_level, seed)
    start = 0
    for table in tables:
        stop = start + table.shape[1]
        yield table.sum(axis=0), resampled[:, start:stop]
        start = stop


def _decisions(
    threshold: float,
    counts: np.ndarray,
    resampled: np.ndarray,
    prevalence: float | None,
    confidence_level: float,
) -> dict:
    point = operating_point(threshold, counts, resampled, confidence_level)
    names = ("true_positive", "false_negative", "false_positive", "true_negative")
    entry: dict = {"counts": dict(zip(names, map(int, counts), strict=True))}
    for name in MEASURES:
        entry[name] = estimate(getattr(point, name), point.intervals[name])
    if prevalence is not None:
        entry["prevalence"] = prevalence
        drawn = measures(resampled)
        for name, function in zip(AT_PREVALENCE, (ppv_at, npv_at), strict=True):
            values = function(drawn["sensitivity"], drawn["specificity"], prevalence)
            value = float(function(point.sensitivity, point.specificity, prevalence))
            entry[name] = estimate(value, percentiles(values, confidence_level))
    return entry


def estimate(value: float, interval: np.ndarray) -> dict:
    """Returns {"value", "interval": [low, high]} for JSON, None for NaN."""
    ends = [None if np.isnan(end) else float(end) for end in interval]
    return {"value": None if np.isnan(value) else float(value), "interval": ends}


# -- text ----------------------------------------------------------------------------------------

_HEADS = {
    **{"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"},
    **{"ppv_at_prevalence": "PPV", "npv_at_prevalence": "NPV"},
    **{"brier": "Brier score", "expected_calibration_error": "ECE"},
    **{"calibration_slope": "slope", "calibration_intercept": "intercept"},
}


def decisions_table(result: Mapping[str, Mapping]) -> str:
    """Returns sensitivity, specificity, PPV and NPV of :func:`assess` as text for the terminal."""
    lines = _lines(result, MEASURES, threshold=True)
    at = {name: row for name, row in result.items() if "prevalence" in row}
    if at:
        shares = {f"{row['prevalence']:g}" for row in at.values()}
        where = f"a prevalence of {shares.pop()}" if len(shares) == 1 else "the prevalence"
        lines += [f"predictive values at {where}:", *_lines(at, AT_PREVALENCE, share=True)]
    return "\n".join(lines)


def calibration_table(result: Mapping[str, Mapping]) -> str:
    """Returns Brier score, calibration error, slope and intercept of :func:`assess` as text."""
    return "\n".join(_lines(result, CALIBRATION_MEASURES))


def _lines(
    result: Mapping[str, Mapping],
    names: Sequence[str],
    threshold: bool = False,
    share: bool = False,
) -> list[str]:
    first = [*(["threshold"] if threshold else []), *(["prevalence"] if share else [])]
    rows = [["observation", *first, *(_HEADS[name] for name in names)]]
    for observation, row in result.items():
        spell = {"threshold": spell_threshold, "prevalence": "{:g}".format}
        numbers = [spell[name](row[name]) for name in first]
        rows.append([observation, *numbers, *(spell_estimate(row.get(name)) for name in names)])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a line per row, its cells under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def spell_threshold(threshold: float | None) -> str:
    """Returns ``0.4213``, ``1 - 2.1e-06`` where four digits would say 1, ``-`` for none."""
    if threshold is None:
        return "-"
    if 0.9995 <= threshold < 1:
        return f"1 - {1 - threshold:.2g}"
    return f"{threshold:.4g}"


def spell_estimate(estimate: Mapping | None) -> str:
    """Returns ``0.912 [0.85, 0.95]`` of an estimate, ``-`` where it is undefined."""
    if estimate is None or estimate["value"] is None:
        return "-"
    low, high = estimate["interval"]
    value = spell_number(estimate["value"])
    if low is None or high is None:
        return value
    return f"{value} [{spell_number(low)}, {spell_number(high)}]"


def spell_number(value: float, digits: int = 3, sign: str = "") -> str:
    """Returns ``0.912``; ``0.000``, without a sign, for what is rounded to 0.

    Args:
        value: a number.
        digits: behind the point.
        sign: "+" to write it before positive numbers too.
    """
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def spell_line(slope: float, intercept: float) -> str:
    """Returns ``0.5 * logit - 1.25``: a calibration, as a function of the logit."""
    return f"{slope:.4g} * logit {'-' if intercept < 0 else '+'} {abs(intercept):.4g}"
