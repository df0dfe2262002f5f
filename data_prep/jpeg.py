"""Decodes JPEGs and makes errors of what libjpeg only warns of."""

import numpy as np
import simplejpeg

UNKNOWN_SUBSAMPLING = "Could not determine subsampling"
START, END = b"\xff\xd8", b"\xff\xd9"


def decode_strictly(
    content: bytes, colours: str, size: tuple[int, int], scale: int
) -> np.ndarray | None:
    """Returns the first channel of a JPEG of 8 bits, (H, W) uint8.

    None where simplejpeg does not know how the colours are subsampled, which is rare.

    Pillow hears nothing of libjpeg's warnings. simplejpeg has libjpeg-turbo too, and gives the same
    pixels of a gray file as Pillow.

    Args:
        content: the file.
        colours: "GRAY", or "CMYK" for a file of four channels.
        size: (height, width) of the whole image.
        scale: 1, 2, 4 or 8, by which it is reduced; whatever it is, every bit of the file is read.

    Raises:
        ValueError: the file is damaged.
    """
    height, width = (-(-side // scale) for side in size)
    try:
        return simplejpeg.decode_jpeg(content, colours, min_height=height, min_width=width)[..., 0]
    except ValueError as error:
        if UNKNOWN_SUBSAMPLING in str(error):
            return None
        raise ValueError(f"JPEG is damaged or truncated ({error})") from None
