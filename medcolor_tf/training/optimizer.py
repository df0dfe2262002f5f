"""SGD whose rate and momentum follow a schedule inside the step."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MomentumSGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum, both in variables or from a schedule.

    Keras' own SGD bakes its momentum, a float, into the traced step, so a one-cycle callback would
    change nothing. With :meth:`follow` both are looked up inside the step, by ``iterations``: no
    step waits for Python to assign them, and it holds on every backend (on JAX, what a callback
    assigns during ``fit`` does not reach the step).

    The update is PyTorch's (and fastai's): ``v = momentum * v + g`` and ``w -= rate * v``. Keras'
    own keeps the rate inside the velocity, which differs from it as soon as the rate moves: old
    gradients would count with the rate of their own step.

    Args:
        learning_rate: first rate.
        momentum: first momentum, in [0, 1).
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

    def follow(self, schedule: np.ndarray | None, start: int = 0) -> bool:
        """Takes rate and momentum from a table from now on; None: from the variables again.

        Args:
            schedule: (steps, 2) learning rate and momentum; before its first and after its last row
                those rows hold.
            start: value of ``iterations`` that has the first row.

        Returns:
            Whether this changes the step: a traced one must be traced anew.
        """
        before = self._schedule, self._schedule_start
        self._schedule = None if schedule is None else np.asarray(schedule, np.float32)
        self._schedule_start = start
        return before[1] != start or not np.array_equal(before[0], self._schedule)

    def _scheduled(self, column: int):
        table = ops.convert_to_tensor(self._schedule[:, column])
        step = ops.cast(self.iterations, "int32") - self._schedule_start
        return ops.take(table, ops.clip(step, 0, len(self._schedule) - 1))

    def _get_current_learning_rate(self):
        if self._schedule is not None:
            return self._scheduled(0)
        return super()._get_current_learning_rate()

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if self._schedule is None:
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
