"""Binary cross-entropy that leaves unknown labels out."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MaskedBinaryCrossentropy(keras.losses.Loss):
    """Mean binary cross-entropy on logits over the known labels of a batch (equation 1).

    Labels are (B, L) float with 0, 1, or NaN for unknown; logits are (B, L). An unknown label has
    neither a loss nor a gradient, and does not count in the mean. A batch without any known label
    has loss 0.
    """

    def __init__(self, name="loss", **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        """Returns the scalar mean."""
        known = ops.logical_not(ops.isnan(y_true))
        target = ops.where(known, y_true, 0.0)
        # log(1 + e^-|z|) keeps large logits exact in both directions.
        per_label = ops.maximum(y_pred, 0.0) - y_pred * target + ops.softplus(-ops.abs(y_pred))
        total = ops.sum(ops.where(known, per_label, 0.0))
        return total / ops.maximum(ops.sum(ops.cast(known, "float32")), 1.0)
