"""The encoded records of a split's shards: checked, read in order or shuffled, decoded."""

import itertools
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from medcolor_tf.catalog import VERIFICATIONS
from medcolor_tf.data import schema
from medcolor_tf.data.damage import Damage, bad_record, find_damage, record_length
from medcolor_tf.data.image_ops import decode_image, without_autograph
from medcolor_tf.data.labels import UNCERTAIN
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256

SHARDS_OPEN = 16
READ_BUFFER_BYTES = 8 * 2**20
# Of the shards of a split, so many bytes are compared with their SHA-256 when it is opened.
SAMPLED_BYTES = 64 * 2**20


class RecordReader:
    """Reads the records of a split, or of a subset of it, from its shards.

    Args:
        folder: the data set's.
        shards: of the split, from :func:`check_shards`.
        index: of the split.
        rows: ascending row numbers of the subset's records; None for all.
        damage: of the split: bad records are left out.

    Attributes:
        rows: (N,) ascending row numbers of the records that are read.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[schema.Shard],
        index: schema.SplitIndex,
        rows: np.ndarray | None = None,
        damage: Damage | None = None,
    ):
        self._folder, self._shards = folder, shards
        self._first_rows = np.cumsum([0] + [shard.records for shard in self._shards])[:-1]
        self._is_subset = rows is not None
        self._damage = damage if damage and damage.bad else None
        self._readable = np.ones(len(index.index), bool)
        if self._damage:
            self._readable[[record.row for record in self._damage.bad]] = False
        if rows is None:
            rows = np.flatnonzero(self._readable)
        else:
            rows = rows[self._readable[rows]]
            used = np.unique(np.searchsorted(self._first_rows, rows, side="right") - 1)
            self._shards = [shards[number] for number in used]
            self._first_rows = self._first_rows[used]
        self.rows, self._count = rows, len(rows)
        # By a record's own number: whether it is in the subset.
        self._selected = np.zeros(int(index.index[-1]) + 1, bool)
        self._selected[index.index[rows]] = True
        # Row of the split -> position in the subset, -1 for the others.
        self._position = np.full(len(index.index), -1)
        self._position[rows] = np.arange(len(rows))

    @property
    def encoded_bytes(self) -> float:
        """What the records take, encoded; estimated from the shards that hold them."""
        share = self._count / sum(shard.records for shard in self._shards)
        return share * sum(shard.bytes for shard in self._shards)

    @without_autograph
    def records(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Returns the encoded records; shards are read in parallel.

        Args:
            seed: () int64, shuffles the shards and mixes their records; None keeps the order.
        """
        reader = self._interleave(self._records_of, seed, tf.data.AUTOTUNE, deterministic=True)
        if not self._is_subset:
            return reader
        selected = tf.constant(self._selected)
        spec = {"index": tf.io.FixedLenFeature([], tf.int64)}
        return reader.filter(
            lambda record: selected[tf.io.parse_single_example(record, spec)["index"]]
        )

    @without_autograph
    def positions(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Returns where the records of :meth:`records` stand in order, and reads none of them.

        Interleaving does not look at what it moves, so positions come out as the records would.
        """
        reader = self._interleave(self._rows_of, seed)
        if not self._is_subset and not self._damage:
            return reader
        position = tf.constant(self._position)
        return reader.map(lambda row: position[row]).filter(lambda position: position >= 0)

    def image_ids(self, positions: Sequence[int] | np.ndarray) -> list[str]:
        """Returns the keyed ids of the images at some positions; reads their shards up to them."""
        rows = np.flatnonzero(self._position >= 0)[np.asarray(positions, np.int64)]
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        spec = {"image_id": tf.io.FixedLenFeature([], tf.string)}
        ids = {}
        for shard in np.unique(shards):
            last, number = rows[shards == shard].max(), tf.constant(shard, tf.int64)
            pairs = tf.data.Dataset.zip((self._rows_of(number), self._records_of(number)))
            for row, record in pairs:
                if row > last:
                    break
                ids[int(row)] = tf.io.parse_single_example(record, spec)["image_id"]
        return [ids[int(row)].numpy().decode() for row in rows]

    def _interleave(
        self,
        items_of: Callable,
        seed: tf.Tensor | None,
        parallel_calls: int | None = None,
        deterministic: bool | None = None,
    ) -> tf.data.Dataset:
        shards = tf.range(len(self._shards), dtype=tf.int64)
        if seed is not None:
            key = tf.stack([seed, tf.constant(1, tf.int64)])
            random = tf.random.experimental  # pyright: ignore[reportAttributeAccessIssue]
            shards = random.stateless_shuffle(shards, seed=key)
        return tf.data.Dataset.from_tensor_slices(shards).interleave(
            items_of,
            cycle_length=1 if seed is None else min(SHARDS_OPEN, len(self._shards)),
            num_parallel_calls=parallel_calls,
            deterministic=deterministic,
        )

    def _records_of(self, shard) -> tf.data.Dataset:
        names = tf.constant([str(self._folder / shard.file) for shard in self._shards])
        if not self._damage:
            return tf.data.TFRecordDataset(names[shard], buffer_size=READ_BUFFER_BYTES)
        return self._records_around_damage(names, shard)

    def _records_around_damage(self, names, shard) -> tf.data.Dataset:
        """The good records of a shard: of one without damage as ever, else by their places."""
        assert self._damage
        places = [self._damage.places.get(shard.file) for shard in self._shards]
        damaged = tf.constant([place is not None for place in places])[shard]
        whole = tf.data.TFRecordDataset(
            tf.boolean_mask(names[shard][None], tf.logical_not(damaged[None])),
            buffer_size=READ_BUFFER_BYTES,
        )
        counts = np.cumsum([0, *(0 if place is None else len(place.offsets) for place in places)])
        known = [place for place in places if place is not None]
        offsets, lengths = (
            tf.constant(np.concatenate([np.empty(0, np.int64), *parts]))
            for parts in ([p.offsets for p in known], [p.lengths for p in known])
        )
        first, last = tf.constant(counts[:-1])[shard], tf.constant(counts[1:])[shard]

        def cut(name):
            content = tf.io.read_file(name)
            places = tf.data.Dataset.range(first, last)
            return places.map(
                lambda place: tf.strings.substr(content, offsets[place], lengths[place])
            )

        names = tf.boolean_mask(names[shard][None], damaged[None])
        return whole.concatenate(tf.data.Dataset.from_tensor_slices(names).flat_map(cut))

    def _rows_of(self, shard) -> tf.data.Dataset:
        first = tf.constant(self._first_rows)[shard]
        records = tf.constant([shard.records for shard in self._shards], tf.int64)
        rows = tf.data.Dataset.range(first, first + records[shard])
        if not self._damage:
            return rows
        readable = tf.constant(self._readable)
        return rows.filter(lambda row: readable[row])


def check_shards(folder: Path, info: schema.DatasetInfo, split: str) -> tuple[schema.Shard, ...]:
    """Returns the shards of a split that hold records.

    A shard that is missing or cut is found here, before training starts, not hours into it.

    Raises:
        InputError: no such split, or a shard that is missing or of another size.
    """
    shards = info.split_shards(split)
    if not shards or not sum(shard.records for shard in shards):
        present = [name for name in schema.SPLITS if info.images.get(name)]
        raise InputError(f"{folder}: no images in split {split!r}; it has {', '.join(present)}")
    if sum(shard.records for shard in shards) != info.images.get(split):
        raise InputError(
            f"{folder / schema.DATASET_JSON}: {info.images.get(split)} {split} images, but its "
            f"shards hold {sum(shard.records for shard in shards)}"
        )
    for shard in shards:
        path = folder / shard.file
        if not path.is_file():
            raise InputError(f"{path}: listed in {schema.DATASET_JSON} but not there")
        if path.stat().st_size != shard.bytes:
            raise InputError(
                f"{path}: {path.stat().st_size} bytes, expected {shard.bytes} "
                f"({schema.DATASET_JSON}): the file is cut or changed; "
                "`python -m data_prep.verify` tells more"
            )
    return tuple(shard for shard in shards if shard.records)


def compare_shards(
    folder: Path,
    info: schema.DatasetInfo,
    shards: Sequence[schema.Shard],
    index: schema.SplitIndex,
    verify: str = VERIFICATIONS[0],
    damaged: Collection[str] = (),
) -> None:
    """Compares shards with what was built: contents, and that none has another one's name.

    The SHA-256 of all (``verify="full"``) or of as many as have SAMPLED_BYTES, at random
    ("sample"), and the first record of each. Inside the others each record has its own checksum,
    which TensorFlow compares when it reads it.

    Args:
        folder: the data set's.
        info: its description.
        shards: of the split, those with records; their sizes have been compared.
        index: of the split.
        verify: how many are read.
        damaged: names of files that are known to be damaged and not compared.

    Raises:
        InputError: a shard is another one than was built.
    """
    if verify not in VERIFICATIONS:
        raise InputError(f"--verify={verify}: expected {' or '.join(VERIFICATIONS)}")
    for shard in shards if verify == "full" else _sample(shards):
        if shard.file not in damaged and file_sha256(folder / shard.file) != shard.sha256:
            if bad := find_damage(folder, info, [shard], 0).bad:
                raise bad_record(folder, bad[0])
            raise InputError(
                f"{folder / shard.file}: SHA-256 is not the one in {schema.DATASET_JSON}: the file "
                "is damaged or another one; `python -m data_prep.verify` tells more"
            )
    _compare_first_records(folder, shards, index, damaged)


def _sample(shards: Sequence[schema.Shard]) -> Iterator[schema.Shard]:
    """Yields shards of SAMPLED_BYTES together, others each time; at least one.

    Not from the generators of a run: which shards are looked at changes no result.
    """
    size = 0
    for shard in random.SystemRandom().sample(shards, len(shards)):
        if size and size + shard.bytes > SAMPLED_BYTES:
            return
        yield shard
        size += shard.bytes


def _compare_first_records(
    folder: Path,
    shards: Sequence[schema.Shard],
    index: schema.SplitIndex,
    damaged: Collection[str],
) -> None:
    """Compares the first record of each shard with its row of the index.

    Two shards of one size that changed places, or a shard of another data set, are found so
    without reading them.
    """
    rows = itertools.accumulate((shard.records for shard in shards), initial=0)
    for shard, row in zip(shards, rows, strict=False):
        if shard.file in damaged:
            continue
        path = folder / shard.file
        example = _first_example(path)
        values = (
            example.get("index", []),
            example.get("patient", []),
            [label if label == label else None for label in example.get("raw_label", [])],
        )
        labels = index.raw_labels[row].tolist()
        expected = (
            [int(index.index[row])],
            [bytes(index.patient[row])],
            [label if label == label else None for label in labels],
        )
        if values != expected:
            raise InputError(
                f"{path}: its first record has index {values[0]} and patient {values[1]}, expected "
                f"{expected[0]} and {expected[1]}: the file is damaged or another shard's; "
                "`python -m data_prep.verify` tells more"
            )


def _first_example(path: Path) -> dict[str, list]:
    """The features of a shard's first record, {} where it is none."""
    with path.open("rb") as file:
        length = record_length(file, 0)
        if length is None:
            return {}
        data = file.read(length)
    try:
        features = tf.train.Example.FromString(data).features.feature
    except Exception:  # protobuf's DecodeError, of which there are several
        return {}
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in features.items()
        if feature.WhichOneof("kind")
    }


def decode_record(record, info: schema.DatasetInfo):
    """Parses one record and decodes its image.

    Returns:
        Image (H, W, C) uint8 or uint16, raw label (L,) float32, image id and patient.
    """
    example = tf.io.parse_single_example(record, schema.feature_spec(info))
    image = decode_image(example["image"], example["size"], info)
    return image, example["raw_label"], example["image_id"], example["patient"]


def label_tensor(raw, apply: Callable[[np.ndarray], np.ndarray], columns: Sequence[int]):
    """Returns raw labels (L,) with the policy applied, as a tensor (K,).

    ``apply`` is the policy for arrays (N, L) -> (N, K): what it makes of an uncertain and of a
    blank label is looked up, so that the rule stands in one place
    (:func:`medcolor_tf.data.labels.apply_policy`).

    Args:
        raw: (L,) float32 tensor.
        apply: policy and choice of columns.
        columns: the K chosen observations.
    """
    uncertain, blank = (apply(np.full((1, raw.shape[0]), code))[0] for code in (UNCERTAIN, np.nan))
    raw = tf.gather(raw, columns)
    label = tf.where(raw == UNCERTAIN, uncertain, raw)
    return tf.where(tf.math.is_nan(raw), blank, label)
