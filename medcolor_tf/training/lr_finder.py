"""The learning-rate finder (Smith; section IV-B): one short run with an ever larger rate."""

import csv
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.files import replacing, write_json
from medcolor_tf.parallel.multihost import placed_like
from medcolor_tf.runs.folder import LR_FINDER, LR_FINDER_PLOT, LR_FINDER_TABLE
from medcolor_tf.training.optimizer import follow

SMOOTHING = 0.9
DIVERGED = 4.0
# A suggestion up to so many times the lowest rate is in doubt.
DOUBTFUL = 10
LEAST_STEPS = 5


@dataclass(frozen=True)
class LRCurve:
    """What the finder saw.

    Attributes:
        rates: learning rate of each step, ascending.
        losses: batch loss of each step.
        smoothed: bias-corrected exponential mean of the losses.
        suggestion: the suggested peak rate.
        multipliers: factors of these rates that parts of the model had.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    multipliers: Mapping[str, float] = field(default_factory=dict)

    def of_parts(self, multipliers: Mapping[str, float]) -> "LRCurve":
        """Returns the curve with the factors that parts had meanwhile."""
        return dataclasses.replace(self, multipliers=dict(multipliers))

    @property
    def parts(self) -> str:
        """Says which parts had another rate: "head 4 times this"; "" where none had."""
        return ", ".join(
            f"{part} {factor:g} times this" for part, factor in self.multipliers.items()
        )

    @property
    def warning(self) -> str:
        """Says why the suggestion is in doubt; "" where nothing speaks against it.

        A loss that hardly moves is lowest anywhere, often at the low end of the rates.
        """
        if self.suggestion > DOUBTFUL * self.rates[0]:
            return ""
        return (
            f"warning: the loss was lowest at a rate of {10 * self.suggestion:.2g} or less, near "
            f"the lowest tried ({self.rates[0]:.1g}): the curve is probably noise, and a run at "
            "this rate may learn nothing; look at it, or give --max_lr=0.01 or another number"
        )

    def save(self, folder: Path) -> None:
        """Writes table, plot and, last, the JSON file."""
        with (
            replacing(folder / LR_FINDER_TABLE) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["learning_rate", "loss", "smoothed_loss"])
            writer.writerows(zip(self.rates, self.losses, self.smoothed, strict=True))
        with replacing(folder / LR_FINDER_PLOT) as temporary:
            self._draw(temporary)
        write_json(folder / LR_FINDER, self.to_dict())

    def to_dict(self) -> dict:
        """Returns what the JSON file holds."""
        content = dataclasses.asdict(self)
        if not self.multipliers:
            del content["multipliers"]
        return content

    def _draw(self, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        label = "learning rate" + (f" ({self.parts})" if self.parts else "")
        axes = figure.add_subplot(xscale="log", xlabel=label, ylabel="training loss")
        axes.plot(self.rates, self.losses, color="0.8", label="batch")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        axes.axvline(self.suggestion, linestyle="--", label=f"suggestion {self.suggestion:.2g}")
        axes.set_ylim(*_visible(self.smoothed))
        axes.legend()
        figure.savefig(path, dpi=120, format="png")


def find_lr(
    model: keras.Model, data, steps: int = 100, low: float = 1e-5, high: float = 10.0
) -> LRCurve:
    """Trains some steps with a rate that rises from ``low`` to ``high``, then undoes all of it.

    Stops early when the smoothed loss exceeds four times its best. Weights, batch-normalisation
    statistics, optimizer, random generators and metrics are as before afterwards, whatever happens.

    Args:
        model: built, and compiled with a loss and any Keras optimizer with one learning rate, a
            number. The momentum stays what it is, and so do the factors of
            :func:`set_lr_multipliers`: the curve is over the common rate.
        data: what ``model.fit`` takes as its one data argument: batches (x, y) or (x, y, sample
            weights), all of one size. A finite ``tf.data.Dataset`` is repeated where it is shorter
            than ``steps``; of anything else at least ``steps`` batches are needed.
        steps: length of the range test, at least 5.
        low, high: first and last learning rate; it rises by the same factor at each step.

    Returns:
        The curve: ``suggestion``, the suggested peak rate; ``rates``, ``losses`` and ``smoothed``,
        floats, one for each step; ``save(folder)`` writes it as CSV, JSON and PNG.

    Raises:
        InputError: the model is not built or not compiled, ``steps`` are too few, or the loss is
            not finite from the start, so there is nothing to suggest from.
        ValueError: an optimizer with a schedule of its own or with several learning rates.

    Source: Smith 2017 (arXiv:1506.01186); section IV-B of the paper.

    Example:
        >>> import keras
        >>> import medcolor_tf as mc
        >>> train = mc.make_dataset(data_dir, "train", batch_size=16, training=True)
        >>> model = keras.Sequential([
        ...     keras.Input((None, None, 1)),
        ...     keras.layers.Rescaling(1 / 255),
        ...     keras.layers.GlobalAveragePooling2D(),
        ...     keras.layers.Dense(5),
        ... ])
        >>> model.compile(keras.optimizers.Adam(), mc.MaskedBinaryCrossentropy())
        >>> curve = mc.find_lr(model, train, steps=20)
        >>> 1e-5 <= curve.suggestion <= 1.0
        True
    """
    _check(model, steps)
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    before = [np.array(variable.numpy()) for variable in variables]
    together, history = model.steps_per_execution, getattr(model, "history", None)
    ramp = _Ramp(steps, low, high)
    # Followed inside the step: what a callback assigns does not reach it on every backend.
    optimizer = model.optimizer
    follow(
        optimizer,
        [ramp.rate(step) for step in range(steps)],
        start=int(optimizer.iterations.numpy()),
    )
    model.steps_per_execution = 1
    model.make_train_function(force=True)
    try:
        options: Any = {"steps_per_epoch": steps, "shuffle": False, "verbose": 0}
        model.fit(_endless(data), callbacks=[ramp], **options)
    finally:
        model.stop_training, model.history = False, history
        model.steps_per_execution = together
        follow(optimizer, None)
        model.make_train_function(force=True)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(placed_like(variable, value))
    if len(ramp.losses) < LEAST_STEPS:
        raise InputError(
            f"the LR finder's loss was not finite after {len(ramp.losses)} steps at rates from "
            f"{low:g}; set --max_lr to a number"
        )
    rates = tuple(ramp.rate(step) for step in range(len(ramp.losses)))
    smoothed = smooth(ramp.losses)
    return LRCurve(rates, tuple(ramp.losses), tuple(smoothed), suggest(rates, smoothed))


def _check(model: keras.Model, steps: int) -> None:
    if not model.compiled:
        raise InputError("find_lr: expected a compiled model; call model.compile(optimizer, loss)")
    if not model.built:
        raise InputError("find_lr: expected a built model; give it an input, or call it on a batch")
    if steps < LEAST_STEPS:
        raise InputError(f"find_lr: expected steps of at least {LEAST_STEPS}, received {steps}")


def _variables(model: keras.Model) -> list[keras.Variable]:
    """All that training changes, each variable once."""
    found = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def _endless(data):
    """Repeats a dataset that ends; TensorFlow says -1 for one that does not."""
    if hasattr(data, "repeat") and hasattr(data, "cardinality") and int(data.cardinality()) != -1:
        return data.repeat()
    return data


def smooth(losses) -> list[float]:
    """Exponential mean of a series, corrected for its start."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**step))
    return smoothed


def suggest(rates, smoothed) -> float:
    """Suggests a peak rate: a tenth of the rate at which the smoothed loss is lowest.

    At the minimum itself training is about to become unstable. The rule is the usual reading of
    the curve; the steepest slope, the other one, falls for the noise of the first steps when the
    loss hardly moves (seen on 700 X-rays with a frozen backbone).
    """
    return float(max(rates[int(np.argmin(smoothed))] / 10, rates[0]))


class _Ramp(keras.callbacks.Callback):
    """Knows the exponentially rising rate and keeps each batch's loss."""

    model: keras.Model  # a property of Keras, None only before ``fit``

    def __init__(self, steps: int, low: float, high: float):
        super().__init__()
        self.steps, self.low, self.high = steps, low, high
        self.losses: list[float] = []
        self._total = 0.0

    def rate(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / max(self.steps - 1, 1))

    def on_train_batch_end(self, batch, logs: Any = None):
        # Keras reports the running mean of the epoch; its growth is this batch's loss.
        total = float(logs["loss"]) * (batch + 1)
        loss, self._total = total - self._total, total
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self.losses.append(loss)
        smoothed = smooth(self.losses)
        if batch >= 10 and smoothed[-1] > DIVERGED * min(smoothed):
            self.model.stop_training = True


def _visible(smoothed) -> tuple[float, float]:
    """Limits of the loss axis: from the minimum to a little above the first value."""
    low, start = min(smoothed), smoothed[0]
    span = max(start - low, 1e-3)
    return low - 0.1 * span, start + 0.5 * span
