"""TFRecord shards to batches of uint8 (or uint16) images and float labels.

The order of the images is a function of (seed, epoch) and the crop of (seed, epoch, position), so
a run that starts at step k sees exactly what an uninterrupted one sees from step k on. Encoded
records are shuffled, never decoded images: a shuffle buffer of those would eat the memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf

from medcolor_tf.data import schema, subsets
from medcolor_tf.errors import InputError

# A subset of at most this size is kept in memory, encoded; a larger one is filtered from the
# stream, which costs reading but no memory.
SUBSET_CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Selection:
    """Which records and labels of a data set to use.

    Attributes:
        observations: names, in the wanted order; () for the data set's own.
        uncertain_policy: "" for the data set's, else as in :func:`schema.parse_policy`.
        train_fraction: share of the training split, (0, 1].
        subset_seed: another seed, another subset of that size.
    """

    observations: tuple[str, ...] = ()
    uncertain_policy: str = ""
    train_fraction: float = 1.0
    subset_seed: int = 0


class Split:
    """One split of a prepared data set, opened for reading.

    Args:
        folder: the data set's folder.
        split: "train", "valid" or "test".
        selection: subset and labels.
        image_size: side of the square batch images in pixels; None for the stored short side.

    Attributes:
        info: the data set's description.
        policy: observation -> "ones", "zeros" or "ignore", for uncertain labels.
        observations: names of the label columns.
        labels: (N, L) float32 of the selected records, policy applied, in the order of the shards.
        raw_counts: of the selected records, as :func:`schema.count_raw_labels` returns them.
        patient: (N,) bytes, keyed patient ids.

    Raises:
        InputError: no such data set, split, observation or policy; a shard missing or cut.
    """

    def __init__(self, folder, split, selection=None, image_size=None):
        selection = selection or Selection()
        self.folder, self.split = Path(folder), split
        self.info = schema.DatasetInfo.load(folder)
        self.image_size = image_size or self.info.short_side
        self.observations = selection.observations or self.info.observations
        self._columns = _columns(self.folder, self.info, self.observations)
        self.policy = schema.parse_policy(
            selection.uncertain_policy, self.info.observations, self.info.uncertain_policy
        )
        self._shards = _check_shards(self.folder, self.info, split)
        index = schema.SplitIndex.load(folder, split)
        rows = np.arange(len(index.index))
        self._subset = split == "train" and selection.train_fraction < 1.0
        if self._subset:
            # Stratified over all observations, so that the subset is the same for any target.
            rows = subsets.subset_rows(
                index.raw_labels, selection.train_fraction, selection.subset_seed
            )
            self._shards = _shards_of_rows(self._shards, rows)
        self.patient = index.patient[rows]
        self.raw_counts = schema.count_raw_labels(
            index.raw_labels[rows][:, self._columns], self.observations
        )
        self.labels = self._apply_policy(index.raw_labels[rows])
        self._selected = np.zeros(int(index.index[-1]) + 1, bool)
        self._selected[index.index[rows]] = True
        self._cached_records = self._cache_subset() if self._subset else None

    def __len__(self):
        return len(self.labels)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Every image once, in order, centre crop: (images, labels); the last batch may be short.

        Images are (B, S, S, C) uint8 or uint16, labels (B, L) float32 with NaN for unknown.
        """
        return self.examples().batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def identified_batches(self, batch_size: int) -> tf.data.Dataset:
        """As :meth:`batches`, with (B,) keyed image and patient ids: (images, labels, ids, ids)."""
        return self._in_order.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def examples(self) -> tf.data.Dataset:
        """As :meth:`batches`, one image at a time."""
        return self._in_order.map(lambda image, label, *ids: (image, label))

    @cached_property
    def _in_order(self) -> tf.data.Dataset:
        """Every image once, centre crop; kept, since tracing it takes longer than a small split."""
        return self._records(shuffle_key=None).map(
            lambda record: self._decode(record, crop_key=None), num_parallel_calls=tf.data.AUTOTUNE
        )

    def training_batches(
        self, batch_size: int, seed: int = 0, start_step: int = 0, shuffle_buffer: int = 8192
    ) -> tf.data.Dataset:
        """An endless stream of full batches from step ``start_step`` on, epoch after epoch.

        An epoch is ``steps_per_epoch(batch_size)`` batches; the few images that do not fill a
        last batch are other ones in each epoch.

        Args:
            batch_size: images a step.
            seed: of order and crops.
            start_step: number of batches already used.
            shuffle_buffer: encoded records held for shuffling.
        """
        steps = self.steps_per_epoch(batch_size)
        first_epoch, skipped = divmod(start_step, steps)

        def epoch(number, skip=0):
            # Dataset.shuffle mixes in the global seed of its graph (and fails on a global seed of
            # 0, measured). Each epoch is a graph of its own, so it gets one that never changes.
            tf.compat.v1.get_default_graph().seed = 1
            records = self._records(shuffle_key=(seed, number), shuffle_buffer=shuffle_buffer)
            numbered = records.take(steps * batch_size).enumerate().skip(skip * batch_size)
            return numbered.map(
                lambda position, record: self._decode(record, (seed, number, position))[:2],
                num_parallel_calls=tf.data.AUTOTUNE,
            )

        first = tf.data.Dataset.from_tensors(tf.constant(first_epoch, tf.int64)).flat_map(
            lambda number: epoch(number, skipped)
        )
        later = tf.data.Dataset.range(first_epoch + 1, tf.int64.max).flat_map(epoch)
        batches = first.concatenate(later).batch(batch_size, drop_remainder=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of full batches in an epoch; InputError when there is none."""
        if len(self) < batch_size:
            raise InputError(
                f"{self.folder}: {len(self)} images selected for {self.split}, fewer than "
                f"--batch_size={batch_size}; lower it or raise --train_fraction"
            )
        return len(self) // batch_size

    def _apply_policy(self, raw_labels: np.ndarray) -> np.ndarray:
        labels = schema.apply_policy(
            raw_labels, self.info.observations, self.policy, self.info.blank_policy
        )
        return labels[:, self._columns]

    def _records(self, shuffle_key, shuffle_buffer=0) -> tf.data.Dataset:
        """Encoded records; ``shuffle_key`` is None (in order) or (seed, epoch)."""
        if self._cached_records is not None:
            shuffle_buffer = len(self)
            dataset = self._cached_records
        else:
            dataset = self._read(shuffle_key)
        if shuffle_key is None:
            return dataset
        return dataset.shuffle(
            shuffle_buffer, seed=_fold(*shuffle_key), reshuffle_each_iteration=False
        )

    def _read(self, shuffle_key) -> tf.data.Dataset:
        """Reads the shards that hold selected records, in parallel, and filters the others out."""
        names = [str(self.folder / shard.file) for shard in self._shards]
        files = tf.constant(names)
        if shuffle_key is not None:
            key = tf.stack([_fold(*shuffle_key), tf.constant(1, tf.int64)])
            files = tf.random.experimental.stateless_shuffle(files, seed=key)
        reader = tf.data.Dataset.from_tensor_slices(files).interleave(
            lambda file: tf.data.TFRecordDataset(file, buffer_size=8 * 2**20),
            cycle_length=min(16, len(names)) if shuffle_key is not None else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if not self._subset:
            return reader
        selected = tf.constant(self._selected)
        spec = {"index": tf.io.FixedLenFeature([], tf.int64)}
        return reader.filter(
            lambda record: selected[tf.io.parse_single_example(record, spec)["index"]]
        )

    def _cache_subset(self):
        stored = sum(shard.bytes for shard in self._shards)
        share = len(self) / sum(shard.records for shard in self._shards)
        return self._read(None).cache() if stored * share <= SUBSET_CACHE_BYTES else None

    def _decode(self, record, crop_key):
        """Parses, decodes and crops one record; ``crop_key`` None crops the centre."""
        example = tf.io.parse_single_example(record, schema.feature_spec(self.info))
        image = decode_image(example["image"], example["size"], self.info)
        offset = 0.5
        if crop_key is not None:
            offset = tf.random.stateless_uniform([], seed=[_fold(*crop_key[:2]), crop_key[2]])
        image = square_crop(image, offset, self.image_size)
        return image, self._label(example["raw_label"]), example["image_id"], example["patient"]

    def _label(self, raw):
        """The policy as tensors: the same rule as schema.apply_policy, which the tests compare."""
        table = {
            code: self._apply_policy(np.full((1, len(self.info.observations)), code))[0]
            for code in (schema.UNCERTAIN, np.nan)
        }
        raw = tf.gather(raw, self._columns)
        uncertain, blank = table.values()
        label = tf.where(raw == schema.UNCERTAIN, uncertain, raw)
        return tf.where(tf.math.is_nan(raw), blank, label)


def make_dataset(
    folder,
    split: str,
    batch_size: int = 32,
    training: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    **selection,
) -> tf.data.Dataset:
    """Batches of a prepared data set.

    Args:
        folder: made by ``python -m data_prep.build``.
        split: "train", "valid" or "test".
        batch_size: images a batch.
        training: True for an endless, shuffled stream of full batches with random crops; False for
            every image once, in order, centre crop.
        image_size: side of the square images in pixels; the stored short side when None.
        seed: of order and crops when training.
        **selection: fields of :class:`Selection`.

    Returns:
        Batches (images (B, S, S, C) uint8 or uint16, labels (B, L) float32 with NaN for unknown).

    Raises:
        InputError: as :class:`Split`.
    """
    opened = Split(folder, split, Selection(**selection), image_size)
    if training:
        return opened.training_batches(batch_size, seed=seed)
    return opened.batches(batch_size)


def decode_image(encoded, size, info: schema.DatasetInfo):
    """Decodes one record's channels: (C,) strings to (H, W, C) uint8 or uint16."""
    dtype = tf.uint16 if info.bits == 16 else tf.uint8
    decode = {
        "png": lambda text: tf.io.decode_png(text, channels=1, dtype=dtype),
        # The accurate transform is Pillow's; the default one differs from it (measured).
        "jpeg": lambda text: tf.io.decode_jpeg(text, channels=1, dct_method="INTEGER_ACCURATE"),
        "raw": lambda text: tf.reshape(
            tf.io.decode_raw(text, dtype), tf.concat([size, [1]], axis=0)
        ),
    }[info.encoding]
    return tf.concat([decode(encoded[channel]) for channel in range(info.channels)], axis=-1)


def square_crop(image, offset, side: int):
    """Cuts the largest square and scales it to ``side`` pixels.

    Args:
        image: (H, W, C) or (B, H, W, C), uint8 or uint16.
        offset: where along the longer side, 0 (start) to 1 (end); 0.5 is the centre.
        side: of the result, in pixels.

    Returns:
        (side, side, C) or (B, side, side, C), same dtype; resampled (bilinear, antialiased) only
        where it must be.
    """
    height, width = tf.shape(image)[-3], tf.shape(image)[-2]
    short = tf.minimum(height, width)
    slack = tf.stack([height - short, width - short])
    start = tf.cast(tf.round(tf.cast(slack, tf.float32) * offset), tf.int32)
    square = image[..., start[0] : start[0] + short, start[1] : start[1] + short, :]
    square = resize_pixels(square, side, side)
    return tf.ensure_shape(square, [*image.shape[:-3], side, side, image.shape[-1]])


def resize_pixels(image, height, width):
    """Antialiased bilinear resize, as Pillow's, of (..., H, W, C); nothing where the size fits."""

    def scale():
        resized = tf.image.resize(image, [height, width], antialias=True)
        return tf.saturate_cast(tf.round(resized), image.dtype)

    shape = tf.shape(image)
    fits = tf.logical_and(tf.equal(shape[-3], height), tf.equal(shape[-2], width))
    return tf.cond(fits, lambda: image, scale)


def label_counts(labels: np.ndarray, observations) -> Mapping[str, Mapping[str, int]]:
    """Counts labels after the policy: name -> {"positive", "negative", "unknown"} -> count."""
    return {
        name: {
            "positive": int((labels[:, i] == 1).sum()),
            "negative": int((labels[:, i] == 0).sum()),
            "unknown": int(np.isnan(labels[:, i]).sum()),
        }
        for i, name in enumerate(observations)
    }


def _shards_of_rows(shards, rows: np.ndarray) -> tuple[schema.Shard, ...]:
    ends = np.cumsum([shard.records for shard in shards])
    return tuple(shards[i] for i in np.unique(np.searchsorted(ends, rows, side="right")))


def _fold(seed, epoch):
    """One int64 key of (seed, epoch); epochs stay below 2**32."""
    return tf.cast(epoch, tf.int64) + tf.constant(int(seed) % 2**31, tf.int64) * 2**32


def _columns(folder, info, observations) -> list[int]:
    unknown = [name for name in observations if name not in info.observations]
    if unknown:
        raise InputError(
            f"{folder}: no observation {', '.join(map(repr, unknown))}; "
            f"the data set has {', '.join(map(repr, info.observations))}"
        )
    return [info.observations.index(name) for name in observations]


def _check_shards(folder, info, split) -> tuple[schema.Shard, ...]:
    """A shard that is missing or cut is found before training starts, not hours into it."""
    shards = info.split_shards(split)
    if not shards or not sum(shard.records for shard in shards):
        present = [name for name in schema.SPLITS if info.images.get(name)]
        raise InputError(f"{folder}: no images in split {split!r}; it has {', '.join(present)}")
    for shard in shards:
        path = folder / shard.file
        if not path.is_file():
            raise InputError(f"{path}: listed in {schema.DATASET_JSON} but not there")
        if path.stat().st_size != shard.bytes:
            raise InputError(
                f"{path}: {path.stat().st_size} bytes, expected {shard.bytes}: the file is cut or "
                "changed; `python -m data_prep.verify` tells more"
            )
    return tuple(shard for shard in shards if shard.records)
