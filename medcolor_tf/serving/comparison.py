"""Compares an exported model with predict's own path, on made-up images in files and on films."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from PIL import ExifTags, Image

from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision
from medcolor_tf.serving.decision_outputs import CALIBRATED, DECISIONS
from medcolor_tf.serving.inputs import InputImage, ReadImage, list_inputs, read_batches

PROBABILITIES = "probabilities"


class Answer(Protocol):
    """An exported model: images to one of its outputs, the probabilities (B, L) by default."""

    def __call__(self, reads: Sequence[ReadImage], output: str = PROBABILITIES) -> np.ndarray:
        """Returns an output of a batch of images."""
        ...


# Of the run's own data set.
VALIDATION_IMAGES = 16


def compare(
    answer: Answer, model: keras.Model, spec: ModelSpec, films: Sequence[ReadImage] = ()
) -> float:
    """Returns the largest difference of a probability between an exported model and predict.

    Images are compared one by one, and then all in one batch: its size is not fixed.

    Args:
        answer: by the exported model.
        model: raw images to logits and colours.
        spec: of both.
        films: to compare besides the made-up images.
    """
    with _images(spec, films) as reads:
        expected = sigmoid(_logits(model, reads))
        received = np.concatenate([answer([read]) for read in reads])
        together = answer(reads)
    differences = [np.abs(chances - expected).max() for chances in (received, together)]
    return float(np.max(differences))  # NaN stays NaN


def compare_decisions(
    answer: Answer,
    model: keras.Model,
    spec: ModelSpec,
    decision: Decision,
    tolerance: float,
    films: Sequence[ReadImage] = (),
) -> float:
    """Compares what an exported model and predict decide; returns the largest difference.

    Args:
        answer: by the exported model.
        model: raw images to logits and colours.
        spec: of both.
        decision: of both.
        tolerance: in a probability. A steep calibration multiplies what logits differ by, so in a
            calibrated probability it is the slope times that, where the slope is more than 1.
        films: to compare besides the made-up images.

    Returns:
        The largest difference of a calibrated probability over max(1, slope); infinite where one
        decides otherwise, and not because the logit is at the threshold.
    """
    steep = np.array([max(1.0, entry.slope) for entry in decision.observations.values()])
    with _images(spec, films) as reads:
        logits = _logits(model, reads)
        calibrated, called = (answer(reads, output) for output in (CALIBRATED, DECISIONS))
    line = decision.calibrated_logits(logits)
    # In float32, logits are off by a share of their size.
    allowed = tolerance * steep * np.maximum(1, np.abs(logits))
    near = np.abs(line - np.nan_to_num(decision.bounds)) <= allowed
    if ((called != decision.classify(logits=logits)) & ~near).any():
        return float("inf")
    return float((np.abs(calibrated - decision.calibrated(logits)) / steep).max())


@contextmanager
def _images(spec: ModelSpec, films: Sequence[ReadImage]) -> Iterator[list[ReadImage]]:
    """Yields the made-up images, while their files are there, and the films."""
    with tempfile.TemporaryDirectory() as folder:
        yield [*_read(_write_images(Path(folder), spec), spec), *films]


def _logits(model: keras.Model, reads: Sequence[ReadImage]) -> np.ndarray:
    """(B, L) of images that go through the model one by one."""
    pixels = np.stack([read.image for read in reads])
    return np.concatenate([model.predict_on_batch(image[None])[0] for image in pixels])


def films_in(
    inputs: Sequence[str], path_column: tuple[str, ...], spec: ModelSpec
) -> list[ReadImage]:
    """Reads the images that --check_inputs names.

    Args:
        inputs: files, folders or tables.
        path_column: of a table, one per channel of the model.
        spec: of the model.

    Raises:
        InputError: nothing there, or an image that cannot be read.
    """
    items = list_inputs(inputs, path_column, spec.input_channels)
    reads = [read for batch in read_batches(items, spec, VALIDATION_IMAGES) for read in batch]
    for read in reads:
        if isinstance(read.image, str):
            raise InputError(f"--check_inputs: {read.item.name}: {read.image}")
    return reads


def films_of_run(run_dir: str | Path, spec: ModelSpec) -> list[ReadImage]:
    """Reads the first validation images of a run's data set; none where it is not at hand."""
    run = runs.Run(Path(run_dir))
    try:
        config = run.read_json(runs.CONFIG)
        data_dir = config["flags"]["data_dir"]
        split = Split(data_dir, "valid", Selection(spec.observations), spec.image_size)
        if split.info.fingerprint != config["data_fingerprint"]:
            return []
        images = [image.numpy() for image, _ in split.examples().take(VALIDATION_IMAGES)]
    except (InputError, OSError):  # moved, or another one by now
        return []
    return [
        ReadImage(InputImage(f"validation image {number}", (), ""), image)
        for number, image in enumerate(images, start=1)
    ]


def _read(files: list[list[Path]], spec: ModelSpec) -> list[ReadImage]:
    """Reads made-up images as predict does."""
    items = [InputImage(paths[0].stem, tuple(paths), paths[0].stem) for paths in files]
    reads = [read for batch in read_batches(items, spec, len(items)) for read in batch]
    for read in reads:
        if isinstance(read.image, str):
            raise AssertionError(f"made-up image: {read.image}")
    return reads


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
