"""Image files to predict: listed from files, folders and tables, read as data_prep reads them."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np

from data_prep.folders import find_images
from data_prep.images import IMAGE_SUFFIXES, ImageError, examine_image
from data_prep.levels import ImageWarning
from data_prep.tables import read_table
from medcolor_tf.data.image_ops import square_crop
from medcolor_tf.errors import InputError
from medcolor_tf.models.spec import ModelSpec

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
# What stands before a path that is not UTF-8.
NOT_UTF8 = "bytes:"
BATCHES_AHEAD = 2
# Value of --study_column: an image's study is the folder that its file lies in.
PARENT_FOLDER = "parent_folder"


@dataclass(frozen=True)
class InputImage:
    """One image to predict.

    Attributes:
        name: what the CSV calls it.
        files: one per channel.
        picture: name of its PNG, without the suffix; folders become part of it.
        study: that it belongs to, "" where studies were not asked for.
    """

    name: str
    files: tuple[Path, ...]
    picture: str
    study: str = ""


def encode_name(name: str) -> str:
    """Returns a path as a CSV cell; a name that is not UTF-8 as "bytes:" and percent-encoded bytes.

    One to one, and the file stays UTF-8: names that begin with "bytes:" are written so as well.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return NOT_UTF8 + quote_from_bytes(os.fsencode(name), safe="/ |")
    if name.startswith(NOT_UTF8):
        return NOT_UTF8 + quote_from_bytes(os.fsencode(name), safe="/ |")
    return name


def decode_name(cell: str) -> str:
    """Returns the path that :func:`encode_name` wrote."""
    if cell.startswith(NOT_UTF8):
        return os.fsdecode(unquote_to_bytes(cell.removeprefix(NOT_UTF8)))
    return cell


def list_inputs(
    inputs: Iterable[str], path_column: tuple[str, ...], channels: int, study_column: str = ""
) -> list[InputImage]:
    """Lists the images of files, folders (searched through) and tables of paths.

    With ``study_column`` each image has a study: the cell of that column of the tables, or, by
    :data:`PARENT_FOLDER`, the folder that its file lies in.

    What is skipped in a folder is counted on standard error.

    Paths in a table are relative to the table's folder; see :func:`encode_name` for those that are
    not UTF-8. Models of several channels take tables
    with a path column per channel.

    Raises:
        InputError: nothing there, no image in a folder, a table without the column, or an image
            without a study.
    """
    of_column = study_column if study_column != PARENT_FOLDER else ""
    images: list[InputImage] = []
    for text in inputs:
        path = Path(text)
        if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            images += _in_table(path, path_column, channels, of_column)
        elif of_column:
            raise InputError(
                f"--inputs={text}: has no column {study_column!r} (--study_column names it); "
                f"expected a table, or --study_column={PARENT_FOLDER}"
            )
        elif channels > 1:
            raise InputError(
                f"--inputs={text}: the model takes {channels} channels; expected a CSV table with "
                "a path column per channel, named by --path_column"
            )
        elif path.is_dir():
            images += _in_folder(text)
        elif path.is_file():
            images.append(InputImage(text, (path,), path.stem))
        else:
            raise InputError(f"--inputs={text}: no such file or folder")
    if study_column == PARENT_FOLDER:
        return [dataclasses.replace(image, study=str(image.files[0].parent)) for image in images]
    return images


def _in_folder(text: str) -> list[InputImage]:
    folder = Path(text)
    found = find_images(folder)
    skipped = found.describe_skipped()
    if not found.files:
        files = f"; {skipped}" if skipped else ""
        expected = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"--inputs={text}: no image in this folder ({expected}){files}")
    if skipped:
        print(f"--inputs={text}: skipped {skipped}", file=sys.stderr)
    return [
        InputImage(str(file), (file,), _picture_name(file.relative_to(folder)))
        for file in found.files
    ]


def _in_table(
    path: Path, columns: tuple[str, ...], channels: int, study_column: str
) -> list[InputImage]:
    if len(columns) != channels:
        raise InputError(
            f"--path_column={','.join(columns)}: {len(columns)} columns, expected {channels}, one "
            "per channel of the model"
        )
    flags = dict.fromkeys(columns, "--path_column")
    if study_column:
        flags.setdefault(study_column, "--study_column")
    table = read_table(path, tuple(flags), flags=flags)
    studies = [""] * len(table)
    if study_column:
        studies = table.columns[study_column]
        for row, study in enumerate(studies):
            if not study:
                raise InputError(
                    f"{table.where(row)}: column {study_column!r} is empty; expected a study"
                )
    return [
        InputImage(
            "|".join(cells),
            tuple(path.parent / cell for cell in cells),
            _picture_name(Path(cells[0])),
            decode_name(study),
        )
        for study, cells in zip(
            studies,
            (
                tuple(map(decode_name, row))
                for row in zip(*(table.columns[name] for name in columns), strict=True)
            ),
            strict=True,
        )
    ]


def _picture_name(path: Path) -> str:
    """Many data sets call every image `view1_frontal.jpg`: the folders tell which one it is."""
    parts = [part for part in path.with_suffix("").parts if part not in ("/", "..")]
    return "_".join(parts)


class ReadImage(NamedTuple):
    """What became of an input.

    Attributes:
        item: which.
        image: (S, S, C) uint8 or uint16, or the reason why it cannot be read.
        warnings: what data preparation would warn of.
    """

    item: InputImage
    image: np.ndarray | str
    warnings: tuple[ImageWarning, ...] = ()


def read_batches(
    inputs: Sequence[InputImage], spec: ModelSpec, size: int
) -> Iterator[list[ReadImage]]:
    """Reads images in threads, at most two batches ahead.

    Args:
        inputs: what to read.
        spec: of the model that the images are for.
        size: images per batch.

    Yields:
        Batches of images.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = []
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            waiting.append([pool.submit(read_input, item, spec) for item in batch])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.pop(0)]
        for batch in waiting:
            yield [future.result() for future in batch]


def read_input(item: InputImage, spec: ModelSpec) -> ReadImage:
    """Reads one image; see :func:`read_batches`.

    Raises:
        InputError: a package that its format needs is not installed.
    """
    try:
        readings = [
            examine_image(file, spec.short_side, spec.bits, spec.range) for file in item.files
        ]
    except ImageError as error:
        return ReadImage(item, str(error))
    channels = [reading.pixels for reading in readings]
    if len({channel.shape for channel in channels}) > 1:
        return ReadImage(item, "channels of different sizes")
    warnings = dict.fromkeys(warning for reading in readings for warning in reading.warnings)
    image = square_crop(np.stack(channels, axis=-1), 0.5, spec.image_size).numpy()
    return ReadImage(item, image, tuple(warnings))
