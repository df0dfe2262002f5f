"""Reads an X-ray file as one gray image; encodes and decodes the stored form.

A pure function of the file, the size, the bits and the range. ``medcolor_tf.predict`` reads user
files with the same :func:`read_image`, so nothing here imports TensorFlow. Which kinds of file are
read stands in :data:`FORMATS`, at the end.
"""

import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep import dicom, raster
from data_prep.levels import ImageWarning, inversion_warnings, level_warnings, stretch
from data_prep.raster import MAX_PIXELS, Decoded, ImageError
from medcolor_tf.errors import InputError

# First bytes of a file that tell its format: DICOM's stand behind a preamble of 128.
HEAD_BYTES = 132


@dataclass(frozen=True)
class Reading:
    """An image as it is stored in records, and what may be wrong with it.

    Attributes:
        pixels: (H, W) uint8 or uint16.
        warnings: none for an ordinary image.
    """

    pixels: np.ndarray
    warnings: tuple[ImageWarning, ...]


@dataclass(frozen=True)
class Format:
    """A kind of image file that is read.

    Attributes:
        name: for messages.
        suffixes: in lower case; folders are searched for them.
        recognised: from a file's first HEAD_BYTES bytes, whether it is of this format.
        read: called with the path and the short side from which a reduced decode may be made
            (None: decode in full).
        by_suffix: a file that no format recognises is of this one by its suffix.
        extra: of medcolor_tf, brings the package that ``read`` imports; "" where none is needed.
    """

    name: str
    suffixes: tuple[str, ...]
    recognised: Callable[[bytes], bool]
    read: Callable[[Path, int | None], Decoded]
    by_suffix: bool = False
    extra: str = ""


def read_image(
    path: str | os.PathLike,
    short_side: int | None = None,
    bits: int = 8,
    pixel_range: str = "full",
) -> np.ndarray:
    """Reads an image file as a gray array: the pixels of :func:`examine_image`."""
    return examine_image(path, short_side, bits, pixel_range).pixels


def examine_image(
    path: str | os.PathLike,
    short_side: int | None = None,
    bits: int = 8,
    pixel_range: str = "full",
) -> Reading:
    """Reads an image file as a gray array, and says what may be wrong with it.

    * The file's first bytes decide how it is read (its suffix only for DICOM without a preamble),
      and nothing else than :data:`FORMATS` is ever opened. EXIF orientation is applied.
    * Colour (RGB, palette, CMYK, ...) becomes gray by ITU-R 601 as in Pillow; alpha is dropped;
      1-bit pixels become 0 and 255. Equal R, G and B keep their value exactly.
    * 16-bit gray sources are read in full. Pillow reads 16-bit RGB as 8-bit.
    * DICOM gives display values, see :mod:`data_prep.dicom_display`; pixels that are not square
      are resampled so that they are.
    * The image is resized with Pillow's antialiased bilinear filter so that its short side is
      ``short_side``, up or down, the long side rounded; an image that has it is left as it is.
      8 bits from an 8-bit source are resized in 8 bits, all others in float32.
    * A gray or RGB JPEG that is much larger is decoded at reduced scale, if 8 bits are wanted:
      within the rounding error of the full decode, see :data:`data_prep.raster.REDUCED_MARGIN`.
    * 8 bits become 16 by x 257 and 16 become 8 by / 257 with rounding, so white stays white.

    Args:
        path: the file.
        short_side: pixels of the shorter side; None leaves the size.
        bits: 8 or 16, of the result.
        pixel_range: one of :data:`medcolor_tf.catalog.RANGES`, what becomes black and white.

    Raises:
        ImageError: no such file, empty, truncated, damaged, none of the formats, no known range of
            pixels, several frames, too many pixels.
        InputError: a DICOM file, and pydicom is not installed.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ImageError("no such file")
        if not path.stat().st_size:
            raise ImageError("empty file")
        reduced_to = short_side if bits == 8 and pixel_range == "full" else None
        decoded = _read_as(_format_of(path), path, reduced_to)
        return _finish(decoded, short_side, bits, pixel_range)
    except (ImageError, InputError):
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(reason.replace(str(path), path.name)) from error


def _finish(decoded: Decoded, short_side: int | None, bits: int, pixel_range: str) -> Reading:
    """Stretches, resizes and judges what was decoded."""
    warnings = (*decoded.warnings, *level_warnings(decoded.pixels))
    spread = stretch(decoded.pixels, pixel_range, decoded.ignored)
    size = target_size(*_square_pixels(decoded.size, decoded.pixel_aspect), short_side)
    pixels = _resize(spread, size, bits, decoded.box)
    return Reading(pixels, (*warnings, *inversion_warnings(pixels)))


def _square_pixels(size: tuple[int, int], aspect: float) -> tuple[float, float]:
    """Returns the (height, width) that an image has in square pixels, the finer of its two."""
    height, width = size
    return (height * aspect, width) if aspect > 1 else (height, width / aspect)


def recognise(path: Path) -> Format | None:
    """Returns the format that a file's first bytes tell; None for none, or no readable file."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    return next((form for form in FORMATS if form.recognised(head)), None)


def _format_of(path: Path) -> Format:
    """Returns the format of a file; ImageError if it has none of :data:`FORMATS`."""
    if form := recognise(path):
        return form
    for form in FORMATS:
        if form.by_suffix and path.suffix.lower() in form.suffixes:
            return form
    raise ImageError(f"not an image file: expected {', '.join(form.name for form in FORMATS)}")


def _read_as(form: Format, path: Path, reduced_to: int | None) -> Decoded:
    try:
        return form.read(path, reduced_to)
    except ImportError as error:
        if not form.extra:
            raise
        raise InputError(
            f"{path}: {form.name} files need {error.name}, which is not installed: "
            f"pip install medcolor_tf[{form.extra}]"
        ) from None
    except Image.UnidentifiedImageError:
        raise ImageError(
            f"begins as a {form.name} file does, but is damaged or of a kind that is not read"
        ) from None


def target_size(height: float, width: float, short_side: int | None) -> tuple[int, int]:
    """Returns the (height, width) that has the short side asked for; ImageError if too large."""
    scale = 1.0 if short_side is None else short_side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{width:g}x{height:g} would be resized to {size[1]}x{size[0]}: too large")
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
        needed = size[0] * size[1] * dtype.itemsize
        if len(content) != needed:
            raise ImageError(f"has {len(content)} bytes, {size[1]}x{size[0]} pixels need {needed}")
        return np.frombuffer(content, dtype).reshape(size)
    try:
        image = Image.open(io.BytesIO(content), formats=[encoding])
        pixels = np.asarray(image)
    except Exception as error:
        raise ImageError(str(error) or type(error).__name__) from error
    if pixels.shape != tuple(size) or pixels.dtype.itemsize * 8 != bits:
        raise ImageError(f"is {pixels.shape} {pixels.dtype}, expected {tuple(size)} of {bits} bits")
    return pixels


def _resize(
    pixels: np.ndarray,
    size: tuple[int, int],
    bits: int,
    box: tuple[float, float, float, float] | None,
) -> np.ndarray:
    """Resizes (H, W) uint8 or uint16 to (height, width) and bits; ``box`` as in Decoded."""
    height, width = size
    same_size = box is None and pixels.shape == size
    if pixels.dtype == np.uint8 and bits == 8:
        if same_size:
            return np.array(pixels)
        image = Image.fromarray(pixels)
        return np.array(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
    if same_size and pixels.dtype == np.uint16 and bits == 16:
        return np.array(pixels)
    # On the 16-bit scale, in float32, whose 24 bits hold it exactly.
    scaled = pixels.astype(np.float32) * (257 if pixels.dtype == np.uint8 else 1)
    if not same_size:
        image = Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR, box=box)
        scaled = np.asarray(image)
    scaled = scaled / 257 if bits == 8 else scaled
    return np.clip(np.rint(scaled), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


def _read_dicom(path: Path, reduced_to: int | None) -> Decoded:
    image = dicom.read(path, MAX_PIXELS)
    return Decoded(
        image.pixels,
        image.pixels.shape,
        ignored=image.padding,
        pixel_aspect=image.pixel_aspect,
        warnings=tuple(image.warnings),
    )


def _pillow(plugin: str) -> Callable[[Path, int | None], Decoded]:
    return partial(raster.decode, plugin=plugin)


def _begins_with(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _is_pnm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6")


# In the order in which they are tried: DICOM first, whose preamble may hold a TIFF's first bytes.
FORMATS = (
    Format(
        "DICOM",
        dicom.SUFFIXES,
        _is_dicom,
        _read_dicom,
        by_suffix=True,
        extra="dicom",
    ),
    Format("PNG", (".png",), _begins_with(b"\x89PNG\r\n\x1a\n"), _pillow("PNG")),
    Format("JPEG", (".jpg", ".jpeg"), _begins_with(b"\xff\xd8\xff"), _pillow("JPEG")),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        _begins_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        _pillow("TIFF"),
    ),
    Format("BMP", (".bmp",), _begins_with(b"BM"), _pillow("BMP")),
    Format("WebP", (".webp",), _is_webp, _pillow("WEBP")),
    Format("GIF", (".gif",), _begins_with(b"GIF87a", b"GIF89a"), _pillow("GIF")),
    Format("PNM", (".pgm", ".ppm", ".pbm", ".pnm"), _is_pnm, _pillow("PPM")),
    Format(
        "JPEG 2000",
        (".jp2", ".j2k"),
        _begins_with(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        _pillow("JPEG2000"),
    ),
)
IMAGE_SUFFIXES = tuple(suffix for form in FORMATS for suffix in form.suffixes)
