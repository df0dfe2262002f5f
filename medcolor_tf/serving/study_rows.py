"""A row per study beside predict's row per image: the mean or largest probability of its images."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically
from medcolor_tf.serving.inputs import InputImage, encode_name

STUDIES = "-studies"
# Columns of single images whose values are put together beside the observations' own.
CALIBRATED = "calibrated "


class StudyRows:
    """Where the rows of studies go, and which images belong together.

    Args:
        config: :class:`medcolor_tf.predict.PredictConfig`.
        inputs: the images, each with its study.
        goes_on: rows of the same command are there: a file of studies is its own.

    Raises:
        InputError: the file exists, or --aggregate without --study_column.
    """

    def __init__(self, config, inputs: Sequence[InputImage], goes_on: bool):
        out = Path(config.out)
        self.path = out.with_name(f"{out.stem}{STUDIES}{out.suffix}")
        self.is_asked_for = bool(config.study_column)
        self._aggregate, self._inputs = config.aggregate, inputs
        if config.aggregate != "mean" and not self.is_asked_for:
            raise InputError(
                f"--aggregate={config.aggregate} without --study_column: there is nothing to put "
                "together"
            )
        if self.is_asked_for and self.path.exists() and not goes_on:
            raise InputError(f"--out={out}: {self.path} exists; expected a new file")

    def write(self, header: Sequence[str], observations: Sequence[str], rows: list) -> str:
        """Writes the file; returns what to say of it, "" where no study was asked for.

        Args:
            header: names of the images' columns.
            observations: of the model.
            rows: of the images, in the inputs' order, as text.

        Raises:
            InputError: it cannot be written.
        """
        if not self.is_asked_for:
            return ""
        names = [n for n in header if n in observations or n.startswith(CALIBRATED)]
        columns = [header.index(name) for name in names]
        studies: dict[str, list[Sequence[str]]] = {}
        for item, row in zip(self._inputs, rows, strict=True):
            studies.setdefault(item.study, []).append(row)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["study", "images", "unread", *names])
        for study, of_study in studies.items():
            read = [row for row in of_study if not row[-1]]
            cells = self._together(read, columns)
            unread = len(of_study) - len(read)
            writer.writerow([encode_name(study), len(of_study), unread, *cells])
        write_atomically(self.path, text.getvalue())
        return f"{len(studies):,} studies ({self._aggregate} of their images): {self.path}"

    def _together(self, rows: list, columns: Iterable[int]) -> list[str]:
        if not rows:
            return ["" for _ in columns]
        put_together = np.max if self._aggregate == "max" else np.mean
        return [f"{put_together([float(row[column]) for row in rows]):.7g}" for column in columns]
