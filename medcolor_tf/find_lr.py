"""Draws the learning-rate range test: ``python -m medcolor_tf.find_lr --flagfile=stage1.flags``."""

import sys

from medcolor_tf import commandline
from medcolor_tf.data.schema import check_is_dataset
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.folder import LR_FINDER_PLOT

DESCRIPTION = """
Trains some 100 steps of the run that the options describe, with an ever larger learning rate, and
writes lr_find.png, lr_find.csv and lr_find.json (with a suggested --max_lr) into --run_dir.
The options are those of medcolor_tf.train; with --lr_multipliers the rates are the common one, to
which each part's factor applies. Nothing is kept of the training itself.
"""


def _find_lr(config: TrainConfig) -> None:
    config.check()  # before the imports, which take their time
    check_is_dataset(config.data_dir)
    commandline.import_tensorflow()
    from medcolor_tf.training.trainer import range_test

    curve = range_test(config)
    parts = f" ({curve.parts})" if curve.parts else ""
    print(
        f"{len(curve.rates)} steps from {curve.rates[0]:.1g} to {curve.rates[-1]:.1g}; "
        f"suggested --max_lr={curve.suggestion:.3g}{parts}; "
        f"curve: {config.run_dir}/{LR_FINDER_PLOT}"
    )
    if curve.warning:
        print(curve.warning)


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(TrainConfig, _find_lr, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
