"""``--range`` of data preparation in TensorFlow operations: see :mod:`data_prep.levels`."""

import tensorflow as tf

from data_prep.levels import PERCENTILES
from medcolor_tf.serving.in_graph.checks import map_rows


def stretch(gray, how: str):
    """Spreads the levels that an image uses over black to white.

    Args:
        gray: (H, W) uint8 or uint16.
        how: "used" (smallest to largest value) or "percentile".

    Returns:
        (H, W) uint16. A constant image keeps its level, on the 16-bit scale.
    """
    levels = 256 if gray.dtype == tf.uint8 else 65536
    if how == "used":
        low, high = (
            tf.cast(reduce(tf.reshape(gray, [-1])), tf.float64)
            for reduce in (tf.reduce_min, tf.reduce_max)
        )
    else:
        low, high = _percentiles(gray, levels)
    values = tf.range(levels, dtype=tf.float64)
    unit = tf.clip_by_value((values - low) / (high - low), 0, 1)
    spread = tf.round(unit * 65535)
    unchanged = values * (65535 // (levels - 1))
    table = tf.cast(tf.where(high > low, spread, unchanged), tf.uint16)
    return map_rows(lambda rows: tf.gather(table, tf.cast(rows, tf.int32)), gray, tf.uint16)


def _percentiles(gray, levels: int):
    """Returns the two percentiles as NumPy interpolates them, float64."""
    counts = tf.math.bincount(
        tf.reshape(tf.cast(gray, tf.int32), [-1]), minlength=levels, maxlength=levels
    )
    below = tf.cumsum(tf.cast(counts, tf.int64))
    return [_percentile(below, percent) for percent in PERCENTILES]


def _percentile(below, percent: float):
    """Returns a percentile of values of which ``below[v]`` are at most v, (levels,) int64."""
    place = tf.cast(below[-1] - 1, tf.float64) * (percent / 100)
    before = tf.math.floor(place)
    # The value at a place, counted from 0, is the first of which more than that are at most.
    places = tf.minimum(tf.cast(tf.stack([before, before + 1]), tf.int64), below[-1] - 1)
    found = tf.searchsorted(below, places, side="right")
    lower, upper = tf.unstack(tf.cast(found, tf.float64))
    share = place - before
    step = upper - lower
    return tf.where(share >= 0.5, upper - step * (1 - share), lower + step * share)
