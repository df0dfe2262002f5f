"""What a run would do, without doing it: ``python -m medcolor_tf.train --dry_run``."""

from pathlib import Path

import keras
import numpy as np

from medcolor_tf.catalog import PARTS
from medcolor_tf.data.image_cache import decoded_bytes, format_bytes
from medcolor_tf.models.classifier import classify_and_colorize
from medcolor_tf.parallel import runtime
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.folder import Run
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.trainer import Trainer, parameter_count, record_of


def rehearse(config: TrainConfig) -> list[str]:
    """Opens the data, builds the model, and says what training would do; writes nothing.

    Args:
        config: options of the run.

    Returns:
        Lines of text: what is trained on what, shapes, parameters, memory, and the run folder.

    Raises:
        InputError: whatever would end the run before its first step.
    """
    config.check()
    with runtime.precision(config.mixed_precision), runtime.seeded(config.seed):
        plan, run = TrainPlan.from_config(config), Run(Path(config.run_dir))
        run.check(record_of(plan))
        trainer = Trainer.build(plan, run)
        parameters = parameter_count(trainer.model.trainable_variables)
        lines = plan.describe(plan.spec, parameters, config.peak_rate())
        lines += plan.one_sided_labels()
        lines.append(_shapes(trainer.classifier, plan))
        lines.append(_parameters(trainer.classifier))
        lines += _memory(trainer, plan)
    return [*lines, _folder(run), "nothing was written"]


def _shapes(classifier: keras.Model, plan: TrainPlan) -> str:
    size, side = plan.config.batch_size, plan.spec.image_size
    shape = (size, side, side, plan.spec.input_channels)
    both = classify_and_colorize(classifier, features=True)
    logits, colors, features = both.compute_output_shape(shape)
    return (
        f"shapes: images {shape} -> colours {tuple(colors)} -> features {tuple(features)} -> "
        f"logits {tuple(logits)}"
    )


def _parameters(classifier: keras.Model) -> str:
    words = []
    for name in PARTS:
        try:
            part = classifier.get_layer(name)
        except ValueError:  # no colorizer
            continue
        trained = parameter_count(part.trainable_variables)
        kind = f"{trained:,} of them trained" if trained else "frozen"
        words.append(f"{name} {parameter_count(part.variables):,} ({kind})")
    return f"parameters: {', '.join(words)}"


def _memory(trainer: Trainer, plan: TrainPlan) -> list[str]:
    """What weights and the decoded images take, and what there is."""
    variables = [*trainer.model.variables, *trainer.model.optimizer.variables]
    held = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables)
    images = sum(decoded_bytes(split) for split in plan.splits)
    device = runtime.device()
    free = "" if device.free is None else f", {format_bytes(device.free)} of memory free"
    return [
        f"memory: weights and optimizer {format_bytes(held)}, decoded images "
        f"{format_bytes(images)}; what a step takes beside them grows with --batch_size",
        f"computes on {device.name}{free}",
    ]


def _folder(run: Run) -> str:
    if run.finished:
        return f"{run.folder}: already finished, the command would only evaluate what is missing"
    if run.started:
        return f"{run.folder}: the command would go on at step {run.last_step:,}"
    return f"{run.folder}: would be made"
