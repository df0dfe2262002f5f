"""A row per study beside predict's row per image: the mean or largest probability of its images.

Decisions come with it only where thresholds of studies were chosen (``evaluate --unit=study``):
those of single images say nothing of the mean or the largest of several.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically
from medcolor_tf.runs.decision import NEGATIVE, POSITIVE, UNDECIDED, WORDS, Decision
from medcolor_tf.serving.inputs import InputImage, encode_name
from medcolor_tf.serving.study_thresholds import StudyThresholds, find_study_thresholds

STUDIES = "-studies"
# Columns of single images whose values are put together beside the observations' own.
CALIBRATED, DECISION = "calibrated ", "decision "
# Of a probability that was written with seven digits.
ROUNDING = 5e-7


class StudyRows:
    """Where the rows of studies go, and which images belong together.

    Args:
        config: :class:`medcolor_tf.predict.PredictConfig`.
        inputs: the images, each with its study.
        decision: the run's, None without one.
        goes_on: rows of the same command are there: a file of studies is its own.

    Raises:
        InputError: the file exists, --aggregate without --study_column, or a run's file with
            thresholds of studies is damaged.
    """

    def __init__(
        self, config, inputs: Sequence[InputImage], decision: Decision | None, goes_on: bool
    ):
        out = Path(config.out)
        self.path = out.with_name(f"{out.stem}{STUDIES}{out.suffix}")
        self.is_asked_for = bool(config.study_column)
        self._aggregate, self._inputs = config.aggregate, inputs
        self._thresholds: StudyThresholds | None = None
        self._undecided = 0
        if config.aggregate != "mean" and not self.is_asked_for:
            raise InputError(
                f"--aggregate={config.aggregate} without --study_column: there is nothing to put "
                "together"
            )
        if self.is_asked_for and self.path.exists() and not goes_on:
            raise InputError(f"--out={out}: {self.path} exists; expected a new file")
        if self.is_asked_for and decision is not None:
            self._thresholds = find_study_thresholds(config.run_dir, decision, config.aggregate)

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
        decided = self._thresholds.values if self._thresholds else {}
        studies: dict[str, list[Sequence[str]]] = {}
        for item, row in zip(self._inputs, rows, strict=True):
            studies.setdefault(item.study, []).append(row)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(
            ["study", "images", "unread", *names, *(f"{DECISION}{name}" for name in decided)]
        )
        for study, of_study in studies.items():
            read = [row for row in of_study if not row[-1]]
            values = self._together(read, columns)
            chances = dict(zip(names, values, strict=True))
            cells = [f"{value:.7g}" for value in values] if read else [""] * len(names)
            calls = [
                self._call(chances[f"{CALIBRATED}{name}"], threshold) if read else ""
                for name, threshold in decided.items()
            ]
            unread = len(of_study) - len(read)
            writer.writerow([encode_name(study), len(of_study), unread, *cells, *calls])
        write_atomically(self.path, text.getvalue())
        return self._said(len(studies))

    def _together(self, rows: list, columns: Iterable[int]) -> list[float]:
        """The mean or the largest of each column, NaN without rows."""
        if not rows:
            return [np.nan for _ in columns]
        put_together = np.max if self._aggregate == "max" else np.mean
        return [float(put_together([float(row[column]) for row in rows])) for column in columns]

    def _call(self, chance: float, threshold: float | None) -> str:
        """The decision on a study; none where the digits of its images' rows are too few for it."""
        if threshold is None:
            return WORDS[UNDECIDED]
        if threshold > 0 and abs(chance - threshold) <= ROUNDING * chance:
            self._undecided += 1
            return WORDS[UNDECIDED]
        return WORDS[POSITIVE if chance >= threshold else NEGATIVE]

    def _said(self, count: int) -> str:
        lines = [f"{count:,} studies ({self._aggregate} of their images): {self.path}"]
        if self._thresholds:
            head = "decisions" if self._thresholds.values else "no decisions"
            lines.append(f"{head} of studies: {self._thresholds.origin}")
        if self._undecided:
            lines.append(
                f"warning: {self._undecided:,} decisions of studies are left empty: the "
                "probability is the threshold, as far as its seven digits tell"
            )
        return "\n".join(lines)
