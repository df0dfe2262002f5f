"""Numbers and texts inside a file's bytes, read in a graph; what lies beyond the end reads as 0."""

import tensorflow as tf

# So many bytes may be read at once.
PADDING = 64


class Bytes:
    """A file, or a part of one, as a string tensor and as numbers.

    Args:
        text: () string.
    """

    def __init__(self, text):
        self.size = tf.strings.length(text)
        self._text = tf.strings.join([text, bytes(PADDING)])
        self._numbers = tf.io.decode_raw(self._text, tf.uint8)

    def number(self, at, count: int, little_endian=False):
        """Returns an unsigned number of ``count`` bytes, () int64.

        Args:
            at: position, () int32; behind the end everything is 0.
            count: 1 to 4.
            little_endian: bool or () bool.
        """
        start = tf.clip_by_value(at, 0, self.size)
        digits = tf.cast(self._numbers[start : start + count], tf.int64)
        powers = [256**i for i in range(count)]
        return tf.reduce_sum(
            digits * tf.where(little_endian, tf.constant(powers, tf.int64), powers[::-1])
        )

    def position(self, at, count: int, little_endian=False):
        """Returns a number as a position or length, () int32, cut off just behind the end."""
        found = self.number(at, count, little_endian)
        return tf.cast(tf.minimum(found, tf.cast(self.size, tf.int64) + 1), tf.int32)

    def text(self, at, count):
        """Returns ``count`` bytes from a position on, () string."""
        start = tf.clip_by_value(at, 0, self.size)
        return tf.strings.substr(self._text, start, count)

    def holds(self, at, literal: bytes):
        """Tells whether bytes stand at a position."""
        return tf.equal(self.text(at, len(literal)), literal)

    def numbers(self, at, count):
        """Returns bytes from a position on, (count,) uint8, or fewer at the end."""
        return self._numbers[at : at + count]


def spell(numbers):
    """Returns bytes, (N,) uint8, as text for messages, which must be UTF-8: "137 80 78 71"."""
    return tf.strings.reduce_join(tf.as_string(numbers), separator=" ")
