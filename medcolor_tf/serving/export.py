"""SavedModel that takes the image as the user has it and needs nothing but TensorFlow.

What comes before the model is data_prep's steps (gray, short side, bits) and the pipeline's (centre
square) in TensorFlow operations alone, so that an exported model sees what it was trained on. Two
things Pillow does are missing there: EXIF orientation, and formats other than JPEG and PNG.
"""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from medcolor_tf.catalog import FULL_RANGE
from medcolor_tf.data.image_ops import resize_pixels, square_crop
from medcolor_tf.errors import InputError
from medcolor_tf.files import remove_leftovers, replacing, write_json
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder

# ITU-R 601 in 16-bit fixed point, as Pillow computes it: equal channels keep their value exactly.
LUMA = (19595, 38470, 7471)


def export(config) -> Path:
    """Exports a run; the folder appears under its name only when it is complete.

    Args:
        config: :class:`medcolor_tf.export.ExportConfig`.

    Returns:
        The SavedModel's folder.

    Raises:
        InputError: no such run, one of images whose range was spread, or the folder exists.
    """
    out = Path(config.out or Path(config.run_dir) / folder.SAVED_MODEL)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new folder")
    spec, classifier, step = folder.load_predictor(config.run_dir, config.weights)
    if spec.range != FULL_RANGE:
        raise InputError(
            f"--run_dir={config.run_dir}: trained on images of `data_prep.build "
            f"--range={spec.range}`; expected {FULL_RANGE}: an exported model does not spread the "
            "range of an image"
        )
    remove_leftovers(out.parent, out.name)
    with replacing(out) as temporary:
        try:
            _archive(spec, classifier).write_out(str(temporary), verbose=False)
        except tf.errors.OpError as error:
            raise OSError(0, error.message) from None
        about = spec.to_dict() | {"step": step, "weights": config.weights}
        extra = temporary / "assets.extra"
        extra.mkdir()
        write_json(extra / folder.MODEL, about)
        if out.exists():
            raise InputError(f"--out={out}: another process has made it meanwhile")
    return out


def _archive(spec: ModelSpec, classifier: keras.Model) -> Any:
    """Returns a ``keras.export.ExportArchive`` with the signatures, to be written out."""
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
