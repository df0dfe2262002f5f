"""Rotation and zoom in one bilinear resample, on the batch, where the model runs.

Parameters and their meaning are section IV-B of the paper and fastai's: rotation by up to 10
degrees and zoom by 1.0 to 1.1 about a random focal point, each applied with probability 0.75,
reflection at the border. Two chained layers would resample twice and blur twice.

Only keras.ops, so that it runs on every backend, and always compiled by XLA, which makes one loop
of it: on a CPU ten times faster than the same operations one by one, and four times faster than
TensorFlow's own projective transform, which has no XLA kernel (`python -m benchmarks.run`).
"""

import math

import keras
import numpy as np

from medcolor_tf.keras_ops import ops
from medcolor_tf.parallel import replicas
from medcolor_tf.parallel.runtime import compiled

FILL_MODES = ("reflect", "nearest", "constant")


def resample(images, matrices, fill_mode: str = "reflect"):
    """Bilinear resampling by one affine map an image.

    Args:
        images: (B, H, W, C) float.
        matrices: (B, 2, 3) float32; output pixel (x, y) is read at ``matrix @ (x, y, 1)``, in
            pixels, x to the right, y down, (0, 0) the centre of the first pixel.
        fill_mode: beyond the border: "reflect" (d c b a | a b c d | d c b a), "nearest" (the border
            pixel) or "constant" (zero).

    Returns:
        (B, H, W, C), dtype of ``images``.
    """
    batch, height, width, channels = ops.shape(images)
    x = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, -1))
    y = ops.reshape(ops.arange(height, dtype="float32"), (1, -1, 1))
    # Element by element, not as a product of matrices: with the rest it becomes one loop.
    m = ops.reshape(ops.cast(matrices, "float32"), (-1, 6, 1, 1))
    source_x, source_y = m[:, 0] * x + m[:, 1] * y + m[:, 2], m[:, 3] * x + m[:, 4] * y + m[:, 5]
    left, top = ops.floor(source_x), ops.floor(source_y)
    columns = [_into_range(left + step, width, fill_mode) for step in (0, 1)]
    rows = [_into_range(top + step, height, fill_mode) for step in (0, 1)]
    first_pixel = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1)) * (height * width)
    flat = ops.reshape(images, (-1, channels))

    def tap(row, column):
        value = ops.take(flat, first_pixel + row[0] * width + column[0], axis=0)
        if fill_mode == "constant":
            value = value * ops.cast(row[1] & column[1], value.dtype)[..., None]
        return value

    share_x, share_y = (
        ops.cast(share, images.dtype)[..., None] for share in (source_x - left, source_y - top)
    )

    def between(start, end, share):
        return start + (end - start) * share

    left_column, right_column = columns
    upper, lower = (between(tap(row, left_column), tap(row, right_column), share_x) for row in rows)
    return between(upper, lower, share_y)


def rotation_zoom(angle, scale, focus_x, focus_y, height: int, width: int):
    """Matrices for :func:`resample`: first a zoom about a focal point, then a rotation.

    Args:
        angle: (B,) radians, counter-clockwise, about the image's centre.
        scale: (B,) magnification, >= 1 shows a part of the image, larger.
        focus_x, focus_y: (B,) the point that zooming leaves where it is, 0 (left, top) to 1.
        height, width: of the image, in pixels.

    Returns:
        (B, 2, 3) float32.
    """
    cos, sin = ops.cos(angle), ops.sin(angle)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shrink = 1.0 / scale
    # Zoom: p -> shrink * p + shift; rotation about the centre: p -> R (p - c) + c.
    shift_x = (1.0 - shrink) * focus_x * (width - 1) - centre_x
    shift_y = (1.0 - shrink) * focus_y * (height - 1) - centre_y
    row_x = [cos * shrink, -sin * shrink, cos * shift_x - sin * shift_y + centre_x]
    row_y = [sin * shrink, cos * shrink, sin * shift_x + cos * shift_y + centre_y]
    return ops.stack([ops.stack(row_x, axis=-1), ops.stack(row_y, axis=-1)], axis=1)


def _into_range(index, size: int, fill_mode: str):
    """Maps whole float positions into [0, size) as int32; also says which were inside before."""
    inside = (index >= 0) & (index < size)
    if fill_mode == "reflect":
        # As floats, which processors divide many at a time: integers they do not.
        period = 2.0 * size
        index = index - period * ops.floor(index / period)
        index = ops.minimum(index, period - 1 - index)
    return ops.cast(ops.clip(index, 0, size - 1), "int32"), inside


_resample = compiled(resample)


@keras.saving.register_keras_serializable(package="medcolor_tf")
class RandomRotationZoom(keras.layers.Layer):
    """Random rotation and zoom while training, identity otherwise.

    The draws of the n-th training batch are a function of (seed, n) alone: the generator's state
    is [seed, n], a variable of the model that checkpoints keep.

    Called with images (B, H, W, C) of any numeric dtype; returns float32 of the same shape and
    range.

    Args:
        degrees: largest rotation to either side, about the centre, in degrees.
        max_zoom: largest magnification, >= 1, about a random point.
        probability: of each of the two, independently.
        seed: of the draws.
        **kwargs: of ``keras.layers.Layer``.

    Raises:
        ValueError: an argument out of range.

    Source: section IV-B of the paper and fastai's ``get_transforms``.

    Example:
        >>> import numpy as np
        >>> import medcolor_tf as mc
        >>> augment = mc.RandomRotationZoom(degrees=10, max_zoom=1.1, seed=0)
        >>> images = np.random.default_rng(0).uniform(size=(2, 32, 32, 1))
        >>> tuple(augment(images, training=True).shape)
        (2, 32, 32, 1)
        >>> bool(np.allclose(augment(images), images))  # not in training
        True
    """

    def __init__(self, degrees=10.0, max_zoom=1.1, probability=0.75, seed=0, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if max_zoom < 1 or not 0 <= probability <= 1 or degrees < 0:
            raise ValueError(
                f"expected degrees >= 0, max_zoom >= 1 and 0 <= probability <= 1, "
                f"got {degrees}, {max_zoom} and {probability}"
            )
        self.degrees, self.max_zoom, self.probability = degrees, max_zoom, probability
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        """Returns the batch, resampled when ``training``."""
        images = ops.cast(images, "float32")
        if not training or (self.degrees == 0 and self.max_zoom == 1) or self.probability == 0:
            return images
        return _resample(images, self.draw(ops.shape(images)))

    def draw(self, shape):
        """Draws (B, 2, 3) matrices for a batch of ``shape`` and advances the generator."""
        batch, height, width = shape[:3]
        # All replicas of a batch draw for all of it: an image's draws depend on its place alone.
        draws = keras.random.uniform((batch * replicas.count(), 6), seed=self.seed_generator)
        draws = replicas.own_rows(draws)
        rotate, angle, zoom, scale, focus_x, focus_y = ops.unstack(draws, 6, axis=1)
        limit = math.radians(self.degrees)
        angle = ops.where(rotate < self.probability, (2 * angle - 1) * limit, 0.0)
        scale = ops.where(zoom < self.probability, 1 + scale * (self.max_zoom - 1), 1.0)
        return rotation_zoom(angle, scale, focus_x, focus_y, height, width)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape."""
        return input_shape

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "degrees": self.degrees,
            "max_zoom": self.max_zoom,
            "probability": self.probability,
            "seed": self.seed,
        }


def scale_weights(before: int, after: int) -> np.ndarray:
    """Returns (after, before) float32: what each pixel of a smaller row takes of a larger one.

    Bilinear and antialiased: a triangle as wide as two pixels of the smaller row, as Pillow's and
    TensorFlow's, cut at the border. Every row sums to 1.
    """
    factor = before / after
    centres = (np.arange(after)[:, None] + 0.5) * factor
    distances = np.abs(np.arange(before) + 0.5 - centres) / max(factor, 1.0)
    weights = np.maximum(1 - distances, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class ScaledImages(keras.layers.Layer):
    """Square images at a smaller side, which a step that is traced anew may change.

    As two products of matrices, it needs no operation that XLA or an accelerator lacks.

    Args:
        side: of the result, in pixels.

    Called with (B, S, S, C) float32; returns (B, side, side, C).
    """

    def __init__(self, side: int, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.side = side

    def call(self, images):
        """Returns the batch at ``side``; as it is where that is its size."""
        before = images.shape[1]
        if before == self.side:
            return images
        weights = ops.convert_to_tensor(scale_weights(before, self.side))
        rows = ops.einsum("yh,bhwc->bywc", weights, images)
        return ops.einsum("xw,bywc->byxc", weights, rows)
