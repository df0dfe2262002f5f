"""Writes TFRecord files of ``tf.train.Example`` without TensorFlow, whose import takes a second.

Each process that prepares data would need it for nothing else. The formats are documented and
small: a record is its length and its bytes, each with a CRC-32C; an Example is a protocol buffer.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import IO

import google_crc32c
import numpy as np

# Of a protocol buffer's field: bytes after their count.
_BYTES = 2
# Numbers of the fields in tf.train.Feature, one for each kind of list.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def write_record(file: IO[bytes], record: bytes) -> None:
    """Appends a record to a TFRecord file.

    Raises:
        OSError: the file cannot be written.

    Source: TensorFlow, "TFRecord and tf.train.Example", TFRecords format details.
    """
    length = struct.pack("<Q", len(record))
    file.write(b"".join((length, _checksum(length), record, _checksum(record))))


def encode_example(features: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """Returns a ``tf.train.Example``, serialised; the names are in order.

    Args:
        features: name -> bytes, int64 or float32 values.

    Source: TensorFlow's example.proto and feature.proto; Protocol Buffers, "Encoding".
    """
    entries = [
        # A map is a list of its entries: key 1, value 2.
        _field(1, _field(1, name.encode()) + _field(2, _feature(features[name])))
        for name in sorted(features)
    ]
    return _field(1, b"".join(entries))


def _feature(values: Sequence[bytes] | np.ndarray) -> bytes:
    if not isinstance(values, np.ndarray):
        return _field(_BYTES_LIST, b"".join(_field(1, value) for value in values))
    if values.dtype == np.int64:
        kind, packed = _INT64_LIST, b"".join(_varint(value) for value in values.tolist())
    elif values.dtype == np.float32:
        kind, packed = _FLOAT_LIST, values.astype("<f4").tobytes()
    else:
        raise TypeError(f"a feature of {values.dtype}; expected bytes, int64 or float32")
    return _field(kind, _field(1, packed) if packed else b"")


def _field(number: int, content: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _BYTES), _varint(len(content)), content))


def _varint(number: int) -> bytes:
    """Seven bits per byte, the lowest first; negative numbers as 64-bit two's complement."""
    rest, found = number % 2**64, bytearray()
    while rest >= 128:
        found.append(rest % 128 + 128)
        rest //= 128
    found.append(rest)
    return bytes(found)


def _checksum(content: bytes) -> bytes:
    """CRC-32C, rotated and shifted, since a checksum of bytes that hold one says little."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)
