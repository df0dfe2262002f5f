"""Optimizers, and how they follow a schedule: a table that the training step itself looks up.

What a callback assigns does not do. A Keras optimizer's momentum is a Python float, which the
traced step holds as a constant; on JAX not even an assigned learning rate reaches a running
``fit``; and several steps of one execution see no callback in between. So rate and momentum of all
steps are handed over before the first one, and the step takes those of ``optimizer.iterations``.
The optimizer's variables stay what they are and in the same order, and a resumed run goes on where
it was.
"""

import operator

import keras
import numpy as np

from medcolor_tf.keras_ops import ops


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MomentumSGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum, both in variables or from a schedule.

    The update is PyTorch's (and fastai's): ``v = momentum * v + g`` and ``w -= rate * v``. Keras'
    own SGD keeps the rate inside the velocity, which differs from it as soon as the rate moves: old
    gradients would count with the rate of their own step.

    Args:
        learning_rate: first rate, a float.
        momentum: first momentum, in [0, 1).
        name: of the optimizer.
        **kwargs: of ``keras.optimizers.Optimizer``: ``weight_decay``, ``clipnorm``, ...

    Raises:
        ValueError: an argument that Keras refuses.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", in the form of ``torch.optim.SGD``.

    Example:
        >>> import keras
        >>> import medcolor_tf as mc
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(mc.MomentumSGD(learning_rate=0.01, momentum=0.9), "mse")
        >>> history = model.fit(np.ones((1, 2)), np.ones((1, 1)), verbose=0)
        >>> int(model.optimizer.iterations)
        1
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, name="momentum_sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self._initial_momentum = float(momentum)
        self._schedule: np.ndarray | None = None
        self._schedule_start = 0
        with keras.name_scope(self.name):
            self.momentum = keras.Variable(
                self._initial_momentum, dtype="float32", trainable=False, name="momentum"
            )

    def build(self, variables):
        """Makes one velocity a variable."""
        if self.built:
            return
        super().build(variables)
        self.velocity = [
            self.add_variable_from_reference(variable, name="velocity") for variable in variables
        ]

    def follow(self, table: np.ndarray | None, start: int = 0) -> bool:
        """Does what :func:`follow` says."""
        before = self._schedule, self._schedule_start
        self._schedule = None if table is None else _checked(table)
        self._schedule_start = start
        return before[1] != start or not _same(before[0], self._schedule)

    def _scheduled(self, column: int):
        assert self._schedule is not None, "no schedule to follow"
        table = ops.convert_to_tensor(self._schedule[:, column])
        step = ops.cast(self.iterations, "int32") - self._schedule_start
        return ops.take(table, ops.clip(step, 0, len(self._schedule) - 1))

    def _get_current_learning_rate(self):
        if self._schedule is not None:
            return self._scheduled(0)
        return super()._get_current_learning_rate()

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if self._schedule is None or self._schedule.shape[1] == 1:
            momentum = ops.convert_to_tensor(self.momentum)
        else:
            momentum = self._scheduled(1)
        # Both read once a step, not once a variable.
        super()._backend_update_step(grads, trainable_variables, (learning_rate, momentum))

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable; ``learning_rate`` is (rate, momentum)."""
        velocity = self.velocity[self._get_variable_index(variable)]
        rate, momentum = (ops.cast(value, variable.dtype) for value in learning_rate)
        gradient = ops.cast(gradient, variable.dtype)
        if keras.backend.backend() == "tensorflow":
            _update_in_one_pass(variable, velocity, rate, gradient, momentum)
            return
        self.assign(velocity, momentum * velocity + gradient)
        self.assign_sub(variable, rate * velocity)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "momentum": self._initial_momentum}


def _update_in_one_pass(variable, velocity, rate, gradient, momentum) -> None:
    """TensorFlow's kernel of the very same update, in one pass over the weights instead of five."""
    import tensorflow as tf

    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=velocity.value.handle,
        lr=rate,
        grad=gradient,
        momentum=momentum,
    )


def adamw(learning_rate: float, momentum: float) -> keras.optimizers.AdamW:
    """Builds Keras' AdamW with PyTorch's weight decay; biases and normalisations have none.

    Which variables have none is not part of Keras' configuration of an optimizer: one that was
    loaded from a model file decays them all.

    Args:
        learning_rate: first rate.
        momentum: beta_1, in [0, 1).

    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101).
    """
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.01, beta_1=momentum)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def follow(optimizer: keras.optimizers.Optimizer, table, start: int = 0) -> bool:
    """Makes an optimizer take its rate, and its momentum, from a table; None: its own again.

    Args:
        optimizer: :class:`MomentumSGD` or any of Keras' with one learning rate, a number. One
            inside a LossScaleOptimizer follows by its own ``iterations``.
        table: (N, 2) learning rate and momentum of N steps, or (N,) rates alone. Before the first
            and after the last row those rows hold. The momentum is left out where
            :func:`momentum_name` is None.
        start: value of ``optimizer.iterations`` that has the first row.

    Returns:
        Whether this changes the step: a traced one must be traced anew
        (``model.make_train_function(force=True)``).

    Raises:
        ValueError: a MultiOptimizer, an optimizer that has a schedule of its own, or a table of
            another shape.
    """
    optimizer = innermost(optimizer)
    if isinstance(optimizer, MomentumSGD):
        return optimizer.follow(table, start)
    before: _Following | None = getattr(optimizer, "_following", None)
    table = None if table is None else _checked(table)
    if before and before.start == start and _same(before.table, table):
        return False
    if before:
        before.end()
    optimizer._following = None if table is None else _Following(optimizer, table, start)
    return bool(before) or table is not None


def momentum_name(optimizer: keras.optimizers.Optimizer) -> str | None:
    """Returns the attribute that is an optimizer's momentum: "momentum", "beta_1" or None.

    None as well where it is zero, since then there is no velocity, and for ScheduleFreeAdamW, whose
    weights are averages that a beta_1 which moves would undo.
    """
    optimizer = innermost(optimizer)
    if isinstance(optimizer, MomentumSGD):
        return "momentum"
    if isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        return None
    for name in ("momentum", "beta_1"):
        value = getattr(optimizer, name, None)
        own = value.own if isinstance(value, _Momentum) else value
        if isinstance(own, float) and own > 0:
            return name
    return None


def innermost(optimizer):
    """Returns the optimizer that updates the weights; ValueError where there are several."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ValueError(
            "expected an optimizer with one learning rate to schedule, received a MultiOptimizer"
        )
    return optimizer


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _checked(table) -> np.ndarray:
    table = np.asarray(table, np.float32)
    if table.ndim not in (1, 2) or not len(table) or table.shape[1:] not in ((), (1,), (2,)):
        raise ValueError(f"expected a table (N, 2) or (N,), N > 0, received {table.shape}")
    return table.reshape(len(table), -1)


class _Lookup:
    """One column of a table, read inside the step at the optimizer's position."""

    def __init__(self, optimizer, column: np.ndarray, start: int):
        self.optimizer, self.start, self.last = optimizer, start, len(column) - 1
        # A tensor made once: as a constant, the graph would hold a copy for every variable.
        self.column = ops.convert_to_tensor(column)

    def read(self):
        """Returns the value of this step, a float32 scalar."""
        step = ops.cast(self.optimizer.iterations, "int32") - self.start
        return ops.take(self.column, ops.clip(step, 0, self.last))


class _Momentum(_Lookup):
    """Stands where an optimizer keeps its momentum, a float: who computes with it reads it anew.

    Comparisons, by which optimizers see whether they have a momentum at all, are those of the
    float. It is none itself, so that nothing can take it for a constant.
    """

    def __init__(self, optimizer, column, start, own: float):
        super().__init__(optimizer, column, start)
        self.own = own

    def __tf_tensor__(self, dtype=None, name=None):
        value = self.read()
        return value if dtype is None else ops.cast(value, keras.backend.standardize_dtype(dtype))

    def __jax_array__(self):
        return self.read()


def _arithmetic(operation, reflected: bool):
    def apply(self, other):
        value = self.read()
        return operation(other, value) if reflected else operation(value, other)

    return apply


def _comparison(operation):
    return lambda self, other: operation(self.own, other)


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(_Momentum, f"__{_name}__", _arithmetic(getattr(operator, _name), reflected=False))
    setattr(_Momentum, f"__r{_name}__", _arithmetic(getattr(operator, _name), reflected=True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(_Momentum, f"__{_name}__", _comparison(getattr(operator, _name)))


class _Following:
    """What makes one of Keras' optimizers follow a table, and puts back what it was.

    Neither its class nor its variables change, so checkpoints hold the same with and without it.
    """

    def __init__(self, optimizer, table: np.ndarray, start: int):
        if not isinstance(optimizer.get_config().get("learning_rate", 0.0), float):
            raise ValueError(
                f"{type(optimizer).__name__} has a learning rate schedule of its own; expected one "
                "whose learning_rate is a number"
            )
        self.optimizer, self.table, self.start = optimizer, table, start
        optimizer._get_current_learning_rate = _Lookup(optimizer, table[:, 0], start).read
        self.name = momentum_name(optimizer) if table.shape[1] == 2 else None
        if self.name:
            self.own = getattr(optimizer, self.name)
            optimizer.get_config = self._config  # model files hold numbers
            setattr(optimizer, self.name, _Momentum(optimizer, table[:, 1], start, self.own))

    def _config(self) -> dict:
        return {**type(self.optimizer).get_config(self.optimizer), self.name: self.own}

    def end(self) -> None:
        """Gives the optimizer its own rate and momentum back."""
        del self.optimizer._get_current_learning_rate
        if self.name:
            del self.optimizer.get_config
            setattr(self.optimizer, self.name, self.own)
