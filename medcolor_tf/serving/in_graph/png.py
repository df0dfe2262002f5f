"""PNG files in a graph: the header before anything is decoded, and the pixels as Pillow's.

Pillow reads 16-bit gray in full, and 16-bit gray with alpha or colour as the upper 8 bits.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.raster import MAX_PIXELS
from medcolor_tf.serving.in_graph.binary import Bytes
from medcolor_tf.serving.in_graph.checks import checked
from medcolor_tf.serving.in_graph.exif import read_orientation, turn_upright
from medcolor_tf.serving.in_graph.jpeg import to_gray

MAGIC = b"\x89PNG\r\n\x1a\n"
# Colour types of the header: without colour are gray and gray with alpha.
GRAY, GRAY_ALPHA = 0, 4
XMP, EXIF_AS_TEXT = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"


class _Chunks(NamedTuple):
    """What the walk through a file's chunks has seen so far; scalars."""

    at: Any
    ended: Any
    intact: Any
    animated: Any
    exif_at: Any
    exif_bytes: Any
    exif_as_text: Any
    xmp_at: Any
    xmp_bytes: Any
    xmp_packed: Any


def decode(content, where):
    """Reads a PNG's header, and decodes it to gray.

    Args:
        content: () string, the file.
        where: () string, the beginning of messages.

    Returns:
        (H, W) uint8 and (H, W) uint16, upright; the one that the picture has not is (0, 0).
    """
    data = Bytes(content)
    depth, colour = data.number(24, 1), data.number(25, 1)
    chunks = _checked(data, _walk(data), where)
    exif = data.text(chunks.exif_at, chunks.exif_bytes)
    orientation = read_orientation(exif, data.text(chunks.xmp_at, chunks.xmp_bytes), where)
    with tf.control_dependencies([chunks.at]):
        content = tf.identity(content)
    kinds = tf.stack(
        [
            tf.equal(depth, 16) & tf.equal(colour, GRAY),
            tf.reduce_any(tf.equal(colour, [GRAY, GRAY_ALPHA])),
            tf.constant(True),
        ]
    )
    shallow, deep = tf.switch_case(
        tf.argmax(kinds, output_type=tf.int32),
        [
            lambda: (
                tf.zeros((0, 0), tf.uint8),
                tf.io.decode_png(content, channels=1, dtype=tf.uint16)[..., 0],
            ),
            lambda: (
                tf.io.decode_png(content, channels=1)[..., 0],
                tf.zeros((0, 0), tf.uint16),
            ),
            lambda: (
                to_gray(tf.io.decode_png(content, channels=3)),
                tf.zeros((0, 0), tf.uint16),
            ),
        ],
    )
    return turn_upright(shallow, orientation), turn_upright(deep, orientation)


def _walk(data: Bytes) -> _Chunks:
    """Goes from chunk to chunk up to the last one."""
    no, zero = tf.constant(False), tf.constant(0)
    yes = tf.constant(True)
    start = _Chunks(tf.constant(len(MAGIC)), no, yes, no, zero, zero, no, zero, zero, no)

    def step(chunks: _Chunks):
        at = chunks.at
        length, kind = data.position(at, 4), data.text(at + 4, 4)
        body = at + 8
        whole = (length <= data.size) & (body + 4 <= data.size - length)
        length = tf.where(whole, length, 0)
        is_text = tf.reduce_any(tf.equal(kind, ["tEXt", "zTXt", "iTXt"]))
        is_xmp = is_text & data.holds(body, XMP)
        packed = is_xmp & (tf.equal(kind, "zTXt") | (data.number(body + len(XMP), 1) > 0))
        is_exif = tf.equal(kind, "eXIf")
        # libpng checks what it decodes; the others' damage would go unseen.
        ancillary = data.number(at + 4, 1) >= ord("a")
        intact = tf.cond(
            ancillary & whole,
            lambda: tf.equal(
                crc32(data.numbers(at + 4, length + 4)), data.number(body + length, 4)
            ),
            lambda: whole,
        )
        return [
            _Chunks(
                at=body + length + 4,
                ended=tf.equal(kind, "IEND"),
                intact=chunks.intact & intact,
                animated=chunks.animated | tf.equal(kind, "acTL"),
                exif_at=tf.where(is_exif, body, chunks.exif_at),
                exif_bytes=tf.where(is_exif, length, chunks.exif_bytes),
                exif_as_text=chunks.exif_as_text | (is_text & data.holds(body, EXIF_AS_TEXT)),
                xmp_at=tf.where(is_xmp, body, chunks.xmp_at),
                xmp_bytes=tf.where(is_xmp, length, chunks.xmp_bytes),
                xmp_packed=chunks.xmp_packed | packed,
            )
        ]

    def goes_on(chunks: _Chunks):
        return ~chunks.ended & chunks.intact & (chunks.at < data.size)

    (chunks,) = tf.while_loop(goes_on, step, [start])
    return chunks


def _checked(data: Bytes, chunks: _Chunks, where) -> _Chunks:
    """Returns the chunks; whatever needs their ``at`` waits for the checks."""
    width, height = data.number(16, 4), data.number(20, 4)
    at = checked(
        chunks.at,
        chunks.ended & chunks.intact & data.holds(12, b"IHDR"),
        *(where, "PNG is truncated, or a chunk before byte", chunks.at, "is damaged"),
    )
    at = checked(at, (at > 0) & (width > 0) & (height > 0), where, "PNG of 0 pixels")
    at = checked(
        at,
        (width <= MAX_PIXELS) & (height <= MAX_PIXELS) & (width * height <= MAX_PIXELS),
        *(where, "PNG of", width, "x", height, f"pixels: expected at most {MAX_PIXELS}"),
    )
    at = checked(at, ~chunks.animated, where, "animated PNG: expected one image")
    at = checked(
        at,
        ~(chunks.exif_as_text & tf.equal(chunks.exif_bytes, 0)) & ~chunks.xmp_packed,
        *(where, "PNG with EXIF as text or with compressed XMP, whose orientation is not read:"),
        "expected EXIF in a chunk eXIf",
    )
    return chunks._replace(at=at)


def _crc_tables(levels: int = 27) -> np.ndarray:
    """Returns what a CRC of 32 bits becomes when 2**level zero bytes follow, by byte.

    Returns:
        (levels, 4, 256) int64: the XOR over the CRC's four bytes, the lowest first.
    """
    byte = np.array([zlib.crc32(bytes([i]), 0xFFFFFFFF) ^ 0xFFFFFFFF for i in range(256)], np.int64)
    values = np.arange(256)[None] << (8 * np.arange(4)[:, None])
    tables = [byte[values & 255] ^ (values >> 8)]
    for _ in range(levels - 1):
        tables.append(_advance(tables[-1], tables[-1]))
    return np.stack(tables)


def _advance(table: np.ndarray, crc: np.ndarray) -> np.ndarray:
    parts = [table[i][(crc >> (8 * i)) & 255] for i in range(4)]
    return np.bitwise_xor.reduce(parts)


def crc32(numbers):
    """Returns the CRC-32 of at least 4 bytes, (N,) uint8, as () int64.

    A CRC is linear: neighbours are joined, then pairs of them, then fours, each half moved on by
    the other's length. Bytes of zero before the first change nothing.
    """
    tables = tf.constant(_crc_tables())
    first = tf.bitwise.bitwise_xor(
        numbers[:4], tf.constant(255, tf.uint8)
    )  # the CRC's initial value
    numbers = tf.concat([first, numbers[4:]], axis=0)
    crcs = tf.gather(tables[0, 0], tf.cast(numbers, tf.int32))

    def join(level, crcs):
        crcs = tf.pad(crcs, [[tf.math.mod(tf.shape(crcs)[0], 2), 0]])
        left, right = crcs[0::2], crcs[1::2]
        for i in range(4):
            part = tf.bitwise.bitwise_and(
                tf.bitwise.right_shift(left, tf.cast(8 * i, tf.int64)), 255
            )
            right = tf.bitwise.bitwise_xor(right, tf.gather(tables[level, i], part))
        return level + 1, right

    shapes = (tf.TensorShape([]), tf.TensorShape([None]))
    state = (tf.constant(0), crcs)
    _, crcs = tf.while_loop(lambda _, crcs: tf.shape(crcs)[0] > 1, join, state, shapes)
    return tf.bitwise.bitwise_xor(crcs[0], tf.constant(0xFFFFFFFF, tf.int64))
