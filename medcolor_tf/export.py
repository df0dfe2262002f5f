"""Exports a run as a SavedModel: ``python -m medcolor_tf.export --run_dir=...``."""

import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.commandline import option

DESCRIPTION = """
Writes a SavedModel that TensorFlow (or TensorFlow Serving) loads without this project. Resizing,
cropping and normalisation are inside. Its signatures:

  serving_default  images, uint8 (batch, height, width, channels), of any size
  uint16           the same in 16 bits
  encoded          JPEG or PNG files as strings (batch,); with several channels (batch, channels)

Each returns probabilities (batch, observations), observations (their names) and colorized
(batch, size, size, 3), which is T's output as the backbone sees it, on the normalised scale.
"""


@dataclass(frozen=True)
class ExportConfig:
    """Options of the command."""

    run_dir: str = option("", "Folder of the run.", required=True)
    out: str = option("", "New folder for the SavedModel; not set: saved_model in the run's.")
    weights: str = option("best", "best by validation mean AUC, or last.", ("best", "last"))


def _export(config: ExportConfig) -> None:
    commandline.import_tensorflow()
    from medcolor_tf.serving.export import export

    print(f"exported to {export(config)}")


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(ExportConfig, _export, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
