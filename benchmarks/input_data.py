"""A data set for the input pipelines: JPEGs in TFRecords, and the very same bytes in files."""

import csv
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from benchmarks.data_prep import grainy_phantoms
from data_prep.images import encode_image

QUALITY = 95
RECORDS, FILES = "records", "files"


def make(folder: Path, images: int, distinct: int, side: int) -> None:
    """Fills ``folder`` with ``records/``, a prepared data set, and ``files/``, JPEGs.

    Args:
        folder: an empty one.
        images: number of records, all in the split "train".
        distinct: how many phantoms are drawn; the other images are copies of them.
        side: short side in pixels; the long one is 39/32 of it, as CheXpert-small's.
    """
    source, files = folder / "source", folder / FILES
    source.mkdir()
    files.mkdir()
    for number, pixels in enumerate(grainy_phantoms(min(distinct, images), side)):
        Image.fromarray(pixels).save(source / f"{number}.png", compress_level=1)
        (files / f"{number}.jpg").write_bytes(encode_image(pixels, "jpeg", QUALITY))
    for number in range(distinct, images):
        os.link(files / f"{number % distinct}.jpg", files / f"{number}.jpg")
        # What follows the end of a PNG file makes it another file with the same picture: the build
        # refuses an image that is there twice.
        picture = (source / f"{number % distinct}.png").read_bytes()
        (source / f"{number}.png").write_bytes(picture + str(number).encode())
    with open(source / "table.csv", "w", newline="", encoding="utf-8") as file:
        rows = [("path", "split", "a"), *((f"{n}.png", "train", n % 2) for n in range(images))]
        csv.writer(file).writerows(rows)
    _build(source, folder / RECORDS, side)


def _build(source: Path, out: Path, side: int) -> None:
    """In a process of its own, since it imports TensorFlow."""
    flags = ("--source=table", f"--table={source}/table.csv", "--observations=a", f"--out={out}")
    flags += ("--split_column=split", "--encoding=jpeg", f"--short_side={side}")
    command = [sys.executable, "-m", "data_prep.build", *flags, f"--jpeg_quality={QUALITY}"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"data_prep.build failed: {found.stderr.strip()[-500:]}")
