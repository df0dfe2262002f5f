"""JPEG files in a graph: the header before anything is decoded, and the pixels as Pillow's.

TensorFlow and Pillow both have libjpeg-turbo. What data_prep refuses and this cannot see is damage
inside the compressed data of which libjpeg only warns.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from data_prep.raster import MAX_PIXELS, REDUCED_MARGIN
from medcolor_tf.serving.in_graph.binary import Bytes
from medcolor_tf.serving.in_graph.checks import checked, map_rows
from medcolor_tf.serving.in_graph.exif import UPRIGHT, read_orientation, turn_upright

MAGIC = b"\xff\xd8\xff"
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
# Markers: frames of Huffman-coded 8-bit pictures, other frames, application data, start of a scan.
FRAMES, OTHER_FRAMES = (0xC0, 0xC1, 0xC2), (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), 0xCD)
APP1, SCAN, END = 0xE1, 0xDA, 0xD9
# ITU-R 601 in 16-bit fixed point, as Pillow computes it: equal channels keep their value exactly.
LUMA = (19595, 38470, 7471)


class _Header(NamedTuple):
    """What the walk through a file's segments has seen so far; scalars."""

    at: Any
    ended: Any
    frame_at: Any
    frame_marker: Any
    exif_at: Any
    exif_bytes: Any
    exif_segments: Any
    xmp_at: Any
    xmp_bytes: Any


def decode(content, where, reduced_to: int | None):
    """Decodes a JPEG to gray.

    Args:
        content: () string, the file.
        where: () string, the beginning of messages.
        reduced_to: short side from which the picture may be decoded at reduced scale; None: never.

    Returns:
        (H, W) uint8, upright, perhaps reduced; and its (height, width) in full, int32, and the
        (height, width) of the part of the pixels that is picture, float64.
    """
    data = Bytes(content)
    header = _walk(data)
    height, width, gray = _checked_frame(data, header, where)
    exif = data.text(header.exif_at, header.exif_bytes)
    orientation = read_orientation(exif, data.text(header.xmp_at, header.xmp_bytes), where)
    upright = tf.equal(orientation, UPRIGHT)
    scale = tf.constant(1)
    if reduced_to:
        ratio = tf.cast(tf.minimum(height, width), tf.float64) / reduced_to
        for reduction, left in sorted(REDUCED_MARGIN.items()):
            large = tf.logical_and(upright, ratio >= reduction * left)
            scale = tf.where(large, reduction, scale)
    with tf.control_dependencies([height, width, gray]):
        pixels = _decode(content, gray, scale, reductions=sorted(REDUCED_MARGIN))
    pixels = turn_upright(pixels, orientation)
    part = tf.cast(tf.shape(pixels), tf.float64)
    whole = tf.stack([height, width])
    reduced = tf.cast(whole, tf.float64) / tf.cast(scale, tf.float64)
    part = tf.where(scale > 1, reduced, part)
    return pixels, tf.where(upright, whole, tf.shape(pixels)), part


def _walk(data: Bytes) -> _Header:
    """Goes from segment to segment up to the first scan."""
    zero = tf.constant(0)
    start = _Header(tf.constant(2), tf.constant(False), *[zero] * 7)

    def step(header: _Header):
        at = header.at
        marker = tf.cast(data.number(at + 1, 1), tf.int32)
        # A marker may be preceded by any number of bytes 255.
        is_fill = tf.logical_and(data.holds(at, b"\xff"), tf.equal(marker, 255))
        length = data.position(at + 2, 2)
        damaged = tf.logical_not(data.holds(at, b"\xff")) | (length < 2) | (at + 2 > data.size)
        is_scan = tf.equal(marker, SCAN)
        is_frame = tf.reduce_any(tf.equal(marker, [*FRAMES, *OTHER_FRAMES]))
        is_frame &= tf.equal(header.frame_at, 0)
        is_exif = tf.equal(marker, APP1) & data.holds(at + 4, EXIF)
        is_xmp = tf.equal(marker, APP1) & data.holds(at + 4, XMP)
        found = _Header(
            at=at + 2 + length,
            ended=is_scan | damaged,
            frame_at=tf.where(is_frame, at, header.frame_at),
            frame_marker=tf.where(is_frame, marker, header.frame_marker),
            exif_at=tf.where(is_exif, at + 4 + len(EXIF), header.exif_at),
            exif_bytes=tf.where(is_exif, length - 2 - len(EXIF), header.exif_bytes),
            exif_segments=header.exif_segments + tf.cast(is_exif, tf.int32),
            xmp_at=tf.where(is_xmp, at + 4 + len(XMP), header.xmp_at),
            xmp_bytes=tf.where(is_xmp, length - 2 - len(XMP), header.xmp_bytes),
        )
        found = found._replace(at=tf.where(damaged, data.size + 1, found.at))
        return [tf.cond(is_fill, lambda: header._replace(at=at + 1), lambda: found)]

    (header,) = tf.while_loop(
        lambda header: tf.logical_not(header.ended) & (header.at <= data.size), step, [start]
    )
    return header


def _checked_frame(data: Bytes, header: _Header, where):
    """Returns height, width, int32, and whether the picture is gray, after all checks."""
    marker, at = header.frame_marker, header.frame_at
    height, width = (tf.cast(data.number(at + place, 2), tf.int32) for place in (5, 7))
    depth, channels = data.number(at + 4, 1), data.number(at + 9, 1)
    whole = tf.logical_and(header.ended, header.at <= data.size) & (at > 0)
    whole = checked(whole, whole, where, "JPEG ends, or is damaged, before its picture begins")
    usual = tf.reduce_any(tf.equal(marker, FRAMES)) & tf.equal(depth, 8)
    usual = checked(
        usual,
        whole & usual,
        *(where, "JPEG of process", marker, "and", depth, "bits: expected a baseline, extended"),
        "or progressive one (192 to 194) of 8 bits",
    )
    known = tf.reduce_any(tf.equal(channels, [1, 3]))
    known = checked(
        known,
        usual & known,
        where,
        "JPEG of",
        channels,
        "channels: expected 1 (gray) or 3 (colour)",
    )
    height = checked(height, known & (height > 0) & (width > 0), where, "JPEG of 0 pixels")
    area = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    height = checked(
        height,
        area <= MAX_PIXELS,
        *(where, "JPEG of", width, "x", height, f"pixels: expected at most {MAX_PIXELS}"),
    )
    height = checked(
        height,
        header.exif_segments <= 1,
        *(where, "JPEG with", header.exif_segments, "EXIF segments: expected at most one"),
    )
    scan = data.numbers(header.at, data.size - header.at)
    ends = tf.reduce_any(tf.equal(scan[:-1], 255) & tf.equal(scan[1:], END))
    height = checked(height, ends, where, "JPEG is truncated: it has no end marker")
    return height, width, tf.equal(channels, 1)


def _decode(content, gray, scale, reductions: list[int]):
    """Decodes to (H, W) uint8 gray at 1 / scale of the size."""

    def at_ratio(ratio: int):
        options = {"ratio": ratio, "dct_method": "INTEGER_ACCURATE", "acceptable_fraction": 1.0}
        return tf.cond(
            gray,
            lambda: tf.io.decode_jpeg(content, channels=1, **options)[..., 0],
            lambda: to_gray(tf.io.decode_jpeg(content, channels=3, **options)),
        )

    ratios = [1, *reductions]
    index = tf.argmax(tf.equal(scale, ratios), output_type=tf.int32)
    return tf.switch_case(index, [lambda ratio=ratio: at_ratio(ratio) for ratio in ratios])


def to_gray(colours):
    """Turns (H, W, 3) uint8 into gray (H, W) uint8."""

    def weigh(rows):
        red, green, blue = (tf.cast(rows[..., i], tf.int32) * LUMA[i] for i in range(3))
        return tf.cast((red + green + blue + 0x8000) // 0x10000, tf.uint8)

    return map_rows(weigh, colours, tf.uint8)
