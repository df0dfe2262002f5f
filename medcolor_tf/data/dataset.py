"""A prepared data set as a ``tf.data.Dataset``, for Keras' own ``fit`` and ``evaluate``."""

import itertools
import os

import tensorflow as tf

from medcolor_tf.data.image_ops import without_autograph
from medcolor_tf.data.pipeline import Selection, Split


@without_autograph
def make_dataset(
    folder: str | os.PathLike,
    split: str,
    batch_size: int = 32,
    training: bool = False,
    image_size: int | None = None,
    seed: int = 0,
    *,
    shuffle: bool | None = None,
    repeat: bool | None = None,
    masked_labels: bool = False,
    **selection,
) -> tf.data.Dataset:
    """Returns batches of a prepared data set.

    Without ``training``: every image once, in order, centre crop; the last batch may be short.
    With it: random crops, shuffled, full batches, endless. ``shuffle`` and ``repeat`` choose
    otherwise; ``training=True, repeat=False`` is the data set for ``fit``, which has no need of
    ``steps_per_epoch`` then. (Give ``fit`` ``shuffle=False`` too: it leaves the order to the data
    set in any case, and warns about it otherwise.)

    Each pass through a data set that does not repeat is another epoch: pass number k (from 0) has
    the order and the crops of the k-th epoch of the endless one. Both are functions of (seed, k)
    alone, whatever TensorFlow's global seed is.

    With ``masked_labels`` no loss is NaN: labels have 0 in place of NaN, and weights are 1 where a
    label is known and 0 where not. They weigh single labels, so they need a loss that does not
    average over the labels first: ``axis=()``, as in the example. With the reduction
    "mean_with_sample_weight" it is the mean over the known labels of a batch, 0 without any, the
    same as :class:`medcolor_tf.training.losses.MaskedBinaryCrossentropy` on labels with NaN; with
    Keras' default reduction, that times the share of the labels that are known. Keras' default
    ``axis=-1`` gives one loss per image, in which an unknown label would count as negative. It does
    not fit the weights, and Keras refuses it (for a batch of exactly L images it cannot tell). With
    one observation any axis will do.

    Args:
        folder: made by ``python -m data_prep.build``.
        split: "train", "valid" or "test".
        batch_size: images per batch, B.
        training: random crops along the longer side, in place of the centre.
        image_size: S, side of the square images in pixels; the stored short side when None.
        seed: of order and crops.
        shuffle: another order in every epoch. When training shuffles, an epoch is full batches
            only, and the few images that are left over are other ones in each epoch; else the last
            batch may be short. None: as ``training``.
        repeat: whether it is endless, epoch after epoch. None: as ``training``.
        masked_labels: give (images, labels with 0 for unknown, weights).
        **selection: ``observations``, ``uncertain_policy``, ``train_fraction`` and
            ``subset_seed``, as in :class:`medcolor_tf.data.pipeline.Selection`.

    Returns:
        Batches (images (B, S, S, C) uint8 or uint16, labels (B, L) float32 with 0, 1, and NaN for
        unknown), or (images, masked labels, weights (B, L) float32). The cardinality is the number
        of batches, or ``tf.data.INFINITE_CARDINALITY``; ``fit`` on an endless one needs
        ``steps_per_epoch``.

    Raises:
        InputError: no such data set, split, observation or policy; a shard that is missing or cut;
            fewer images than a batch of training.

    Example:
        >>> import keras
        >>> import medcolor_tf as mc
        >>> valid = mc.make_dataset(data_dir, "valid", batch_size=4)
        >>> images, labels = next(iter(valid))
        >>> images.dtype.name, images.shape[0], labels.dtype.name, labels.shape[0]
        ('uint8', 4, 'float32', 4)
        >>> train = mc.make_dataset(data_dir, "train", 4, training=True, repeat=False)
        >>> len(list(train)) == int(train.cardinality())
        True
        >>> masked = mc.make_dataset(data_dir, "train", masked_labels=True)
        >>> loss = keras.losses.BinaryCrossentropy(
        ...     from_logits=True, axis=(), reduction="mean_with_sample_weight"
        ... )
        >>> images, labels, weights = next(iter(masked))
        >>> round(float(loss(labels, 0 * labels, weights)), 4)  # of logits 0: log 2
        0.6931
    """
    opened = Split(folder, split, Selection(**selection), image_size)
    shuffle = training if shuffle is None else shuffle
    repeat = training if repeat is None else repeat
    full_batches = training and shuffle
    count = opened.steps_per_epoch(batch_size) if full_batches else -(-len(opened) // batch_size)
    if training and shuffle and repeat:
        batches = opened.training_batches(batch_size, seed)
    elif training or shuffle:
        batches = _epochs(repeat).flat_map(
            lambda epoch: opened.epoch_batches(batch_size, seed, epoch, count, shuffle, training)
        )
        batches = batches.prefetch(tf.data.AUTOTUNE)
    else:
        batches = opened.batches(batch_size)
        batches = batches.repeat() if repeat else batches
    if masked_labels:
        batches = batches.map(_mask_labels, num_parallel_calls=tf.data.AUTOTUNE)
        batches = batches.prefetch(tf.data.AUTOTUNE)
    cardinality = tf.data.INFINITE_CARDINALITY if repeat else count
    return batches.apply(tf.data.experimental.assert_cardinality(cardinality))


def _epochs(repeat: bool) -> tf.data.Dataset:
    """Numbers of the epochs: all of them, or one per pass, the next one each time."""
    if repeat:
        return tf.data.Dataset.range(tf.int64.max)
    passes = itertools.count()
    return tf.data.Dataset.from_generator(
        lambda: iter([next(passes)]), output_signature=tf.TensorSpec([], tf.int64)
    )


def _mask_labels(images, labels):
    """Images, labels with 0 for unknown, and weights: 1 where known, 0 where not."""
    known = tf.logical_not(tf.math.is_nan(labels))
    return images, tf.where(known, labels, 0.0), tf.cast(known, tf.float32)
