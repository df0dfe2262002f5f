"""The section of a report on decisions: thresholds of runs, and what they give on these images."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.decisions import spell_number, spell_threshold
from medcolor_tf.files import file_sha256
from medcolor_tf.reporting.collect import EvaluationSet
from medcolor_tf.reporting.contents import Cell, Note, Table
from medcolor_tf.reporting.settings import full_label
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import (
    NO_CALIBRATION,
    Decision,
    ObservationDecision,
    load_decision,
)

UNDEFINED = "-"
SHARES = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
}
ERRORS = {"brier": "Brier score", "expected_calibration_error": "ECE"}
LINE = {"calibration_slope": "Slope", "calibration_intercept": "Intercept"}
CAPTION = (
    "{probability} In percent, with 95 % intervals by resampling patients; the CSV file holds "
    "fractions of 1. PPV and NPV are those of these images' prevalence, not of a clinic's."
)
UNCALIBRATED = "Thresholds are of the probability that the model gives, which was not calibrated."
CALIBRATED = "Thresholds are of the calibrated probability."
CALIBRATED_HERE = "Thresholds are of the probability, which was calibrated where it is said."
CALIBRATION = (
    "Of the probabilities that the threshold is compared with. Brier score and ECE (ten bins) in "
    "percent, smaller is better; slope 1 and intercept 0 are right, a slope below 1 is of "
    "probabilities that are too extreme. 95 % intervals over patients."
)


def decisions(group: EvaluationSet) -> Iterator[Table | Note]:
    """Sensitivity, specificity, predictive values and calibration of the runs with a decision."""
    chosen, calibrated, methods, rules = [], [], [], []
    for setting, of_setting in group.largest.items():
        for run in of_setting.to_dict("records"):
            found = _operating_points(run, group.split)
            if found is None:
                continue
            if isinstance(found, str):
                yield Note("warning", f"{run['folder'].name}: {found}")
                continue
            decision, content = found
            if content["same_images"]:
                yield Note("warning", f"{run['folder'].name}: {_apparent(group.split)}")
            label = f"{full_label(setting, group.largest)}, {run['folder'].name}"
            link = Cell(label, group.anchor(setting))
            for name, row in content["observations"].items():
                entry = decision.observations[name]
                methods.append(entry.method)
                rules.append(_rule(decision, entry))
                chosen.append((link, name, *_decided(row)))
                calibrated.append((link, name, *_calibration(row)))
    if not chosen:
        return
    heads = ("Run", "Observation", "Threshold", *SHARES.values())
    title = "Operating points"
    yield Table(
        f"thresholds-{group.number}",
        title,
        heads,
        tuple(chosen),
        CAPTION.format(probability=_probability(methods)),
        row_headers=2,
        groups=tuple(rules),
        stacked=True,
    )
    yield Table(
        f"decision-calibration-{group.number}",
        "Calibration of the decisions' probabilities",
        ("Run", "Observation", *ERRORS.values(), *LINE.values()),
        tuple(calibrated),
        CALIBRATION,
        row_headers=2,
        stacked=True,
    )


def _apparent(split: str) -> str:
    return (
        f"its thresholds were chosen on images of {split} themselves, so its rows in the table of "
        "operating points are better than those of new patients will be."
    )


def _operating_points(run: Mapping[str, Any], split: str) -> tuple[Decision, dict] | str | None:
    """What a run's decision gives on the split, or why that cannot be used; None without one."""
    folder = runs.Run(run["folder"])
    path = folder.operating_points(split)
    try:
        decision = load_decision(run["folder"], run["evaluation"].get("weights", "best"))
        if decision is None:
            return None
        advice = f"evaluate it again, on {split}"
        if not path.is_file() and not folder.lists(path.name):
            return f"its decision was not measured on {split}; {advice}."
        content = folder.read_json(path)
        digest = file_sha256(folder.checked(runs.DECISION))
    except InputError as error:
        return f"its decision is left out ({error})."
    same_images = content["data_fingerprint"] == run["data_fingerprint"]
    if content["decision_sha256"] != digest or not same_images:
        return f"{path.name} is of another decision or data set than the run's; {advice}."
    return decision, content


def _rule(decision: Decision, entry: ObservationDecision) -> str:
    """By what rule, on which images and of which probability a threshold was chosen."""
    calibrated = "" if entry.method == NO_CALIBRATION else f", calibrated by {entry.method}"
    return f"Chosen by {decision.rule}, on {decision.images}{calibrated}"


def _probability(methods: Collection[str]) -> str:
    """What thresholds are compared with, of the calibrations of all rows."""
    if NO_CALIBRATION not in methods:
        return CALIBRATED
    return UNCALIBRATED if set(methods) == {NO_CALIBRATION} else CALIBRATED_HERE


def _decided(row: Mapping[str, Any]) -> list[Cell | str]:
    if row["threshold"] is None:
        return [UNDEFINED] * (1 + len(SHARES))
    shares = (_share(row[name]) for name in SHARES)
    return [_threshold(row["threshold"]), *shares]


def _threshold(value: float) -> Cell:
    """In percent; one that four digits would call 100 as what is missing to it."""
    text = spell_threshold(value)
    near = text.startswith("1 - ")
    percent = f"100 - {100 * (1 - value):.2g}" if near else f"{100 * value:.4g}"
    return Cell(f"{percent} %", csv=text)


def _calibration(row: Mapping[str, Any]) -> list[Cell | str]:
    return [*(_share(row[name]) for name in ERRORS), *(_number(row[name]) for name in LINE)]


def _share(estimate: Mapping[str, Any]) -> Cell:
    return Cell(_spell(estimate, 100, 1), csv=_spell(estimate, 1, 3))


def _number(estimate: Mapping[str, Any]) -> str:
    return _spell(estimate, 1, 2)


def _spell(estimate: Mapping[str, Any], scale: float, digits: int) -> str:
    """Returns ``91.2 (85.0 to 95.0)``, without the interval where it is undefined."""
    if estimate["value"] is None:
        return UNDEFINED
    value = spell_number(scale * estimate["value"], digits)
    if None in estimate["interval"]:
        return value
    low, high = (spell_number(scale * end, digits) for end in estimate["interval"])
    return f"{value} ({low} to {high})"
