"""Checks inside a graph, whose errors say what was expected, and work on large images in strips."""

from collections.abc import Callable

import tensorflow as tf

STRIP_PIXELS = 1 << 22


def checked(value, condition, *message):
    """Returns ``value`` once ``condition`` holds; what is computed from it waits for the check.

    Args:
        value: a tensor.
        condition: scalar bool.
        message: strings and scalar tensors, joined by spaces: what was expected and received.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs and the condition does not hold.
    """
    words = [part if _is_text(part) else tf.as_string(part) for part in message]
    text = tf.strings.join(words, separator=" ")
    with tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=[text])]):
        return tf.identity(value)


def _is_text(part) -> bool:
    return isinstance(part, str) or part.dtype == tf.string


def checked_shape(tensor, name: str, shape: tuple[str, ...]):
    """Returns a tensor after a check of its shape, the number of dimensions included.

    Args:
        tensor: of any shape.
        name: for the message.
        shape: a number, or the name of a dimension of any size from 1 on, per dimension.
    """
    # As text, because of a signature's declared shape TensorFlow believes what it does not check.
    sides = tf.strings.reduce_join(tf.as_string(tf.raw_ops.Shape(input=tensor)), separator=", ")
    pattern = ", ".join(side if side.isdecimal() else r"[1-9]\d*" for side in shape)
    return checked(
        tensor,
        tf.strings.regex_full_match(sides, pattern),
        f"{name}: expected shape ({', '.join(shape)}), received",
        tf.strings.join(["(", sides, ")"]),
    )


def map_rows(function: Callable, image, dtype: tf.DType):
    """Applies a function of pixels to strips of rows, so that its intermediate values stay small.

    Args:
        function: (h, W, ...) to (h, W).
        image: (H, W, ...).
        dtype: of the result.

    Returns:
        (H, W).
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    rows = tf.maximum(1, STRIP_PIXELS // tf.maximum(1, width))
    count = (height + rows - 1) // rows

    def step(i, strips):
        return i + 1, strips.write(i, function(image[i * rows : (i + 1) * rows]))

    strips = tf.TensorArray(dtype, size=count, infer_shape=False, element_shape=[None, None])
    _, strips = tf.while_loop(lambda i, _: i < count, step, (0, strips), parallel_iterations=1)
    return strips.concat()
