"""Probabilities for image files, read exactly as data preparation reads them."""

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep.images import ImageError, read_image
from medcolor_tf.data.pipeline import square_crop
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.pictures import side_by_side
from medcolor_tf.evaluation.predictions import sigmoid
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.training import runs

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Item:
    """One image to predict.

    Attributes:
        name: what the CSV calls it.
        files: one a channel.
        picture: name of its PNG, without the suffix; folders become part of it.
    """

    name: str
    files: tuple[Path, ...]
    picture: str


def predict(config) -> tuple[int, int]:
    """Writes a CSV with a row an image: path, probability of each observation, PNG, error.

    Rows are written as they come and the file gets its name at the end. An unreadable image gets
    its reason in the ``error`` column, and the others go on.

    Args:
        config: :class:`medcolor_tf.predict.PredictConfig`.

    Returns:
        (number of images, number of those that could not be read).

    Raises:
        InputError: no such run, input, column or image, or the output exists.
    """
    out = Path(config.out)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new file")
    spec, classifier, _ = runs.load_classifier(config.run_dir, config.weights)
    items = list_items(config.inputs, config.path_column, spec.input_channels)
    model = classify_and_colorize(classifier)
    pictures = Pictures(Path(config.colorized_dir)) if config.colorized_dir else None
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *spec.observations, "colorized", "error"])
        bar = tqdm(total=len(items), unit=" images", disable=not sys.stderr.isatty())
        for batch in _read_batches(items, spec, config.batch_size):
            rows = _answer(model, batch, spec, pictures)
            failed += sum(bool(row[-1]) for row in rows)
            writer.writerows(rows)
            bar.update(len(rows))
        bar.close()
    os.replace(temporary, out)
    return len(items), failed


def list_items(inputs: Iterable[str], path_column: tuple[str, ...], channels: int) -> list[Item]:
    """Lists the images of files, folders (searched through) and CSV tables of paths.

    Paths in a table are relative to the table's folder. Models of several channels take tables
    with a path column a channel.

    Raises:
        InputError: nothing there, no image in a folder, or a table without the column.
    """
    items: list[Item] = []
    for text in inputs:
        path = Path(text)
        if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
            items += _of_table(path, path_column, channels)
        elif channels > 1:
            raise InputError(
                f"--inputs={text}: the model takes {channels} channels; expected a CSV table with "
                "a path column a channel, named by --path_column"
            )
        elif path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise InputError(
                    f"--inputs={text}: no image in this folder ({', '.join(IMAGE_SUFFIXES)})"
                )
            items += [Item(str(p), (p,), _picture_name(p.relative_to(path))) for p in found]
        elif path.is_file():
            items.append(Item(text, (path,), path.stem))
        else:
            raise InputError(f"--inputs={text}: no such file or folder")
    return items


def _of_table(path: Path, columns: tuple[str, ...], channels: int) -> list[Item]:
    if len(columns) != channels:
        raise InputError(
            f"--path_column={','.join(columns)}: {len(columns)} columns, expected {channels}, one "
            "a channel of the model"
        )
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(missing)}; it has "
                f"{', '.join(reader.fieldnames or ()) or 'no header'} (--path_column)"
            )
        rows = [[row[name] or "" for name in columns] for row in reader]
    if not rows:
        raise InputError(f"{path}: no rows")
    return [
        Item(
            "|".join(row),
            tuple(path.parent / cell for cell in row),
            _picture_name(Path(row[0])),
        )
        for row in rows
    ]


def _picture_name(path: Path) -> str:
    """Many data sets call every image `view1_frontal.jpg`: the folders tell which one it is."""
    parts = [part for part in path.with_suffix("").parts if part not in ("/", "..")]
    return "_".join(parts)


def _read_batches(items: list[Item], spec: ModelSpec, size: int) -> Iterator[list]:
    """Reads images in threads, at most two batches ahead: lists of (item, image or reason)."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = []
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            waiting.append([(item, pool.submit(_read, item, spec)) for item in batch])
            if len(waiting) > 2:
                yield [(item, future.result()) for item, future in waiting.pop(0)]
        for batch in waiting:
            yield [(item, future.result()) for item, future in batch]


def _read(item: Item, spec: ModelSpec):
    """Returns (S, S, C), or the reason why not."""
    try:
        channels = [read_image(file, spec.short_side, spec.bits) for file in item.files]
        if len({channel.shape for channel in channels}) > 1:
            return "channels of different sizes"
        return square_crop(np.stack(channels, axis=-1), 0.5, spec.image_size).numpy()
    except ImageError as error:
        return str(error)


def _answer(model, batch: list, spec: ModelSpec, pictures: "Pictures | None") -> list[list]:
    """Returns the CSV's rows of a batch, and saves its pictures."""
    good = [(item, image) for item, image in batch if not isinstance(image, str)]
    answers = {}
    if good:
        images = np.stack([image for _, image in good])
        logits, colorized = model.predict_on_batch(images)
        drawn = side_by_side(images, colorized) if pictures else [None] * len(good)
        for (item, _), chances, picture in zip(good, sigmoid(logits), drawn, strict=True):
            file = pictures.save(item.picture, picture) if pictures else ""
            answers[id(item)] = [*(f"{chance:.7g}" for chance in chances), file, ""]
    empty = [""] * (len(spec.observations) + 1)
    return [[item.name, *answers.get(id(item), [*empty, image])] for item, image in batch]


class Pictures:
    """Writes PNGs, gray on the left and colorized on the right.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._used: dict[str, int] = {}

    def save(self, name: str, picture: np.ndarray) -> str:
        """Saves (H, W, 3) uint8 as NAME.png, or NAME-2.png if that was used; returns the path."""
        count = self._used[name] = self._used.get(name, 0) + 1
        path = self.folder / f"{name if count == 1 else f'{name}-{count}'}.png"
        Image.fromarray(picture).save(path)
        return str(path)
