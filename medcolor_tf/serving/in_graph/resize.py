"""Pillow's antialiased bilinear resize in TensorFlow operations, equal to it in every pixel.

Pillow resizes in two passes, one per axis, each with a triangle filter that widens with the
reduction. 8-bit pixels are summed with weights in fixed point and rounded to 8 bits after each
pass; float32 pixels are summed in double precision and rounded to float32. tf.image.resize does
neither, and differs by up to 1 of 255.
"""

import functools

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep.raster import MAX_PIXELS
from medcolor_tf.data.image_ops import crop_start
from medcolor_tf.serving.in_graph.checks import checked

# Fraction bits of an 8-bit pass: 32, less 8 of the pixel and 2 to spare.
PRECISION = 22


def target_size(height, width, short_side: int):
    """Returns the (height, width), int32, of an image whose shorter side becomes ``short_side``.

    Args:
        height, width: of the image, int32.
        short_side: in pixels.
    """
    scale = short_side / tf.cast(tf.minimum(height, width), tf.float64)
    sides = [
        tf.maximum(tf.round(tf.cast(side, tf.float64) * scale), 1.0) for side in (height, width)
    ]
    area = sides[0] * sides[1]
    new_height, new_width = (tf.cast(side, tf.int64) for side in sides)
    sides = checked(
        tf.cast(sides, tf.int32),
        area <= MAX_PIXELS,
        *("image of", width, "x", height, "pixels would be resized to", new_width, "x", new_height),
        f"pixels: too large, expected at most {MAX_PIXELS}",
    )
    return sides[0], sides[1]


def centre_square(images, size, extent, bits: int):
    """Resizes images and cuts out the largest square in the middle; nothing else is computed.

    Args:
        images: (B, H, W, C) uint8 or uint16.
        size: (height, width) of the whole image when it is resized, int32.
        extent: (height, width) of the part of the images that is picture, float64, from the top
            left; a reduced JPEG ends within its last pixel.
        bits: 8 or 16, of the result.

    Returns:
        (B, S, S, C) uint8 or uint16, S = min(size).
    """
    short = tf.minimum(size[0], size[1])
    top, left = tf.unstack(crop_start(tf.stack([size[0] - short, size[1] - short]), 0.5))
    vertical = _weights(tf.shape(images)[1], extent[0], size[0], top, short)
    horizontal = _weights(tf.shape(images)[2], extent[1], size[1], left, short)
    tall = _columns_first(images, size)
    # A tall image is turned, so that both orders are one: first along W, then along H.
    images = _turned(images, tall)
    passes = tf.cond(tall, lambda: (*vertical, *horizontal), lambda: (*horizontal, *vertical))
    summed = _sum_8_bits if images.dtype == tf.uint8 and bits == 8 else _sum_floats
    columns = summed(tf.transpose(images, [2, 0, 1, 3]), *passes[:2])
    scaled = summed(tf.transpose(columns, [2, 1, 0, 3]), *passes[2:])
    scaled = _turned(tf.transpose(scaled, [1, 0, 2, 3]), tall)
    if images.dtype == tf.uint8 and bits == 8:
        return scaled
    if bits == 8:
        scaled = scaled / 257
    clipped = tf.clip_by_value(tf.round(scaled), 0.0, 2.0**bits - 1)
    return tf.cast(clipped, tf.uint8 if bits == 8 else tf.uint16)


def _turned(images, turn):
    """Exchanges H and W of (B, H, W, C) where ``turn`` says so."""
    return tf.cond(turn, lambda: tf.transpose(images, [0, 2, 1, 3]), lambda: tf.identity(images))


def _weights(length, extent, size, start, count):
    """Returns, for a part of a resized axis, the first pixel and the weights of each result.

    Args:
        length: pixels of the axis, int32.
        extent: where the picture ends on it, float64.
        size: pixels of the whole resized axis, int32.
        start, count: of the results that are wanted, int32.

    Returns:
        (count,) int32, and (count, taps) float64, 0 beyond the filter.
    """
    scale = extent / tf.cast(size, tf.float64)
    support = tf.maximum(scale, 1.0)
    taps = tf.cast(tf.math.ceil(support), tf.int32) * 2 + 1
    centre = (tf.cast(start + tf.range(count), tf.float64) + 0.5) * scale
    first = tf.maximum(0, tf.cast(centre - support + 0.5, tf.int32))
    last = tf.minimum(length, tf.cast(centre + support + 0.5, tf.int32))
    pixel = first[:, None] + tf.range(taps)
    distance = (tf.cast(pixel, tf.float64) - centre[:, None] + 0.5) * (1.0 / support)
    triangle = tf.maximum(1.0 - tf.abs(distance), 0.0)
    weights = tf.where(pixel < last[:, None], triangle, tf.zeros_like(triangle))
    total = tf.cumsum(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    return first, weights / total


@functools.cache
def pillow_orders_passes() -> bool:
    """Whether the installed Pillow begins with the columns of tall images (from version 13 on)."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 16), np.uint8)
    bilinear = Image.Resampling.BILINEAR
    image = Image.fromarray(noise)
    columns_first = image.resize((16, 20), bilinear).resize((5, 20), bilinear)
    direct = image.resize((5, 20), bilinear)
    return np.array_equal(np.asarray(direct), np.asarray(columns_first))


def _columns_first(images, size):
    """Tells whether Pillow reduces the height first: where that saves twice as many pixels."""
    if not pillow_orders_passes():
        return tf.constant(False)
    saved_rows, saved_columns = (tf.shape(images)[i + 1] - size[i] for i in range(2))
    return saved_rows > tf.maximum(0, 2 * saved_columns)


def _sum_8_bits(images, first, weights):
    fixed = tf.cast(0.5 + weights * 2**PRECISION, tf.int32)
    start = tf.constant(1 << (PRECISION - 1), tf.int32)  # rounds to nearest
    total = _weighted_sum(images, first, fixed, start)
    shifted = tf.bitwise.right_shift(total, tf.constant(PRECISION, tf.int32))
    return tf.cast(tf.clip_by_value(shifted, 0, 255), tf.uint8)


def _sum_floats(images, first, weights):
    """Sums (N, ...) pixels on the 16-bit scale, which 8-bit ones enter by x 257, to float32."""
    if images.dtype == tf.uint8:
        images = tf.cast(images, tf.uint16) * 257
    zero = tf.constant(0, tf.float64)
    return tf.cast(_weighted_sum(images, first, weights, zero), tf.float32)


def _weighted_sum(images, first, weights, start):
    """Sums pixels along the first axis, one tap of all results at a time.

    Args:
        images: (N, ...).
        first: (count,) int32.
        weights: (count, taps) int32 or float64.
        start: scalar, what is added to every sum.

    Returns:
        (count, ...) of the weights' dtype.
    """
    last_pixel = tf.shape(images)[0] - 1
    shape = tf.concat([tf.shape(first), tf.shape(images)[1:]], axis=0)
    by_tap = tf.reshape(tf.transpose(weights), [-1, tf.shape(weights)[0], 1, 1, 1])

    def step(tap, total):
        pixels = tf.gather(images, tf.minimum(first + tap, last_pixel))
        return tap + 1, total + tf.cast(pixels, weights.dtype) * by_tap[tap]

    taps = tf.shape(weights)[1]
    state = (0, tf.fill(shape, start))
    shapes = (tf.TensorShape([]), tf.TensorShape([None, *images.shape[1:]]))
    return tf.while_loop(lambda tap, _: tap < taps, step, state, shapes)[1]
