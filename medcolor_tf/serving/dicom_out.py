"""DICOM files beside a prediction (``predict --dicom_out``): heat maps and probabilities.

Of each DICOM input NAME.sc.dcm, a Secondary Capture, and NAME.sr.dcm, a Structured Report, are
written; see :mod:`medcolor_tf.serving.dicom_objects`. Both have the source's patient and study.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.images import FORMATS, recognise
from medcolor_tf import __version__
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import visualize
from medcolor_tf.files import file_sha256, replacing
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving import dicom_objects
from medcolor_tf.serving.dicom_objects import Algorithm, CannotRefer, Place
from medcolor_tf.serving.inputs import InputImage
from medcolor_tf.serving.pictures import Pictures

COLUMN = "dicom"
IMAGE_SUFFIX, REPORT_SUFFIX = ".sc.dcm", ".sr.dcm"
# Begins what the column warnings says of an image for which nothing was written.
NOT_WRITTEN = "no DICOM written"
BANNER = (
    f"NOT FOR DIAGNOSIS - research software ({dicom_objects.MAKER} {__version__}), not a medical "
    "device"
)
DICOM = next(form for form in FORMATS if form.name == "DICOM")


def is_dicom(path: Path) -> bool:
    """Tells whether a file is read as DICOM: by its first bytes, or its suffix where these fail."""
    form = recognise(path)
    return form is DICOM or (form is None and path.suffix.lower() in DICOM.suffixes)


def check_inputs(inputs: Sequence[InputImage], spec: ModelSpec, folder: str) -> None:
    """Checks that there is something to write for.

    Raises:
        InputError: no input is a DICOM file, or the model takes several files per image.
    """
    if spec.input_channels > 1:
        raise InputError(
            f"--dicom_out={folder}: the model takes {spec.input_channels} files per image; "
            "expected one, whose patient and study the DICOM files get"
        )
    if not any(is_dicom(item.files[0]) for item in inputs):
        raise InputError(
            f"--dicom_out={folder}: none of the {len(inputs):,} inputs is a DICOM file; expected "
            "one at least, whose patient and study the DICOM files get"
        )


def algorithm_of(run_dir: str | Path, weights: str, step: int, spec: ModelSpec) -> Algorithm:
    """Returns what reports say of a run: no folder's name, which may be a person's."""
    file = Path(run_dir) / runs.WEIGHTS[weights]
    backbone = "a backbone from a file" if spec.backbone.endswith(".keras") else spec.backbone
    colorizer = spec.colorizer if spec.has_colorizer else "no colorizer"
    return Algorithm(
        f"{dicom_objects.MAKER} {colorizer}, {backbone}",
        file_sha256(file),
        f"Classifier with {colorizer} and {backbone}, {spec.image_size} px, {weights} weights of "
        f"step {step}.",
    )


def say_unwritten(rows: list[list[str]], column: int, folder: str) -> None:
    """Says on standard error for how many images no DICOM files were written."""
    without = sum(not row[column] and not row[-1] for row in rows)
    if without:
        print(
            f"--dicom_out={folder}: nothing written for {without:,} of {len(rows):,} images; see "
            "column warnings",
            file=sys.stderr,
        )


class DicomOut:
    """Writes both objects of each DICOM input.

    Args:
        pictures: where to; gives the names.
        draw: as :meth:`medcolor_tf.serving.pictures.Explained.draw`.
        spec: of the run.
        algorithm: for the reports.
        calibrate: logits (B, L) to calibrated probabilities, NaN for an observation without a
            calibration; None where the run has no decision.
    """

    def __init__(
        self,
        pictures: Pictures,
        draw: Callable,
        spec: ModelSpec,
        algorithm: Algorithm,
        calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.pictures = pictures
        self._draw, self._observations, self._algorithm = draw, spec.observations, algorithm
        self._calibrate = calibrate
        # Source series -> (series of the images, of the reports, instances so far).
        self._series: dict[str, tuple[str, str, int]] = {}

    def save(
        self, items: Sequence[InputImage], images, logits, chances, maps
    ) -> list[tuple[str, str]]:
        """Writes the objects of a batch.

        Args:
            items: B inputs.
            images: (B, S, S, 1) uint8 or uint16.
            logits: (B, L) float.
            chances: (B, L) float, their probabilities.
            maps: T's output and E's features, for the heat maps.

        Returns:
            Per image the Secondary Capture's path and "", or "" and the reason why there is none.
        """
        calibrated = self._calibrate(logits) if self._calibrate else None
        draw = self._draw(images, chances, calibrated, *maps)
        sources = [self._source(item) for item in items]
        wanted = [i for i, source in enumerate(sources) if not isinstance(source, str)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            drawn = dict(zip(wanted, pool.map(draw, wanted), strict=True))
        saved = []
        for i, source in enumerate(sources):
            if isinstance(source, str):
                saved.append(("", f"{NOT_WRITTEN}: {source}"))
                continue
            numbers = self._numbers(chances[i], None if calibrated is None else calibrated[i])
            saved.append(self._write(items[i], source, drawn[i], numbers))
        return saved

    def _source(self, item: InputImage) -> Any:
        """Returns the header of an input, or the reason why nothing can refer to it."""
        if not is_dicom(item.files[0]):
            return "not a DICOM file"
        try:
            return dicom_objects.read_source(item.files[0])
        except CannotRefer as error:
            return str(error)

    def _numbers(self, chances, calibrated) -> dict[str, float]:
        names = dicom_objects.probability_names(self._observations)
        numbers = dict(zip(names, map(float, chances), strict=True))
        if calibrated is not None:
            names = dicom_objects.probability_names(self._observations, calibrated=True)
            after = zip(names, map(float, calibrated), strict=True)
            numbers |= {name: chance for name, chance in after if not math.isnan(chance)}
        return numbers

    def _write(self, item: InputImage, source, picture, numbers) -> tuple[str, str]:
        picture = visualize.with_banner(picture, BANNER)
        place = self._place(source)
        try:
            image, report = dicom_objects.make_objects(
                source, picture, numbers, self._algorithm, place
            )
        except CannotRefer as error:
            return "", f"{NOT_WRITTEN}: {error}"
        path = self.pictures.path(item.picture)
        # The report first: where there is an image, both are there.
        for made, target in ((report, path.with_name(_report_name(path))), (image, path)):
            with replacing(target) as temporary:
                made.save_as(temporary, enforce_file_format=True)
        return str(path), ""

    def _place(self, source) -> Place:
        from pydicom.uid import generate_uid

        key = str(source.SeriesInstanceUID)
        fresh = (generate_uid(prefix=None), generate_uid(prefix=None), 0)
        images, reports, count = self._series.get(key, fresh)
        self._series[key] = (images, reports, count + 1)
        return Place(images, reports, count + 1)


def _report_name(image: Path) -> str:
    return image.name.removesuffix(IMAGE_SUFFIX) + REPORT_SUFFIX
