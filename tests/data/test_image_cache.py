"""Images kept in memory: the same batches bit for bit, and a choice that fits the memory."""

import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data import image_cache, random_crops
from medcolor_tf.data.memory_blocks import Blocks
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.parallel import runtime

pytestmark = pytest.mark.slow


def taken(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


DATASETS = {
    "wide": {},
    "many shards": {"records_per_shard": 3},
    "square": {"size": (32, 32)},
    "16 bits, tall": {"bits": 16, "size": (40, 32)},
    "two channels": {"channels": 2, "encoding": "raw"},
    "jpeg": {"encoding": "jpeg"},
}


@pytest.mark.parametrize(
    ("name", "image_size", "fraction", "subset_bytes"),
    [
        ("wide", None, 1.0, None),
        ("wide", 16, 0.5, None),
        ("many shards", None, 1.0, None),
        ("many shards", None, 0.5, 0),
        ("square", 16, 1.0, None),
        ("square", 48, 1.0, None),
        ("square", None, 1.0, None),
        ("16 bits, tall", 24, 1.0, None),
        ("16 bits, tall", None, 1.0, None),
        ("two channels", None, 1.0, None),
        ("jpeg", None, 1.0, None),
    ],
)
def test_batches_are_the_same_from_memory(
    tmp_path, write_small_dataset, monkeypatch, name, image_size, fraction, subset_bytes
):
    write_small_dataset(tmp_path, **DATASETS[name])
    if subset_bytes is not None:  # a subset too large to be shuffled as a whole
        monkeypatch.setattr("medcolor_tf.data.pipeline.SUBSET_CACHE_BYTES", subset_bytes)
    selection = Selection(train_fraction=fraction, subset_seed=1)
    streamed, cached = (Split(tmp_path, "train", selection, image_size) for _ in range(2))
    image_cache.cache_splits("ram", (cached,))
    for shard in tmp_path.glob("*.tfrecord"):
        shard.rename(shard.with_suffix(".away"))
    steps = 2 * cached.steps_per_epoch(5) + 1

    def everything(split):
        return [
            taken(split.training_batches(5, 3, shuffle_buffer=7), steps),
            taken(split.training_batches(5, 3, steps - 2, shuffle_buffer=7), 3),
            taken(split.training_batches(6, 3, 1, 7, (1, 2)), steps),
            taken(split.identified_batches(7), -1),
            taken(split.batches(7), -1),
        ]

    from_memory = everything(cached)
    for shard in tmp_path.glob("*.away"):
        shard.rename(shard.with_suffix(".tfrecord"))
    for one, two in zip(everything(streamed), from_memory, strict=True):
        assert_same(one, two)


def test_the_crops_of_an_epoch_are_those_of_its_images():
    """Numpy's numbers are TensorFlow's, bit for bit; low and high halves of both keys matter."""
    for seed, epoch in ((0, 0), (3, 7), (2**31 - 1, 2**32 - 1)):
        drawn = [
            random_crops.crop_offset((seed, epoch, tf.constant(n, tf.int64))) for n in range(9)
        ]
        together = random_crops.crop_offsets(int(random_crops.fold(seed, epoch)), 9)
        assert together.dtype == np.float32
        np.testing.assert_array_equal(together, np.array(drawn))


def test_images_that_shrink_are_cached_small_and_all_are_counted(tmp_path, write_small_dataset):
    write_small_dataset(tmp_path / "square", size=(32, 32), bits=16, channels=2)
    write_small_dataset(tmp_path / "wide")
    assert image_cache.decoded_bytes(Split(tmp_path / "square", "train")) == 24 * 32 * 32 * 4
    assert (
        image_cache.decoded_bytes(Split(tmp_path / "square", "train", None, 16)) == 24 * 16 * 16 * 4
    )
    assert image_cache.decoded_bytes(Split(tmp_path / "wide", "train", None, 16)) == 24 * 32 * 40


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [
        ("auto", 2 * 36 * 32 * 40, "cache ram: 36 images, 46.1 kB decoded, 92.2 kB were free"),
        ("auto", 2 * 36 * 32 * 40 - 2, "cache none: 36 decoded images are 46.1 kB or more"),
        ("auto", 1000, "cache none: 36 decoded images are 36.9 kB or more"),
        ("none", 10**9, "cache none"),
        ("ram", 36 * 32 * 40, "cache ram"),
    ],
)
def test_the_choice_follows_the_memory(small_dataset, monkeypatch, wanted, free, expected):
    monkeypatch.setattr(image_cache, "available_memory", lambda: free)
    splits = [Split(small_dataset, name) for name in ("train", "valid")]
    assert image_cache.cache_splits(wanted, splits).startswith(expected)
    assert all((split._ram_cache is not None) == ("ram:" in expected + ":") for split in splits)


def test_what_does_not_fit_is_refused_before_anything_is_read(small_dataset, monkeypatch):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 36 * 32 * 40 - 1)
    with pytest.raises(InputError, match=r"--cache=ram: 36 decoded images .* 46.1 kB"):
        image_cache.cache_splits("ram", [Split(small_dataset, name) for name in ("train", "valid")])


def test_free_memory_is_plausible():
    assert 2**26 < runtime.available_memory() < 2**50


def test_another_cache_is_not_another_run():
    from medcolor_tf.runs.config import changed_options

    assert changed_options({"cache": "ram"}, {"cache": "none"}) == []
    assert changed_options({"cache": "ram", "seed": 1}, {"seed": 2}) == ["--seed=2 (there: 1)"]


def test_memory_is_used_again_only_when_nothing_refers_to_it():
    def base(array):
        return array.__array_interface__["data"][0]

    blocks, uint8 = Blocks(), np.dtype(np.uint8)
    first = blocks.empty(1000, uint8)
    kept, place = first.reshape(10, 100)[3:, ::2].T, base(first)  # a view of a view of it
    del first
    second = blocks.empty(1000, uint8)
    assert base(second) != place
    buffer = memoryview(second.data)
    del kept
    assert base(blocks.empty(500, np.dtype(np.uint16))) == place
    taken = [blocks.empty(1000, uint8) for _ in range(9)]
    assert len({base(second), *map(base, taken)}) == 10
    assert all(base(array) % 64 == 0 for array in taken)
    del second, taken
    assert base(np.asarray(buffer)) not in {base(a) for a in [blocks.empty(1000, uint8)] * 4}


def test_the_memory_of_a_batch_that_is_gone_is_used_again(tmp_path, write_small_dataset):
    write_small_dataset(tmp_path)
    split = Split(tmp_path, "train")
    image_cache.cache_splits("ram", (split,))
    cache, shares = split._ram_cache, np.zeros((2, 3), np.float32)
    assert cache is not None
    positions = np.array([[0, 1, 2], [3, 4, 5]])
    first = cache._squares(positions, shares)
    expected, place = first.copy(), first.__array_interface__["data"][0]
    second = cache._squares(positions[::-1], shares)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second[::-1], expected)
    del first
    assert cache._squares(positions, shares).__array_interface__["data"][0] == place


def test_more_batches_than_are_used_again_stay_what_they_are(tmp_path, write_small_dataset):
    write_small_dataset(tmp_path)
    split = Split(tmp_path, "train")
    image_cache.cache_splits("ram", (split,))
    batches = [images for images, _ in split.training_batches(4, 0).take(40)]  # all of them alive
    again = [images.numpy().copy() for images, _ in split.training_batches(4, 0).take(40)]
    for one, two in zip(batches, again, strict=True):
        np.testing.assert_array_equal(one, two)
