"""Exports a run for servers and devices: ``python -m medcolor_tf.export --run_dir=...``."""

import sys
from dataclasses import dataclass

from medcolor_tf import catalog, commandline
from medcolor_tf.commandline import option
from medcolor_tf.runs.folder import check_is_run

DESCRIPTION = """
Writes the model of a run in a form that needs this project no more, into a new folder, with
contract.json: what goes in and comes out, what comes before the model, of which weights it is. The
probabilities are compared with those of medcolor_tf.predict before the folder gets its name, on
made-up images and on films (--check_inputs, else validation images of the run's data set where it
is at hand): at most 1e-5 apart for --format=savedmodel, 1e-4 for the others, or nothing is written.

--format=savedmodel is for TensorFlow and TensorFlow Serving. Decoding, EXIF orientation, resizing,
--range and normalisation are inside. Its signatures, and what each returns:

  serving_default  images, uint8 (batch, height, width, channels), of any size: probabilities
  uint16           the same in 16 bits
  encoded          JPEG or PNG files as strings (batch,), with several channels (batch, channels):
                   probabilities, observations
  prepared         images (batch, size, size, channels) as they are in a data set: probabilities,
                   observations
  colorized        images of any size, uint8 or what --bits was: probabilities, colorized

probabilities are (batch, observations), observations their names, (batch, observations) strings;
colorized is T's output as the backbone sees it, (batch, size, size, 3), on the normalised scale.
assets.extra/ holds contract.json, and model.json, which describes the model. What a signature
cannot take (TIFF, DICOM, CMYK JPEG, a damaged file, more than 89 million pixels) is an error that
says what was expected.

--format=onnx writes model.onnx (the extra [onnx]), --format=litert model.tflite (the extra
[litert]): from images (batch, size, size, channels), uint8 or uint16 as contract.json says, to
probabilities, logits and colorized. Normalisation is inside, reading and resizing are not.
docs/serving.md has a client for each.

Where the run has a decision (decision.json), every signature and format also gives calibrated,
calibrated probabilities, and decisions (1 positive, 0 negative, -1 without a threshold), and
contract.json and model.json hold the thresholds.
"""


@dataclass(frozen=True)
class ExportConfig:
    """Options of the command."""

    run_dir: str = option("", "Folder of the run.", required=True)
    format: str = option(
        catalog.SAVED_MODEL_FORMAT,
        catalog.choices_help(catalog.EXPORT_FORMATS),
        tuple(catalog.EXPORT_FORMATS),
    )
    out: str = option(
        "", "New folder; not set: saved_model, onnx or litert in the run's, by --format."
    )
    weights: str = option("best", "best by validation mean AUC, or last.", ("best", "last"))
    decision: str = option(
        "", "Use another decision than the run's: a file, or none.", group="Decisions"
    )
    check_inputs: tuple[str, ...] = option(
        (),
        "Films to compare predict and the exported model on: files, folders or CSV tables; not "
        "set: validation images of the run's data set.",
    )
    path_column: tuple[str, ...] = option(
        ("path",),
        "Column of such a table with the paths; several for a model of several channels.",
    )


def _export(config: ExportConfig) -> None:
    catalog.check_packages(config.format)
    check_is_run(config.run_dir)  # before the imports, which take their time
    commandline.import_tensorflow()
    from medcolor_tf.serving.export import export

    print(f"exported to {export(config)}")


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(ExportConfig, _export, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
