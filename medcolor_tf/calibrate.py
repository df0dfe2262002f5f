"""Adapts a run to a new place: ``python -m medcolor_tf.calibrate --run_dir=... --data_dir=...``."""

import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.catalog import RECALIBRATIONS
from medcolor_tf.commandline import option
from medcolor_tf.data.schema import DatasetInfo, check_is_dataset
from medcolor_tf.runs.folder import check_is_run
from medcolor_tf.runs.options import LabelledImagesOptions

DESCRIPTION = """
Fits a calibration and a threshold per observation to the labelled films of a new place, 50 to 200
of them, and keeps both as decision.json in the run; predict, export and the report use it. The
weights stay as they are, and so do the AUCs.

Prints a table of the model before and after, with 95 % intervals by resampling patients. "After" is
measured by cross-validation over patients: each film is calibrated and called by what was fitted
without its patient. "Before" are the probabilities as they came, and the thresholds of the run's
decision if it has one that was not chosen on these films; thresholds are chosen by its rule, unless
--operating_point says otherwise. An observation with too few positive or
negative films is refused with the reason, and gets no threshold. docs/operating_points.md says what
these numbers mean, and what not.
"""


@dataclass(frozen=True)
class CalibrateConfig(LabelledImagesOptions):
    """Options of the command."""

    run_dir: str = option("", "Folder of the run.", required=True)
    data_dir: str = option("", "Data set of the new place, made by data_prep.build.", required=True)
    split: str = option(
        "all",
        "Which films; all: of the splits that are there. Of the data set on which the run was "
        "trained, valid alone.",
        ("all", "train", "valid", "test"),
        group="Images and weights",
    )
    method: str = option(
        RECALIBRATIONS[0],
        "platt: slope and intercept of the logit, 10 films of each class at least; temperature: "
        "the slope alone, 5 of each.",
        RECALIBRATIONS,
        group="Decisions",
    )
    operating_point: str = option(
        "",
        "How thresholds are chosen: youden, sensitivity=0.9 or specificity=0.9 (any share); not "
        "set: as those of the run's decision, youden for a run without one.",
        group="Decisions",
    )
    replace_decision: bool = option(
        False,
        "Write over another decision of the run; it is kept inside the new one.",
        group="Decisions",
    )
    out: str = option("", "Folder for decision.json; not set: the run's.", group="Output")


def _calibrate(config: CalibrateConfig) -> None:
    from medcolor_tf.evaluation.operating_points import YOUDEN, Rule
    from medcolor_tf.runs.decision import check_not_another, existing_decision

    if config.operating_point:
        Rule.parse(config.operating_point)
    check_is_run(config.run_dir)  # before the imports, which take their time
    check_is_dataset(config.data_dir)
    own = existing_decision(config.run_dir)
    rule = Rule.parse(config.operating_point or (own.rule if own else YOUDEN))
    if not config.replace_decision:
        check_not_another(
            config.out or config.run_dir,
            config.run_dir,
            made_by="calibrate",
            rule=str(rule),
            weights=config.weights,
            fingerprint=DatasetInfo.load(config.data_dir).fingerprint,
            split=config.split,
        )
    commandline.import_tensorflow()
    from medcolor_tf.serving.calibrate_run import calibrate_run

    print(calibrate_run(config, rule))


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(CalibrateConfig, _calibrate, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
