"""The signatures of a SavedModel that takes the image as the user has it.

What comes before the model is data_prep's reading and resizing and the pipeline's centre square, in
TensorFlow operations (:mod:`medcolor_tf.serving.in_graph`), so that the exported model gives the
probabilities of ``medcolor_tf.predict``.
"""

from typing import Any

import keras
import tensorflow as tf

from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.serving.in_graph import prepare


def archive(spec: ModelSpec, model: keras.Model) -> Any:
    """Returns a ``keras.export.ExportArchive`` with the signatures, to be written out.

    Args:
        spec: of the model.
        model: (B, S, S, C) to logits and colours, see ``classify_and_colorize``.
    """
    channels, pixels = spec.input_channels, prepare.pixel_type(spec)
    any_size = (None, None, None, channels)
    files = tf.TensorSpec((None,) if channels == 1 else (None, channels), tf.string, "encoded")
    arrays = {dtype: tf.TensorSpec(any_size, dtype, "images") for dtype in (tf.uint8, tf.uint16)}
    # Traced once each: signatures share them.
    prepare_files = _trace(prepare.prepare_files, files, spec)
    prepare_arrays = {
        dtype: _trace(prepare.prepare_arrays, signature, spec)
        for dtype, signature in arrays.items()
    }

    def classify(prepared):
        return tf.sigmoid(model(prepared, training=False)[0])

    def with_names(probabilities):
        count = tf.shape(probabilities)[0]
        names = tf.repeat(tf.constant([spec.observations]), count, axis=0)
        return {"probabilities": probabilities, "observations": names}

    def from_arrays(images):
        return {"probabilities": classify(prepare_arrays[images.dtype](images))}

    def from_files(encoded):
        return with_names(classify(prepare_files(encoded)))

    def from_prepared(prepared):
        return with_names(classify(prepare.checked_prepared(prepared, spec)))

    def colorize(images):
        logits, colorized = model(prepare_arrays[images.dtype](images), training=False)
        return {"probabilities": tf.sigmoid(logits), "colorized": colorized}

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, function, signature in (
        ("serving_default", from_arrays, arrays[tf.uint8]),
        ("uint16", from_arrays, arrays[tf.uint16]),
        ("encoded", from_files, files),
        ("prepared", from_prepared, tf.TensorSpec(any_size, pixels, "prepared")),
        ("colorized", colorize, arrays[pixels]),
    ):
        archive.add_endpoint(name, function, [signature])
    return archive


def _trace(function, signature: tf.TensorSpec, spec: ModelSpec):
    """Returns a function of (tensor, spec) as a graph function of the tensor."""
    traced = tf.function(
        lambda tensor: function(tensor, spec), input_signature=[signature], autograph=False
    )
    return traced.get_concrete_function()
