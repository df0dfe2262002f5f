"""Tables of runs that were evaluated by group (evaluate --by) or per study (evaluate --unit)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.decisions import spell_number
from medcolor_tf.evaluation.groups import GAP, MEASURES, SIGNIFICANT, TITLES
from medcolor_tf.evaluation.units import PLURAL
from medcolor_tf.files import file_sha256
from medcolor_tf.reporting.collect import EvaluationSet
from medcolor_tf.reporting.contents import Cell, Note, Table
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import load_decision

UNDEFINED = "-"
TEST_HEADS = (
    *("Group", "Observation", "Measure", "Difference (points)", "95 % interval", "p"),
    "adjusted p",
)
BY_GROUP = (
    "Groups of {unit}, each beside all others. In percent, with 95 % intervals ({resamples:,} "
    "resamples of patients); {thresholds}. Calibration gap: mean probability minus share of "
    "positives, in points. Bold: differs from all others, adjusted p < {significant}. Too few: "
    "fewer than {least} patients with a positive or a negative image. Groups differ in much else "
    "(who was filmed, how, and how ill): a difference is no cause."
)
TESTS = (
    "Every comparison of the table above: the group minus all others, in points. p of Student's t, "
    "from the deviation over resamples of patients; fewer than {least} patients are not tested. "
    "Family of the adjustment (Benjamini-Hochberg): the {count} tests of this run."
)
PER_UNIT = (
    "Images of a {unit} together: the {aggregate} of their probabilities; positive where an image "
    "is. In percent but for kappa (Cohen's, MURA's score), with 95 % intervals over patients; "
    "{thresholds}."
)


def by_group(group: EvaluationSet) -> Iterator[Table | Note]:
    """Every group of every run that was evaluated by group, and the tests behind it."""
    for number, (name, content) in enumerate(_contents(group, runs.Run.subgroups), start=1):
        if isinstance(content, str):
            yield Note("warning", content)
            continue
        rows = content["groups"]
        measures = [title[0].upper() + title[1:] for title in TITLES.values()]
        yield Table(
            f"groups-{group.number}-{number}",
            f"By group, run {name}",
            ("Group", "Observation", PLURAL[content["unit"]].capitalize(), "Positive", *measures),
            tuple(_group_row(row) for row in rows),
            BY_GROUP.format(
                unit=PLURAL[content["unit"]],
                resamples=content["n_resamples"],
                thresholds=content["threshold_from"],
                significant=SIGNIFICANT,
                least=content["least"],
            ),
            row_headers=2,
            groups=tuple(row["by"] for row in rows),
            summary=f"For whom is it better or worse? Run {name}, by {', '.join(content['by'])}",
            stacked=True,
        )
        tests = tuple(_test_rows(rows))
        if tests:
            yield Table(
                f"group-tests-{group.number}-{number}",
                f"Tests by group, run {name}",
                TEST_HEADS,
                tests,
                TESTS.format(least=content["least_tested"], count=len(tests)),
                row_headers=3,
                summary=f"Tests by group, run {name}",
                stacked=True,
            )


def per_unit(group: EvaluationSet) -> Iterator[Table | Note]:
    """AUC, kappa and operating point per study or patient, of every run that has them."""
    for number, (name, content) in enumerate(_contents(group, runs.Run.units), start=1):
        if isinstance(content, str):
            yield Note("warning", content)
            continue
        rows = []
        for observation, row in content["observations"].items():
            values = (row["auc"], row.get("sensitivity"), row.get("specificity"))
            kappas = (row.get("kappa"), row["kappa_at_half"])
            rows.append(
                (
                    *(observation, f"{row['positive']:,}", f"{row['negative']:,}"),
                    *map(_share, values),
                    *(_spell(kappa, scale=1) for kappa in kappas),
                )
            )
        unit = PLURAL[content["unit"]]
        yield Table(
            f"per-unit-{group.number}-{number}",
            f"Per {content['unit']}, run {name}: {content['units']:,} {unit}",
            (
                *("Observation", "Positive", "Negative", "AUC", "Sensitivity", "Specificity"),
                *("Kappa", "Kappa at 0.5"),
            ),
            tuple(rows),
            PER_UNIT.format(
                unit=content["unit"],
                aggregate=content["aggregate"],
                thresholds=content["threshold_from"],
            ),
            stacked=True,
        )


def usable(
    path_of: Callable[[runs.Run, str], Path], group: EvaluationSet
) -> Iterator[Mapping[str, Any]]:
    """What the tables show: the files of runs, without those that are left out."""
    for _, content in _contents(group, path_of):
        if not isinstance(content, str):
            yield content


def tests_of(content: Mapping[str, Any]) -> tuple[int, int]:
    """How many tests a run's groups have, and how many of them are significant."""
    found = [m for row in content["groups"] for m in row["measures"].values()]
    adjusted = [m["adjusted"] for m in found if m["pvalue"] is not None]
    return len(adjusted), sum(p < SIGNIFICANT for p in adjusted)


def _contents(
    group: EvaluationSet, path_of: Callable[[runs.Run, str], Path]
) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """(name of the run, content of its file or why that is not shown) of the runs that have one."""
    for run in group.runs.to_dict("records"):
        folder = runs.Run(run["folder"])
        path = path_of(folder, group.split)
        if not path.is_file() and not folder.lists(path.name):
            continue
        predictions = folder.predictions(group.split)
        try:
            content = folder.read_json(path)
        except InputError as error:
            yield run["folder"].name, f"{run['folder'].name}: left out ({error})."
            continue
        other = ""
        if content["predictions_sha256"] != file_sha256(predictions):
            other = f"other predictions than {predictions.name}"
        elif _is_of_another_decision(content, run):
            other = f"another decision than the run's {runs.DECISION}"
        advice = f"{path.name} is of {other}; evaluate the run by group or unit again."
        yield run["folder"].name, f"{run['folder'].name}: {advice}" if other else content


def _is_of_another_decision(content: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether thresholds (and calibrated probabilities) are of another decision, or of none."""
    try:
        decision = load_decision(run["folder"], run["evaluation"].get("weights", "best"))
    except InputError:
        return False  # the section on decisions says what is wrong with it
    if "decision_digest" in content:
        return content["decision_digest"] != (decision and decision.digest)
    # Files of earlier versions say it in words alone.
    origin = content["threshold_from"]
    if decision is None:
        return "the decision" in origin
    same = (f"({decision.describe()})", f"by {decision.rule} (the decision's rule)")
    return not any(words in origin for words in same)


def _group_row(row: Mapping) -> tuple[Cell | str, ...]:
    start = (row["group"], row["observation"], f"{row['images']:,}", f"{row['positive']:,}")
    if row["few"]:
        few = Cell(row["few"], spans=True)
        return (*start, few, *[UNDEFINED] * (len(MEASURES) - 1))
    return (*start, *(_measured(row["measures"].get(name), name) for name in MEASURES))


def _measured(found: Mapping | None, name: str) -> Cell:
    adjusted = found["adjusted"] if found else None
    strong = adjusted is not None and adjusted < SIGNIFICANT
    return _share(found, "+" if name == GAP else "", strong)


def _test_rows(rows: list[Mapping]) -> Iterator[tuple[Cell | str, ...]]:
    for row in rows:
        for name in MEASURES:
            found = row["measures"].get(name)
            if found is None or found["pvalue"] is None:
                continue
            low, high = (_number(end, "+") for end in found["difference_interval"])
            yield (
                *(f"{row['by']}: {row['group']}", row["observation"], TITLES[name]),
                _number(found["difference"], "+"),
                f"{low} to {high}",
                _pvalue(found["pvalue"]),
                Cell(_pvalue(found["adjusted"]), strong=found["adjusted"] < SIGNIFICANT),
            )


def _share(found: Mapping | None, sign: str = "", strong: bool = False) -> Cell:
    """In percent on the page, as a fraction of 1 in the CSV file."""
    return Cell(_spell(found, sign), strong=strong, csv=_spell(found, sign, 1))


def _spell(found: Mapping | None, sign: str = "", scale: int = 100) -> str:
    if found is None or found["value"] is None:
        return UNDEFINED
    low, high = (_number(end, sign, scale) for end in found["interval"])
    return f"{_number(found['value'], sign, scale)} ({low} to {high})"


def _number(value: float | None, sign: str = "", scale: int = 100) -> str:
    if value is None:
        return UNDEFINED
    return spell_number(scale * value, 1 if scale == 100 else 3, sign)


def _pvalue(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
