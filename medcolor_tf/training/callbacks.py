"""Small callbacks: they assign and report; schedules and metrics are functions elsewhere."""

import math
import sys
import time
from collections.abc import Callable

import keras
from tqdm import tqdm

from medcolor_tf.errors import InputError


class RunningLoss:
    """Turns Keras' running mean of an epoch into the mean since the last look."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Starts an epoch."""
        self._total, self._count = 0.0, 0

    def since_last(self, mean: float, count: int) -> float:
        """Mean loss of the batches after the last call; ``mean`` is over ``count`` batches."""
        total = mean * count
        loss = (total - self._total) / max(count - self._count, 1)
        self._total, self._count = total, count
        return loss


class Progress(keras.callbacks.Callback):
    """A progress bar with images/s, loss and learning rate; stops a run whose loss is not finite.

    Args:
        start: step of the run at which this fit begins.
        total: steps of the whole run.
        batch_size: images a step.
    """

    def __init__(self, start: int, total: int, batch_size: int):
        super().__init__()
        self.start, self.total, self.batch_size = start, total, batch_size

    def on_train_begin(self, logs=None):
        """Opens the bar, at the position of a resumed run."""
        self._bar = tqdm(
            total=self.total * self.batch_size,
            initial=self.start * self.batch_size,
            unit=" images",
            unit_scale=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            ncols=None if sys.stderr.isatty() else 100,
        )

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        step = int(self.model.optimizer.iterations.numpy())
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"the loss is {logs['loss']} at step {step}: training diverged; start a new run "
                "with a lower --max_lr. The last checkpoint is kept"
            )
        rate = float(self.model.optimizer.learning_rate.numpy())
        self._bar.set_postfix(loss=f"{logs['loss']:.4f}", lr=f"{rate:.2e}", refresh=False)
        self._bar.update(step * self.batch_size - self._bar.n)

    def on_train_end(self, logs=None):
        """Closes the bar."""
        self._bar.close()


class AtCheckpoint(keras.callbacks.Callback):
    """Calls ``action(step, mean loss)`` at the end of every Keras epoch, which is one interval."""

    def __init__(self, action: Callable[[int, float], None]):
        super().__init__()
        self.action = action

    def on_epoch_end(self, epoch, logs=None):
        """Reports the step reached and the interval's mean training loss."""
        self.action(int(self.model.optimizer.iterations.numpy()), float(logs["loss"]))


class LossCurve(keras.callbacks.Callback):
    """Writes loss, learning rate, momentum and images/s to TensorBoard every few steps.

    Args:
        log: :class:`medcolor_tf.training.tensorboard.Log`.
        every: steps between points.
        batch_size: images a step.
    """

    def __init__(self, log, every: int, batch_size: int):
        super().__init__()
        self.log, self.every, self.batch_size = log, every, batch_size
        self._loss = RunningLoss()

    def on_epoch_begin(self, epoch, logs=None):
        """Restarts with Keras' running mean, and leaves evaluation out of the speed."""
        self._loss.reset()
        self._since, self._batches = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        """Writes a point when it is time."""
        optimizer = self.model.optimizer
        step = int(optimizer.iterations.numpy())
        if step % self.every:
            return
        now = time.perf_counter()
        self.log.scalars(
            step,
            {
                "train/loss": self._loss.since_last(logs["loss"], batch + 1),
                "train/learning_rate": float(optimizer.learning_rate.numpy()),
                "train/momentum": float(optimizer.momentum.numpy()),
                "train/images_per_second": (batch + 1 - self._batches)
                * self.batch_size
                / (now - self._since),
            },
        )
        self._since, self._batches = now, batch + 1
