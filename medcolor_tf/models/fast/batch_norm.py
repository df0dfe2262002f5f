"""Batch normalisation in one TensorFlow kernel; other backends keep Keras' own layer.

A marked fast path, which alone calls TensorFlow: Keras' layer runs about ten element-wise passes
over the activations and casts bfloat16 to float32 and back.
"""

from collections.abc import Callable
from typing import Any

import keras

from medcolor_tf.keras_ops import ops
from medcolor_tf.models.layers import Tensor, register
from medcolor_tf.parallel import replicas, runtime

# Where the kernel takes over: what cuDNN accepts, and what the tests compare.
MIN_EPSILON = 1e-5
FUSED_DTYPES = ("float32", "bfloat16")


@register
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization with the same arguments, weights, names and results.

    On TensorFlow, (B,H,W,C) inputs of float32 or bfloat16 normalised over their last axis go
    through `FusedBatchNormV3`, with float32 weights and statistics under every policy. Everything
    else (masks, other ranks, renorm, synchronized, a small epsilon, other backends) is left to
    Keras.
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B,H,W,C) to the same shape in the compute dtype; see Keras' layer for the arguments."""
        if mask is not None or not self._is_fast(inputs):
            return super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            several = replicas.count() > 1
            outputs = self._by_global_batch(inputs) if several else self._by_batch(inputs)
        elif training or runtime.is_deterministic():
            outputs = self._by_moving_affine(inputs)
        else:
            outputs = self._by_moving(inputs)
        return ops.cast(outputs, self.compute_dtype)

    def _is_fast(self, inputs: Tensor) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) in FUSED_DTYPES
            and self.epsilon >= MIN_EPSILON
            and not self.synchronized
            and not getattr(self, "renorm", False)
        )

    def shares_statistics(self) -> bool:
        """Says whether a built layer by itself normalises by the batch that replicas share."""
        spec: Any = self.input_spec  # None until the layer is built
        return self._is_fast(keras.KerasTensor((None,) * spec.ndim, self.compute_dtype))

    def _scale_and_offset(self) -> tuple[Tensor, Tensor]:
        """Returns gamma and beta, (C,) float32; ones and zeros where the layer has none."""
        like = ops.convert_to_tensor(self.moving_mean)
        scale = ops.ones_like(like) if self.gamma is None else ops.convert_to_tensor(self.gamma)
        offset = ops.zeros_like(like) if self.beta is None else ops.convert_to_tensor(self.beta)
        return scale, offset

    def _by_batch(self, x: Tensor) -> Tensor:
        """Normalises by the batch's mean and biased variance; updates the moving ones as Keras."""
        import tensorflow as tf

        scale, offset = self._scale_and_offset()
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=self.epsilon
        )
        # The kernel normalises by the biased variance but returns it times n / (n - 1).
        count = tf.cast(tf.size(x, tf.int64) // x.shape[-1], variance.dtype)
        variance *= 1.0 - 1.0 / count
        self._update_moving(mean, variance)
        return outputs

    def _by_global_batch(self, x: Tensor) -> Tensor:
        """As `_by_batch`, by mean and variance of the batch that several replicas share.

        One exchange of (2,C) float32 per layer, and one of their gradients.
        """
        x = ops.cast(x, "float32")
        mean, variance = ops.moments(x, axes=(0, 1, 2))
        # The variance of the replicas' means is a difference of squares. Seen from the moving mean,
        # which is near and the same on all of them, these are small and their rounding is too.
        near = ops.convert_to_tensor(self.moving_mean)
        shift = mean - near
        moments = replicas.mean(ops.stack([shift, variance + ops.square(shift)]))
        shift, square = ops.unstack(moments, 2)
        mean, variance = near + shift, ops.maximum(square - ops.square(shift), 0.0)
        self._update_moving(mean, variance)
        scale, offset = self._scale_and_offset()
        return (x - mean) * (ops.rsqrt(variance + self.epsilon) * scale) + offset

    def _update_moving(self, mean: Tensor, variance: Tensor) -> None:
        for moving, now in zip(self._moving(), (mean, variance), strict=True):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))

    def _moving(self) -> tuple[Any, Any]:
        """Returns the variables of the moving mean and variance, which Keras declares as None."""
        return self.moving_mean, self.moving_variance

    def _by_moving(self, x: Tensor) -> Tensor:
        """Normalises by the moving statistics where no gradient is asked for.

        As one kernel that TensorFlow's optimiser can merge into the convolution before it.
        """
        return _inference(x, self._moving_tensors(), self.epsilon)

    def _moving_tensors(self) -> tuple[Tensor, ...]:
        """Returns gamma, beta, moving mean and moving variance, each (C,) float32."""
        import tensorflow as tf

        variables = *self._scale_and_offset(), *self._moving()
        return tuple(map(tf.convert_to_tensor, variables))

    def _by_moving_affine(self, x: Tensor) -> Tensor:
        """Normalises by the moving statistics inside a training step.

        Forward as `_by_moving`. The kernel's own gradient would always sum over the activations for
        gamma and beta, which are frozen, and has no deterministic form on GPUs; this one is a
        multiplication, and the sums are made where somebody asks for them.
        """
        import tensorflow as tf

        tensors = self._moving_tensors()  # not inside: it would ask for gradients of variables

        @tf.custom_gradient
        def normalize(
            x: Tensor, scale: Tensor, shift: Tensor
        ) -> tuple[Tensor, Callable[[Tensor], Any]]:
            def gradient(dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                dx = dy * tf.cast(scale, dy.dtype)
                dy = tf.cast(dy, "float32")
                product = dy * tf.cast(x, "float32")
                return dx, tf.reduce_sum(product, (0, 1, 2)), tf.reduce_sum(dy, (0, 1, 2))

            return _inference(x, tensors, self.epsilon), gradient

        return normalize(x, *moving_affine(self))


def _inference(x: Tensor, tensors: tuple[Tensor, ...], epsilon: float) -> Tensor:
    import tensorflow as tf

    scale, offset, mean, variance = tensors
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )[0]


def moving_affine(layer: Any) -> tuple[Tensor, Tensor]:
    """Returns (scale, shift), each (C,) float32, of a built layer's inference x * scale + shift.

    Args:
        layer: Keras' BatchNormalization or a subclass, whose variables Keras declares as None.
    """
    scale = ops.rsqrt(layer.moving_variance + layer.epsilon)
    scale = scale if layer.gamma is None else scale * layer.gamma
    shift = -layer.moving_mean * scale
    return scale, shift if layer.beta is None else shift + layer.beta


def batch_normalization(**arguments: Any) -> keras.layers.BatchNormalization:
    """Makes the layer that suits the backend: fused on TensorFlow, Keras' own elsewhere."""
    if keras.backend.backend() == "tensorflow":
        return FusedBatchNormalization(**arguments)
    return keras.layers.BatchNormalization(**arguments)


def is_plain_batch_norm(layer: keras.Layer) -> bool:
    """Says whether a layer is exactly Keras' own, built, and one that the kernel can stand for."""
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and not getattr(layer, "renorm", False)
    )
