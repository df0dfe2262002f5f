"""The end of a run between two checkpoints, on SIGINT or SIGTERM: the state as it is, and a word.

A run that goes on from there is the one that was never stopped, bit for bit: the mean training loss
of an interval, which log.csv shows at its end, goes on as well. So its sums are part of such a
state, see :class:`medcolor_tf.runs.checkpoint.LossSums`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from medcolor_tf.interrupts import Interrupted
from medcolor_tf.parallel import replicas
from medcolor_tf.parallel.multihost import placed_like
from medcolor_tf.runs.checkpoint import LossSums
from medcolor_tf.training.callbacks import AfterSteps


class IntervalLoss(Protocol):
    """What sums up the loss of an interval between checkpoints."""

    def read(self) -> LossSums:
        """Returns the sums as they are."""
        ...

    def write(self, sums: LossSums) -> None:
        """Goes on from these sums."""
        ...


class KerasLoss:
    """The sums behind Keras' running mean of the loss.

    Args:
        model: that ``fit`` trains.
    """

    def __init__(self, model: keras.Model):
        self._model = model

    def read(self) -> LossSums:
        """Returns the sums of each replica."""
        total, count = (
            tuple(float(np.asarray(part)) for part in replicas.local_values(self._model, sums))
            for sums in self._variables()
        )
        return LossSums(total, count)

    def write(self, sums: LossSums) -> None:
        """Assigns the sums of each replica; where their number is another, all to the first."""
        for variable, values in zip(self._variables(), (sums.total, sums.count), strict=True):
            parts = replicas.local_values(self._model, variable)
            if len(parts) == 1:
                variable.assign(placed_like(variable, np.asarray(sum(values), np.float32)))
                continue
            if len(values) != len(parts):
                values = (sum(values), *[0.0] * (len(parts) - 1))
            for part, value in zip(parts, values, strict=True):
                part.assign(value)

    def _variables(self) -> tuple[Any, Any]:
        metric: Any = next(metric for metric in self._model.metrics if metric.name == "loss")
        return metric.total, metric.count


class StopAtStep(AfterSteps):
    """Ends a run where all its processes have agreed to, with its state saved.

    Comes after the callback that makes checkpoints: where an interval ends too, that one saves.

    Args:
        first, interval, sums: see :class:`AfterSteps`.
        agreed: step -> the signal that ends the run there, 0 to go on.
        loss: of the interval.
        save: called with the step and the loss' sums, in the middle of an interval.
        words: what is kept and how to go on, once it is saved.
    """

    def __init__(
        self,
        first: int,
        interval: int,
        sums: LossSums | None,
        agreed: Callable[[int, Any], int],
        loss: IntervalLoss,
        save: Callable[[int, LossSums], None],
        words: Callable[[], str],
    ):
        super().__init__(first, interval, sums)
        self._agreed, self._loss, self._save, self._words = agreed, loss, save, words
        self._signum = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Puts back the loss of an interval that was left in the middle."""
        super().on_epoch_begin(epoch, logs)
        if epoch == 0 and self.sums:
            self._loss.write(self.sums)

    def after(self, step, batch, loss):
        """Saves and ends the run where that is agreed."""
        self._signum = self._agreed(step, loss)
        if self._signum and step < self._epoch_start + self.interval:
            # On JAX the variables hold their old values while `fit` runs.
            getattr(self.model, "jax_state_sync", lambda: None)()
            self._save(step, dataclasses.replace(self._loss.read(), steps=batch + 1))
            self._end()

    def on_epoch_end(self, epoch, logs=None):
        """Ends the run at the checkpoint that has just been made."""
        self._signum = self._signum or self._agreed(self._epoch_start + self.interval, 0.0)
        if self._signum:
            self._end()

    def _end(self) -> None:
        raise Interrupted(self._signum, self._words(), together=True)
