"""One-cycle: agreement with torch's OneCycleLR, and that the optimizer really follows it."""

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import SILENT

from medcolor_tf.training import schedule
from medcolor_tf.training.optimizer import MomentumSGD, adamw, follow, momentum_name
from medcolor_tf.training.schedule import OneCycle, constant, one_cycle, tabulate
from tests.training import one_cycle_cases as cases


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


def test_constant_warms_up_and_stays():
    table = tabulate(lambda step: constant(step, 100, 0.5, pct_start=0.11), 100)
    assert table[0] == pytest.approx((0.5 / 25, 0.95))
    assert table[5, 0] == pytest.approx((0.5 / 25 + 0.5) / 2)
    np.testing.assert_allclose(table[10:, 0], 0.5)
    np.testing.assert_allclose(table[:, 1], 0.95)
    assert constant(0, 1, 0.5) == (0.5, 0.95)
    with pytest.raises(ValueError, match="total_steps >= 1, step >= 0"):
        constant(-1, 10, 1.0)


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_every_step_uses_the_scheduled_rate_and_momentum(name):
    """Against the same optimizer, untraced, with both numbers set by hand before each step."""
    cases.compare(name)


def test_what_is_the_momentum():
    optimizers = keras.optimizers
    assert momentum_name(optimizers.SGD(momentum=0.9)) == "momentum"
    assert momentum_name(optimizers.LossScaleOptimizer(optimizers.AdamW())) == "beta_1"
    assert momentum_name(MomentumSGD()) == "momentum"
    for none in (optimizers.SGD(), optimizers.RMSprop(), optimizers.Adagrad()):
        assert momentum_name(none) is None
    assert momentum_name(optimizers.ScheduleFreeAdamW()) is None


def test_that_the_rate_alone_follows_is_said_once(caplog):
    schedule._say_once.cache_clear()
    for optimizer in (keras.optimizers.SGD(), keras.optimizers.SGD(), keras.optimizers.Adam()):
        _fit(cases.model(optimizer), OneCycle(4, 0.1))
    assert [record.getMessage() for record in caplog.records] == [
        "OneCycle: SGD has no momentum that can follow; its learning rate alone does"
    ]


def _fit(model, *callbacks, steps=4):
    return model.fit(
        cases.batches(range(steps)),
        epochs=1,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SGD with momentum", "AdamW", "ours", "loss scaling"])
def test_the_optimizer_has_its_own_numbers_again_after_training(name):
    """Its configuration holds them even while it follows, so that any callback may save it."""
    model, plain = (cases.model(cases.OPTIMIZERS[name]()) for _ in range(2))
    config = model.optimizer.get_config()
    during = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: during.append(model.optimizer.get_config())
    )
    _fit(model, OneCycle(4, 0.1), look)
    assert during == [config] * 4
    assert model.optimizer.get_config() == config
    plain.set_weights(model.get_weights())
    plain.optimizer.build(plain.trainable_variables)
    values = [variable.numpy() for variable in model.optimizer.variables]
    assert len(plain.optimizer.variables) == len(values)
    for variable, value in zip(plain.optimizer.variables, values, strict=True):
        variable.assign(value)
    for one in (model, plain):
        _fit(one)
    np.testing.assert_array_equal(model.get_weights()[0], plain.get_weights()[0])


@pytest.mark.parametrize("name", ["SGD with momentum", "AdamW", "ours"])
def test_models_saved_while_they_follow_go_on_where_they_were(name, tmp_path):
    """The uninterrupted run and the one loaded from a checkpoint of its middle: the same bits."""
    path = tmp_path / "middle.keras"
    whole, cycle = cases.model(cases.OPTIMIZERS[name]()), OneCycle(8, 0.1)
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: whole.save(path) if epoch == 3 else None
    )
    options = {"steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    whole.fit(cases.batches(), epochs=8, callbacks=[cycle, save], **options)
    resumed: Any = keras.models.load_model(path)
    assert int(resumed.optimizer.iterations) == 4
    rest = cases.batches(range(4, 8))
    resumed.fit(rest, epochs=4, callbacks=[OneCycle(8, 0.1)], **options)
    np.testing.assert_array_equal(resumed.get_weights()[0], whole.get_weights()[0])
    whole.save(path)
    keras.models.load_model(path)


def test_optimizers_that_cannot_follow_are_refused():
    decay: Any = keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(ValueError, match="SGD has a learning rate schedule of its own"):
        _fit(cases.model(keras.optimizers.SGD(decay)), OneCycle(4, 0.1))
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD()))
    with pytest.raises(ValueError, match="one learning rate to schedule, received a Multi"):
        follow(several, [0.1])
    with pytest.raises(ValueError, match=r"expected a table .* received \(0,\)"):
        follow(keras.optimizers.SGD(), [])
    with pytest.raises(TypeError, match="pct"):
        OneCycle(4, 0.1, pct=0.5)


def test_what_cannot_compute_with_a_momentum_that_moves_fails():
    """Never a constant in silence."""
    optimizer = keras.optimizers.SGD(momentum=0.9)
    follow(optimizer, [[0.1, 0.5]])
    with pytest.raises(TypeError):
        float(optimizer.momentum)
    assert not isinstance(optimizer.momentum, float)
    assert float(1 - optimizer.momentum) == 0.5
    follow(optimizer, None)
    assert optimizer.momentum == 0.9


@pytest.mark.parametrize("build", [adamw, keras.optimizers.AdamW, MomentumSGD])
def test_to_follow_the_same_table_again_changes_nothing(build):
    optimizer, table = build(0.01, 0.9), OneCycle(5, 0.1).table
    count = len(optimizer.variables)
    assert follow(optimizer, table)
    assert not follow(optimizer, table.copy())
    assert follow(optimizer, table, start=1)
    assert follow(optimizer, table[:, 0])
    assert len(optimizer.variables) == count
    assert follow(optimizer, None)
    assert not follow(optimizer, None)


def test_adamw_decays_kernels_alone():
    optimizer = adamw(0.1, 0.8)
    assert optimizer.beta_1 == 0.8
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    optimizer.build(model.trainable_variables)
    decays = [
        variable.name
        for variable in optimizer._trainable_variables
        if optimizer._use_weight_decay(variable)
    ]
    assert decays == ["kernel"]


def test_position_comes_from_the_optimizer_not_from_the_call():
    optimizer = MomentumSGD()
    optimizer.follow(OneCycle(20, 0.1).table)
    iterations: Any = optimizer.iterations
    for step in (0, 7, 19, 25):
        iterations.assign(step)
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
    model.fit(x, y, batch_size=1, verbose=SILENT)  # traced without a schedule; a rate of 0
    assert model.get_weights()[0] == 2.0
    model.optimizer.iterations.assign(0)
    model.fit(x, y, batch_size=1, verbose=SILENT, shuffle=False, callbacks=[OneCycle(12, 0.1)])
    weight, velocity = 2.0, 4.0  # the gradient of the steps before
    for step in range(12):
        rate, momentum = one_cycle(step, 12, 0.1)
        velocity = momentum * velocity + 2 * weight
        weight -= rate * velocity
    np.testing.assert_allclose(model.get_weights()[0], weight, rtol=1e-5)
