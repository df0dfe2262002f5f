"""Training with OneCycle, and the same steps with every number set by hand; on any backend.

``python -m tests.training.one_cycle_cases NAME ...`` runs the cases on the backend of
KERAS_BACKEND: a process has one backend for life.
"""

import sys
from typing import Any

import keras
import numpy as np

from medcolor_tf.training.optimizer import MomentumSGD, momentum_name
from medcolor_tf.training.schedule import OneCycle, one_cycle

STEPS, MAX_LR = 9, 0.2
INPUTS = np.random.default_rng(0).normal(size=(STEPS, 4, 3)).astype("float32")
TARGETS = np.random.default_rng(1).normal(size=(STEPS, 4, 2)).astype("float32")
WEIGHTS = np.random.default_rng(2).normal(size=(3, 2)).astype("float32")

OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.01),
    "SGD with momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "SGD with Nesterov": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "Adam": lambda: keras.optimizers.Adam(),
    "AdamW": lambda: keras.optimizers.AdamW(weight_decay=0.1),
    "Adamax": lambda: keras.optimizers.Adamax(),
    "Lamb": lambda: keras.optimizers.Lamb(),
    "Lion": lambda: keras.optimizers.Lion(),
    "Nadam": lambda: keras.optimizers.Nadam(),
    "Adagrad": lambda: keras.optimizers.Adagrad(),
    "RMSprop": lambda: keras.optimizers.RMSprop(),
    "RMSprop with momentum": lambda: keras.optimizers.RMSprop(momentum=0.9),
    "ours": lambda: MomentumSGD(),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), 2.0**4),
}


def model(optimizer, **options) -> keras.Model:
    """A linear map, compiled."""
    layer = keras.layers.Dense(2, use_bias=False)
    made = keras.Sequential([keras.Input((3,)), layer])
    layer.set_weights([WEIGHTS])
    made.compile(optimizer, "mse", **options)
    return made


class Recorder(keras.callbacks.Callback):
    """Keeps the weights after each epoch, and the optimizer's rate for the next one."""

    model: keras.Model  # a property of Keras, None only before ``fit``

    def __init__(self):
        super().__init__()
        self.weights, self.rates = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights()[0])
        rate: Any = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.rates.append(float(rate))


def batches(steps=range(STEPS)):
    for step in steps:
        yield INPUTS[step], TARGETS[step]


def by_fit(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights after each step of ``fit``, and the rate of each step but the first."""
    recorder = Recorder()
    options: Any = {"epochs": STEPS, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    callbacks = [OneCycle(STEPS, MAX_LR), recorder]
    model(OPTIMIZERS[name]()).fit(batches(), callbacks=callbacks, **options)
    return np.array(recorder.weights), np.array(recorder.rates)


def by_hand(name: str) -> np.ndarray:
    """Returns the weights after each step, none of which is traced: floats are read anew."""
    optimizer = OPTIMIZERS[name]()
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    attribute, weight = momentum_name(optimizer), keras.Variable(WEIGHTS)
    inner.build([weight])
    found = []
    for step, (x, y) in enumerate(batches()):
        inner.learning_rate, momentum = one_cycle(step, STEPS, MAX_LR)
        if attribute and isinstance(getattr(inner, attribute), keras.Variable):
            inner.momentum.assign(momentum)
        elif attribute:
            setattr(inner, attribute, momentum)
        value = keras.ops.convert_to_numpy(weight)
        gradient = 2 * x.T @ (x @ value - y) / y.size
        inner.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        found.append(np.array(keras.ops.convert_to_numpy(weight)))
    return np.array(found)


def compare(name: str) -> None:
    """Raises AssertionError where the two differ, or where the values do not matter."""
    weights, rates = by_fit(name)
    np.testing.assert_allclose(weights, by_hand(name), rtol=2e-5, atol=2e-6)
    expected = [one_cycle(step + 1, STEPS, MAX_LR)[0] for step in range(STEPS)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


if __name__ == "__main__":
    for case in sys.argv[1:]:
        compare(case)
    print("fine", keras.backend.backend())
