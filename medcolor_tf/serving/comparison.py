"""Compares an exported model with predict's own path, on made-up images in files."""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.serving.inputs import InputImage, read_batches

# In a probability: float32 adds up in another order in another batch.
TOLERANCE = 1e-5


def compare(exported: Any, model: keras.Model, spec: ModelSpec) -> float:
    """Returns the largest difference of a probability between an exported model and predict.

    Args:
        exported: what ``tf.saved_model.load`` returned.
        model: raw images to logits and colours.
        spec: of both.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = [
            InputImage(paths[0].stem, tuple(paths), paths[0].stem)
            for paths in _write_images(Path(folder), spec)
        ]
        differences = []
        for ((image, pixels, _),) in read_batches(images, spec, 1):
            if isinstance(pixels, str):
                raise AssertionError(f"made-up image: {pixels}")
            expected = sigmoid(model.predict_on_batch(pixels[None])[0])
            files = [file.read_bytes() for file in image.files]
            encoded = tf.constant([files if spec.input_channels > 1 else files[0]])
            received = exported.signatures["encoded"](encoded)["probabilities"].numpy()
            differences.append(np.abs(received - expected).max())
    return float(np.max(differences))  # NaN stays NaN


def _write_images(folder: Path, spec: ModelSpec) -> list[list[Path]]:
    """Writes images of several kinds and sizes, each in a file per channel; returns the paths."""
    side = spec.short_side
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    kinds: tuple[tuple[str, tuple[int, int], type, dict[str, Any]], ...] = (
        ("deep.png", (side + 9, 3 * side), np.uint16, {}),
        ("tall.png", (3 * side + 20, side + 5), np.uint8, {}),
        ("small.png", (3, 5), np.uint8, {}),
        ("turned.jpg", (side + 7, 2 * side), np.uint8, {"exif": turned}),
        ("large.jpg", (7 * side, 6 * side + 1), np.uint8, {"quality": 90}),
    )
    random = np.random.default_rng(0)
    written = []
    for name, size, dtype, options in kinds:
        paths = [folder / f"{channel}-{name}" for channel in range(spec.input_channels)]
        for path in paths:
            _draw(random, size, dtype).save(path, **options)
        written.append(paths)
    return written


def _draw(random: np.random.Generator, size: tuple[int, int], dtype: type) -> Image.Image:
    """Draws smooth noise over the whole range, in which every pixel counts."""
    height, width = size
    coarse = Image.fromarray(random.random((9, 9), np.float32))
    smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + random.normal(0, 0.05, size)
    white = np.iinfo(dtype).max
    return Image.fromarray((np.clip(noisy, 0, 1) * white).astype(dtype))
