"""Made-up and damaged images and tables beside readings of their own.

Nothing here uses Pillow's, pydicom's or our reading of a format to tell what is right: a picture is
known because it was drawn here, a damaged PNG is read by the decoder below, a table by a parser
that knows RFC 4180 alone.
"""

import io
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_prep.images import read_image
from data_prep.raster import ImageError
from data_prep.tables import read_table
from medcolor_tf.errors import InputError

LUMA = np.array([19595, 38470, 7471])
SECONDARY_CAPTURE, INSTANCE = UID("1.2.840.10008.5.1.4.1.1.7"), UID("1.2.3.4")


class Made(NamedTuple):
    """An image file, and what reading it at 16 bits must give.

    Attributes:
        kind: of file, for counting.
        name: of the file.
        content: its bytes.
        gray: (H, W) uint16.
        tolerance: by which a value may be off, of 65535.
    """

    kind: str
    name: str
    content: bytes
    gray: np.ndarray
    tolerance: int = 0


# -- images ----------------------------------------------------------------------------------------


def make_image(random: np.random.Generator) -> Made:
    """Draws a picture of 1 to 24 pixels a side and writes it in one of the kinds below."""
    kinds = (gray_png, gray_png16, rgb, palette_png, one_bit, bmp, pnm, tiff, jpeg, dicom)
    return kinds[random.integers(len(kinds))](random)


def _picture(random, channels=0, white=255, dtype: DTypeLike = np.uint8) -> np.ndarray:
    shape = tuple(random.integers(1, 25, 2)) + ((channels,) if channels else ())
    low, high = sorted(random.integers(0, white + 1, 2))
    return random.integers(low, high + 1, shape).astype(dtype)


def _written(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def _times_257(gray) -> np.ndarray:
    return gray.astype(np.uint16) * 257


def _luma(colours: np.ndarray) -> np.ndarray:
    """ITU-R 601 in integers, rounded."""
    return ((colours[..., :3].astype(np.int64) @ LUMA + 0x8000) >> 16).astype(np.uint8)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a picture looks like whose EXIF orientation is 1 to 8."""
    turns: dict[int, Callable] = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p.swapaxes(0, 1)[::-1],
    }
    return turns[orientation](pixels)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def gray_png(random) -> Made:
    """8 bits, some turned by EXIF."""
    pixels, orientation = _picture(random), int(random.integers(1, 9))
    content = _written(Image.fromarray(pixels), "PNG", exif=_exif(orientation))
    return Made("gray PNG", "a.png", content, _times_257(_turned(pixels, orientation)))


def gray_png16(random) -> Made:
    """16 bits."""
    pixels = _picture(random, white=65535, dtype=np.uint16)
    return Made("16-bit PNG", "a.png", _written(Image.fromarray(pixels), "PNG"), pixels)


def rgb(random) -> Made:
    """RGB or RGBA, as PNG, BMP, WebP or TIFF; the suffix is sometimes a wrong one."""
    pixels = _picture(random, int(random.integers(3, 5)))
    forms = {"PNG": {}, "TIFF": {}} if pixels.shape[2] == 4 else {"PNG": {}, "BMP": {}, "TIFF": {}}
    form = str(random.choice([*forms]))
    name = "a." + str(random.choice([form.lower(), "png", "jpg"]))
    return Made(
        f"colour {form}",
        name,
        _written(Image.fromarray(pixels), form),
        _times_257(_luma(pixels)),
    )


def palette_png(random) -> Made:
    """A palette of colours."""
    indices = _picture(random, white=15)
    palette = random.integers(0, 256, (16, 3)).astype(np.uint8)
    image = Image.fromarray(indices).convert("L")
    image.putpalette(palette.tobytes())
    return Made("palette PNG", "a.png", _written(image, "PNG"), _times_257(_luma(palette[indices])))


def one_bit(random) -> Made:
    """1 bit a pixel, as PNG or TIFF."""
    pixels = _picture(random, white=1)
    form = str(random.choice(["PNG", "TIFF"]))
    content = _written(Image.fromarray(pixels * 255).convert("1"), form)
    return Made(f"1-bit {form}", "a", content, _times_257(pixels * 255))


def bmp(random) -> Made:
    """Gray BMP."""
    pixels = _picture(random)
    return Made("BMP", "a.bmp", _written(Image.fromarray(pixels), "BMP"), _times_257(pixels))


def pnm(random) -> Made:
    """Gray PNM of 8 bits, written here."""
    pixels = _picture(random)
    head = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n255\n".encode()
    return Made("PNM", "a.pgm", head + pixels.tobytes(), _times_257(pixels))


def tiff(random) -> Made:
    """Baseline TIFF of 8 or 16 bits, either byte order, black or white being zero; written here."""
    deep, big, white_is_zero = (bool(value) for value in random.integers(0, 2, 3))
    big = big and not (deep and white_is_zero)  # refused: Pillow does not know that kind
    pixels = _picture(random, white=65535 if deep else 255, dtype=np.uint16 if deep else np.uint8)
    height, width = pixels.shape
    order = ">" if big else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 16 if deep else 8),
        (259, 3, 1),
        (262, 3, 0 if white_is_zero else 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    content = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8 + len(data)) + data
    content += struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        packed = struct.pack(order + ("HH" if kind == 3 else "I"), *([value, 0][: 4 - kind + 1]))
        content += struct.pack(order + "HHI", tag, kind, 1) + packed
    content += b"\0\0\0\0"
    white = 65535 if deep else 255
    shown = (white - pixels if white_is_zero else pixels).astype(pixels.dtype)
    return Made(f"TIFF {8 << deep} bits", "a.tif", content, shown if deep else _times_257(shown))


def jpeg(random) -> Made:
    """A gray JPEG of one value, which no quantisation moves by more than a level or two."""
    height, width = random.integers(1, 25, 2)
    value = int(random.integers(0, 256))
    pixels = np.full((height, width), value, np.uint8)
    content = _written(Image.fromarray(pixels), "JPEG", quality=95)
    return Made("JPEG", "a.jpg", content, _times_257(pixels), 2 * 257)


def dicom(random) -> Made:
    """Rescaled, windowed, inverted or not, of 8 to 16 bits, signed or not, two byte layouts."""
    bits = int(random.integers(8, 17))
    signed = bool(random.integers(2))
    low = -(1 << bits - 1) if signed else 0
    allocated = 8 if bits == 8 else 16
    values = random.integers(low, low + (1 << bits), tuple(random.integers(2, 25, 2)))
    values.flat[:2] = low, low + (1 << bits) - 1
    slope = float(random.choice([1.0, 0.5, 3.0]))
    intercept = float(random.choice([0.0, -1024.0]))
    real = values * slope + intercept
    inverted = bool(random.integers(2))
    windowed = bool(random.integers(2))
    data = _dicom_tags(values, bits, allocated, signed)
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    first, last = real.min(), real.max()
    shown = (real - first) / (last - first)
    if windowed:
        centre = float(np.round(random.uniform(first, last), 1))
        width = float(np.round(random.uniform(2, last - first), 1))
        data.WindowCenter, data.WindowWidth = centre, width
        # PS3.3 C.11.2.1.2.1
        shown = np.clip((real - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    gray = np.rint((1 - shown if inverted else shown) * 65535).astype(np.uint16)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return Made("DICOM", "a.dcm", buffer.getvalue(), gray, 16)


def _dicom_tags(values, bits: int, allocated: int, signed: bool) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if values.size % 2 else ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    meta.MediaStorageSOPInstanceUID = INSTANCE
    data = FileDataset("a.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = SECONDARY_CAPTURE, INSTANCE
    data.Modality = "DX"
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, int(signed)
    data.BitsAllocated, data.BitsStored, data.HighBit = allocated, bits, bits - 1
    stored = (values & ((1 << bits) - 1)).astype(f"<u{allocated // 8}")
    content = stored.tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    data["PixelData"].VR = "OW" if allocated == 16 else "OB"
    return data


# -- damage ----------------------------------------------------------------------------------------


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """Flips, zeroes, inserts, removes or cuts off some bytes."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        at, size = int(random.integers(0, len(data) + 1)), int(random.integers(1, 9))
        what = random.integers(5)
        if what == 0 and at < len(data):
            data[at] ^= 1 << int(random.integers(8))
        elif what == 1:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif what == 2:
            data[at:at] = random.bytes(size)
        elif what == 3:
            del data[at : at + size]
        else:
            del data[max(at, 1) :]
    return bytes(data)


def decode_png(content: bytes) -> np.ndarray | None:
    """Reads a PNG as the specification says, strictly; None where it is not a whole gray one.

    Args:
        content: of a file without interlacing, 8 or 16 bits gray, no palette.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    at, header, packed = 8, None, b""
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        (crc,) = struct.unpack(">I", content[at + 8 + length : at + 12 + length].ljust(4, b"\0"))
        if len(body) != length + 4 or zlib.crc32(body) != crc:
            return None
        at += 12 + length
        name, data = body[:4], body[4:]
        if name == b"IHDR":
            header = struct.unpack(">IIBBBBB", data)
        elif name == b"IDAT":
            packed += data
        elif name == b"IEND":
            break
    if header is None or header[3:] != (0, 0, 0, 0) or header[2] not in (8, 16):
        return None
    try:
        raw = zlib.decompress(packed)
    except zlib.error:
        return None
    return _unfiltered(raw, *header[:3])


def _unfiltered(raw: bytes, width: int, height: int, bits: int) -> np.ndarray | None:
    step, row_bytes = bits // 8, width * bits // 8
    if len(raw) != height * (row_bytes + 1):
        return None
    rows, above = [], bytearray(row_bytes)
    for number in range(height):
        kind = raw[number * (row_bytes + 1)]
        row = bytearray(raw[number * (row_bytes + 1) + 1 : (number + 1) * (row_bytes + 1)])
        for i in range(row_bytes):
            a = row[i - step] if i >= step else 0
            b, c = above[i], above[i - step] if i >= step else 0
            row[i] = (row[i] + (0, a, b, (a + b) // 2, _paeth(a, b, c))[kind]) & 255
        rows.append(bytes(row))
        above = row
    pixels = np.frombuffer(b"".join(rows), ">u2" if bits == 16 else np.uint8)
    return pixels.reshape(height, width)


def _paeth(a: int, b: int, c: int) -> int:
    guess = a + b - c
    return min((a, b, c), key=lambda value: abs(guess - value))


# -- tables ----------------------------------------------------------------------------------------

CELLS = (
    "",
    "1",
    "-1.0",
    "p/1.png",
    "Müller",
    "a b",
    "x,y",
    'say "a"',
    "0;1",
    "tab\there",
    "ß|ß",
    "#",
)


class MadeTable(NamedTuple):
    """A table's bytes, and its cells."""

    content: bytes
    header: list[str]
    rows: list[list[str]]


def make_table(random: np.random.Generator) -> MadeTable:
    """Writes a table: one of four delimiters, quoted or not, BOM or not, any line ends."""
    width = int(random.integers(2, 6))
    header = [f"{random.choice(['Path', 'id', 'Größe', 'a label'])} {n}" for n in range(width)]
    rows = [[str(random.choice(CELLS)) for _ in range(width)] for _ in range(random.integers(1, 8))]
    for row in rows:
        row[0] = row[0] or "first"  # a row of empty cells is a blank line
    delimiter, end = str(random.choice([*",;\t|"])), str(random.choice(["\n", "\r\n"]))
    lines = [delimiter.join(header)]
    for row in rows:
        lines += [""] * int(random.integers(0, 6) == 0)  # blank lines between rows
        lines.append(delimiter.join(_cell(cell, delimiter, random) for cell in row))
    text = end.join(lines) + end * int(random.integers(2))
    bom = "\ufeff" * int(random.integers(4) == 0)
    return MadeTable((bom + text).encode("utf-8"), header, rows)


def _cell(cell: str, delimiter: str, random) -> str:
    if random.integers(3) == 0 or any(mark in cell for mark in (delimiter, '"')):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def parse_table(content: bytes) -> list[list[str]] | None:
    """Reads a table by RFC 4180; None where it is none or a cell has a line break.

    Cells are stripped, as ours are.
    """
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    first = text.replace("\r", "\n").split("\n")[0]
    delimiter = max(",\t;|", key=first.count)
    rows, row, cell, state = [], [], "", "start"
    for mark in re.findall(r"\r\n|.", text + "\n", re.DOTALL):
        ends_row = mark in ("\r\n", "\n", "\r")
        if state == "quoted":
            state, cell = ("closing", cell) if mark == '"' else (state, cell + mark)
        elif mark == '"' and state == "closing":
            state, cell = "quoted", cell + '"'
        elif mark == '"' and state == "start":
            state = "quoted"
        elif mark == delimiter or ends_row:
            row, cell, state = [*row, cell.strip()], "", "start"
            if ends_row:
                rows, row = [*rows, row], []
        elif state == "closing":
            return None  # text behind a quoted cell
        else:
            cell, state = cell + mark, "plain"
    broken = any("\n" in cell or "\r" in cell for row in rows for cell in row)
    return None if state == "quoted" or broken else [row for row in rows if any(row)]


# -- campaigns -------------------------------------------------------------------------------------


def fuzz_images(folder: Path, count: int, seed: int) -> Counter:
    """Reads made and damaged images; raises AssertionError where a reading is not the right one.

    Returns:
        How many were read or refused, by kind.
    """
    random, seen = np.random.default_rng(seed), Counter()
    for number in range(count):
        made = make_image(random)
        damaged = number % 2 == 1
        content = damage(made.content, random) if damaged else made.content
        path = folder / made.name
        path.write_bytes(content)
        what = f"seed {seed}, image {number}, {made.kind}"
        pixels, refusal = _try(lambda path=path: read_image(path, bits=16))
        path.unlink()
        if pixels is None:
            assert damaged, f"{what}: refused ({refusal})"
            assert str(folder) not in refusal, "the message is a reason without the file's name"
            seen["damaged, refused"] += 1
        elif not damaged:
            assert pixels.shape == made.gray.shape, what
            apart = np.abs(pixels.astype(int) - made.gray.astype(int)).max()
            assert apart <= made.tolerance, f"{what}: {apart} levels apart"
            seen[made.kind] += 1
        elif made.kind.endswith("PNG"):
            seen[_judge_damaged_png(pixels, content, made, what)] += 1
        else:
            seen["damaged, read"] += 1
    return seen


def _judge_damaged_png(pixels, content: bytes, made: Made, what: str) -> str:
    """A PNG has check sums: what can still be read must be the picture."""
    decoded = decode_png(content)
    candidates = [made.gray]
    if decoded is not None:
        deep = decoded.astype(np.uint16) if decoded.itemsize == 2 else _times_257(decoded)
        candidates += [_turned(deep, n) for n in range(1, 9)]
    candidates += [_turned(made.gray, n) for n in range(1, 9)]  # the EXIF chunk alone is hit
    assert any(np.array_equal(pixels, right) for right in candidates), f"{what}: another picture"
    return "damaged PNG, still the picture"


def _try(read: Callable) -> tuple:
    """What was read, or the reason why not; any other exception is a fault."""
    try:
        return read(), ""
    except (ImageError, InputError) as error:
        return None, str(error)


def fuzz_tables(folder: Path, count: int, seed: int) -> Counter:
    """Reads made and damaged tables; as :func:`fuzz_images`."""
    random, seen = np.random.default_rng(seed), Counter()
    path = folder / "table.csv"
    for number in range(count):
        made = make_table(random)
        damaged = number % 2 == 1
        content = damage(made.content, random) if damaged else made.content
        path.write_bytes(content)
        parsed = [made.header, *made.rows] if not damaged else parse_table(content)
        names = tuple(parsed[0]) if parsed and len(set(parsed[0])) == len(parsed[0]) else ("?",)
        what = f"seed {seed}, table {number}: {content!r}"
        table, refusal = _try(lambda names=names: read_table(path, names))
        if table is None:
            assert damaged, f"{what}: refused ({refusal})"
            assert str(path) in refusal, f"{what}: {refusal} does not name the file"
            seen["damaged, refused"] += 1
            continue
        assert parsed is not None, f"{what}: read, though it is no table"
        rows = [list(cells) for cells in zip(*(table.columns[name] for name in names), strict=True)]
        assert rows == parsed[1:], f"{what}: other cells"
        seen["damaged, read alike" if damaged else "made, read"] += 1
    return seen
