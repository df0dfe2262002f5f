"""Evaluates a run: ``python -m medcolor_tf.evaluate --run_dir=... --data_dir=...``."""

import dataclasses
import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.data.schema import DatasetInfo, check_is_dataset
from medcolor_tf.private_paths import PRIVATE_HELP
from medcolor_tf.runs.folder import check_is_run
from medcolor_tf.runs.options import LabelledImagesOptions

DESCRIPTION = """
Prints the exact area under the ROC curve of every observation and their mean, with the counts of
positive, negative and unknown labels, and writes them as evaluation-SPLIT.json beside
predictions-SPLIT.csv (keyed ids, labels, probabilities). An observation without both classes has
no AUC; it is named and left out of the mean.

With --operating_point a threshold per observation is chosen on the data set's validation images,
never on those of --split, and kept as decision.json in the run; predict, export and the report use
it. Printed and written as operating-points-SPLIT.json: sensitivity, specificity, PPV, NPV, Brier
score, expected calibration error (ECE, ten bins), calibration slope and intercept, each with a 95 %
interval by resampling patients. Without the flag, the decision of the run is measured if it has
one. docs/operating_points.md says what these numbers mean, and what not.

--by=sex,view compares each group that the data set was built with (data_prep.build
--group_columns) with all other images: AUC, sensitivity and specificity at the threshold and the
calibration gap, with intervals over patients and p-values adjusted over all tests, as
subgroups-SPLIT.json and .csv. --unit=study or patient puts a unit's images together and gives AUC,
Cohen's kappa and operating point at that level, as units-SPLIT.json and .csv. Thresholds are those
of the decision; of units, or without a decision, they are chosen on validation (by the decision's
rule, else Youden's), which is said.
"""


@dataclass(frozen=True)
class EvaluateConfig(LabelledImagesOptions):
    """Options of the command."""

    run_dir: str = option("", "Folder of the run.", required=True)
    data_dir: str = option("", "Data set made by data_prep.build.", required=True)
    split: str = option(
        "test", "Which images.", ("train", "valid", "test"), group="Images and weights"
    )
    operating_point: str = option(
        "",
        "Choose thresholds on validation: youden, sensitivity=0.9 or specificity=0.9 (any share).",
        group="Decisions",
    )
    prevalence: tuple[str, ...] = option(
        (),
        "PPV and NPV also where this share of patients has the finding: 0.1, or Edema=0.1,... .",
        group="Decisions",
    )
    decision: str = option(
        "",
        "Measure another decision than the run's: a file, or none.",
        group="Decisions",
    )
    replace_decision: bool = option(
        False,
        "Write over another decision of the run; it is kept inside the new one.",
        group="Decisions",
    )
    by: tuple[str, ...] = option(
        (),
        "Groups to compare, as sex,age; sex*view for those of both together.",
        group="Groups, studies, patients",
    )
    unit: str = option(
        "image",
        "What is evaluated.",
        ("image", "study", "patient"),
        group="Groups, studies, patients",
    )
    aggregate: str = option(
        "mean",
        "How the probabilities of a unit's images become one.",
        ("mean", "max"),
        group="Groups, studies, patients",
    )
    out: str = option("", "Folder for the two files; not set: the run's.", group="Output")
    private_paths: bool = option(False, PRIVATE_HELP, group="Output")


def _evaluate(config: EvaluateConfig) -> None:
    from medcolor_tf.evaluation.decisions import DecisionOptions
    from medcolor_tf.evaluation.units import BreakdownOptions

    values = vars(config).copy()
    decisions, breakdown = (
        {field.name: values.pop(field.name) for field in dataclasses.fields(kind)}
        for kind in (DecisionOptions, BreakdownOptions)
    )
    options, breakdown = DecisionOptions(**decisions), BreakdownOptions(**breakdown)
    options.check()
    breakdown.check()
    check_is_run(config.run_dir)  # before the imports, which take their time
    check_is_dataset(config.data_dir)
    _check_decision(config, options)
    commandline.import_tensorflow()
    from medcolor_tf.evaluation.evaluate import table
    from medcolor_tf.serving.evaluate_run import evaluate_and_decide

    result, more = evaluate_and_decide(**values, decisions=options, breakdown=breakdown)
    print(table(result))
    if more:
        print(more)
    print(f"written to {config.out or config.run_dir}, files that end in -{config.split}")


def _check_decision(config: EvaluateConfig, options) -> None:
    """Refuses another decision that is there before the model is loaded."""
    from medcolor_tf.runs.decision import check_not_another

    if options.rule is None or options.replace_decision:
        return
    check_not_another(
        config.out or config.run_dir,
        config.run_dir,
        made_by="evaluate",
        rule=str(options.rule),
        weights=config.weights,
        fingerprint=DatasetInfo.load(config.data_dir).fingerprint,
        split="valid",
    )


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(EvaluateConfig, _evaluate, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
