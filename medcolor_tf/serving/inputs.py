"""From an image as the user has it to the classifier's input, in TensorFlow operations alone.

The steps are data_prep's (gray, short side, bits) and the pipeline's (centre square), so that an
exported model sees what it was trained on. Two things Pillow does are missing here: EXIF
orientation, and formats other than JPEG and PNG.
"""

import tensorflow as tf

from medcolor_tf.data.image_ops import resize_pixels, square_crop
from medcolor_tf.models.spec import ModelSpec

# ITU-R 601 in 16-bit fixed point, as Pillow computes it: equal channels keep their value exactly.
LUMA = (19595, 38470, 7471)


def prepare(images, spec: ModelSpec):
    """Brings raw images to the model's bits and size.

    Args:
        images: (..., H, W, C) uint8 or uint16, of any size.
        spec: of the model.

    Returns:
        (..., S, S, C) uint8 or uint16, whichever the model takes.
    """
    images = _to_bits(images, spec.bits)
    shape = tf.shape(images)
    height, width = tf.cast(shape[-3], tf.float64), tf.cast(shape[-2], tf.float64)
    scale = spec.short_side / tf.minimum(height, width)
    size = (tf.cast(tf.round(side * scale), tf.int32) for side in (height, width))
    return square_crop(resize_pixels(images, *size), 0.5, spec.image_size)


def decode_gray(encoded):
    """Decodes one JPEG or PNG, gray or colour, 8 or 16 bits, to (H, W, 1) uint16.

    8-bit values become 16-bit ones by x 257, so that :func:`prepare` gets them back exactly.
    """
    # Byte 24 of a PNG is its bit depth.
    is_png = tf.equal(tf.strings.substr(encoded, 0, 4), b"\x89PNG")
    is_deep = tf.logical_and(is_png, tf.equal(tf.strings.substr(encoded, 24, 1), b"\x10"))

    def eight_bits():
        jpeg = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
        pixels = tf.cond(
            is_png,
            lambda: tf.io.decode_png(encoded, channels=3),
            lambda: tf.io.decode_jpeg(encoded, **jpeg),
        )
        return _luma(pixels) * 257

    pixels = tf.cond(
        is_deep,
        lambda: _luma(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16)),
        eight_bits,
    )
    return tf.cast(pixels, tf.uint16)


def _luma(pixels):
    weighted = tf.cast(pixels, tf.int64) * tf.constant(LUMA, tf.int64)
    total = tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000
    return tf.bitwise.right_shift(total, tf.constant(16, tf.int64))


def _to_bits(images, bits: int):
    if images.dtype == tf.uint16 and bits == 8:
        return tf.cast(tf.round(tf.cast(images, tf.float32) / 257), tf.uint8)
    if images.dtype == tf.uint8 and bits == 16:
        return tf.cast(images, tf.uint16) * 257
    return images
