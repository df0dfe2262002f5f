"""The colours that a map from gray value to colour gives: as a picture, a CSV and a colormap.

Only a colorizer that looks at each pixel alone (`color_map`) has such a table; it is all of it.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medcolor_tf.errors import InputError

if TYPE_CHECKING:
    import keras
    from matplotlib.colors import ListedColormap

ENTRIES = 256
HEAD = ("value", "r", "g", "b")
DIGITS = 6  # of a colour, after the point
# Of the picture, in pixels: an entry's width, the heights of the gray ramp and of the colours.
ENTRY_WIDTH, GRAY_HEIGHT, GAP, COLOR_HEIGHT = 2, 24, 4, 72


@dataclass(frozen=True, eq=False)
class ColorTable:
    """The colours of 256 gray values, which lie evenly from black to white.

    Attributes:
        values: (256,) int, raw gray values: 0 to 255, or every 257th of a 16-bit image's.
        colors: (256, 3) float, red, green and blue on the scale of the gray image, 0 for black and
            1 for white: T's output times the data set's pixel std plus its pixel mean. T is free to
            leave that range.
    """

    values: np.ndarray
    colors: np.ndarray

    @classmethod
    def from_colorizer(
        cls, colorizer: "keras.Model", pixel_mean: float, pixel_std: float, max_value: int
    ) -> "ColorTable":
        """Reads the table of a colorizer of one input channel that looks at each pixel alone.

        Args:
            colorizer: normalised gray (B,H,W,1) to colours (B,H,W,3).
            pixel_mean, pixel_std: of the normalisation, on the [0, 1] scale.
            max_value: the raw value of white.
        """
        from medcolor_tf.evaluation.inference import predict_batch

        values = np.linspace(0, max_value, ENTRIES).round().astype(int)
        gray = (values / max_value - pixel_mean) / pixel_std
        colors = predict_batch(colorizer, gray.astype(np.float32).reshape(1, 1, ENTRIES, 1))
        colors = np.asarray(colors, np.float32).reshape(ENTRIES, 3)
        return cls(values, colors * pixel_std + pixel_mean)

    @classmethod
    def from_csv(cls, path: Path) -> "ColorTable":
        """Reads what :meth:`to_csv` wrote.

        Raises:
            InputError: no such file, or a row that is none of a table of 256 colours.
        """
        try:
            with open(path, newline="", encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            numbers = np.array(rows, float)
            if tuple(head) != HEAD or numbers.shape != (ENTRIES, 4):
                raise ValueError(f"received columns {head}, {len(rows)} rows")
            if not np.isfinite(numbers).all():
                raise ValueError("received a value that is no number")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read as a table of colours ({error}); expected the columns "
                f"{', '.join(HEAD)} and {ENTRIES} rows of numbers"
            ) from None
        return cls(numbers[:, 0].astype(int), numbers[:, 1:])

    @property
    def rgb(self) -> np.ndarray:
        """(256, 3) uint8; what leaves the range of the gray image is drawn at its ends."""
        # Of the digits that to_csv writes, or a table that was read back could differ by one.
        colors = np.asarray(self.colors, float).round(DIGITS)
        return np.round(np.clip(colors, 0, 1) * 255).astype(np.uint8)

    def to_csv(self) -> str:
        """Returns the columns value, r, g, b; colours as they are, not cut to 0 to 1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEAD)
        for value, color in zip(self.values, self.colors, strict=True):
            writer.writerow([value, *(f"{part:.{DIGITS}f}" for part in color)])
        return text.getvalue()

    def to_picture(self) -> np.ndarray:
        """Draws the gray values from black to white, and their colours below: (100, 512, 3)."""
        gray = np.linspace(0, 255, ENTRIES).round().astype(np.uint8)
        rows = [np.repeat(gray[:, None], 3, axis=1)] * GRAY_HEIGHT
        rows += [np.full((ENTRIES, 3), 255, np.uint8)] * GAP
        rows += [self.rgb] * COLOR_HEIGHT
        return np.repeat(np.stack(rows), ENTRY_WIDTH, axis=1)

    def to_png(self) -> bytes:
        """Returns :meth:`to_picture` as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.to_picture()).save(file, "PNG")
        return file.getvalue()

    def to_colormap(self, name: str = "color_map") -> "ListedColormap":
        """Returns matplotlib's colormap of the colours in :attr:`rgb`."""
        from matplotlib.colors import ListedColormap

        return ListedColormap(self.rgb / 255.0, name)
