"""Draws a data set of phantom chest radiographs: ``python -m data_prep.phantom --out=DIR``.

In CheXpert's folders and tables (https://stanfordmlgroup.github.io/competitions/chexpert/), with
its five observations to be seen in the pictures, uncertain (-1) and blank cells included. No
patient's image is in it, so it can be shipped, tested and demonstrated with.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.phantom_drawing import FINDINGS, draw, make_anatomy
from data_prep.sources import chexpert
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json, write_atomically
from medcolor_tf.progress import progressing

RECORD = "phantom.json"
TABLES = {"train": "train.csv", "valid": "valid.csv"}
ROOT_NAME = "CheXpert-v1.0-phantom"
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.FOURTEEN)
MIN_IMAGES = 4
VALID_SHARE = 0.2
PREVALENCE: dict[str, float] = dict(zip(FINDINGS, (0.38, 0.35, 0.30, 0.33, 0.42), strict=True))
UNCERTAIN_SHARE, BLANK_SHARE = 0.08, 0.10  # of all cells; of the negative ones
LATERAL_SHARE = 0.15
LONG_SIDE = 390 / 320  # as in CheXpert-v1.0-small
JPEG_QUALITY = 92


@dataclass(frozen=True)
class PhantomConfig:
    """Options of the drawing."""

    out: str = option("", "Folder to make.", required=True)
    images: int = option(700, "Number of images.")
    seed: int = option(0, "Decides everything that is drawn.")
    short_side: int = option(320, "Pixels of the images' shorter side.")


@dataclass(frozen=True)
class DrawnLabel:
    """One observation of a study.

    Attributes:
        cell: what the table says.
        strength: how strong it is in the picture, 0 (absent) to 1.
    """

    cell: str
    strength: float


def generate(config: PhantomConfig) -> None:
    """Draws the data set; a finished one with the same options is left as it is.

    Raises:
        InputError: the folder holds something else, or other options' phantom.
    """
    for name, least in (("images", MIN_IMAGES), ("short_side", 32)):
        if getattr(config, name) < least:
            raise InputError(f"{name}={getattr(config, name)}: expected at least {least}")
    root = Path(config.out)
    options = {"images": config.images, "seed": config.seed, "short_side": config.short_side}
    if _is_done(root, options):
        return
    (root / "train").mkdir(parents=True, exist_ok=True)
    _write_record(root, options, complete=False)
    rows: dict[str, list[tuple]] = {split: [] for split in TABLES}
    for split, row, pixels in progressing(draw_all(config), "drawing", config.images):
        path = root / chexpert.relative_path(row[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
        rows[split].append(row)
    for split, file in TABLES.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([HEADER, *rows[split]])
        write_atomically(root / file, text.getvalue())
    _write_record(root, options, complete=True)


def _is_done(root: Path, options: dict[str, int]) -> bool:
    if (root / RECORD).is_file():
        drawn_with = read_json(root / RECORD)
        complete = drawn_with.pop("complete", False)  # one that was interrupted is drawn again
        if drawn_with != options:
            raise InputError(
                f"{root / RECORD}: a phantom with {drawn_with}, expected {options}; "
                "choose another folder or delete that one"
            )
        return complete
    if any((root / file).exists() for file in TABLES.values()):
        raise InputError(f"{root}: holds a data set that is no phantom; choose another folder")
    return False


def _write_record(root: Path, options: dict[str, int], complete: bool) -> None:
    write_atomically(root / RECORD, json.dumps({**options, "complete": complete}) + "\n")


def draw_all(config: PhantomConfig) -> Iterator[tuple[str, tuple, np.ndarray]]:
    """Yields (split, row of the table, (H, W) uint8) for every image.

    An image depends on the seed and its patient, study and view alone, so the first images of a
    larger data set are those of a smaller one, but for where valid begins.
    """
    for split, row, pixels, _ in draw_with_places(config):
        yield split, row, pixels


def draw_with_places(
    config: PhantomConfig,
) -> Iterator[tuple[str, tuple, np.ndarray, dict[str, np.ndarray]]]:
    """Yields what :func:`draw_all` does, and where each finding lies.

    The places are masks (H, W) bool by finding, see :func:`data_prep.phantom_drawing.draw`; of
    lateral views there are none.
    """
    first_valid = config.images - max(1, round(VALID_SHARE * config.images))
    number = patient = 0
    while number < config.images:
        patient += 1
        split = "train" if number < first_valid else "valid"
        room = (first_valid if split == "train" else config.images) - number
        for drawn in _draw_patient(config, patient, split, room):
            yield split, *drawn
            number += 1


def _draw_patient(config: PhantomConfig, patient: int, split: str, room: int):
    rng = np.random.default_rng([config.seed, patient])
    female, age = rng.uniform() < 0.45, int(np.clip(rng.normal(60, 16), 18, 90))
    anatomy = make_anatomy(rng, female)
    short, long = config.short_side, round(config.short_side * LONG_SIDE)
    size = (short, long) if rng.uniform() < 0.5 else (long, short)
    views = []
    for study in range(1, 3 if rng.uniform() < 0.3 else 2):
        views.append((study, 1, "frontal"))
        if rng.uniform() < LATERAL_SHARE / (1 - LATERAL_SHARE):
            views.append((study, 2, "lateral"))
    for study, number, view in views[:room]:
        study_rng = np.random.default_rng([config.seed, patient, study])
        labels = {name: _draw_label(study_rng, name, split) for name in FINDINGS}
        devices = study_rng.uniform() < 0.3
        path = f"{ROOT_NAME}/{split}/patient{patient:05d}/study{study}/view{number}_{view}.jpg"
        projection = "" if view == "lateral" else "AP" if devices else "PA"
        fields = (path, "Female" if female else "Male", age, view.capitalize(), projection)
        strengths = {name: label.strength for name, label in labels.items()}
        rng_of_view = np.random.default_rng([config.seed, patient, study, number])
        places: dict[str, np.ndarray] = {}
        pixels = draw(rng_of_view, anatomy, strengths, view, size, devices, places)
        yield (*fields, *_fourteen(labels, devices, split)), pixels, places


def _draw_label(rng: np.random.Generator, name: str, split: str) -> DrawnLabel:
    """Draws one observation; the valid table is certain, as CheXpert's radiologists are."""
    positive = rng.uniform() < PREVALENCE[name]
    strength = rng.uniform(0.4, 1.0) if positive else 0.0
    kind, faint = rng.uniform(), rng.uniform(0.1, 0.4)
    if split == "train":
        if kind < UNCERTAIN_SHARE:  # hard to tell: faint, or nothing after all
            return DrawnLabel("-1.0", faint if rng.uniform() < 0.6 else 0.0)
        if not positive and kind < UNCERTAIN_SHARE + BLANK_SHARE:
            return DrawnLabel("", 0.0)
    return DrawnLabel("1.0" if positive else "0.0", strength)


def _fourteen(labels: dict[str, DrawnLabel], devices: bool, split: str) -> list[str]:
    """Returns the row's 14 observations; those that are not drawn are never positive."""
    rest = "0.0" if split == "valid" else ""
    opaque = any(labels[name].cell == "1.0" for name in ("Consolidation", "Edema"))
    nothing = not any(label.cell in ("1.0", "-1.0") for label in labels.values())
    known = {
        **{name: label.cell for name, label in labels.items()},
        "No Finding": "1.0" if nothing else rest,
        "Lung Opacity": "1.0" if opaque else rest,
        "Support Devices": "1.0" if devices else rest,
    }
    return [known.get(name, rest) for name in chexpert.FOURTEEN]


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    return commandline.run(PhantomConfig, generate, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
