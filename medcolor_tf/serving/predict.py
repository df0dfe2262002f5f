"""Probabilities for image files, read exactly as data preparation reads them."""

import csv
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from tqdm import tqdm

from medcolor_tf.catalog import DEFAULT_HEAD
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import visualize
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.files import remove_leftovers, replacing, writing
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving.inputs import InputImage, list_inputs, read_batches


def predict(config) -> tuple[int, int]:
    """Writes a CSV with a row per image: path, probability of each observation, PNGs, error.

    Rows are written as they come and the file gets its name at the end. An unreadable image gets
    its reason in the ``error`` column, and the others go on.

    Args:
        config: :class:`medcolor_tf.predict.PredictConfig`.

    Returns:
        (number of images, number of those that could not be read).

    Raises:
        InputError: no such run, input, column, image or observation, a folder that cannot take
            pictures, or the output exists.
    """
    out = Path(config.out)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new file")
    spec, classifier, _ = runs.load_predictor(
        config.run_dir, config.weights, config.mixed_precision
    )
    inputs = list_inputs(config.inputs, config.path_column, spec.input_channels)
    drawings = _drawings(config, spec, classifier, inputs)
    # E's feature map is fetched from the device only for those who draw it.
    model = classify_and_colorize(classifier, features=bool(config.explain))
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent, out.name)
    failed = 0
    with (
        replacing(out) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", *spec.observations, "colorized", "explained", "error"])
        bar = tqdm(total=len(inputs), unit=" images", disable=not sys.stderr.isatty())
        for batch in read_batches(inputs, spec, config.batch_size):
            rows = _answer(model, batch, spec, drawings)
            failed += sum(bool(row[-1]) for row in rows)
            writer.writerows(rows)
            bar.update(len(rows))
        bar.close()
    return len(inputs), failed


def _answer(model, batch: list, spec: ModelSpec, drawings: list) -> list[list]:
    """Returns the CSV's rows of a batch, and saves its pictures.

    Args:
        model: raw images to logits, colorized images and, where they are explained, features.
        batch: (input, image or the reason why it cannot be read).
        spec: of the model.
        drawings: a column of paths each; None leaves its column empty.
    """
    readable = [(item, image) for item, image in batch if not isinstance(image, str)]
    answers = {}
    if readable:
        images = np.stack([image for _, image in readable])
        names = [item.picture for item, _ in readable]
        logits, *maps = model.predict_on_batch(images)
        chances = sigmoid(logits)
        columns = [
            drawing.save(names, images, chances, *maps) if drawing else [""] * len(readable)
            for drawing in drawings
        ]
        for (item, _), row, *files in zip(readable, chances, *columns, strict=True):
            answers[id(item)] = [*(f"{chance:.7g}" for chance in row), *files, ""]
    empty = [""] * (len(spec.observations) + len(drawings))
    return [[item.name, *answers.get(id(item), [*empty, image])] for item, image in batch]


def _drawings(config, spec: ModelSpec, classifier, inputs: list[InputImage]) -> list:
    """Returns what fills the columns `colorized` and `explained`; None for a flag not given.

    Raises:
        InputError: flags that contradict each other or the run, or a folder that cannot be used.
    """
    chosen = _chosen(config, spec)
    sources = {file.parent for item in inputs for file in item.files}
    taken = {folder.resolve(): "has images of --inputs" for folder in sources}
    drawings = []
    for flag, make in (
        ("colorized_dir", Colorized),
        ("explain", lambda pictures: Explained(pictures, spec, classifier, chosen)),
    ):
        folder = Path(getattr(config, flag))
        if not getattr(config, flag):
            drawings.append(None)
            continue
        if why := taken.get(folder.resolve()):
            raise InputError(f"--{flag}={folder}: {why}; expected a folder for these pictures only")
        taken[folder.resolve()] = f"is --{flag}"
        drawings.append(make(Pictures(folder, flag)))
    return drawings


def _chosen(config, spec: ModelSpec) -> list[int]:
    """Returns the positions of the observations to explain."""
    names = config.explain_observations
    if names and not config.explain:
        raise InputError("--explain_observations without --explain=FOLDER, the pictures' folder")
    unknown = [name for name in names if name not in spec.observations]
    if unknown:
        raise InputError(
            f"--explain_observations: the run has no {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(spec.observations)}"
        )
    return [spec.observations.index(name) for name in dict.fromkeys(names or spec.observations)]


class Pictures:
    """Writes PNGs into a folder.

    Args:
        folder: made when missing.
        flag: that named it, for messages.

    Raises:
        InputError: it cannot be made or written to.
    """

    def __init__(self, folder: Path, flag: str):
        self.folder = folder
        self._used: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass  # better now than after the first batch
        except OSError as error:
            raise InputError(
                f"--{flag}={folder}: cannot be written to ({error.strerror}); expected a folder"
            ) from None

    def save(self, names: list[str], draw: Callable[[int], np.ndarray]) -> list[str]:
        """Draws and writes a picture per name, in threads; holds one per thread, not all.

        Args:
            names: of the files, without suffix; one that was used becomes NAME-2, and so on.
            draw: position in ``names`` to (H, W, 3) uint8.

        Returns:
            The paths.

        Raises:
            InputError: a file cannot be written.
        """
        paths = [self._path(name) for name in names]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(lambda i: _write(draw(i), paths[i]), range(len(paths))):
                pass  # raises what a thread raised
        return [str(path) for path in paths]

    def _path(self, name: str) -> Path:
        count = self._used.get(name, 0) + 1
        while count > 1 and f"{name}-{count}" in self._used:
            count += 1  # an image of its own is called that
        self._used[name] = count
        unique = name if count == 1 else f"{name}-{count}"
        self._used.setdefault(unique, 1)
        return self.folder / f"{unique}.png"


def _write(picture: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")


class Colorized:
    """Gray images on the left, colorized on the right."""

    def __init__(self, pictures: Pictures):
        self._pictures = pictures

    def save(self, names, images, chances, colorized, features=None) -> list[str]:
        """Saves a picture per image, see :meth:`Explained.save`; returns the paths."""
        drawn = visualize.side_by_side(images, colorized)
        return self._pictures.save(names, lambda i: drawn[i])


class Explained:
    """Grad-CAM over the gray image.

    Args:
        pictures: where to.
        spec: of the run.
        classifier: the run's model; its head is read now.
        chosen: positions of the observations to draw.

    Raises:
        InputError: the head is not the linear one, of which the maps are computed.
    """

    def __init__(self, pictures: Pictures, spec: ModelSpec, classifier, chosen: list[int]):
        if spec.head != DEFAULT_HEAD:
            raise InputError(
                f"--explain: Grad-CAM is computed of a run with --head={DEFAULT_HEAD}, this one "
                f"has --head={spec.head}"
            )
        self._pictures, self._chosen = pictures, chosen
        self._names = [spec.observations[k] for k in chosen]
        self._has_colorizer = spec.has_colorizer
        kernel = classifier.get_layer("head").kernel
        self._kernel = np.asarray(keras.ops.convert_to_numpy(kernel))[:, chosen]

    def save(self, names, images, chances, colorized, features) -> list[str]:
        """Saves a picture per image.

        Args:
            names: B, of the files.
            images: (B, H, W, C) uint8 or uint16.
            chances: (B, labels) float, the probabilities.
            colorized: (B, H, W, 3) float, what E sees.
            features: (B, h, w, c) float, E's last feature map.

        Returns:
            The B paths.
        """
        chances = chances[:, self._chosen]
        heat = visualize.to_heat(visualize.grad_cam(features, self._kernel), chances)

        def draw(i):
            colors = colorized[i] if self._has_colorizer else None
            return visualize.draw_explanation(images[i], colors, heat[i], chances[i], self._names)

        return self._pictures.save(names, draw)
