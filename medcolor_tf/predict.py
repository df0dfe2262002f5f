"""Predicts image files: ``python -m medcolor_tf.predict --run_dir=... --inputs=... --out=...``."""

import sys
from dataclasses import dataclass

from medcolor_tf import catalog, commandline
from medcolor_tf.catalog import HEAT_MAPS
from medcolor_tf.commandline import option
from medcolor_tf.progress import counted
from medcolor_tf.runs.folder import check_is_run
from medcolor_tf.runs.options import InferenceOptions

DESCRIPTION = """
Writes the probability of every observation for image files, folders of them, or a CSV table of
paths, and on request the colorized images beside the gray ones as PNG. Files are read as data
preparation reads them (PNG, JPEG, TIFF, DICOM with the extra `dicom`, ...). An image that cannot
be read has its reason in the column `error`; the exit status is then 1. What data preparation
warns of (a constant picture, a negative, ...) stands in the column `warnings`.

Where the run has a decision (decision.json, made by evaluate --operating_point or calibrate), two
columns per observation stand after the probabilities: calibrated NAME, its calibrated probability,
and decision NAME: positive or negative, empty without a threshold.

With --study_column=COLUMN of the tables, or parent_folder for the folder that a file lies in (as in
CheXpert and MURA), OUT-studies.csv has a row per study: its images, those that could not be read,
and the mean or largest probability of the others. Thresholds of single images are not those of
studies; `evaluate --unit=study` gives these.

Rows are on the disk as they come, in OUT.partial. After an interruption the same command goes on
there and makes the same file; rows of other weights, options or images are refused. So are folders
of pictures or DICOM files that hold a file of the same name from another command. A path that is
not UTF-8 is written as "bytes:" and its percent-encoded bytes, and read so from a table.

With --explain=FOLDER each image gets a PNG with the gray image, the colorized one, and a panel per
observation with a heat map over the gray image: the places that raised the observation's logit. The
hottest place of a panel has the colour of the observation's probability, so panels and pictures
can be compared and an unlikely finding stays cool. What speaks against a finding is not shown.
Captions have the probability and, where the run's decision calibrates, the calibrated one beside.
--heat_map=multiscale has 20 x 20 cells where grad_cam has 5 x 5 (160-pixel images, most backbones).

With --dicom_out=FOLDER each DICOM input gets two DICOM files (the extra [dicom]): NAME.sc.dcm, a
Secondary Capture with the pictures of --explain, and NAME.sr.dcm, a Structured Report (TID 1500)
with the probabilities. They have the patient, the study and the references of the source: name,
number and date of birth as they are there. Both say that they are not for diagnosis; neither says
that a finding is present. The column dicom has the first file's path, or is empty and the column
warnings says why (other kinds of files; no identifiers in the header).
"""


@dataclass(frozen=True)
class PredictConfig(InferenceOptions):
    """Options of the command."""

    run_dir: str = option("", "Folder of the run.", required=True)
    inputs: tuple[str, ...] = option((), "Files, folders or CSV tables.", required=True)
    out: str = option("", "New CSV file.", required=True)
    path_column: tuple[str, ...] = option(
        ("path",),
        "Column of a table with the paths; several for a model of several channels.",
        group="Images and weights",
    )
    study_column: str = option(
        "",
        "Column of a table with the study, or parent_folder: also write OUT-studies.csv.",
        group="Studies",
    )
    aggregate: str = option(
        "mean",
        "How the probabilities of a study's images become one.",
        ("mean", "max"),
        group="Studies",
    )
    colorized_dir: str = option(
        "", "Folder for PNGs: gray left, colorized right.", group="Pictures"
    )
    explain: str = option(
        "", "Folder for pictures with heat maps (PNG), one per image.", group="Pictures"
    )
    heat_map: str = option(
        next(iter(HEAT_MAPS)),
        "multiscale: where three depths of the backbone agree, with small cells; or grad_cam: the "
        "last depth alone.",
        tuple(HEAT_MAPS),
        group="Pictures",
    )
    explain_observations: tuple[str, ...] = option(
        (), "Observations to explain, in this order; all of the run when not set.", group="Pictures"
    )
    dicom_out: str = option(
        "",
        "Folder for DICOM files: heat maps and a report of each DICOM input.",
        group="Pictures",
    )
    decision: str = option(
        "", "Use another decision than the run's: a file, or none.", group="Decisions"
    )


def _predict(config: PredictConfig) -> int:
    if config.dicom_out:
        catalog.require_packages("--dicom_out", ("pydicom", "highdicom"), "dicom")
    check_is_run(config.run_dir)  # before the imports, which take their time
    commandline.import_tensorflow()
    from medcolor_tf.serving.predict import predict

    count, failed = predict(config)
    out = config.out.encode("utf-8", "backslashreplace").decode("utf-8")
    print(f"{count - failed:,} of {counted(count, 'image')} predicted: {out}")
    if failed:
        unread = counted(failed, "image")
        print(f"error: {unread} could not be read; see column error", file=sys.stderr)
    return 1 if failed else 0


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(PredictConfig, _predict, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
