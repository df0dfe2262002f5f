"""Trains one strategy: ``python -m medcolor_tf.train --flagfile=stage1.flags --data_dir=...``."""

import dataclasses
import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.data.schema import check_is_dataset
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training.inspection import Inspection

DESCRIPTION = """
Trains a classifier C(E(T(x))) by one of the strategies:

  baseline      C on a frozen backbone E; the gray channel is copied three times
  color_module  T and C, E frozen (stage 1)
  baseline_all  E and C, no colorizer
  all           T, E and C, T from --init_from's run (stage 2)
  last_layer    C alone, T and E from --init_from

The run folder holds config, log, checkpoints and TensorBoard events. The same command on it goes
on where it stopped; --dry_run says what it would do. Example:

  python -m medcolor_tf.train --flagfile=stage1.flags --data_dir=tfrecords/phantom --run_dir=runs/1
"""


@dataclass(frozen=True)
class TrainCommand(TrainConfig):
    """The options of a run, and what is done with them."""

    dry_run: bool = option(
        False,
        "Say what would be done (data, shapes, parameters, memory, the run folder), and stop.",
        group="Run",
    )

    log_graph: bool = option(
        False, "Show the model's graph in TensorBoard (backend TensorFlow).", group="Run"
    )
    profile_steps: str = option(
        "",
        "FIRST:LAST steps of which TensorBoard shows a profile (with the package "
        "tensorboard-plugin-profile; backend TensorFlow).",
        group="Run",
    )

    @property
    def run(self) -> TrainConfig:
        """The options that are recorded."""
        fields = dataclasses.fields(TrainConfig)
        return TrainConfig(**{field.name: getattr(self, field.name) for field in fields})


def _train(command: TrainCommand) -> None:
    config = command.run
    config.check()  # before the imports, which take their time
    inspection = Inspection.parse(command.log_graph, command.profile_steps)
    check_is_dataset(config.data_dir)
    commandline.import_tensorflow()
    if command.dry_run:
        from medcolor_tf.training.rehearsal import rehearse

        print("\n".join(rehearse(config)))
        return
    from medcolor_tf.evaluation.evaluate import table
    from medcolor_tf.training.trainer import train

    result = train(config, inspection)
    if result is None:  # one of several processes, the first of which reports
        return
    auc = result["best_valid_mean_auc"]
    print(
        f"best validation mean AUC {'undefined' if auc is None else format(auc, '.4f')} at step "
        f"{result['best_step']} of {result['steps']}; everything is in {config.run_dir}"
    )
    for evaluation in result["evaluations"]:
        print(table(evaluation))
    if not config.evaluate:
        print(
            f"next: python -m medcolor_tf.evaluate --run_dir={config.run_dir} "
            f"--data_dir={config.data_dir}"
        )


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(TrainCommand, _train, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
