"""Losses on logits that leave unknown labels out."""

import keras

from medcolor_tf.keras_ops import ops
from medcolor_tf.parallel import replicas


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MaskedBinaryCrossentropy(keras.losses.Loss):
    """Mean binary cross-entropy on logits over the known labels of a batch (equation 1).

    An unknown label has neither a loss nor a gradient, and does not count in the mean. A batch
    without any known label has loss 0.

    Where replicas share the batch, each has its own images' part of that mean: Keras sums their
    gradients, and for what it reports sums the parts too (a loss per image it would scale first).

    Called with labels (B, L) float with 0, 1, or NaN for unknown, and logits (B, L); returns a
    float32 scalar.

    Args:
        name: of the loss.
        **kwargs: of ``keras.losses.Loss``.

    Source: equation 1 of the paper.

    Example:
        >>> import numpy as np
        >>> import medcolor_tf as mc
        >>> labels = np.float32([[1, np.nan], [0, np.nan]])
        >>> logits = np.float32([[0, 5], [0, -5]])
        >>> round(float(mc.MaskedBinaryCrossentropy()(labels, logits)), 4)  # log 2
        0.6931
    """

    def __init__(self, name="loss", **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        """Returns the scalar mean, or this replica's part of it."""
        known = ops.logical_not(ops.isnan(y_true))
        per_label = self.per_label(ops.where(known, y_true, 0.0), y_pred)
        total = ops.sum(ops.where(known, per_label, 0.0))
        count = replicas.total(ops.sum(ops.cast(known, "float32")))
        return total / ops.maximum(count, 1.0)

    def per_label(self, target, logits):
        """Returns the loss (B, L) of labels that are all 0 or 1."""
        # log(1 + e^-|z|) keeps large logits exact in both directions.
        return ops.maximum(logits, 0.0) - logits * target + ops.softplus(-ops.abs(logits))


@keras.saving.register_keras_serializable(package="medcolor_tf")
class MaskedFocalCrossentropy(MaskedBinaryCrossentropy):
    """Mean focal loss on logits over the known labels of a batch; else as its base class.

    What is predicted well counts less: with p the probability of the true label, each one's
    cross-entropy is multiplied by ``(1 - p) ** gamma``.

    Args:
        gamma: 0 or more; 0 is binary cross-entropy.
        name, **kwargs: see :class:`MaskedBinaryCrossentropy`.

    Raises:
        ValueError: a negative ``gamma``.

    Source: Lin et al. 2017 (arXiv:1708.02002), without its class weights.
    """

    def __init__(self, gamma=2.0, name="loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if not gamma >= 0:
            raise ValueError(f"expected gamma >= 0, received {gamma}")
        self.gamma = float(gamma)

    def per_label(self, target, logits):
        """Returns the loss (B, L) of labels that are all 0 or 1."""
        # 1 - p = sigmoid(-z) for a positive label and sigmoid(z) for a negative one.
        signed = logits * (2.0 * target - 1.0)
        return super().per_label(target, logits) * ops.exp(-self.gamma * ops.softplus(signed))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "gamma": self.gamma}
