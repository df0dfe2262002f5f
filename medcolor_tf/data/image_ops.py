"""One image as tensors: decoding, the square crop, resizing."""

import tensorflow as tf

from medcolor_tf.data import schema

# For functions that build data sets: what they map is traced as it is written. Nothing there
# branches on a tensor, and rewriting by AutoGraph took a tenth of the time to the first step.
without_autograph = tf.autograph.experimental.do_not_convert


def decode_image(encoded, size, info: schema.DatasetInfo):
    """Decodes one record's channels: (C,) strings to (H, W, C) uint8 or uint16."""
    dtype = tf.uint16 if info.bits == 16 else tf.uint8
    decode = {
        "png": lambda text: tf.io.decode_png(text, channels=1, dtype=dtype),
        # The accurate transform is Pillow's; the default one differs from it (measured).
        "jpeg": lambda text: tf.io.decode_jpeg(text, channels=1, dct_method="INTEGER_ACCURATE"),
        "raw": lambda text: tf.reshape(
            tf.io.decode_raw(text, dtype), tf.concat([size, [1]], axis=0)
        ),
    }[info.encoding]
    return tf.concat([decode(encoded[channel]) for channel in range(info.channels)], axis=-1)


def square_crop(image, offset, side: int):
    """Cuts the largest square and scales it to ``side`` pixels.

    Args:
        image: (H, W, C) or (B, H, W, C), uint8 or uint16.
        offset: where along the longer side, 0 (start) to 1 (end); 0.5 is the centre.
        side: of the result, in pixels.

    Returns:
        (side, side, C) or (B, side, side, C), same dtype; resampled (bilinear, antialiased) only
        where it must be.
    """
    height, width = tf.shape(image)[-3], tf.shape(image)[-2]
    short = tf.minimum(height, width)
    start = crop_start(tf.stack([height - short, width - short]), offset)
    square = image[..., start[0] : start[0] + short, start[1] : start[1] + short, :]
    square = resize_pixels(square, side, side)
    return tf.ensure_shape(square, [*image.shape[:-3], side, side, image.shape[-1]])


def crop_start(overhang, offset):
    """Returns the first pixel of a square crop along the longer side, int32.

    Args:
        overhang: int32, pixels of the longer side beyond the shorter one.
        offset: float32, 0 (start) to 1 (end).
    """
    return tf.cast(tf.round(tf.cast(overhang, tf.float32) * offset), tf.int32)


def resize_pixels(image, height, width):
    """Antialiased bilinear resize, as Pillow's, of (..., H, W, C); nothing where the size fits."""

    def scale():
        resized = tf.image.resize(image, [height, width], antialias=True)
        return tf.saturate_cast(tf.round(resized), image.dtype)

    shape = tf.shape(image)
    fits = tf.logical_and(tf.equal(shape[-3], height), tf.equal(shape[-2], width))
    return tf.cond(fits, lambda: image, scale)
