"""Runs a study: ``python -m medcolor_tf.experiment --flagfile=table1.flags --data_dir=...``."""

import sys

from medcolor_tf import commandline
from medcolor_tf.studies.grid import StudyConfig

DESCRIPTION = """
Runs a grid of training runs (colorizers x strategies x backbones x seeds x shares of the training
images, then transfers to other data sets), each evaluated at its end. A run waits for the one it
starts from; finished ones are skipped, interrupted ones continue, a failed one stops no others.
--dry_run prints their commands, for any scheduler; --shard=2/8 takes a part of its own. Then:

  python -m medcolor_tf.report STUDY_DIR --out=report

Ready studies: table1.flags, table2.flags, table3.flags, figure6.flags, phantom.flags.
"""


def _experiment(config: StudyConfig) -> int:
    from medcolor_tf.studies.runner import run_study

    return run_study(config)


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(StudyConfig, _experiment, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
