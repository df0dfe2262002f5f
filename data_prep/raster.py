"""Decodes raster files through Pillow, one named format at a time, and gray JPEGs by simplejpeg."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data_prep.jpeg import decode_strictly
from data_prep.levels import ImageWarning, invert

# Pillow's own bound against decompression bombs, for what is read and for what is made: a small
# file may claim billions of pixels, and a 1 x 100000 strip would be resized to billions.
MAX_PIXELS = 178_956_970 // 2
# libjpeg decodes a JPEG straight to a half or a quarter of its size, with less work. Scale -> how
# many of the reduced pixels a pixel of the result must still be made from, along a side: there the
# resize does the filtering, and the mean difference from the full decode is half of what rounding
# to 8 bits makes (docs/decisions.md, `python -m benchmarks.data_prep accuracy`). An eighth is worse
# even at a margin of 4, and hardly faster.
REDUCED_MARGIN = {4: 4, 2: 3}
DEPTH_16 = ("I;16", "I;16L", "I;16B", "I;16N")
TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0


class ImageError(ValueError):
    """An image file that cannot be used; the message is a short reason without the file's name."""


@dataclass(frozen=True)
class Decoded:
    """What a format's reader gives.

    Attributes:
        pixels: (H, W) uint8 or uint16, upright; from larger files perhaps reduced already.
        size: (height, width) of the whole image in pixels.
        box: part of ``pixels`` (left, top, right, bottom) that is the image; None: all.
        ignored: (H, W) bool, pixels that are no image, and black; None: none.
        pixel_aspect: height of a pixel by its width.
        warnings: of what the reader saw.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    box: tuple[float, float, float, float] | None = None
    ignored: np.ndarray | None = None
    pixel_aspect: float = 1.0
    warnings: tuple[ImageWarning, ...] = ()


def decode(path: Path, reduced_to: int | None, *, plugin: str) -> Decoded:
    """Decodes a file with Pillow.

    Args:
        path: of the file.
        reduced_to: short side from which a JPEG may be decoded at reduced scale; None: never.
        plugin: Pillow's name of the one format that may be opened. Without it Pillow would try all
            it knows, and hands PostScript to another program, whatever the suffix.
    """
    try:
        image = Image.open(path, formats=[plugin])
    except Image.DecompressionBombError:
        raise ImageError("claims too many pixels: refused as a possible bomb") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width}x{image.height} pixels: refused as a possible bomb")
        # MPO is a JPEG of some cameras with a preview as its second frame.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise ImageError(f"{frames} frames; expected one image")
        if plugin == "PNG":
            check_png(path.read_bytes())
        if plugin == "JPEG":
            return _read_jpeg(image, path.read_bytes(), reduced_to)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        pixels = _to_gray(image)
        if plugin == "TIFF" and _is_stored_inverted(image):
            pixels = invert(pixels)
        return Decoded(pixels, pixels.shape)


def check_png(content: bytes) -> None:
    """Compares the check sums of a PNG's pixels, which Pillow does not; ImageError on damage.

    Source: PNG specification (third edition), sections 5.3 and 5.5.
    """
    place = len(b"\x89PNG\r\n\x1a\n")
    while place + 12 <= len(content):
        kind = content[place + 4 : place + 8]
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        expected = int.from_bytes(content[end : end + 4], "big")
        if kind == b"IDAT" and end + 4 > len(content):
            raise ImageError(f"PNG is truncated (in the pixels, after {len(content)} bytes)")
        if kind == b"IEND":
            return
        if kind == b"IDAT" and zlib.crc32(content[place + 4 : end]) != expected:
            raise ImageError(f"PNG is damaged (wrong check sum of the pixels at byte {place})")
        place = end + 4


def _is_stored_inverted(image: Image.Image) -> bool:
    """Tells whether 0 is white in what Pillow gives of a TIFF: it inverts 8 bits, not 16."""
    tags = getattr(image, "tag_v2", {})
    return image.mode in (*DEPTH_16, "I") and tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO


def _read_jpeg(image: Image.Image, content: bytes, reduced_to: int | None) -> Decoded:
    """Decodes a JPEG, reduced where nothing is lost; rejects it where libjpeg warns of damage.

    Gray files are decoded once, by :func:`decode_strictly`; others by Pillow, and before that at an
    eighth of their size to hear of warnings.
    """
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    scale = reduced_scale(image, reduced_to) if reduced_to and upright else 1
    size = (image.height, image.width)
    # The box says how far the picture reaches: 2827 pixels are 1413.5, stored in 1414.
    box = (0.0, 0.0, image.width / scale, image.height / scale) if scale > 1 else None
    plain = image.mode == "L" and upright
    colours = "CMYK" if image.mode == "CMYK" else "GRAY"
    pixels = decode_strictly(content, colours, size, scale if plain else 8)
    if plain and pixels is not None:
        return Decoded(pixels, size, box)
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    pixels = _to_gray(image)
    return Decoded(pixels, size if upright else pixels.shape, box)


def reduced_scale(image: Image.Image, short_side: int) -> int:
    """Returns by how much a JPEG can be reduced while it is decoded without a loss; 1: not.

    Only gray and RGB: CMYK becomes gray by products, which do not commute with averaging. Not
    what EXIF turns: the part of a pixel that is left at the right and bottom would be elsewhere.
    """
    if image.mode not in ("L", "RGB"):
        return 1
    ratio = min(image.size) / short_side
    return next((scale for scale, left in REDUCED_MARGIN.items() if ratio >= scale * left), 1)


def _to_gray(image: Image.Image) -> np.ndarray:
    if image.mode in DEPTH_16:
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ImageError(f"pixels from {pixels.min()} to {pixels.max()}; expected 16 bits")
        return pixels.astype(np.uint16)
    if image.mode == "F":
        raise ImageError("floating-point pixels: their range is not known; convert to 16 bits")
    if image.mode == "L":
        return np.asarray(image)
    if image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")  # the palette may be coloured, or premultiplied
    elif image.mode not in ("1", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))
