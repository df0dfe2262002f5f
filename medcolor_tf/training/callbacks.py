"""Small callbacks: they assign and report; schedules and metrics are functions elsewhere."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from medcolor_tf import progress
from medcolor_tf.errors import InputError
from medcolor_tf.runs.checkpoint import LossSums
from medcolor_tf.runs.folder import DIVERGED

Schedule = Callable[[int], tuple[float, float]]


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


def diverged(what: str, details: str) -> InputError:
    """Returns the error of a run that cannot go on.

    Args:
        what: is wrong, and where.
        details: sentences on the images at hand and on what is kept.
    """
    return InputError(f"{what}: {DIVERGED}; start a new run with a lower --max_lr. {details}")


def not_finite(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the name of the first array that is not finite, "" where all are."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


class AfterSteps(keras.callbacks.Callback):
    """Counts the steps of a run from where ``fit`` begins.

    Not from the optimizer's variables: on JAX they hold their old values while ``fit`` runs, and
    reading them costs a wait for the accelerator.

    Args:
        first: step of the run at which ``fit`` begins.
        interval: steps of a Keras epoch.
        sums: of the loss, where ``fit`` begins in the middle of an interval between checkpoints.
    """

    def __init__(self, first: int, interval: int, sums: LossSums | None = None):
        super().__init__()
        self.first, self.interval, self.sums = first, interval, sums

    def on_epoch_begin(self, epoch, logs=None):
        """Notes the step that the epoch begins with, and the steps of its interval before that."""
        self._epoch_start = self.first + epoch * self.interval
        self._before = self.sums.steps if self.sums and epoch == 0 else 0

    def on_train_batch_begin(self, batch, logs=None):
        """Notes the step that an execution begins with."""
        self._execution_start = self._epoch_start + batch

    def on_train_batch_end(self, batch, logs: Any = None):
        """Passes on to :meth:`after`; with several steps an execution, at its last one."""
        self.after(self._epoch_start + batch + 1, self._before + batch, logs["loss"])

    def after(self, step: int, batch: int, loss: float) -> None:
        """Acts.

        Args:
            step: of the run, the number of steps done.
            batch: of the interval between checkpoints, from 0.
            loss: Keras' running mean over the interval's batches.
        """
        raise NotImplementedError


class Progress(AfterSteps):
    """A progress bar with images/s, loss and learning rate; stops a run whose loss is not finite.

    Args:
        first, interval, sums: see :class:`AfterSteps`.
        total: steps of the whole run.
        batch_size: images per step.
        schedule: step -> (learning rate, momentum).
        diverged: what is wrong, step before and after an execution -> the error to raise.
    """

    def __init__(
        self,
        first: int,
        interval: int,
        sums: LossSums | None,
        total: int,
        batch_size: int,
        schedule: Schedule,
        diverged: Callable[[str, int, int], InputError],
    ):
        super().__init__(first, interval, sums)
        self.total, self.batch_size, self.schedule = total, batch_size, schedule
        self._diverged = diverged

    def on_train_begin(self, logs=None):
        """Opens the bar, at the position of a resumed run."""
        self._bar = progress.Progress(
            "training", self.total * self.batch_size, done=self.first * self.batch_size
        )

    def after(self, step, batch, loss):
        """Moves the bar."""
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}", self._execution_start, step)
        rate, _ = self.schedule(step - 1)
        self._bar.note(loss=f"{loss:.4f}", lr=f"{rate:.2e}")
        self._bar.update(step * self.batch_size - self._bar.done)

    def on_train_end(self, logs=None):
        """Closes the bar."""
        self.close()

    def close(self) -> None:
        """Ends the bar's line, for what is said next; twice is once."""
        if bar := getattr(self, "_bar", None):
            bar.close()


class Profile(AfterSteps):
    """Profiles some steps; TensorBoard shows them with the package tensorboard-plugin-profile.

    Args:
        first, interval, sums: see :class:`AfterSteps`.
        folder: of TensorBoard's files.
        steps: (first, last) step of the run, counted from 1; () for none. With several steps an
            execution, whole executions.
    """

    def __init__(
        self,
        first: int,
        interval: int,
        sums: LossSums | None,
        folder: Path,
        steps: tuple[int, ...],
    ):
        super().__init__(first, interval, sums)
        self.folder, self.steps, self._is_running = folder, steps, False

    def on_train_batch_begin(self, batch, logs=None):
        """Starts before the first of the steps."""
        super().on_train_batch_begin(batch, logs)
        first, last = self.steps
        if not self._is_running and first <= self._execution_start + 1 <= last:
            import tensorflow as tf

            tf.profiler.experimental.start(str(self.folder))
            self._is_running = True

    def after(self, step, batch, loss):
        """Ends after the last of the steps."""
        if step >= self.steps[1]:
            self.on_train_end()

    def on_train_end(self, logs=None):
        """Ends and writes the profile."""
        if self._is_running:
            import tensorflow as tf

            tf.profiler.experimental.stop()
            self._is_running = False
            progress.say(f"profile: {self.folder}/plugins/profile")


class AtCheckpoint(keras.callbacks.Callback):
    """Calls ``action(step, mean loss)`` at the end of every Keras epoch, which is one interval.

    Args:
        first, interval: see :class:`AfterSteps`.
        action: what to do; returns whether training ends there.
    """

    model: keras.Model  # a property of Keras, None only before ``fit``

    def __init__(self, first: int, interval: int, action: Callable[[int, float], bool]):
        super().__init__()
        self.first, self.interval, self.action = first, interval, action

    def on_epoch_end(self, epoch, logs: Any = None):
        """Reports the step reached and the interval's mean training loss."""
        if self.action(self.first + (epoch + 1) * self.interval, float(logs["loss"])):
            self.model.stop_training = True


class LossCurve(AfterSteps):
    """Writes loss, learning rate, momentum and images/s to TensorBoard every few steps.

    Args:
        first, interval, sums: see :class:`AfterSteps`.
        log: :class:`medcolor_tf.training.tensorboard.Log`.
        every: steps between points; with several steps an execution, the first end of one beyond.
        batch_size: images per step.
        schedule: step -> (learning rate, momentum).
        multipliers: factors of the rate of parts that have one.
    """

    def __init__(
        self,
        first: int,
        interval: int,
        sums: LossSums | None,
        log,
        every: int,
        batch_size: int,
        schedule: Schedule,
        multipliers: Mapping[str, float] = MappingProxyType({}),
    ):
        super().__init__(first, interval, sums)
        self.multipliers = multipliers
        self.log, self.every, self.batch_size, self.schedule = log, every, batch_size, schedule
        self._loss = RunningLoss()
        self._last = first

    def on_epoch_begin(self, epoch, logs=None):
        """Restarts with Keras' running mean, and leaves evaluation out of the speed."""
        super().on_epoch_begin(epoch, logs)
        self._loss.reset()
        if self._before and self.sums:
            self._loss.since_last(self.sums.mean, self._before)
        self._since, self._batches = time.perf_counter(), self._before

    def after(self, step, batch, loss):
        """Writes a point when it is time."""
        if step // self.every == self._last // self.every:
            return
        self._last = step
        now = time.perf_counter()
        rate, momentum = self.schedule(step - 1)
        self.log.scalars(
            step,
            {
                "train/loss": self._loss.since_last(loss, batch + 1),
                "train/learning_rate": rate,
                **{f"train/learning_rate_{p}": rate * f for p, f in self.multipliers.items()},
                "train/momentum": momentum,
                "train/images_per_second": (batch + 1 - self._batches)
                * self.batch_size
                / (now - self._since),
            },
        )
        self._since, self._batches = now, batch + 1
