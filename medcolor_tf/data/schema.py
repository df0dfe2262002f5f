"""The format of a prepared data set: the only thing that data_prep and medcolor_tf share.

A data set is a folder with

* ``dataset.json`` (:class:`DatasetInfo`), written last, so a folder that has it is complete;
* ``SPLIT-00000-of-00007.tfrecord``: plain TFRecord files of ``tf.train.Example``;
* ``index-SPLIT.npz``: raw labels and keyed patient ids of every record, for subsets and statistics
  that must not read the images;
* ``groups-SPLIT.csv``, where it was built with groups or studies: :mod:`medcolor_tf.data.groups`.

One record:

=========== ============ ==========================================================================
feature     type         meaning
=========== ============ ==========================================================================
image       bytes x C    one encoded gray image per channel (``encoding``: png, jpeg or raw)
size        int64 x 2    height and width in pixels
label       float32 x L  ``raw_label`` after dataset.json's policy: 0, 1 or NaN (unknown); see below
raw_label   float32 x L  label as the source has it: 0, 1, -1 (uncertain) or NaN (blank)
index       int64        position in the split; unique, ascending, with gaps where images were bad
patient     bytes        keyed id of the patient (HMAC-SHA256, 16 hex digits)
image_id    bytes        keyed id of the image (HMAC-SHA256, 16 hex digits)
=========== ============ ==========================================================================

Raw images are row-major, little-endian for 16 bits. ``label`` is written for readers of version
0.1 and for programs of others that want no policy of their own; batches are made from ``raw_label``
alone (:mod:`medcolor_tf.data.labels`), and only ``data_prep.verify`` looks at ``label``, to compare
the two. Importing this module imports no TensorFlow.
"""

import dataclasses
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcolor_tf import catalog
from medcolor_tf import schema_check as schema
from medcolor_tf.catalog import DATASET_JSON, FULL_RANGE, MODEL_JSON
from medcolor_tf.data import groups as group_files
from medcolor_tf.data import tfrecords
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, read_json, sealed, unsealed, write_atomically

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
ENCODINGS = ("png", "jpeg", "raw")
_COUNT = schema.integer(0, 10**12)
_DIGEST = schema.text(64, schema.SHA256, "a SHA-256 in hexadecimal digits")
_SHARD = schema.record(
    {
        # A name in the folder: never a path.
        "file": schema.text(255, re.compile(r"[\w.-]+\.tfrecord"), "NAME.tfrecord"),
        "split": schema.one_of(SPLITS),
        "records": schema.integer(0, 10**9),
        "bytes": _COUNT,
        "sha256": _DIGEST,
    }
)
_POLICY = schema.mapping_of(schema.one_of(("ones", "zeros", "ignore")), catalog.MAX_OBSERVATIONS)
_LABELS = schema.mapping_of(schema.mapping_of(_COUNT, 10), catalog.MAX_OBSERVATIONS)
_SCHEMA = schema.record(
    {
        "source": schema.text(),
        "observations": schema.list_of(schema.text(), catalog.MAX_OBSERVATIONS, 1, unique=True),
        "uncertain_policy": _POLICY,
        "blank_policy": schema.one_of(("zeros", "ignore")),
        "encoding": schema.one_of(ENCODINGS),
        "bits": schema.one_of((8, 16)),
        "channels": schema.integer(1, catalog.MAX_CHANNELS),
        "short_side": schema.integer(1, catalog.MAX_SIDE),
        "pixel_mean": schema.number(0, 1, null=True),
        "pixel_std": schema.number(0, 1, null=True),
        "label_counts": schema.mapping_of(_LABELS, len(SPLITS), SPLITS),
        "images": schema.mapping_of(schema.integer(0, 10**9), len(SPLITS), SPLITS),
        "patients": schema.mapping_of(_COUNT, len(SPLITS), SPLITS),
        "rejected": _COUNT,
        "seed": schema.integer(-(2**63), 2**64),
        "shards": schema.list_of(_SHARD, 1_000_000),
        "index_sha256": schema.mapping_of(_DIGEST, len(SPLITS), SPLITS),
        "fingerprint": schema.text(),
        "format_version": schema.one_of((FORMAT_VERSION,)),
    },
    {"range": schema.one_of(catalog.RANGES), "groups": group_files.SCHEMA},
)


@dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name in the folder, split, number of records, bytes and SHA-256."""

    file: str
    split: str
    records: int
    bytes: int
    sha256: str


def check_is_dataset(folder: str | os.PathLike) -> Path:
    """Returns a data set's description; InputError where there is none."""
    path = Path(folder) / DATASET_JSON
    if not path.is_file():
        hint = " (an unfinished build has none: run the same command again)"
        if path.with_name(MODEL_JSON).is_file():
            hint = "; that folder is a run, which is for --run_dir or --init_from"
        raise InputError(
            f"{path}: no such file; expected a data set made by `python -m data_prep.build`{hint}"
        )
    return path


@dataclass(frozen=True)
class DatasetInfo:
    """What ``dataset.json`` holds.

    Attributes:
        source: the kind of source it was built from ("chexpert", "table", ...).
        observations: label names, in the order of the label vectors.
        uncertain_policy: observation -> "ones", "zeros" or "ignore".
        blank_policy: what a blank cell means, "zeros" or "ignore".
        encoding: "png", "jpeg" or "raw".
        bits: 8 or 16, bits of a pixel.
        channels: gray images in a record (1 for X-rays; several MR sequences: more).
        short_side: pixels of every image's shorter side.
        pixel_mean, pixel_std: over all pixels of the training split, on the [0, 1] scale; NaN
            (null in the file) without one.
        label_counts: split -> observation -> "positive", "negative", "uncertain", "blank" -> count.
        images: split -> number of images.
        patients: split -> number of patients.
        rejected: number of source images that could not be read.
        seed: of the split and of the order of the records.
        shards: every TFRecord file, in order.
        index_sha256: split -> SHA-256 of ``index-SPLIT.npz``.
        fingerprint: of the build's options and of the source table; same build, same fingerprint.
        format_version: of this layout.
        range: what became black and white in an image, see :mod:`data_prep.levels`; left out of the
            file where it is "full", which it was before there was a choice.
        groups: groups and studies; None, and left out of the file, where there are none.
    """

    source: str
    observations: tuple[str, ...]
    uncertain_policy: Mapping[str, str]
    blank_policy: str
    encoding: str
    bits: int
    channels: int
    short_side: int
    pixel_mean: float
    pixel_std: float
    label_counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    images: Mapping[str, int]
    patients: Mapping[str, int]
    rejected: int
    seed: int
    shards: tuple[Shard, ...]
    index_sha256: Mapping[str, str]
    fingerprint: str
    format_version: int = FORMAT_VERSION
    range: str = FULL_RANGE
    groups: group_files.GroupsInfo | None = None

    @property
    def max_value(self) -> int:
        """Largest pixel value: 255 or 65535."""
        return 2**self.bits - 1

    def split_shards(self, split: str) -> tuple[Shard, ...]:
        """Returns the shards of a split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes ``dataset.json``, with the SHA-256 of its content, and renames it."""
        content = dataclasses.asdict(self)
        if self.range == FULL_RANGE:
            del content["range"]
        if self.groups is None:
            del content["groups"]
        for name in ("pixel_mean", "pixel_std"):  # NaN without a training split; JSON has no NaN
            content[name] = None if math.isnan(content[name]) else content[name]
        text = json.dumps(sealed(content), indent=2, sort_keys=True, allow_nan=False)
        write_atomically(Path(folder) / DATASET_JSON, text + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "DatasetInfo":
        """Reads ``folder/dataset.json``.

        Raises:
            InputError: no such folder or file, not this format, or another version of it.
        """
        path = check_is_dataset(folder)
        try:
            content = read_json(path)
            version = content.get("format_version", FORMAT_VERSION)
            if version == FORMAT_VERSION:
                content = unsealed(content, path)
        except InputError as error:
            raise InputError(f"{error}: not a data set description") from None
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format version {version}, expected {FORMAT_VERSION}: rebuild it"
            )
        try:
            _SCHEMA(content, str(path))
            _check_counts(content, path)
        except InputError as error:
            raise InputError(f"{error}: not a data set description") from None
        content["observations"] = tuple(content["observations"])
        content["shards"] = tuple(Shard(**shard) for shard in content["shards"])
        for name in ("pixel_mean", "pixel_std"):
            content[name] = math.nan if content[name] is None else content[name]
        if "groups" in content:
            content["groups"] = group_files.GroupsInfo.from_json(content["groups"])
        return cls(**content)


def _check_counts(content: Mapping, path: Path) -> None:
    """Raises InputError where the parts of a description contradict each other."""
    files = [shard["file"] for shard in content["shards"]]
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise InputError(f"{path}: shards: {twice} is there twice")
    if missing := set(content["observations"]) - content["uncertain_policy"].keys():
        raise InputError(f"{path}: uncertain_policy: none of {min(missing)!r}")
    if missing := content["images"].keys() - content["index_sha256"].keys():
        raise InputError(f"{path}: index_sha256: none of split {min(missing)!r}")


@dataclass(frozen=True)
class SplitIndex:
    """What ``index-SPLIT.npz`` holds: a row per record, in the order of the shards.

    Attributes:
        index: (N,) int64, each record's ``index`` feature, ascending.
        raw_labels: (N, L) float32, as in the record.
        patient: (N,) bytes, keyed patient ids.
    """

    index: np.ndarray
    raw_labels: np.ndarray
    patient: np.ndarray

    @staticmethod
    def path(folder: str | os.PathLike, split: str) -> Path:
        """Returns the file's path."""
        return Path(folder) / f"index-{split}.npz"

    def save(self, folder: str | os.PathLike, split: str) -> None:
        """Writes the file under a temporary name and renames it."""
        buffer = io.BytesIO()
        np.savez(buffer, index=self.index, raw_labels=self.raw_labels, patient=self.patient)
        write_atomically(self.path(folder, split), buffer.getvalue())

    @classmethod
    def load(
        cls, folder: str | os.PathLike, split: str, info: DatasetInfo | None = None
    ) -> "SplitIndex":
        """Reads the file.

        Args:
            folder: the data set's.
            split: "train", "valid" or "test".
            info: the data set's description, with which the file is compared; None does not.

        Raises:
            InputError: it is missing, damaged, or another file than ``info`` describes.
        """
        path = cls.path(folder, split)
        try:
            if info is not None:
                _check_index_file(path, split, info)
            # NumPy leaves a damaged file open that it opened itself.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                index = cls(arrays["index"], arrays["raw_labels"], arrays["patient"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as a split's index ({error})") from None
        if info is not None:
            _check_index(index, path, split, info)
        return index


def _check_index_file(path: Path, split: str, info: DatasetInfo) -> None:
    """Raises ValueError unless the file is the one of the build, before its arrays are read."""
    if file_sha256(path) != info.index_sha256.get(split):
        raise ValueError(
            f"SHA-256 is not the one in {DATASET_JSON}: the file is damaged or another data set's; "
            "restore it from a copy or build the data set again"
        )
    images, labels = info.images[split], len(info.observations)
    # Numbers and labels have these sizes; ids are some bytes each. Headers take less than 1 kB.
    most = images * (8 + 4 * labels + 256) + 3 * 1024
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > most:
        raise ValueError(
            f"{size:,} bytes of arrays, expected at most {most:,} for {images:,} records"
        )


def _check_index(index: SplitIndex, path: Path, split: str, info: DatasetInfo) -> None:
    """Raises InputError unless the arrays have the shapes and kinds of the data set's records."""
    images, labels = info.images[split], len(info.observations)
    received = index.index.shape, index.raw_labels.shape, index.patient.shape
    expected = (images,), (images, labels), (images,)
    if received != expected:
        raise InputError(f"{path}: arrays of shapes {received}, expected {expected}")
    kinds = "".join(array.dtype.kind for array in (index.index, index.raw_labels, index.patient))
    if kinds != "ifS":
        raise InputError(f"{path}: arrays of kinds {kinds}, expected integers, floats and bytes")
    ascending = (np.diff(index.index) > 0).all() and (not images or index.index[0] >= 0)
    # Records are looked up by their number; gaps are images that could not be read.
    if not ascending or (images and index.index[-1] > 1000 * images + 1_000_000):
        raise InputError(f"{path}: the records' numbers do not ascend from 0")


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the file name of shard ``number`` (from 0) of ``count``."""
    return f"{split}-{number:05d}-of-{count:05d}.tfrecord"


def encode_example(
    images: Sequence[bytes],
    size: tuple[int, int],
    label: np.ndarray,
    raw_label: np.ndarray,
    index: int,
    patient: str,
    image_id: str,
) -> bytes:
    """Serialises one record; the arguments are the table's features."""
    return tfrecords.encode_example(
        {
            "image": images,
            "size": np.array(size, np.int64),
            "label": np.asarray(label, np.float32),
            "raw_label": np.asarray(raw_label, np.float32),
            "index": np.array([index], np.int64),
            "patient": [patient.encode()],
            "image_id": [image_id.encode()],
        }
    )


def feature_spec(info: DatasetInfo) -> dict:
    """Returns the specification for ``tf.io.parse_example``; imports TensorFlow.

    Without ``label``, which old readers want and this package does not read.
    """
    import tensorflow as tf

    return {
        "image": tf.io.FixedLenFeature([info.channels], tf.string),
        "size": tf.io.FixedLenFeature([2], tf.int64),
        "raw_label": tf.io.FixedLenFeature([len(info.observations)], tf.float32),
        "index": tf.io.FixedLenFeature([], tf.int64),
        "patient": tf.io.FixedLenFeature([], tf.string),
        "image_id": tf.io.FixedLenFeature([], tf.string),
    }
