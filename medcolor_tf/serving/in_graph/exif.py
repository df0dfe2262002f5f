"""How a picture is turned: EXIF's tag Orientation, or XMP's, and the turning itself, in a graph.

What Pillow makes of a tag that is there in an odd form is not repeated; such a file is refused.
"""

import tensorflow as tf

from medcolor_tf.serving.in_graph.binary import Bytes, spell
from medcolor_tf.serving.in_graph.checks import checked

TAG, SHORT, ENTRY_BYTES = 0x0112, 3, 12
UPRIGHT = 1
IN_XMP = r'tiff:Orientation(?:="|>)([0-9])'


def read_orientation(exif, xmp, where):
    """Returns EXIF's orientation, else XMP's, else 1; () int32.

    Args:
        exif: () string, a TIFF structure; "" for none.
        xmp: () string; "" for none.
        where: () string, the beginning of messages.
    """
    has_tag, orientation = tf.cond(
        tf.equal(exif, ""),
        lambda: (tf.constant(False), tf.constant(UPRIGHT)),
        lambda: _in_exif(Bytes(exif), where),
    )
    # \C is any byte: the text need not be UTF-8.
    in_xmp = tf.strings.regex_full_match(xmp, rf"\C*{IN_XMP}\C*")
    return tf.cond(
        tf.logical_or(has_tag, tf.logical_not(in_xmp)),
        lambda: orientation,
        lambda: tf.strings.to_number(
            tf.strings.regex_replace(xmp, rf"^\C*?{IN_XMP}\C*$", r"\1"), tf.int32
        ),
    )


def _in_exif(data: Bytes, where):
    """Returns whether the first directory of a TIFF structure has the tag, and its value."""
    little, big = data.holds(0, b"II*\0"), data.holds(0, b"MM\0*")
    little = checked(
        little,
        tf.logical_or(little, big),
        *(
            where,
            "EXIF does not begin as a TIFF structure does (73 73 42 0 or 77 77 0 42), but with",
        ),
        spell(data.numbers(0, 4)),
    )
    start = data.position(4, 4, little)
    fitting = tf.maximum(0, (data.size - start - 2) // ENTRY_BYTES)
    count = tf.minimum(data.position(start, 2, little), fitting)
    entries = tf.reshape(data.numbers(start + 2, count * ENTRY_BYTES), [-1, ENTRY_BYTES])
    tag = tf.where(little, [TAG % 256, TAG // 256], [TAG // 256, TAG % 256])
    matches = tf.reduce_all(tf.equal(tf.cast(entries[:, :2], tf.int32), tag), axis=1)
    place = start + 2 + ENTRY_BYTES * tf.cast(tf.argmax(matches), tf.int32)
    has_tag = tf.reduce_any(matches)
    kind, values = data.number(place + 2, 2, little), data.number(place + 4, 4, little)
    usual = tf.logical_and(tf.equal(kind, SHORT), tf.equal(values, 1))
    value = checked(
        data.number(place + 8, 2, little),
        tf.logical_or(usual, tf.logical_not(has_tag)),
        *(where, "EXIF orientation of type", kind, "with", values, "values"),
        f": expected one of type {SHORT}",
    )
    return has_tag, tf.where(has_tag, tf.cast(value, tf.int32), UPRIGHT)


def turn_upright(pixels, orientation):
    """Turns and mirrors (H, W) as the orientation says; values other than 2 to 8 do nothing."""

    def is_one_of(*values):
        return tf.reduce_any(tf.equal(orientation, values))

    pixels = tf.cond(
        is_one_of(5, 6, 7, 8), lambda: tf.transpose(pixels), lambda: tf.identity(pixels)
    )
    pixels = tf.cond(is_one_of(2, 3, 6, 7), lambda: pixels[:, ::-1], lambda: tf.identity(pixels))
    return tf.cond(is_one_of(3, 4, 7, 8), lambda: pixels[::-1], lambda: tf.identity(pixels))
