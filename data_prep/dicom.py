"""Reads gray DICOM images through pydicom, which is optional: checks a file, decodes its pixels.

What the pixels mean is :mod:`data_prep.dicom_display`'s. The header is read and checked before any
pixel is: a small file may claim a large image, or be inflated to gigabytes.
"""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import jpeg
from data_prep.dicom_display import DisplayedImage, attribute, display, number
from data_prep.levels import ImageWarning

# Storage classes, by the end of their UID below 1.2.840.10008.5.1.4.1.1., whose pixels are
# no picture.
STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
NOT_PICTURES = {
    "481.2": "RT Dose",
    "66": "Raw Data",
    "66.1": "Spatial Registration",
    "66.4": "Segmentation",
    "66.5": "Surface Segmentation",
    "66.7": "Label Map Segmentation",
    "30": "Parametric Map",
    "67": "Real World Value Mapping",
}
NOT_PICTURE_MODALITIES = ("RTDOSE", "RTPLAN", "RTSTRUCT", "SEG", "PR", "KO", "SR", "REG", "RWV")
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
NATIVE = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
# Beside the pixels a file may hold this much: header, icon, overlays, private elements.
MAX_HEADER_BYTES = 64 << 20
SQUARE_TOLERANCE = 0.01
LARGEST_ASPECT = 10
SUFFIXES = (".dcm", ".dicom", ".dic")
INSTALL = "pip install 'medcolor_tf[dicom]'"
HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)  # start-of-frame markers of JPEGs that libjpeg-turbo decodes
# What stores a compressed file anew without compression, by the last part of its transfer syntax.
JPEG_LS_ENDS, JPEG_ENDS = ("80", "81"), ("50", "51", "53", "55", "57", "70")


def read(path: Path, max_pixels: int) -> DisplayedImage:
    """Returns the image as it is meant to be seen.

    Args:
        path: the file.
        max_pixels: more are refused before they are decoded.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: not a gray picture of one frame, too large, or its pixels cannot be decoded;
            the message says which.
    """
    import pydicom

    if path.stat().st_size > 4 * max_pixels + MAX_HEADER_BYTES:
        raise ValueError(f"DICOM file of {path.stat().st_size:,} bytes: refused as too large")
    content = path.read_bytes()
    warnings: list[ImageWarning] = []
    if _syntax_in_file(content) == DEFLATED:
        content = _inflate(content, max_pixels)
    header = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
    _check(header, max_pixels)
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    del content
    if "PixelData" not in dataset:
        raise ValueError("DICOM file without pixels")
    syntax = _transfer_syntax(dataset, warnings)
    raw = _decode(dataset, syntax, max_pixels)
    image = display(dataset, raw, masked=syntax in NATIVE or syntax == RLE)
    image.pixel_aspect = _pixel_aspect(dataset, warnings)
    if str(attribute(dataset, "BurnedInAnnotation") or "").upper() == "YES":
        warnings.append(ImageWarning("burned_in", "BurnedInAnnotation is YES: text in the picture"))
    image.warnings[:0] = warnings
    return image


def read_elements(path: Path, names: Sequence[str], max_pixels: int) -> dict[str, str]:
    """Returns elements of a header as text; "" for what is absent, of a file that is absent, too.

    Args:
        path: the file.
        names: keywords of elements, such as "PatientSex".
        max_pixels: as in :func:`read`.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: the file is there and is no DICOM.
    """
    import pydicom

    if not path.is_file() or not path.stat().st_size:
        return dict.fromkeys(names, "")
    with path.open("rb") as file:
        syntax = _syntax_in_file(head := file.read(4096))
    if head[128:132] != b"DICM" and path.suffix.lower() not in SUFFIXES:
        raise ValueError("not a DICOM file")
    try:
        content = _inflate(path.read_bytes(), max_pixels) if syntax == DEFLATED else b""
        # Sequences are read, too: an Enhanced file has its view inside.
        header = pydicom.dcmread(
            io.BytesIO(content) if content else path, force=True, stop_before_pixels=True
        )
        return {name: " ".join(str(attribute(header, name) or "").split()) for name in names}
    except Exception:  # damaged: the build rejects the file, and says why
        return dict.fromkeys(names, "")


def _check(header, max_pixels: int) -> None:
    """Raises ValueError unless the header describes one gray picture of bearable size."""
    name = str(header.get("SOPClassUID", ""))
    kind = NOT_PICTURES.get(name.removeprefix(STORAGE_ROOT))
    modality = str(header.get("Modality") or "")
    if kind or modality in NOT_PICTURE_MODALITIES:
        raise ValueError(f"DICOM file of {kind or modality}; expected a picture (CR, DX, MG, ...)")
    rows, columns = (int(number(header, name) or 0) for name in ("Rows", "Columns"))
    if not rows or not columns:
        raise ValueError("DICOM file without an image (no Rows and Columns)")
    if rows * columns > max_pixels:
        raise ValueError(f"{columns}x{rows} pixels: refused as a possible bomb")
    frames = int(number(header, "NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(f"DICOM file of {frames} frames; expected one")
    photometric = str(header.get("PhotometricInterpretation") or "")
    samples = int(number(header, "SamplesPerPixel") or 1)
    if samples != 1 or photometric not in MONOCHROME:
        raise ValueError(
            f"DICOM file in {photometric or 'no photometric interpretation'} with {samples} "
            f"sample{'s' if samples != 1 else ''} per pixel; expected {' or '.join(MONOCHROME)}"
        )
    bits = int(number(header, "BitsAllocated") or 0)
    if bits not in (8, 16, 32):
        raise ValueError(f"DICOM file of {bits} bits allocated per pixel; expected 8, 16 or 32")


def _meta_end(content: bytes) -> tuple[int, dict[int, bytes]]:
    """Returns where group 2, always explicit little endian, ends, and its short elements.

    Returns:
        (offset, element number -> value); (0, {}) for a file without preamble.
    """
    if content[128:132] != b"DICM":
        return 0, {}
    position, elements = 132, {}
    while content[position : position + 2] == b"\2\0" and position + 12 <= len(content):
        (element,) = struct.unpack_from("<H", content, position + 2)
        if content[position + 4 : position + 6] in (b"OB", b"UN", b"UT", b"SQ", b"OW"):
            (length,) = struct.unpack_from("<I", content, position + 8)
            start = position + 12
        else:
            (length,) = struct.unpack_from("<H", content, position + 6)
            start = position + 8
        elements[element] = content[start : start + min(length, 256)]
        position = start + length
    return position, elements


def _syntax_in_file(content: bytes) -> str:
    return _meta_end(content)[1].get(0x10, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _inflate(content: bytes, max_pixels: int) -> bytes:
    """Returns a deflated file as one in Explicit VR Little Endian.

    The header is inflated first and says how long the rest may be.

    Raises:
        ValueError: no deflate stream, or more than the image needs.
    """
    import pydicom

    end, elements = _meta_end(content)
    syntax = elements[0x10]
    plain = EXPLICIT_LITTLE.encode().ljust(len(syntax), b"\0")
    meta = content[:end].replace(syntax, plain, 1)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflate.decompress(content[end:], MAX_HEADER_BYTES)
        header = pydicom.dcmread(io.BytesIO(meta + body), force=True, stop_before_pixels=True)
        _check(header, max_pixels)
        pixels = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
        if inflate.unconsumed_tail and pixels > 0:
            body += inflate.decompress(inflate.unconsumed_tail, pixels)
    except zlib.error as error:
        raise ValueError(f"deflated DICOM file is damaged ({error})") from None
    if inflate.unconsumed_tail:
        raise ValueError(
            f"deflated DICOM file of more than {len(body):,} bytes, its image has {pixels:,}: "
            "refused as a possible bomb"
        )
    return meta + body


def _transfer_syntax(dataset, warnings: list[ImageWarning]) -> str:
    """Returns the transfer syntax's UID; where none is said, what the parser found out."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    declared = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or "")
    if declared:
        return declared
    implicit, little = dataset.original_encoding
    if bytes(dataset.PixelData[:4]) == b"\xfe\xff\x00\xe0":
        syntax = _syntax_of_codestream(_first_frame(dataset))
    elif implicit:
        syntax = IMPLICIT_LITTLE
    else:
        syntax = EXPLICIT_LITTLE if little else EXPLICIT_BIG
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    warnings.append(
        ImageWarning("dicom_tags", f"no transfer syntax is said; read as {UID(syntax).name}")
    )
    return syntax


def _syntax_of_codestream(frame: bytes) -> str:
    if frame[:4] == b"\xff\x4f\xff\x51":
        return "1.2.840.10008.1.2.4.91"
    if frame[:2] != b"\xff\xd8":
        return RLE
    marker, _, _ = _codestream_size(frame)
    ends = {0xC0: "50", 0xC1: "51", 0xC3: "57", 0xF7: "81"}
    return f"1.2.840.10008.1.2.4.{ends.get(marker, '50')}"


def _first_frame(dataset) -> bytes:
    from pydicom.encaps import generate_frames

    return next(generate_frames(dataset.PixelData, number_of_frames=1))


def _codestream_size(frame: bytes) -> tuple[int, int, int]:
    """Returns (marker, height, width) of a JPEG, JPEG-LS or JPEG 2000 frame; zeros if of none."""
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:
        right, bottom, left, top = struct.unpack_from(">IIII", frame, 8)
        return 0x51, bottom - top, right - left
    if frame[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # a whole JP2 file, against the standard
        start = frame.find(b"\xff\x4f\xff\x51")
        return _codestream_size(frame[start:]) if start > 0 else (0, 0, 0)
    position = 2
    while frame[:2] == b"\xff\xd8" and position + 9 <= len(frame):
        if frame[position] != 0xFF:
            break
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return marker, *struct.unpack_from(">HH", frame, position + 5)
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return 0, 0, 0


def _decode(dataset, syntax: str, max_pixels: int) -> np.ndarray:
    """Returns (H, W) integers as stored; ValueError says why not, and the command that helps."""
    from pydicom.uid import UID

    rows, columns = int(dataset.Rows), int(dataset.Columns)
    name = UID(syntax).name
    if syntax in NATIVE:
        expected = rows * columns * int(dataset.BitsAllocated) // 8
        if len(dataset.PixelData) < expected:
            raise ValueError(
                f"truncated: {len(dataset.PixelData):,} bytes of pixels, {columns}x{rows} pixels "
                f"need {expected:,}"
            )
        return _native(dataset, rows, columns)
    frame = _first_frame(dataset)
    if len(frame) > 4 * rows * columns + MAX_HEADER_BYTES // 64:
        raise ValueError(f"{len(frame):,} bytes for {columns}x{rows} pixels: refused")
    if syntax != RLE:
        marker, height, width = _codestream_size(frame)
        if not marker:
            raise ValueError(f"pixels are not {name}, which the file says they are")
        if (height, width) != (rows, columns):
            raise ValueError(
                f"compressed image of {width}x{height} pixels; the header says {columns}x{rows}"
            )
        _check_jpeg(frame, marker, (height, width))
    try:
        pixels = np.asarray(dataset.pixel_array)
    except Exception as error:  # plugins raise anything
        raise ValueError(_decoding_reason(syntax, name, error)) from error
    if pixels.shape != (rows, columns) or pixels.dtype.kind not in "iu":
        raise ValueError(f"decoded as {pixels.shape} {pixels.dtype}; expected {(rows, columns)}")
    return pixels


def _check_jpeg(frame: bytes, marker: int, size: tuple[int, int]) -> None:
    """Raises ValueError for a damaged JPEG, of which the decoders behind pydicom say nothing."""
    if not frame.startswith(jpeg.START):
        return
    if jpeg.END not in frame[len(frame) // 2 :]:  # bytes after it do no harm
        raise ValueError("the compressed image is truncated: it has no end marker")
    if marker in HUFFMAN_DCT and _precision(frame) == 8:
        jpeg.decode_strictly(frame, "GRAY", size, 8)


def _precision(frame: bytes) -> int:
    position = frame.find(b"\xff" + bytes([_codestream_size(frame)[0]]))
    return frame[position + 4]


def _native(dataset, rows: int, columns: int) -> np.ndarray:
    """Returns the (H, W) cells of an uncompressed image, signed if PixelRepresentation is 1."""
    size = int(dataset.BitsAllocated) // 8
    big = dataset.file_meta.TransferSyntaxUID == EXPLICIT_BIG
    kind = "i" if int(number(dataset, "PixelRepresentation") or 0) else "u"
    content = dataset.PixelData[: rows * columns * size]
    if big and size == 1 and dataset["PixelData"].VR == "OW":  # bytes change places in words
        content = np.frombuffer(dataset.PixelData, ">u2").astype("<u2").tobytes()
        content = content[: rows * columns]
    cells = np.frombuffer(content, f"{'>' if big else '<'}{kind}{size}")
    return cells.reshape(rows, columns).astype(f"={kind}{size}", copy=False)


def _decoding_reason(syntax: str, name: str, error: Exception) -> str:
    """Says why pixels cannot be decoded; the last words are the command that helps."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        available = get_decoder(UID(syntax)).is_available
    except NotImplementedError:  # nothing that could be installed decodes it
        available = True
    reason = f"pixels in {name} ({syntax}) cannot be decoded"
    if not available:
        return f"{reason} without another package: {INSTALL}"
    lines = [line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()]
    end = syntax.removeprefix("1.2.840.10008.1.2.4.")
    command = (
        "dcmdjpls" if end in JPEG_LS_ENDS else "dcmdjpeg" if end in JPEG_ENDS else "gdcmconv --raw"
    )
    return f"{reason} ({'; '.join(lines)}); store it uncompressed: {command} FILE NEW_FILE"


def _pixel_aspect(dataset, warnings: list[ImageWarning]) -> float:
    """Returns the height of a pixel by its width, 1.0 where it is square or not said.

    PixelAspectRatio is vertical by horizontal, and PixelSpacing is that between rows, then that
    between columns; the latter measures and comes first.
    """
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        value = attribute(dataset, name)
        if value is None:
            continue
        pair = [float(part) for part in np.ravel(np.array(value, object))]
        valid = len(pair) == 2 and all(math.isfinite(part) and part > 0 for part in pair)
        aspect = pair[0] / pair[1] if valid else math.nan
        if not 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT:
            shown = "\\".join(f"{part:g}" for part in pair)
            warnings.append(ImageWarning("dicom_tags", f"{name} {shown} is not applied"))
            continue
        if abs(aspect - 1) <= SQUARE_TOLERANCE:
            return 1.0
        warnings.append(
            ImageWarning(
                "not_square",
                f"pixels are not square ({name}: height {aspect:.3g} of their width); "
                "the image is resampled so that they are",
            )
        )
        return aspect
    return 1.0
