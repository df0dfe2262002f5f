"""Pictures in files of odd sizes, depths and turnings, and damaged ones, drawn from a seed."""

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageFile

# Pillow's buffer for progressive JPEGs of noise would be too short.
ImageFile.MAXBLOCK = 1 << 23
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Adam7: where each pass of an interlaced PNG begins, and its steps (x, y, dx, dy).
PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)
# Colour type of a PNG -> channels, and the depths that it may have.
PNG_TYPES = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}


def odd_pictures(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields (what it is, file) of PNGs and JPEGs that an exported model takes."""
    random = np.random.default_rng(seed)
    for number in range(count):
        size = _size(random, number)
        name, content = (_png if random.random() < 0.6 else _jpeg)(random, size)
        yield f"{number}: {name}, {size[1]} x {size[0]}", content


def _size(random, number: int) -> tuple[int, int]:
    """Returns (height, width): a side of 1 pixel now and then, some far from square, some large."""
    low, high = ((1, 5), (5, 80), (80, 400), (300, 1300))[number % 4]
    height, width = (int(side) for side in random.integers(low, high, 2))
    if number % 11 == 0:
        height = 1
    if number % 13 == 0:
        width = 1
    if number % 7 == 0:
        width = int(np.clip(height * random.uniform(1, 6), 1, 2500))
    if number % 9 == 0:
        height = int(np.clip(width * random.uniform(1, 6), 1, 2500))
    return height, width


def draw(random, size: tuple[int, int], channels: int, levels: int) -> np.ndarray:
    """Draws noise over smooth noise, (H, W, channels) of 0 to levels - 1."""
    pictures = []
    for _ in range(channels):
        coarse = Image.fromarray(random.random((6, 6), np.float32))
        smooth = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))
        noisy = smooth + random.normal(0, random.choice([0.01, 0.3]), size)
        pictures.append(np.clip(noisy, 0, 1) * (levels - 1))
    return np.stack(pictures, -1).astype(np.uint16 if levels > 256 else np.uint8)


def exif(random) -> tuple[str, bytes]:
    """Returns what it is, and EXIF with an orientation of 1 to 8, or without one."""
    tags = Image.Exif()
    tags.endian = str(random.choice(["<", ">"]))
    tags[ExifTags.Base.ImageDescription] = "x" * int(random.integers(1, 60))
    orientation = int(random.integers(0, 9))
    if orientation:
        tags[ExifTags.Base.Orientation] = orientation
    return f"EXIF {orientation}", tags.tobytes().removeprefix(b"Exif\0\0")


def _jpeg(random, size) -> tuple[str, bytes]:
    colour = random.random() < 0.5
    picture = draw(random, size, 3 if colour else 1, 256)
    options = {
        "quality": int(random.integers(20, 96)),
        "progressive": bool(random.random() < 0.3),
        "subsampling": int(random.integers(0, 3)) if colour else -1,
    }
    name = f"JPEG {'RGB' if colour else 'gray'} {options}"
    if random.random() < 0.5:
        kind, tags = exif(random)
        name, options["exif"] = f"{name} {kind}", b"Exif\0\0" + tags
    file = io.BytesIO()
    Image.fromarray(picture if colour else picture[..., 0]).save(file, "JPEG", **options)
    return name, file.getvalue()


def _png(random, size) -> tuple[str, bytes]:
    kind = int(random.choice(list(PNG_TYPES)))
    channels, depths = PNG_TYPES[kind]
    depth = int(random.choice(depths))
    interlaced = bool(random.random() < 0.2)
    chunks = []
    name = f"PNG of type {kind} with {depth} bits{', interlaced' if interlaced else ''}"
    if kind == 3:
        chunks.append((b"PLTE", random.integers(0, 256, 3 * 2**depth, np.uint8).tobytes()))
        if random.random() < 0.5:
            chunks.append((b"tRNS", bytes([0, 128])))
    if kind == 0 and random.random() < 0.3:
        chunks.append((b"tRNS", bytes([0, 1])))
    if random.random() < 0.4:
        what, tags = exif(random)
        name, chunks = f"{name} {what}", [*chunks, (b"eXIf", tags)]
    return name, png(draw(random, size, channels, 2**depth), depth, kind, chunks, interlaced)


def png(picture: np.ndarray, depth: int, kind: int, chunks=(), interlaced: bool = False) -> bytes:
    """Writes a PNG of any kind, which Pillow does not.

    Args:
        picture: (H, W, channels) unsigned integers.
        depth: bits of a sample.
        kind: the colour type.
        chunks: (type, content), between header and pixels.
        interlaced: in seven passes.
    """
    height, width = picture.shape[:2]
    header = np.array([width, height], ">u4").tobytes() + bytes([depth, kind, 0, 0, interlaced])
    parts = [picture[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [picture]
    rows = b"".join(_rows(part, depth) for part in parts if part.size)
    written = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(name, content) for name, content in written)


def chunk(name: bytes, content: bytes) -> bytes:
    """Returns a PNG's chunk with its length and checksum."""
    checksum = zlib.crc32(name + content)
    return len(content).to_bytes(4) + name + content + checksum.to_bytes(4)


def _rows(picture: np.ndarray, depth: int) -> bytes:
    """Packs samples; a byte 0 (no filter) stands before each row."""
    flat = picture.reshape(picture.shape[0], -1)
    if depth < 8:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=-1)[..., -depth:]
        packed = np.packbits(bits.reshape(len(flat), -1), axis=-1)
    else:
        packed = flat.astype(">u2" if depth == 16 else "u1").view(np.uint8)
        packed = packed.reshape(len(flat), -1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def mutated(content: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields (what was done, file): a byte changed, a bit flipped, bytes cut, left out or added."""
    random = np.random.default_rng(seed)
    for number in range(count):
        at = int(random.integers(0, len(content)))
        # Headers are short, and decide more than pixels.
        at = at % min(len(content), 700) if number % 2 else at
        byte = int(random.integers(0, 256))
        flipped = content[at] ^ (1 << int(random.integers(0, 8)))
        length = int(random.integers(1, 40))
        done, changed = (
            ("byte", content[:at] + bytes([byte]) + content[at + 1 :]),
            ("bit", content[:at] + bytes([flipped]) + content[at + 1 :]),
            ("cut", content[:at]),
            ("left out", content[:at] + content[at + length :]),
            ("added", content[:at] + bytes([byte]) * length + content[at:]),
        )[number % 5]
        yield f"{number}: {done} at {at}", changed
