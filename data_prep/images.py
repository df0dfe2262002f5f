"""Reads an X-ray file as one gray image; encodes and decodes the stored form.

A pure function of the file, the size and the bits. ``medcolor_tf.predict`` reads user files with
the same :func:`read_image`, so nothing here imports TensorFlow.
"""

import io
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data_prep import dicom

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


class ImageError(ValueError):
    """An image file that cannot be used; the message is a short reason without the file's name."""


def read_image(path: str | os.PathLike, short_side: int | None = None, bits: int = 8) -> np.ndarray:
    """Reads an image file as a gray array.

    * Files are read by Pillow, except DICOM (named ``.dcm`` or with its magic), see
      :mod:`data_prep.dicom`. EXIF orientation is applied.
    * Colour (RGB, palette, CMYK, ...) becomes gray by ITU-R 601 as in Pillow; alpha is dropped;
      1-bit pixels become 0 and 255. Equal R, G and B keep their value exactly.
    * 16-bit gray sources are read in full. Pillow reads 16-bit RGB as 8-bit.
    * The image is resized with Pillow's antialiased bilinear filter so that its short side is
      ``short_side``, up or down, the long side rounded; an image that has it is left as it is.
      8 bits from an 8-bit source are resized in 8 bits, all others in float32.
    * A gray or RGB JPEG that is much larger is decoded at reduced scale, if 8 bits are wanted:
      within the rounding error of the full decode, see ``REDUCED_MARGIN``.
    * 8 bits become 16 by x 257 and 16 become 8 by / 257 with rounding, so white stays white.

    Args:
        path: the file.
        short_side: pixels of the shorter side; None leaves the size.
        bits: 8 or 16, of the result.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        ImageError: no such file, empty, truncated, not an image, no known range of pixels, several
            frames, too many pixels.
        InputError: a DICOM file, and pydicom is not installed.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ImageError("no such file")
        if not path.stat().st_size:
            raise ImageError("empty file")
        if dicom.is_dicom(path):
            return _resize(dicom.read(path), short_side, bits)
        return _read_with_pillow(path, short_side, bits)
    except (ImageError, dicom.InputError):
        raise
    except Image.UnidentifiedImageError:
        raise ImageError("not an image file that Pillow knows") from None
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(reason.replace(str(path), path.name)[:200]) from error


def target_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Returns the (height, width) that has the short side asked for; ImageError if too large."""
    scale = 1.0 if short_side is None else short_side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{width}x{height} would be resized to {size[1]}x{size[0]}: too large")
    return size


def encode_image(pixels: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """Encodes a gray image.

    Args:
        pixels: (H, W) uint8 or uint16.
        encoding: "png" (lossless), "jpeg" (8 bits only) or "raw" (row-major, little-endian).
        quality: of a JPEG, 1 to 100.
    """
    if encoding == "raw":
        return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
    if encoding == "jpeg" and pixels.dtype != np.uint8:
        raise ValueError(f"JPEG holds 8 bits, got {pixels.dtype}")
    # Run lengths alone, without the search for repetitions, which X-rays hardly have: measured a
    # fifth to a half of the time of Pillow's default, and no larger.
    options = {"quality": quality} if encoding == "jpeg" else {"compress_type": zlib.Z_RLE}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=encoding, **options)
    return buffer.getvalue()


def decode_image(content: bytes, encoding: str, size: tuple[int, int], bits: int) -> np.ndarray:
    """Decodes what :func:`encode_image` made.

    Args:
        content: the encoded image.
        encoding: "png", "jpeg" or "raw".
        size: (height, width) that it must have.
        bits: 8 or 16.

    Raises:
        ImageError: damaged, or of another size, depth or number of channels.
    """
    dtype = np.dtype(f"<u{bits // 8}")
    if encoding == "raw":
        if len(content) != size[0] * size[1] * dtype.itemsize:
            wanted = size[0] * size[1] * dtype.itemsize
            raise ImageError(f"has {len(content)} bytes, {size[1]}x{size[0]} pixels need {wanted}")
        return np.frombuffer(content, dtype).reshape(size)
    try:
        image = Image.open(io.BytesIO(content), formats=[encoding])
        pixels = np.asarray(image)
    except Exception as error:
        raise ImageError(str(error) or type(error).__name__) from error
    if pixels.shape != tuple(size) or pixels.dtype.itemsize * 8 != bits:
        raise ImageError(f"is {pixels.shape} {pixels.dtype}, expected {tuple(size)} of {bits} bits")
    return pixels


def _read_with_pillow(path: Path, short_side: int | None, bits: int) -> np.ndarray:
    """Returns (H, W) uint8 or uint16, upright and resized."""
    try:
        image = Image.open(path)
    except Image.DecompressionBombError:
        raise ImageError("claims too many pixels: refused as a possible bomb") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width}x{image.height} pixels: refused as a possible bomb")
        # MPO is a JPEG of some cameras with a preview as its second frame.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise ImageError(f"{image.n_frames} frames; expected one image")
        scale = _reduced_scale(image, short_side) if bits == 8 and short_side else 1
        if scale > 1:
            return _read_reduced(image, scale, short_side)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _resize(_to_gray(image), short_side, bits)


def _reduced_scale(image: Image.Image, short_side: int) -> int:
    """Returns by how much a file can be reduced while it is decoded without a loss; 1: not.

    Only gray and RGB: CMYK becomes gray by products, which do not commute with averaging. Not
    what EXIF turns: the part of a pixel that is left at the right and bottom would be elsewhere.
    """
    plain = image.format == "JPEG" and image.mode in ("L", "RGB")
    if not plain or image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return 1
    ratio = min(image.size) / short_side
    return next((scale for scale, left in REDUCED_MARGIN.items() if ratio >= scale * left), 1)


def _read_reduced(image: Image.Image, scale: int, short_side: int) -> np.ndarray:
    """Decodes a JPEG at 1 / ``scale`` and resizes what is left; (H, W) uint8."""
    height, width = target_size(image.height, image.width, short_side)
    # The box says how far the picture reaches: 2827 pixels are 1413.5, stored in 1414.
    _, box = image.draft(None, (image.width // scale, image.height // scale))
    gray = image if image.mode == "L" else image.convert("L")
    return np.array(gray.resize((width, height), Image.Resampling.BILINEAR, box=box))


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


def _resize(pixels: np.ndarray, short_side: int | None, bits: int) -> np.ndarray:
    """Resizes (H, W) uint8 or uint16 to the asked-for short side and bits."""
    height, width = target_size(*pixels.shape, short_side)
    same_size = pixels.shape == (height, width)
    if pixels.dtype == np.uint8 and bits == 8:
        if same_size:
            return np.array(pixels)
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    if same_size and pixels.dtype == np.uint16 and bits == 16:
        return np.array(pixels)
    # On the 16-bit scale, in float32, whose 24 bits hold it exactly.
    scaled = pixels.astype(np.float32) * (257 if pixels.dtype == np.uint8 else 1)
    if not same_size:
        image = Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR)
        scaled = np.asarray(image)
    scaled = scaled / 257 if bits == 8 else scaled
    return np.clip(np.rint(scaled), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
