"""Binary cross-entropy that leaves unknown labels out."""

import keras
from keras import ops

from medcolor_tf.parallel import replicas


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MaskedBinaryCrossentropy(keras.losses.Loss):
    """Mean binary cross-entropy on logits over the known labels of a batch (equation 1).

    Labels are (B, L) float with 0, 1, or NaN for unknown; logits are (B, L). An unknown label has
    neither a loss nor a gradient, and does not count in the mean. A batch without any known label
    has loss 0.

    Where replicas share the batch, each has its own images' part of that mean: Keras sums their
    gradients, and for what it reports sums the parts too (a loss per image it would scale first).
    """

    def __init__(self, name="loss", **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        """Returns the scalar mean, or this replica's part of it."""
        known = ops.logical_not(ops.isnan(y_true))
        target = ops.where(known, y_true, 0.0)
        # log(1 + e^-|z|) keeps large logits exact in both directions.
        per_label = ops.maximum(y_pred, 0.0) - y_pred * target + ops.softplus(-ops.abs(y_pred))
        total = ops.sum(ops.where(known, per_label, 0.0))
        count = replicas.total(ops.sum(ops.cast(known, "float32")))
        return total / ops.maximum(count, 1.0)
