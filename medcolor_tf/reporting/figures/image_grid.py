"""Rows of images as PNG (Figure 4)."""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medcolor_tf.reporting.figures.drawing import INK

SMALLEST, LARGEST = 128, 256  # pixels of an image's longer side
GAP = 8


def image_grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> bytes:
    """Rows of images with their labels at the left, as PNG.

    Images of less than 128 pixels are enlarged by a whole factor, each pixel to a square; images
    of more than 256 are reduced by averaging.

    Args:
        rows: label and images, each (H, W, 3) uint8.

    Raises:
        ValueError: no images.
    """
    scaled = [[_scaled(image) for image in images] for _, images in rows]
    flat = [image for images in scaled for image in images]
    if not flat:
        raise ValueError("no images to show")
    width = max(image.width for image in flat) + GAP
    grid = max(map(len, scaled)) * width
    # A wide grid is shown smaller, so its type is set larger.
    labels = [_label(text, round(15 * max(1, grid / 800))) for text, _ in rows]
    left = max(label.width for label in labels) + GAP
    height = max(image.height for image in [*flat, *labels]) + GAP
    canvas = Image.new("RGB", (left + grid - GAP, len(rows) * height - GAP), "white")
    for row, (label, images) in enumerate(zip(labels, scaled, strict=True)):
        canvas.paste(label, (0, row * height + (height - GAP - label.height) // 2))
        for column, image in enumerate(images):
            canvas.paste(image, (left + column * width, row * height))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def _scaled(image: np.ndarray) -> Image.Image:
    """An image whose longer side is 128 to 256 pixels."""
    picture = Image.fromarray(np.ascontiguousarray(image, np.uint8))
    longer = max(picture.size)
    if longer > LARGEST:
        width, height = (max(1, round(side * LARGEST / longer)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BOX)
    factor = math.ceil(SMALLEST / longer)
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def _label(text: str, size: int) -> Image.Image:
    """A text in lines of about 16 letters, in the font that matplotlib brings."""
    from matplotlib import get_data_path

    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    text = "\n".join(textwrap.wrap(text, 16)) or " "
    _, _, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).textbbox((0, 0), text, font)
    picture = Image.new("RGB", (math.ceil(right) + 1, math.ceil(bottom) + size // 4), "white")
    ImageDraw.Draw(picture).text((0, 0), text, INK, font)
    return picture
