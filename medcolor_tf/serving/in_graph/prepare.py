"""From image files or arrays of any size to the square that the model takes, in a graph.

The pixels are those of ``medcolor_tf.predict``: :func:`data_prep.images.read_image`, then the
centre square. Files are JPEG and PNG; what cannot be read is an error that says what was expected.
"""

import tensorflow as tf

from data_prep.raster import MAX_PIXELS
from medcolor_tf.catalog import FULL_RANGE
from medcolor_tf.data.image_ops import square_crop
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.serving.in_graph import jpeg, png
from medcolor_tf.serving.in_graph.binary import spell
from medcolor_tf.serving.in_graph.checks import checked, checked_shape
from medcolor_tf.serving.in_graph.levels import stretch
from medcolor_tf.serving.in_graph.resize import centre_square, target_size

# Files of a batch that are decoded at the same time.
PARALLEL_FILES = 4


def pixel_type(spec: ModelSpec) -> tf.DType:
    """Returns the type of the pixels that the model takes."""
    return tf.uint16 if spec.bits == 16 else tf.uint8


def prepare_files(encoded, spec: ModelSpec):
    """Decodes JPEG and PNG files and brings them to the model's bits and size.

    Args:
        encoded: (B,) string, or (B, C) for a model of several channels.
        spec: of the model.

    Returns:
        (B, S, S, C) uint8 or uint16.
    """
    channels = (str(spec.input_channels),) if spec.input_channels > 1 else ()
    encoded = checked_shape(encoded, "encoded", ("batch", *channels))
    count = tf.shape(encoded)[0]
    shape = (spec.image_size, spec.image_size, spec.input_channels)
    return tf.map_fn(
        lambda item: _prepare_record(item[0], item[1], spec),
        (tf.range(count), tf.reshape(encoded, [count, spec.input_channels])),
        fn_output_signature=tf.TensorSpec(shape, pixel_type(spec)),
        parallel_iterations=PARALLEL_FILES,
    )


def _prepare_record(number, files, spec: ModelSpec):
    """Prepares one record's files, (C,) string, to (S, S, C)."""
    squares, sizes = [], []
    for channel in range(spec.input_channels):
        of_channel = f", channel {channel}:" if spec.input_channels > 1 else ":"
        where = tf.strings.join(["encoded image ", tf.as_string(number), of_channel])
        square, size = decode_square(files[channel], spec, where)
        squares.append(square)
        sizes.append(size)
    square = tf.concat(squares, axis=-1)
    for size in sizes[1:]:
        square = checked(
            square,
            tf.reduce_all(tf.equal(size, sizes[0])),
            *("encoded image", number, "has channels of different sizes, when resized"),
            *(sizes[0][1], "x", sizes[0][0], "and", size[1], "x", size[0]),
        )
    return square_crop(square, 0.5, spec.image_size)


def decode_square(content, spec: ModelSpec, where):
    """Decodes a file, and resizes it as data preparation does, but for what lies off the square.

    Args:
        content: () string, a JPEG or PNG file.
        spec: of the model.
        where: () string, the beginning of messages.

    Returns:
        The centre square, (s, s, 1) uint8 or uint16, s the model's short side; and the (height,
        width) of the whole resized image, int32.
    """
    is_png = tf.equal(tf.strings.substr(content, 0, len(png.MAGIC)), png.MAGIC)
    is_jpeg = tf.equal(tf.strings.substr(content, 0, len(jpeg.MAGIC)), jpeg.MAGIC)
    content = checked(content, tf.strings.length(content) > 0, where, "empty: expected a file")
    content = checked(
        content,
        tf.logical_or(is_png, is_jpeg),
        *(where, "not a JPEG or PNG file: expected one of these, received one that begins with"),
        *("bytes", spell(tf.io.decode_raw(tf.strings.substr(content, 0, 8), tf.uint8))),
    )

    def from_png():
        shallow, deep = png.decode(content, where)
        size = tf.maximum(tf.shape(shallow), tf.shape(deep))
        return shallow, deep, size, tf.cast(size, tf.float64)

    def from_jpeg():
        reducible = spec.bits == 8 and spec.range == FULL_RANGE
        decoded = jpeg.decode(content, where, spec.short_side if reducible else None)
        return decoded[0], tf.zeros((0, 0), tf.uint16), *decoded[1:]

    shallow, deep, size, part = tf.cond(is_png, from_png, from_jpeg)
    square, resized = tf.cond(
        tf.size(deep) > 0,
        lambda: _square(deep, size, part, spec),
        lambda: _square(shallow, size, part, spec),
    )
    return square[0], resized


def _square(gray, size, part, spec: ModelSpec):
    """Stretches and resizes (H, W); returns (1, s, s, 1) and the size of the resized image."""
    if spec.range != FULL_RANGE:
        gray = stretch(gray, spec.range)
    height, width = target_size(size[0], size[1], spec.short_side)
    square = centre_square(gray[None, ..., None], (height, width), (part[0], part[1]), spec.bits)
    return square, tf.stack([height, width])


def prepare_arrays(images, spec: ModelSpec):
    """Brings raw images to the model's bits and size, as if each were a gray PNG.

    Args:
        images: (B, H, W, C) uint8 or uint16, of any size.
        spec: of the model.

    Returns:
        (B, S, S, C) uint8 or uint16.
    """
    channels = str(spec.input_channels)
    images = checked_shape(images, "images", ("batch", "height", "width", channels))
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    area = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    images = checked(
        images,
        area <= MAX_PIXELS,
        *("images of", width, "x", height, f"pixels: expected at most {MAX_PIXELS}"),
    )
    if spec.range != FULL_RANGE:
        images = _stretch_each(images, spec)
    size = target_size(height, width, spec.short_side)
    part = (tf.cast(height, tf.float64), tf.cast(width, tf.float64))
    return square_crop(centre_square(images, size, part, spec.bits), 0.5, spec.image_size)


def _stretch_each(images, spec: ModelSpec):
    """Stretches every channel of every image by its own levels; (B, H, W, C) uint16."""
    shape = tf.shape(images)
    flat = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [-1, shape[1], shape[2]])
    stretched = tf.map_fn(
        lambda image: stretch(image, spec.range),
        flat,
        fn_output_signature=tf.TensorSpec((None, None), tf.uint16),
    )
    by_channel = tf.reshape(stretched, [shape[0], shape[3], shape[1], shape[2]])
    return tf.transpose(by_channel, [0, 2, 3, 1])


def checked_prepared(images, spec: ModelSpec):
    """Returns images that are prepared already, after a check of their shape.

    Args:
        images: (B, S, S, C) of the model's pixel type.
        spec: of the model.
    """
    side, channels = spec.image_size, spec.input_channels
    images = checked_shape(images, "prepared", ("batch", str(side), str(side), str(channels)))
    return tf.ensure_shape(images, (None, side, side, channels))
