"""Two parts with rates of their own, and the same parts trained alone; on any backend.

``python -m tests.training.multiplier_cases NAME ...`` runs the cases on the backend of
KERAS_BACKEND: a process has one backend for life.
"""

import sys
from typing import Any

import keras
import numpy as np

from medcolor_tf.training.lr_multipliers import set_lr_multipliers
from medcolor_tf.training.schedule import OneCycle
from tests.training.one_cycle_cases import INPUTS, MAX_LR, OPTIMIZERS, STEPS, TARGETS

FACTOR = 0.25


def model(optimizer) -> keras.Model:
    """Two linear maps that share nothing, each in a model of its own, compiled."""
    inputs = keras.Input((3,))
    parts = []
    for name in ("first", "second"):
        start: Any = keras.initializers.RandomNormal(seed=1)
        start_of_part = keras.Input((3,))
        layer = keras.layers.Dense(2, kernel_initializer=start, name=f"{name}_dense")
        part = keras.Model(start_of_part, layer(start_of_part), name=name)
        parts.append(part(inputs))
    made = keras.Model(inputs, parts)
    made.compile(optimizer, ["mse", "mse"])
    return made


def trained(name: str, max_lr: float, multipliers: dict[str, float]) -> dict[str, np.ndarray]:
    """Returns the kernel and bias of each part after a one-cycle."""
    made = model(OPTIMIZERS[name]())
    set_lr_multipliers(made, multipliers)
    data = ((x, (y, y)) for x, y in zip(INPUTS, TARGETS, strict=True))
    options: Any = {"steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}
    made.fit(data, callbacks=[OneCycle(STEPS, max_lr)], **options)
    weights = {part: made.get_layer(part).get_weights() for part in ("first", "second")}
    return {part: np.concatenate([w.ravel() for w in arrays]) for part, arrays in weights.items()}


def compare(name: str) -> None:
    """Raises AssertionError where a part with a factor is not the part at that rate."""
    both = trained(name, MAX_LR, {"second": FACTOR})
    whole, slow = (trained(name, rate, {}) for rate in (MAX_LR, MAX_LR * FACTOR))
    np.testing.assert_allclose(both["first"], whole["first"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(both["second"], slow["second"], rtol=1e-5, atol=1e-6)
    assert np.abs(whole["second"] - slow["second"]).max() > 1e-3


if __name__ == "__main__":
    for case in sys.argv[1:]:
        compare(case)
    print("fine", keras.backend.backend())
