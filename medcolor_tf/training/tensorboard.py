"""TensorBoard events: scalars, gray images beside their colorized versions, hyper-parameters.

TensorFlow only, like the event format; the models it shows may run on any backend.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from medcolor_tf.evaluation.visualize import side_by_side
from medcolor_tf.files import cannot_write


class Log:
    """An event file.

    Args:
        folder: made when missing. A resumed run adds a file; steps that were run again have the
            same values there.

    Every method raises InputError where the file cannot be written, on a full disk for one.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        with self._writing():
            self._writer = tf.summary.create_file_writer(str(folder))

    @contextlib.contextmanager
    def _writing(self, step: int | None = None) -> Iterator[None]:
        """Makes events those of a step; InputError where the file cannot be written."""
        try:
            with contextlib.nullcontext() if step is None else self._writer.as_default(step=step):
                yield
        except tf.errors.OpError as error:
            cause = OSError(0, " ".join(error.message.split()))
            raise cannot_write(self._folder, cause) from None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one point a name; NaN (an undefined AUC) is left out."""
        with self._writing(step):
            for name, value in values.items():
                if np.isfinite(value):
                    tf.summary.scalar(name, value)

    def pictures(self, step: int, gray: np.ndarray, colorized: np.ndarray) -> None:
        """Writes gray images (B, H, W, C) beside T's output (B, H, W, 3)."""
        with self._writing(step):
            tf.summary.image(
                "gray_and_colorized", side_by_side(gray, colorized), max_outputs=len(gray)
            )
            self._writer.flush()

    def color_table(self, step: int, picture: np.ndarray) -> None:
        """Writes the gray values and their colours, (H, W, 3) uint8, of a color_map."""
        with self._writing(step):
            tf.summary.image("gray_to_color", picture[None])

    def hyper_parameters(self, config) -> None:
        """Writes a run's options to the HPARAMS tab."""
        from tensorboard.plugins.hparams import api

        values = {
            name: ",".join(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(config).items()
        }
        with self._writing(0):
            api.hparams(values)

    def close(self) -> None:
        """Writes what is left."""
        with self._writing():
            self._writer.close()
