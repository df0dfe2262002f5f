"""Exports a run as a SavedModel: ``python -m medcolor_tf.export --run_dir=...``."""

import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.runs.folder import check_is_run

DESCRIPTION = """
Writes a SavedModel that TensorFlow (or TensorFlow Serving) loads without this project. Decoding,
EXIF orientation, resizing, --range and normalisation are inside, with the arithmetic of
medcolor_tf.predict: the probabilities are the same to 1e-5, which is checked on made-up images
before the folder gets its name. Its signatures, and what each returns:

  serving_default  images, uint8 (batch, height, width, channels), of any size: probabilities
  uint16           the same in 16 bits
  encoded          JPEG or PNG files as strings (batch,), with several channels (batch, channels):
                   probabilities, observations
  prepared         images (batch, size, size, channels) as they are in a data set: probabilities,
                   observations
  colorized        images of any size, uint8 or what --bits was: probabilities, colorized

probabilities are (batch, observations), observations their names, (batch, observations) strings;
colorized is T's output as the backbone sees it, (batch, size, size, 3), on the normalised scale.
assets.extra/model.json describes the model. What a signature cannot take (TIFF, DICOM, CMYK JPEG,
a damaged file, more than 89 million pixels) is an error that says what was expected.
"""


@dataclass(frozen=True)
class ExportConfig:
    """Options of the command."""

    run_dir: str = option("", "Folder of the run.", required=True)
    out: str = option("", "New folder for the SavedModel; not set: saved_model in the run's.")
    weights: str = option("best", "best by validation mean AUC, or last.", ("best", "last"))


def _export(config: ExportConfig) -> None:
    check_is_run(config.run_dir)  # before the imports, which take their time
    commandline.import_tensorflow()
    from medcolor_tf.serving.export import export

    print(f"exported to {export(config)}")


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(ExportConfig, _export, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
