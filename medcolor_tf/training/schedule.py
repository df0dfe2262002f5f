"""Schedules of learning rate and momentum: pure functions of the step, and a callback.

A schedule is ``schedule(step, total_steps, max_lr, div_factor=, final_div_factor=, pct_start=,
momentum_range=)`` and returns (learning rate, momentum).
"""

import functools
import logging
import math
from collections.abc import Callable

import keras
import numpy as np

from medcolor_tf.training.optimizer import follow, momentum_name

_log = logging.getLogger(__name__)


def one_cycle(
    step: int,
    total_steps: int,
    max_lr: float,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    pct_start: float = 0.3,
    momentum_range: tuple[float, float] = (0.95, 0.85),
) -> tuple[float, float]:
    """Learning rate and momentum of one step.

    The rate rises from ``max_lr / div_factor`` to ``max_lr`` over the first ``pct_start`` of the
    steps and falls to ``max_lr / div_factor / final_div_factor`` at the last one; the momentum
    does the opposite. Both follow half a cosine each way, as in fastai and torch's OneCycleLR.

    Args:
        step: 0 to ``total_steps - 1``; beyond the last step its values hold.
        total_steps: of the whole run.
        max_lr: peak learning rate.
        div_factor: peak over first rate.
        final_div_factor: first over last rate.
        pct_start: share of the steps in which the rate rises, in (0, 1).
        momentum_range: (first and last, at the peak).

    Returns:
        (learning rate, momentum).

    Raises:
        ValueError: fewer than one step, a negative step, or ``pct_start`` outside (0, 1).

    Source: Smith 2018 (arXiv:1803.09820); section IV-B of the paper.

    Example:
        >>> import medcolor_tf as mc
        >>> mc.one_cycle(29, 100, max_lr=0.1)  # the peak
        (0.1, 0.85)
        >>> rates = [mc.one_cycle(step, 100, max_lr=0.1)[0] for step in (0, 15, 99)]
        >>> [f"{rate:.2g}" for rate in rates]
        ['0.004', '0.055', '4e-07']
    """
    _check(step, total_steps, pct_start)
    first_lr = max_lr / div_factor
    last_lr = first_lr / final_div_factor
    high, low = momentum_range
    peak, last = pct_start * total_steps - 1, total_steps - 1
    step = min(step, last)
    if peak > 0 and step <= peak:
        share = step / peak
        return _cosine(first_lr, max_lr, share), _cosine(high, low, share)
    # With a handful of steps the rise has no step of its own (peak <= 0): only the fall is left.
    peak = max(peak, 0.0)
    share = (step - peak) / (last - peak) if last > peak else 1.0
    return _cosine(max_lr, last_lr, share), _cosine(low, high, share)


def constant(
    step: int,
    total_steps: int,
    max_lr: float,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    pct_start: float = 0.05,
    momentum_range: tuple[float, float] = (0.95, 0.85),
) -> tuple[float, float]:
    """Learning rate and momentum of one step: a linear warm-up, then both stay.

    Args:
        step, total_steps, max_lr, div_factor: as for :func:`one_cycle`.
        final_div_factor: has no meaning here; every schedule takes the same arguments.
        pct_start: share of the steps in which the rate rises, in (0, 1).
        momentum_range: its first is the momentum.

    Returns:
        (learning rate, momentum).

    Raises:
        ValueError: as for :func:`one_cycle`.
    """
    _check(step, total_steps, pct_start)
    peak = pct_start * total_steps - 1
    share = min(step / peak, 1.0) if peak > 0 else 1.0
    return max_lr * (share + (1 - share) / div_factor), momentum_range[0]


def _check(step: int, total_steps: int, pct_start: float) -> None:
    if total_steps < 1 or step < 0 or not 0 < pct_start < 1:
        raise ValueError(
            f"expected total_steps >= 1, step >= 0, 0 < pct_start < 1; "
            f"got {total_steps}, {step}, {pct_start}"
        )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def tabulate(schedule: Callable[[int], tuple[float, float]], total_steps: int) -> np.ndarray:
    """Returns a schedule of one argument as (total_steps, 2) float32, for :func:`follow`."""
    return np.array([schedule(step) for step in range(total_steps)], np.float32)


class OneCycle(keras.callbacks.Callback):
    """Makes the optimizer's learning rate and momentum follow the one-cycle policy.

    For any Keras optimizer with one learning rate, a number. The momentum is ``momentum`` or
    ``beta_1``; where there is none (or it is 0), the rate alone follows, and a log message says so
    once. The values of all steps are handed to the optimizer before the first step, which looks
    them up itself, on every backend and with several steps per execution. The position is
    ``optimizer.iterations``, so a resumed run goes on where it was; beyond ``total_steps`` the last
    values hold. After ``fit`` the optimizer has its own rate and momentum again.

    Calling it with a step returns (learning rate, momentum) of that step.

    Args:
        total_steps: of the whole run, batches per epoch times epochs.
        max_lr: peak learning rate.
        **shape: ``div_factor``, ``final_div_factor``, ``pct_start`` and ``momentum_range``, see
            :func:`one_cycle`.

    Raises:
        ValueError: see :func:`one_cycle`; when training begins, for an optimizer with another
            schedule or with several rates.

    Source: Smith 2018 (arXiv:1803.09820); section IV-B of the paper.

    Example:
        >>> import keras
        >>> import medcolor_tf as mc
        >>> train = mc.make_dataset(data_dir, "train", batch_size=16, training=True)
        >>> model = keras.Sequential(
        ...     [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
        ... )
        >>> model.compile(keras.optimizers.SGD(momentum=0.9), mc.MaskedBinaryCrossentropy())
        >>> cycle = mc.OneCycle(total_steps=2 * 4, max_lr=0.01)
        >>> history = model.fit(
        ...     train, epochs=2, steps_per_epoch=4, shuffle=False, callbacks=[cycle], verbose=0
        ... )
        >>> cycle(7)  # the last step
        (4e-08, 0.95)
    """

    model: keras.Model  # a property of Keras, None only before ``fit``

    def __init__(self, total_steps: int, max_lr: float, **shape):
        super().__init__()
        self.total_steps, self.max_lr, self.shape = total_steps, max_lr, shape
        self(0)  # arguments that do not fit are told now, not when training begins

    def __call__(self, step: int) -> tuple[float, float]:
        """Returns learning rate and momentum of one step."""
        return one_cycle(step, self.total_steps, self.max_lr, **self.shape)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """(total_steps, 2) float32, the values of every step."""
        return tabulate(self, self.total_steps)

    def on_train_begin(self, logs=None):
        """Hands the table over; a step that was traced without it is traced anew."""
        self._follow(self.table)
        if momentum_name(self.model.optimizer) is None:
            _say_once(
                f"OneCycle: {type(self.model.optimizer).__name__} has no momentum that can follow; "
                "its learning rate alone does"
            )

    def on_train_end(self, logs=None):
        """Gives the optimizer its own values back."""
        self._follow(None)

    def _follow(self, table: np.ndarray | None) -> None:
        if follow(self.model.optimizer, table):
            self.model.make_train_function(force=True)


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)
