"""SGD whose momentum can change from step to step."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MomentumSGD(keras.optimizers.Optimizer):
    """Stochastic gradient descent with momentum, both rate and momentum in variables.

    Keras' own SGD bakes its momentum, a float, into the traced step, so a one-cycle callback would
    change nothing. The update is PyTorch's (and fastai's): ``v = momentum * v + g`` and
    ``w -= rate * v``. Keras' own keeps the rate inside the velocity, which differs from it as soon
    as the rate moves: old gradients would count with the rate of their own step.

    Args:
        learning_rate: first rate.
        momentum: first momentum, in [0, 1).
    """

    def __init__(self, learning_rate=0.01, momentum=0.9, name="momentum_sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self._initial_momentum = float(momentum)
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

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable."""
        velocity = self.velocity[self._get_variable_index(variable)]
        momentum = ops.cast(self.momentum, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(velocity, momentum * velocity + gradient)
        self.assign_sub(variable, rate * velocity)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "momentum": self._initial_momentum}
