"""The one-cycle policy (Smith; section IV-B of the paper) as a pure function and a callback."""

import math

import keras


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
    """
    if total_steps < 1 or step < 0 or not 0 < pct_start < 1:
        raise ValueError(
            f"expected total_steps >= 1, step >= 0, 0 < pct_start < 1; "
            f"got {total_steps}, {step}, {pct_start}"
        )
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


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class OneCycle(keras.callbacks.Callback):
    """Sets the optimizer's learning rate and momentum before every step.

    The position is ``optimizer.iterations``, so a resumed run goes on where it was. The optimizer
    must hold its momentum in a variable (:class:`medcolor_tf.training.optimizer.MomentumSGD`):
    assigning a float attribute has no effect once the step is traced.

    Args:
        total_steps: of the whole run.
        max_lr: peak learning rate.
        **shape: the further arguments of :func:`one_cycle`.
    """

    def __init__(self, total_steps: int, max_lr: float, **shape):
        super().__init__()
        self.total_steps, self.max_lr, self.shape = total_steps, max_lr, shape

    def at(self, step: int) -> tuple[float, float]:
        """Returns learning rate and momentum of one step."""
        return one_cycle(step, self.total_steps, self.max_lr, **self.shape)

    def on_train_batch_begin(self, batch, logs=None):
        """Assigns both values for the step to come."""
        optimizer = self.model.optimizer
        rate, momentum = self.at(int(optimizer.iterations.numpy()))
        optimizer.learning_rate.assign(rate)
        optimizer.momentum.assign(momentum)
