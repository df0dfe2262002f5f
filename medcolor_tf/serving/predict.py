"""Probabilities for image files, read exactly as data preparation reads them."""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from data_prep.levels import WARNING_KINDS
from medcolor_tf.catalog import DEFAULT_HEAD
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import visualize
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.files import replacing, writing
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.progress import Progress
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision, load_decision
from medcolor_tf.serving.inputs import (
    InputImage,
    ReadImage,
    encode_name,
    list_inputs,
    read_batches,
)
from medcolor_tf.serving.partial import PartialRecord, PartialTable

PICTURE_COLUMNS = ("colorized", "explained")
AFTER_OBSERVATIONS = ("warnings", *PICTURE_COLUMNS, "error")


def predict(config) -> tuple[int, int]:
    """Writes a CSV with a row per image: path, probabilities, warnings, PNGs, error.

    Where there is a decision, two columns per observation stand after the probabilities:
    "calibrated NAME", and "decision NAME", which is "positive", "negative" or, without a threshold,
    empty.

    Rows are on the disk as they come, in ``OUT.partial``, which gets its name at the end; the same
    command goes on where it stopped, see :mod:`medcolor_tf.serving.partial`. An unreadable image
    gets its reason in the ``error`` column, and the others go on.

    Args:
        config: :class:`medcolor_tf.predict.PredictConfig`.

    Returns:
        (number of images, number of those that could not be read).

    Raises:
        InputError: no such run, input, column, image or observation, a folder that cannot take
            pictures, the output exists, or rows of another command are there.
    """
    out = Path(config.out)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new file")
    spec, classifier, _ = runs.load_predictor(
        config.run_dir, config.weights, config.mixed_precision
    )
    decision = load_decision(config.run_dir, config.weights, config.decision)
    decided = decision.columns if decision else []
    header = ["path", *spec.observations, *decided, *AFTER_OBSERVATIONS]
    table = PartialTable(out, header, (header.index(name) for name in PICTURE_COLUMNS))
    inputs = list_inputs(config.inputs, config.path_column, spec.input_channels)
    inputs = _without_own_pictures(inputs, config, table)
    drawings = _drawings(config, spec, classifier, inputs)
    # E's feature map is fetched from the device only for those who draw it.
    model = classify_and_colorize(classifier, features=bool(config.explain))
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    record = PartialRecord.from_command(config, inputs, decision.digest if decision else "")
    table.open(record, config.batch_size)
    try:
        _write_rows(table, model, inputs, spec, drawings, config.batch_size, decision)
    except InputError as error:
        raise InputError(f"{error}. {table.advice()}") from error
    finally:
        table.close()
    table.finish()
    _say_warnings(table.rows, header.index("warnings"))
    if decision:
        print(f"decision: {decision.describe()}")
    return len(inputs), sum(bool(row[-1]) for row in table.rows)


def _write_rows(
    table: PartialTable,
    model,
    inputs,
    spec,
    drawings: list,
    batch_size: int,
    decision: Decision | None,
) -> None:
    """Answers the images that have no row yet, a batch at a time."""
    done = len(table.rows)
    if done:
        print(f"{done:,} of {len(inputs):,} images are in {table.path}: going on", file=sys.stderr)
    for drawing in filter(None, drawings):
        names = [item.picture for item, row in zip(inputs, table.rows, strict=False) if not row[-1]]
        drawing.pictures.reserve(names)
    with Progress("predicting", len(inputs), done=done) as progress:
        for batch in read_batches(inputs[done:], spec, batch_size):
            table.append(_answer(model, batch, spec, drawings, decision))
            progress.update(len(batch))


def _without_own_pictures(
    inputs: list[InputImage], config, table: PartialTable
) -> list[InputImage]:
    """Leaves out what an interrupted run of the command has drawn into a folder of --inputs."""
    record = table.recorded()
    if record is None:
        return inputs
    names = set(record.names)
    folders = {Path(name).resolve() for name in (config.colorized_dir, config.explain) if name}
    return [
        item
        for item in inputs
        if item.name in names or item.files[0].parent.resolve() not in folders
    ]


def _answer(
    model, batch: list[ReadImage], spec: ModelSpec, drawings: list, decision: Decision | None
) -> list[list[str]]:
    """Returns the CSV's rows of a batch, and saves its pictures.

    Args:
        model: raw images to logits, colorized images and, where they are explained, features.
        batch: of images, or reasons why they cannot be read.
        spec: of the model.
        drawings: a column of paths each; None leaves its column empty.
        decision: whose columns there are, if any.
    """
    readable = [read for read in batch if not isinstance(read.image, str)]
    answers: dict[int, list[str]] = {}
    if readable:
        images = np.stack([read.image for read in readable])
        names = [read.item.picture for read in readable]
        logits, *maps = model.predict_on_batch(images)
        chances = sigmoid(logits)
        decided = decision.cells(logits) if decision else [[]] * len(readable)
        columns = [
            drawing.save(names, images, chances, *maps) if drawing else [""] * len(readable)
            for drawing in drawings
        ]
        for read, row, cells, *files in zip(readable, chances, decided, *columns, strict=True):
            warnings = "; ".join(f"{one.kind}: {one.message}" for one in read.warnings)
            numbers = [f"{chance:.7g}" for chance in row]
            answers[id(read)] = [*numbers, *cells, warnings, *map(encode_name, files), ""]
    decided_columns = len(decision.columns) if decision else 0
    empty = [""] * (len(spec.observations) + decided_columns + 1 + len(drawings))
    return [
        [encode_name(read.item.name), *answers.get(id(read), [*empty, str(read.image)])]
        for read in batch
    ]


def _say_warnings(rows: list[list[str]], column: int) -> None:
    """Counts warnings on standard error, as a build does; nothing where there are none."""
    kinds = re.compile(rf"(?:^|; )({'|'.join(WARNING_KINDS)}): ")
    found = [kinds.findall(row[column]) for row in rows]
    counts = Counter(kind for of_image in found for kind in of_image)
    if counts:
        listed = "; ".join(f"{counts[kind]:,} {WARNING_KINDS[kind]}" for kind in counts)
        images = sum(map(bool, found))
        print(f"warnings: {images:,} images ({listed}); see column warnings", file=sys.stderr)


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

    def reserve(self, names: list[str]) -> None:
        """Gives names away that an interrupted run has used, in its order."""
        for name in names:
            self._path(name)

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
        self.pictures = pictures

    def save(self, names, images, chances, colorized, features=None) -> list[str]:
        """Saves a picture per image, see :meth:`Explained.save`; returns the paths."""
        drawn = visualize.side_by_side(images, colorized)
        return self.pictures.save(names, lambda i: drawn[i])


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
        self.pictures, self._chosen = pictures, chosen
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

        return self.pictures.save(names, draw)
