"""One-cycle: agreement with torch's OneCycleLR, and that the optimizer really follows it."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcolor_tf.training.optimizer import MomentumSGD
from medcolor_tf.training.schedule import OneCycle, one_cycle


def test_agrees_with_torch_at_every_step(shared):
    golden = np.load(shared / "golden" / "one_cycle.npz")
    total = int(golden["total_steps"])
    found = np.array([one_cycle(step, total, float(golden["max_lr"])) for step in range(total)])
    np.testing.assert_allclose(found[:, 0], golden["lr"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(found[:, 1], golden["momentum"], atol=1e-6, rtol=0)


def test_ends_and_peak():
    assert one_cycle(0, 100, 1.0) == pytest.approx((1 / 25, 0.95))
    assert one_cycle(29, 100, 1.0) == pytest.approx((1.0, 0.85))
    assert one_cycle(99, 100, 1.0) == pytest.approx((1 / 25 / 1e4, 0.95))
    assert one_cycle(500, 100, 1.0) == one_cycle(99, 100, 1.0)


@given(
    total=st.integers(1, 300),
    max_lr=st.floats(1e-6, 10),
    pct_start=st.floats(0.01, 0.99),
)
def test_stays_in_range_for_any_length(total, max_lr, pct_start):
    for step in range(total):
        rate, momentum = one_cycle(step, total, max_lr, pct_start=pct_start)
        assert 0 < rate <= max_lr * (1 + 1e-9)
        assert 0.85 - 1e-9 <= momentum <= 0.95 + 1e-9
    assert rate == pytest.approx(max_lr / 25e4)


@pytest.mark.parametrize("arguments", [(0, 0, 1.0), (-1, 10, 1.0)])
def test_impossible_arguments_are_errors(arguments):
    with pytest.raises(ValueError, match="total_steps >= 1, step >= 0"):
        one_cycle(*arguments)


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(float(self.model.trainable_variables[0].numpy()[0, 0]))


def test_training_steps_use_the_scheduled_rate_and_momentum():
    """The weights move as a numpy loop with the schedule's numbers does, not only the variables."""
    steps, x, y = 12, np.ones((12, 1), "float32"), np.zeros((12, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(MomentumSGD(0.01, 0.9), "mse")
    model.set_weights([np.array([[2.0]])])
    recorder = Recorder()
    callbacks = [OneCycle(steps, 0.1), recorder]
    model.fit(x, y, batch_size=1, verbose=0, shuffle=False, callbacks=callbacks)

    weight, velocity, expected = 2.0, 0.0, []
    for step in range(steps):
        rate, momentum = one_cycle(step, steps, 0.1)
        velocity = momentum * velocity + 2 * weight
        weight -= rate * velocity
        expected.append(weight)
    np.testing.assert_allclose(recorder.weights, expected, rtol=1e-5)


def test_position_comes_from_the_optimizer_not_from_the_call():
    optimizer = MomentumSGD()
    optimizer.follow(OneCycle(20, 0.1).table)
    for step in (0, 7, 19, 25):
        optimizer.iterations.assign(step)
        rate, momentum = one_cycle(step, 20, 0.1)
        assert float(optimizer.learning_rate) == pytest.approx(rate)
        assert float(optimizer._scheduled(1)) == pytest.approx(momentum)


@pytest.mark.parametrize("together", [1, 3])
def test_several_steps_an_execution_follow_it_too(together):
    """A step traced before, and steps that run without Python in between, use the schedule."""
    x, y = np.ones((12, 1), "float32"), np.zeros((12, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(MomentumSGD(0.0, 0.0), "mse", steps_per_execution=together)
    model.set_weights([np.array([[2.0]])])
    model.fit(x, y, batch_size=1, verbose=0)  # traced without a schedule; a rate of 0
    assert model.get_weights()[0] == 2.0
    model.optimizer.iterations.assign(0)
    model.fit(x, y, batch_size=1, verbose=0, shuffle=False, callbacks=[OneCycle(12, 0.1)])
    weight, velocity = 2.0, 4.0  # the gradient of the steps before
    for step in range(12):
        rate, momentum = one_cycle(step, 12, 0.1)
        velocity = momentum * velocity + 2 * weight
        weight -= rate * velocity
    np.testing.assert_allclose(model.get_weights()[0], weight, rtol=1e-5)
