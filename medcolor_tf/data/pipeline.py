"""TFRecord shards to batches of uint8 (or uint16) images and float labels.

The order of the images is a function of (seed, epoch) and the crop of (seed, epoch, position), so
a run that starts at step k sees exactly what an uninterrupted one sees from step k on. Encoded
records are shuffled, never decoded images: a shuffle buffer of those would eat the memory. Once a
split's decoded images are in memory (:meth:`Split.cache_decoded`), the positions of the records
go through the very same stream in place of the records, so the order stays what it was.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from medcolor_tf.catalog import VERIFICATIONS
from medcolor_tf.data import schema, subsets
from medcolor_tf.data.damage import SHOWN, Damage, find_damage
from medcolor_tf.data.image_cache import RamCache
from medcolor_tf.data.image_ops import resize_pixels, square_crop, without_autograph
from medcolor_tf.data.labels import apply_policy, count_raw_labels, parse_policy
from medcolor_tf.data.numpy_calls import call_numpy
from medcolor_tf.data.random_crops import crop_offset, crop_offsets, fold
from medcolor_tf.data.records import (
    RecordReader,
    check_shards,
    compare_shards,
    decode_record,
    label_tensor,
)
from medcolor_tf.errors import InputError

# All images; another part is (index, count): the images of one of several processes.
WHOLE = (0, 1)
# The records of a subset of at most this size are kept in memory, encoded, and shuffled as a whole;
# a larger one is filtered from the stream, which costs reading but no memory.
SUBSET_CACHE_BYTES = 2 * 2**30
# Batches from memory that wait for the step.
BATCHES_READY = 2
# Batches from memory are copied so much at a time: enough that the call is not what takes the time.
COPIED_TOGETHER_BYTES = 2**24


@dataclass(frozen=True)
class Selection:
    """Which records and labels of a data set to use.

    Attributes:
        observations: names, in the order of the labels; () for the data set's own.
        uncertain_policy: "" for the data set's, else as in ``labels.parse_policy``.
        train_fraction: share of the training split, (0, 1].
        subset_seed: another seed, another subset of that size.
        max_bad_records: of a split that are left out; 0: one is an error when it is read.
    """

    observations: tuple[str, ...] = ()
    uncertain_policy: str = ""
    train_fraction: float = 1.0
    subset_seed: int = 0
    max_bad_records: int = 0


class Split:
    """One split of a prepared data set, opened for reading.

    Args:
        folder: the data set's folder.
        split: "train", "valid" or "test".
        selection: subset and labels.
        image_size: side of the square batch images in pixels; None for the stored short side.
        verify: how many shards are compared with their SHA-256, "sample" or "full"; see
            :func:`medcolor_tf.data.records.compare_shards`.

    Attributes:
        info: the data set's description.
        policy: observation -> "ones", "zeros" or "ignore", for uncertain labels.
        observations: names of the label columns.
        labels: (N, L) float32 of the selected records, policy applied, in the order of the shards.
        raw_counts: of the selected records, see ``labels.count_raw_labels``.
        patient: (N,) bytes, keyed patient ids.
        shards: of the split that hold records.
        bad_records: that are left out; see ``Selection.max_bad_records``.

    Raises:
        InputError: no such data set, split, observation or policy; a shard missing or cut; more bad
            records than may be left out.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        selection: Selection | None = None,
        image_size: int | None = None,
        verify: str = VERIFICATIONS[0],
    ):
        selection = selection or Selection()
        self.folder, self.split = Path(folder), split
        self.info = schema.DatasetInfo.load(folder)
        self.image_size = image_size or self.info.short_side
        self.observations = selection.observations or self.info.observations
        self._columns = _columns(self.folder, self.info, self.observations)
        self.policy = parse_policy(
            selection.uncertain_policy, self.info.observations, self.info.uncertain_policy
        )
        shards = self.shards = check_shards(self.folder, self.info, split)
        damage = self._find_damage(selection.max_bad_records)
        self.max_bad_records, self.bad_records = selection.max_bad_records, damage.bad
        index = schema.SplitIndex.load(folder, split, self.info)
        # Of what is damaged the other records have been compared with their own checksums.
        compare_shards(self.folder, self.info, shards, index, verify, damage.places)
        rows = None
        if split == "train" and selection.train_fraction < 1.0:
            # Stratified over all observations, so that the subset is the same for any target.
            rows = subsets.subset_rows(
                index.raw_labels, selection.train_fraction, selection.subset_seed
            )
        self._reader = RecordReader(self.folder, shards, index, rows, damage)
        is_subset, rows = rows is not None, self._reader.rows
        raw_labels, self.patient = index.raw_labels[rows], index.patient[rows]
        self.raw_counts = count_raw_labels(raw_labels[:, self._columns], self.observations)
        self.labels = self._apply_policy(raw_labels)
        self._ram_cache: RamCache | None = None
        self._shuffle_whole = is_subset and self._reader.encoded_bytes <= SUBSET_CACHE_BYTES
        self._cached_records = self._reader.records().cache() if self._shuffle_whole else None
        self._in_order_examples: dict[tuple[int, int], tf.data.Dataset] = {}

    def __len__(self):
        return len(self.labels)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Returns every image once, in order, centre crop; the last batch may be short.

        Batches are (images (B, S, S, C) uint8 or uint16, labels (B, L) float32, NaN for unknown).
        """
        return _one_pass(self.examples(), batch_size)

    def identified_batches(self, batch_size: int, part=WHOLE) -> tf.data.Dataset:
        """As :meth:`batches`, with (B,) keyed image and patient ids: (images, labels, ids, ids).

        ``part`` (index, count) has the images index, index + count, ... alone; the others are not
        decoded.
        """
        return _one_pass(self._in_order(part), batch_size)

    @without_autograph
    def examples(self) -> tf.data.Dataset:
        """As :meth:`batches`, one image at a time."""
        return self._in_order().map(lambda image, label, *ids: (image, label))

    @without_autograph
    def _in_order(self, part=WHOLE) -> tf.data.Dataset:
        """Every image once, centre crop; made once: tracing it takes longer than a small split."""
        if part not in self._in_order_examples:
            index, count = part
            items = self._items(shuffle_key=None)
            self._in_order_examples[part] = (items.shard(count, index) if count > 1 else items).map(
                lambda item: self._example(item, crop_key=None), num_parallel_calls=tf.data.AUTOTUNE
            )
        return self._in_order_examples[part]

    @cached_property
    @without_autograph
    def sizes(self) -> np.ndarray:
        """(N, 2) int64, heights and widths as stored; the records are read for it, not decoded."""
        spec = {"size": tf.io.FixedLenFeature([2], tf.int64)}
        records = self._items(shuffle_key=None).batch(1024)
        parsed = records.map(lambda batch: tf.io.parse_example(batch, spec)["size"])
        return np.concatenate(list(parsed.as_numpy_iterator()))

    def cached_sizes(self) -> np.ndarray:
        """(N, 2) int64, sizes of the images that :meth:`cache_decoded` caches."""
        if self.image_size >= self.info.short_side:
            return self.sizes
        square = self.sizes[:, :1] == self.sizes[:, 1:]
        return np.where(square, self.image_size, self.sizes)

    def cache_decoded(self) -> None:
        """Decodes every image once into memory, where all batches come from then on.

        The batches are the same, bit for bit. Images that are not square are cached whole, since
        their crop is another one in each epoch; square ones that have to shrink are cached small.
        """
        if self._ram_cache is not None:
            return
        decoded = self.decoded(min(self.image_size, self.info.short_side))
        self._ram_cache = RamCache.from_images(
            decoded, self.cached_sizes(), self.info, self.labels, self.patient
        )
        self._cached_records = None
        self._in_order_examples.clear()  # they read the records

    @without_autograph
    def decoded(self, side: int) -> tf.data.Dataset:
        """Every image once, in order, as stored; square ones are scaled to ``side`` pixels.

        Returns:
            N times (image (H, W, C) uint8 or uint16, image id).
        """

        def decode(record):
            image, _, image_id, _ = self._decode(record)
            height, width, _ = tf.unstack(tf.shape(image))
            scaled = tf.cond(
                height == width, lambda: resize_pixels(image, side, side), lambda: image
            )
            return scaled, image_id

        records = self._items(shuffle_key=None)
        return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(64)

    def release_records(self) -> None:
        """Frees the encoded records that a small subset has in memory; they can be read anew."""
        if self._cached_records is not None:
            self._cached_records = self._reader.records().cache()
            self._in_order_examples.clear()  # they hold the old ones

    @without_autograph
    def training_batches(
        self,
        batch_size: int,
        seed: int = 0,
        start_step: int = 0,
        shuffle_buffer: int = 8192,
        part: tuple[int, int] = WHOLE,
    ) -> tf.data.Dataset:
        """An endless stream of full batches from step ``start_step`` on, epoch after epoch.

        An epoch is ``steps_per_epoch(batch_size)`` batches; the few images that do not fill a
        last batch are other ones in each epoch.

        Args:
            batch_size: images per step.
            seed: of order and crops.
            start_step: number of batches already used.
            shuffle_buffer: encoded records held for shuffling.
            part: (index, count): of each batch the rows of that of ``count`` equal parts alone, bit
                for bit those of the whole batch; the images of the others are not decoded.

        Raises:
            ValueError: ``batch_size`` is no multiple of the number of parts.
        """
        index, count = part
        if batch_size % count:
            raise ValueError(f"{count} equal parts of a batch of {batch_size}")
        rows = batch_size // count
        cache = self._ram_cache
        if cache is not None and cache.has_side(self.image_size):
            together = max(1, COPIED_TOGETHER_BYTES // cache.batch_bytes(rows))
            stream = batch_size, seed, start_step, shuffle_buffer
            places = self.crops(*stream, square=cache.is_square, together=together)
            groups = places.map(
                lambda *crops: cache.squares(*(crop[:, index * rows :][:, :rows] for crop in crops))
            )
            batches = groups.flat_map(lambda *group: tf.data.Dataset.from_tensor_slices(group))
            return batches.prefetch(BATCHES_READY).with_options(_one_after_the_other())

        def batched(items, key):
            if count > 1:
                items = items.filter(lambda number, item: number % batch_size // rows == index)
            examples = items.map(
                lambda number, item: self._example(item, (*key, number))[:2],
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            return examples.batch(rows, drop_remainder=True)

        steps = self.steps_per_epoch(batch_size)
        first_epoch, skipped = divmod(start_step, steps)

        def epoch(number, skip=0):
            items = self._epoch((seed, number), steps * batch_size, shuffle_buffer)
            return batched(items.enumerate().skip(skip * batch_size), (seed, number))

        first = tf.data.Dataset.from_tensors(tf.constant(first_epoch, tf.int64)).flat_map(
            lambda number: epoch(number, skipped)
        )
        later = tf.data.Dataset.range(first_epoch + 1, tf.int64.max).flat_map(epoch)
        batches = first.concatenate(later).prefetch(tf.data.AUTOTUNE)
        return batches if cache is None else batches.with_options(_untuned())

    @without_autograph
    def crops(
        self,
        batch_size: int,
        seed: int,
        start_step: int,
        shuffle_buffer: int,
        square: bool = False,
        together: int = 0,
    ) -> tf.data.Dataset:
        """The order and the crops of :meth:`training_batches`, without a pixel.

        Args:
            batch_size, seed, start_step, shuffle_buffer: as there.
            square: whether images are squares, which are not cropped.
            together: of so many batches, G, in one array; fewer at the end of an epoch.

        Returns:
            An endless dataset of (positions (B,) int64, in the order of :meth:`batches`, shares
            (B,) float32: where along the longer side the crop lies, 0 to 1); both (G, B) if
            ``together`` is not 0.
        """
        steps = self.steps_per_epoch(batch_size)
        first_epoch, skipped = divmod(start_step, steps)

        def shares(folded):
            return crop_offsets(int(folded), steps * batch_size)

        def batches(number, positions):
            offsets = tf.zeros([steps * batch_size])
            if not square:
                key = fold(seed, number)
                offsets = call_numpy(shares, [key], tf.float32)
            crops = [tf.reshape(part, [steps, batch_size]) for part in (positions, offsets)]
            done = tf.where(number == first_epoch, tf.constant(skipped, tf.int64), 0)
            numbers = tf.data.Dataset.from_tensor_slices(tuple(crops)).skip(done)
            return numbers.batch(together) if together else numbers

        # An item per epoch, not per image: that took longer than to copy the images.
        epochs = self.training_positions(batch_size, seed, first_epoch, shuffle_buffer)
        numbered: Any = epochs.enumerate(first_epoch)  # to type checkers a dataset of one argument
        return numbered.flat_map(batches)

    @without_autograph
    def epoch_batches(
        self,
        batch_size: int,
        seed: int,
        epoch,
        batches: int,
        shuffle: bool = True,
        random_crops: bool = True,
        shuffle_buffer: int = 8192,
    ) -> tf.data.Dataset:
        """One epoch's batches; to be called inside a function that tf.data traces.

        Args:
            batch_size: images per batch; the last one has what is left.
            seed, epoch: of order and crops, as in :meth:`training_batches`.
            batches: how many at most.
            shuffle: else the images are in order.
            random_crops: else the centre is cropped.
            shuffle_buffer: encoded records held for shuffling.
        """
        key = seed, epoch
        items = self._epoch(key if shuffle else None, batches * batch_size, shuffle_buffer)
        examples = items.enumerate().map(
            lambda number, item: self._example(item, (*key, number) if random_crops else None)[:2],
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return examples.batch(batch_size)

    @without_autograph
    def training_positions(
        self, batch_size: int, seed: int = 0, first_epoch: int = 0, shuffle_buffer: int = 8192
    ) -> tf.data.Dataset:
        """Which images :meth:`training_batches` has, in the same order, without reading them.

        Returns:
            An endless dataset of (steps_per_epoch * batch_size,) int64, one array per epoch:
            positions in the order of :meth:`batches`.
        """
        count = self.steps_per_epoch(batch_size) * batch_size

        def epoch(number):
            return self._epoch((seed, number), count, shuffle_buffer, True).batch(count)

        # The work per element is next to nothing: more threads would only wait for each other.
        options = _untuned()
        options.threading.private_threadpool_size = 1
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch)
        return epochs.prefetch(1).with_options(options)

    def ids_of_steps(
        self, before: int, step: int, batch_size: int, seed: int, shuffle_buffer: int
    ) -> list[str]:
        """Returns the keyed ids of the images of :meth:`training_batches`' steps, in their order.

        Args:
            before, step: number of steps done before the first of them and after the last.
            batch_size, seed, shuffle_buffer: as there.
        """
        steps = self.steps_per_epoch(batch_size)
        first, last = before // steps, (step - 1) // steps
        epochs = self.training_positions(batch_size, seed, first, shuffle_buffer)
        positions = np.concatenate(list(epochs.take(last - first + 1).as_numpy_iterator()))
        start = (before - first * steps) * batch_size
        positions = positions[start : start + (step - before) * batch_size]
        if self._ram_cache is not None:
            return [image.decode() for image in self._ram_cache.image_ids.numpy()[positions]]
        return self._reader.image_ids(positions)

    @without_autograph
    def view_batches(self, batch_size: int, seed: int, view: int) -> tf.data.Dataset:
        """As :meth:`batches`, with random crops that are a function of (seed, view, position)."""
        dataset = (
            self._items(shuffle_key=None)
            .enumerate()
            .map(
                lambda position, item: self._example(item, (seed, view, position))[:2],
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        )
        return _one_pass(dataset, batch_size)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the number of full batches in an epoch; InputError when there is none."""
        if len(self) < batch_size:
            raise InputError(
                f"{self.folder}: {len(self)} images selected for {self.split}, fewer than "
                f"--batch_size={batch_size}; lower it or raise --train_fraction"
            )
        return len(self) // batch_size

    def _find_damage(self, limit: int) -> Damage:
        """Looks for bad records where some may be left out; InputError for more of them."""
        if not limit:
            return Damage()
        damage = find_damage(self.folder, self.info, self.shards, limit)
        if len(damage.bad) > limit:
            shown = "\n".join(f"  {record}" for record in damage.bad[:SHOWN])
            raise InputError(
                f"{self.folder}: {len(damage.bad)} or more records of {self.split} cannot be read, "
                f"--max_bad_records={limit} allows fewer:\n{shown}"
            )
        return damage

    def _apply_policy(self, raw_labels: np.ndarray) -> np.ndarray:
        labels = apply_policy(
            raw_labels, self.info.observations, self.policy, self.info.blank_policy
        )
        return labels[:, self._columns]

    def _epoch(self, shuffle_key, count, shuffle_buffer, positions=None) -> tf.data.Dataset:
        """The first ``count`` items of an epoch; inside a function that tf.data traces."""
        # Dataset.shuffle mixes in the global seed of its graph (and fails on a global seed of 0,
        # measured). Each epoch is a graph of its own, so it gets one that never changes.
        tf.compat.v1.get_default_graph().seed = 1
        return self._items(shuffle_key, shuffle_buffer, positions).take(count)

    def _items(self, shuffle_key, shuffle_buffer=0, positions=None) -> tf.data.Dataset:
        """Encoded records, or their positions in the selection, in the same order.

        ``shuffle_key`` is None (in order) or (seed, epoch). Neither the interleaving of shards nor
        a shuffle looks at what it moves, so positions come out as the records would. ``positions``
        None means what :meth:`_example` needs: positions once the images are in memory.
        """
        positions = self._ram_cache is not None if positions is None else positions
        seed = None if shuffle_key is None else fold(*shuffle_key)
        if self._shuffle_whole and positions:
            dataset = tf.data.Dataset.range(len(self))
        elif self._cached_records is not None:
            dataset = self._cached_records
        else:
            dataset = self._reader.positions(seed) if positions else self._reader.records(seed)
        if seed is None:
            return dataset
        buffer = len(self) if self._shuffle_whole else shuffle_buffer
        return dataset.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)

    def _example(self, item, crop_key):
        """Image, label and ids of one item; ``crop_key`` None crops the centre."""
        if self._ram_cache is None:
            image, *others = self._decode(item)
        else:
            image, *others = self._ram_cache.example(item)
        offset = 0.5 if crop_key is None else crop_offset(crop_key)
        return square_crop(image, offset, self.image_size), *others

    def _decode(self, record):
        """Image, label and ids of an encoded record."""
        image, raw, image_id, patient = decode_record(record, self.info)
        return image, label_tensor(raw, self._apply_policy, self._columns), image_id, patient


def _one_pass(examples: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Batches of every example once, the last one short, made while others are used."""
    return examples.batch(batch_size).prefetch(tf.data.AUTOTUNE).with_options(_untuned())


def _untuned() -> tf.data.Options:
    """Options of a pipeline that has as many threads from the start as there are processors, or 16.

    Where images are in memory, or read once, TensorFlow's tuning of their number gains nothing, and
    the end of a pass waited up to 0.3 s for it (measured).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _one_after_the_other() -> tf.data.Options:
    """Options of a pipeline whose elements take next to no time each.

    Each would go to another of TensorFlow's threads, which took longer than the work (measured).
    """
    options = _untuned()
    options.experimental_optimization.apply_default_optimizations = False
    return options


def _columns(folder, info, observations) -> list[int]:
    unknown = [name for name in observations if name not in info.observations]
    if unknown:
        raise InputError(
            f"{folder}: no observation {', '.join(map(repr, unknown))}; "
            f"the data set has {', '.join(map(repr, info.observations))}"
        )
    return [info.observations.index(name) for name in observations]
