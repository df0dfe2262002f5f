"""Records that cannot be read: where they are, why, and how the others are read nevertheless.

A bad record has a wrong checksum, is no example of the data set's format (a label vector of another
length among others), or its image does not decode to the size that it says. They are looked for
before anything is read in earnest, and left out by their place in the shards, so that the order of
the others never depends on when one is met.

A record begins with its own length. Where that is damaged, nobody knows where the next one begins:
all records of the shard from there on are bad.
"""

import contextlib
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf
from tensorflow.python.lib.io.tf_record import tf_record_random_reader  # public in TensorFlow 1

from medcolor_tf.data import schema
from medcolor_tf.data.image_ops import decode_image, without_autograph
from medcolor_tf.errors import InputError
from medcolor_tf.progress import progressing

SHOWN = 20
REASON_LENGTH = 150
# Of bytes of a record in its message TensorFlow makes the last one.
_ERRORS = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError)
HEADER_BYTES, FOOTER_BYTES = 12, 4  # length and its checksum; checksum of the data


class WrongSizeError(InputError):
    """An image has another size than its record says."""


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be read.

    Attributes:
        shard: file name.
        number: of the record in it, from 0.
        row: of the record in the split.
        reason: why.
    """

    shard: str
    number: int
    row: int
    reason: str

    def __str__(self):
        return f"{self.shard} record {self.number} ({self.reason})"


@dataclass(frozen=True)
class Places:
    """Where the good records of a damaged shard are in its file.

    Attributes:
        offsets, lengths: (n,) int64, bytes.
    """

    offsets: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Damage:
    """What is bad in a split.

    Attributes:
        bad: all bad records, in order.
        places: file name of each damaged shard -> where its good records are.
    """

    bad: tuple[BadRecord, ...] = ()
    places: Mapping[str, Places] = field(default_factory=dict)


def find_damage(
    folder: Path, info: schema.DatasetInfo, shards: Sequence[schema.Shard], limit: int
) -> Damage:
    """Reads and decodes every record once.

    Args:
        folder: the data set's.
        info: its description.
        shards: of a split, in order.
        limit: the search ends with more bad records than this.
    """
    bad, places, first = [], {}, 0
    for shard in progressing(shards, "checking records", len(shards), "shards"):
        if not _is_whole(folder / shard.file, shard, info):
            found, where = _search(folder / shard.file, shard, info, first)
            bad += found
            places[shard.file] = where
        if len(bad) > limit:
            break
        first += shard.records
    return Damage(tuple(bad), places)


@contextlib.contextmanager
def named(*splits: Any) -> Iterator[None]:
    """Turns TensorFlow's error of a bad record into one that names shard and record.

    Args:
        splits: that are read inside (:class:`medcolor_tf.data.pipeline.Split`).

    Raises:
        InputError: a record of theirs is bad.
    """
    try:
        yield
    except (*_ERRORS, WrongSizeError) as error:
        for split in splits:
            if found := find_damage(split.folder, split.info, split.shards, 0).bad:
                raise bad_record(split.folder, found[0]) from error
        raise


def bad_record(folder: Path, record: BadRecord) -> InputError:
    """Returns the error of a record that cannot be read."""
    return InputError(
        f"{folder}/{record}: cannot be read; `python -m data_prep.verify` tells of all. Build it "
        "again, or leave up to N such records out with --max_bad_records=N"
    )


def describe(splits: Sequence[Any]) -> list[str]:
    """Returns a line of text for each split that has bad records, which were left out."""
    lines = []
    for split in splits:
        if bad := split.bad_records:
            more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            lines.append(
                f"warning: {len(bad)} of {len(bad) + len(split):,} records of {split.split} cannot "
                f"be read and are left out: {'; '.join(map(str, bad[:SHOWN]))}{more}"
            )
    return lines


def record_places(splits: Sequence[Any]) -> dict[str, list]:
    """Returns split -> [shard, record] of its bad records, for config.json; only where some are."""
    return {
        split.split: [[bad.shard, bad.number] for bad in split.bad_records]
        for split in splits
        if split.bad_records
    }


@without_autograph
def _is_whole(path: Path, shard: schema.Shard, info: schema.DatasetInfo) -> bool:
    """Tells whether all records of a shard are good."""
    records = tf.data.TFRecordDataset(str(path))
    good = records.map(lambda record: _fits(record, info), num_parallel_calls=tf.data.AUTOTUNE)
    try:
        answers = [bool(answer) for answer in good.as_numpy_iterator()]
    except _ERRORS:
        return False
    return len(answers) == shard.records and all(answers)


def _fits(record, info: schema.DatasetInfo):
    """Whether a record's image has the size that it says; raises where it is no example."""
    example = tf.io.parse_single_example(record, schema.feature_spec(info))
    image = decode_image(example["image"], example["size"], info)
    return tf.reduce_all(tf.equal(tf.shape(image, tf.int64)[:2], example["size"]))


def _search(
    path: Path, shard: schema.Shard, info: schema.DatasetInfo, first: int
) -> tuple[list[BadRecord], Places]:
    """Reads a damaged shard record by record."""
    bad, good, offset = [], [], 0
    reader = tf_record_random_reader(str(path))
    for number in range(shard.records):
        with path.open("rb") as file:
            length = record_length(file, offset)
        if length is None:
            reason = f"the length of record {number} is damaged, so the rest of the shard is lost"
            rest = range(number, shard.records)
            bad += [BadRecord(shard.file, lost, first + lost, reason) for lost in rest]
            break
        if reason := _fault(reader, offset, info):
            bad.append(BadRecord(shard.file, number, first + number, reason))
        else:
            good.append((offset + HEADER_BYTES, length))
        offset += HEADER_BYTES + length + FOOTER_BYTES
    places = np.array(good, np.int64).reshape(-1, 2)
    return bad, Places(places[:, 0], places[:, 1])


def _fault(reader, offset: int, info: schema.DatasetInfo) -> str:
    """Says what is wrong with the record at an offset, "" for nothing."""
    try:
        record, _ = reader.read(offset)
    except (tf.errors.DataLossError, IndexError):
        return "wrong checksum"
    try:
        return "" if _fits(record, info) else "its image has another size than it says"
    except tf.errors.InvalidArgumentError as error:
        words = re.sub(r"\{\{.*?\}\}", "", error.message).split()
        return " ".join(words)[:REASON_LENGTH] or "not decodable"
    except UnicodeDecodeError:  # TensorFlow's message holds bytes of the record
        return "no example of the data set's format: cannot be parsed"


def record_length(file: BinaryIO, offset: int) -> int | None:
    """Returns the length of a record, its data's bytes; None where it is damaged or not there.

    Args:
        file: the shard; what is read next from it is the data.
        offset: of the record's header in it, in bytes.
    """
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    length, checksum = struct.unpack("<QI", header)
    whole = offset + HEADER_BYTES + length + FOOTER_BYTES <= os.fstat(file.fileno()).st_size
    return length if whole and _masked_crc(header[:8]) == checksum else None


def _masked_crc(data: bytes) -> int:
    """Returns the checksum of a few bytes as TFRecord files have it: masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
