"""Where random crops lie: of one image in TensorFlow's operations, of a whole epoch in numpy.

A crop is a function of (seed, epoch, number of the image in the epoch). TensorFlow draws one such
number per operation, which for images in memory took longer than to copy them; so numpy draws an
epoch's together, by the same generator.
"""

from typing import Any

import numpy as np
import tensorflow as tf

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
# With this key TensorFlow makes the generator's own key and counter of a seed.
_SEED_KEY = np.uint64(0x3EC8F720), np.uint64(0x02461E29)
_MANTISSA = np.uint64(0x7FFFFF)


def fold(seed: int, epoch: Any) -> Any:
    """One int64 key, a tensor, of (seed, epoch); epochs stay below 2**32."""
    return tf.cast(epoch, tf.int64) + tf.constant(int(seed) % 2**31, tf.int64) * 2**32


def crop_offset(crop_key):
    """Where the crop lies along the longer side, 0 to 1, as a function of (seed, epoch, number)."""
    return tf.random.stateless_uniform([], seed=tf.stack([fold(*crop_key[:2]), crop_key[2]]))


def crop_offsets(folded: int, count: int) -> np.ndarray:
    """Returns (count,) float32, what :func:`crop_offset` is of the numbers below ``count``.

    Args:
        folded: of seed and epoch, see :func:`fold`.
        count: images of the epoch.
    """
    zero = np.zeros(count, np.uint64)
    seed = [*_halves(zero + np.uint64(folded)), *_halves(np.arange(count, dtype=np.uint64))]
    mixed = _philox(seed, list(_SEED_KEY))
    bits = _philox([zero, zero, *mixed[2:]], mixed[:2])[0]
    return (bits & _MANTISSA).astype(np.float32) * np.float32(2.0**-23)


def _philox(counter: list, key: list) -> list:
    """Four 32-bit numbers of a counter of four and a key of two, each as uint64.

    Source: Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    for _ in range(_ROUNDS):
        low0, high0 = _halves(counter[0] * _MULTIPLIERS[0])
        low1, high1 = _halves(counter[2] * _MULTIPLIERS[1])
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [_halves(part + step)[0] for part, step in zip(key, _KEY_STEPS, strict=True)]
    return counter


def _halves(numbers):
    """The lower and the upper 32 bits."""
    return numbers & _LOW, numbers >> _HALF
