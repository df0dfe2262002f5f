"""SavedModel that takes the image as the user has it and needs nothing but TensorFlow."""

import os
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from medcolor_tf.errors import InputError
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder
from medcolor_tf.serving.inputs import decode_gray, prepare


def export(config) -> Path:
    """Exports a run; the folder appears under its name only when it is complete.

    Args:
        config: :class:`medcolor_tf.export.ExportConfig`.

    Returns:
        The SavedModel's folder.

    Raises:
        InputError: no such run, or the folder exists.
    """
    out = Path(config.out or Path(config.run_dir) / folder.SAVED_MODEL)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new folder")
    spec, classifier, step = folder.load_predictor(config.run_dir, config.weights)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _archive(spec, classifier).write_out(str(temporary), verbose=False)
    about = spec.to_dict() | {"step": step, "weights": config.weights}
    extra = temporary / "assets.extra"
    extra.mkdir()
    folder.write_json(extra / folder.MODEL, about)
    os.replace(temporary, out)
    return out


def _archive(spec: ModelSpec, classifier: keras.Model) -> keras.export.ExportArchive:
    model = classify_and_colorize(classifier)
    archive = keras.export.ExportArchive()
    archive.track(model)
    channels = spec.input_channels

    def answer(images):
        logits, colorized = model(prepare(images, spec), training=False)
        return {
            "probabilities": tf.sigmoid(logits),
            "observations": tf.constant(spec.observations),
            "colorized": colorized,
        }

    def answer_encoded(encoded):
        decoded = tf.TensorSpec(
            (spec.image_size, spec.image_size, channels), tf.uint16 if spec.bits == 16 else tf.uint8
        )
        images = tf.map_fn(lambda files: _decode(files, spec), encoded, fn_output_signature=decoded)
        return answer(images)

    for name, dtype in (("serving_default", tf.uint8), ("uint16", tf.uint16)):
        signature = [tf.TensorSpec((None, None, None, channels), dtype, name="images")]
        archive.add_endpoint(name, answer, signature)
    shape = (None,) if channels == 1 else (None, channels)
    archive.add_endpoint("encoded", answer_encoded, [tf.TensorSpec(shape, tf.string, "encoded")])
    return archive


def _decode(files, spec: ModelSpec):
    """One record's files, () or (C,) strings, to (S, S, C)."""
    if spec.input_channels == 1:
        return prepare(decode_gray(files), spec)
    channels = [prepare(decode_gray(files[c]), spec) for c in range(spec.input_channels)]
    return tf.concat(channels, axis=-1)
