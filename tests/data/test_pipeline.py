"""TFRecords to batches: every image once, order and crops by seed, policy, subsets, bad input."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data import make_dataset, schema
from medcolor_tf.data.image_ops import square_crop
from medcolor_tf.data.labels import count_labels
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError


def numpy_batches(dataset, count=None):
    batches = dataset.take(count) if count else dataset
    return [tuple(part.numpy() for part in batch) for batch in batches]


def same(first, second):
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(
    ("encoding", "bits", "channels"), [("png", 8, 1), ("raw", 8, 2), ("png", 16, 1), ("raw", 16, 1)]
)
def test_images_come_back_as_stored(tmp_path, write_small_dataset, encoding, bits, channels):
    stored = write_small_dataset(tmp_path, encoding=encoding, bits=bits, channels=channels)
    images = np.concatenate([batch[0] for batch in numpy_batches(make_dataset(tmp_path, "valid"))])
    assert images.dtype == (np.uint16 if bits == 16 else np.uint8)
    centre = [picture[:, 4:36] for picture in stored["valid"]]
    np.testing.assert_array_equal(images, centre)


def test_jpeg_decodes_as_pillow_does(tmp_path, write_small_dataset):
    import io

    from PIL import Image

    stored = write_small_dataset(tmp_path, encoding="jpeg")
    images = next(iter(make_dataset(tmp_path, "test")))[0].numpy()
    for image, picture in zip(images, stored["test"], strict=True):
        file = io.BytesIO()
        Image.fromarray(picture[..., 0]).save(file, "JPEG", quality=95)
        np.testing.assert_array_equal(image[..., 0], np.array(Image.open(file))[:, 4:36])


def test_labels_follow_the_policy_and_can_follow_another(small_dataset):
    raw = schema.SplitIndex.load(small_dataset, "train").raw_labels
    split = Split(small_dataset, "train")
    labels = np.concatenate([batch[1] for batch in numpy_batches(split.batches(5))])
    np.testing.assert_array_equal(labels, split.labels)
    assert (labels[raw[:, 0] == -1, 0] == 1).all(), "Edema's uncertain labels count as positive"
    assert (labels[np.isnan(raw[:, 1]), 1] == 0).all(), "blank means not mentioned"

    other = Split(small_dataset, "train", Selection(uncertain_policy="ignore"))
    labels = np.concatenate([batch[1] for batch in numpy_batches(other.batches(5))])
    np.testing.assert_array_equal(labels, other.labels)
    assert np.isnan(labels[raw[:, 0] == -1, 0]).all()
    assert (labels[raw[:, 0] == 1, 0] == 1).all()


def test_observations_are_chosen_by_name_in_the_order_given(small_dataset):
    chosen = Split(small_dataset, "valid", Selection(observations=("Pleural Effusion", "Edema")))
    everything = Split(small_dataset, "valid")
    np.testing.assert_array_equal(chosen.labels, everything.labels[:, [2, 0]])
    labels = np.concatenate([batch[1] for batch in numpy_batches(chosen.batches(8))])
    np.testing.assert_array_equal(labels, chosen.labels)


def test_ids_come_with_their_images(small_dataset):
    split = Split(small_dataset, "valid")
    batches = numpy_batches(split.identified_batches(8))
    assert [i.decode() for b in batches for i in b[2]] == [f"validi{i}" for i in range(12)]
    np.testing.assert_array_equal(np.concatenate([b[3] for b in batches]), split.patient)


def test_an_epoch_holds_every_image_once_and_the_next_another_order(tmp_path, write_small_dataset):
    stored = write_small_dataset(tmp_path, size=(32, 32))["train"]
    batches = numpy_batches(Split(tmp_path, "train").training_batches(8, seed=1), count=6)
    epochs = [
        [image.tobytes() for images, _ in part for image in images]
        for part in (batches[:3], batches[3:])
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(p.tobytes() for p in stored)
    assert epochs[0] != epochs[1]


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_stream_from_a_later_step_is_the_rest_of_the_whole_one(small_dataset, start):
    split = Split(small_dataset, "train")
    whole = numpy_batches(split.training_batches(8, seed=3, shuffle_buffer=5), count=8)
    rest = numpy_batches(split.training_batches(8, 3, start, shuffle_buffer=5), count=8 - start)
    assert same(whole[start:], rest)


@pytest.mark.slow
def test_order_and_crops_depend_on_the_seed(small_dataset):
    def batches(seed):
        return numpy_batches(Split(small_dataset, "train").training_batches(8, seed), count=3)

    assert same(batches(5), batches(5))
    assert not same(batches(5), batches(6))


@pytest.mark.slow
@pytest.mark.parametrize("global_seed", [0, 5])
def test_order_does_not_depend_on_tensorflows_global_seed(small_dataset, global_seed):
    def batches():
        split = Split(small_dataset, "train")
        return numpy_batches(split.training_batches(8, 3, shuffle_buffer=5), count=6)

    expected = batches()
    tf.random.set_seed(global_seed)
    try:
        assert same(expected, batches())
    finally:
        tf.random.set_seed(None)  # pyright: ignore[reportArgumentType]


def test_crops_move_along_the_long_side_only(tmp_path, write_small_dataset):
    stored = write_small_dataset(tmp_path, images=(1, 1, 1))["train"][0]
    offsets = set()
    for images, _ in numpy_batches(Split(tmp_path, "train").training_batches(1), count=30):
        fits = [x for x in range(9) if np.array_equal(images[0], stored[:, x : x + 32])]
        assert len(fits) == 1
        offsets.add(fits[0])
    assert len(offsets) > 4


def test_another_image_size_rescales_the_square():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (64, 80, 1)), tf.uint8)
    small = square_crop(image, 0.5, 16).numpy()
    expected = image.numpy()[:, 8:72].reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert small.shape == (16, 16, 1)
    assert abs(small[..., 0] - expected).mean() < 12


@pytest.mark.parametrize("cached", [True, False])
def test_subsets_are_nested_and_hold_their_positives(small_dataset, monkeypatch, cached):
    if not cached:
        monkeypatch.setattr("medcolor_tf.data.pipeline.SUBSET_CACHE_BYTES", 0)
    found = []
    for fraction in (0.25, 0.5, 1.0):
        split = Split(small_dataset, "train", Selection(train_fraction=fraction, subset_seed=2))
        batches = numpy_batches(split.identified_batches(4))
        found.append({i for b in batches for i in b[2]})
        assert len(split) == len(found[-1]) == 24 * fraction
        labels = np.concatenate([b[1] for b in batches])
        np.testing.assert_array_equal(labels, split.labels)
        assert (np.nansum(labels, axis=0) > 0).all()
    assert found[0] < found[1] < found[2]


@pytest.mark.slow
def test_a_cached_subset_repeats_and_resumes_like_a_whole_split(small_dataset):
    split = Split(small_dataset, "train", Selection(train_fraction=0.5))
    whole = numpy_batches(split.training_batches(4, seed=3), count=7)
    fresh = Split(small_dataset, "train", Selection(train_fraction=0.5))
    assert same(whole[4:], numpy_batches(fresh.training_batches(4, 3, 4), count=3))
    # The two epochs hold the same images in another order.
    epochs = [sorted(label.tobytes() for b in e for label in b[1]) for e in (whole[:3], whole[3:6])]
    assert epochs[0] == epochs[1]
    assert not same(whole[:3], whole[3:6])


@pytest.mark.slow
def test_a_subset_is_not_read_again_from_disk(tmp_path, write_small_dataset):
    write_small_dataset(tmp_path)
    split = Split(tmp_path, "train", Selection(train_fraction=0.5))
    first = numpy_batches(split.batches(4))
    for shard in tmp_path.glob("train-*.tfrecord"):
        shard.unlink()
    assert same(first, numpy_batches(split.batches(4)))
    numpy_batches(split.training_batches(4), count=5)


def test_counts():
    labels = np.array([[1, 0], [1, np.nan], [0, np.nan]], np.float32)
    assert count_labels(labels, ("a", "b")) == {
        "a": {"positive": 2, "negative": 1, "unknown": 0},
        "b": {"positive": 0, "negative": 1, "unknown": 2},
    }


def test_bad_input_is_named(tmp_path, small_dataset):
    with pytest.raises(InputError, match=r"nowhere/dataset.json: no such file"):
        Split(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=r"no observation 'Hernia'; the data set has 'Edema'"):
        Split(small_dataset, "train", Selection(observations=("Hernia",)))
    with pytest.raises(InputError, match=r"'maybe': expected one of ones, zeros, ignore"):
        Split(small_dataset, "train", Selection(uncertain_policy="maybe"))
    with pytest.raises(InputError, match=r"24 images selected for train, fewer than --batch_size"):
        Split(small_dataset, "train").training_batches(25)


def test_a_cut_or_missing_shard_is_found_before_training(tmp_path, small_dataset):
    folder = shutil.copytree(small_dataset, tmp_path / "copy")
    shard = next(folder.glob("train-00001*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{shard.name}: \d+ bytes, expected {len(content)}"):
        Split(folder, "train")
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: listed in dataset.json but not there"):
        Split(folder, "train")


def test_damaged_descriptions_are_named(tmp_path, small_dataset):
    folder = shutil.copytree(small_dataset, tmp_path / "copy")
    (folder / "index-valid.npz").write_bytes(b"no")
    with pytest.raises(InputError, match=r"index-valid.npz: cannot be read"):
        Split(folder, "valid")
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises(InputError, match=r"format version 99, expected 1"):
        Split(folder, "train")
    path.write_text("{")
    with pytest.raises(InputError, match=r"not a data set description"):
        Split(folder, "train")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "cached"), [(4, False), (2, True)])
def test_parts_of_a_batch_are_its_rows(small_dataset, count, cached):
    """Several processes decode a share each; together they have the batches of one, bit for bit."""
    split = Split(small_dataset, "train", image_size=24)
    if cached:
        split.cache_decoded()
    # 24 images: three batches an epoch, begun in the middle, so that an epoch's end is passed.
    stream: dict = {"batch_size": 8, "seed": 3, "start_step": 2}
    whole = numpy_batches(split.training_batches(**stream), 5)
    parts = [
        numpy_batches(split.training_batches(**stream, part=(index, count)), 5)
        for index in range(count)
    ]
    joined = [
        tuple(np.concatenate(columns) for columns in zip(*rows, strict=True))
        for rows in zip(*parts, strict=True)
    ]
    assert same(whole, joined)
    assert len(parts[0][0][0]) == 8 // count


@pytest.mark.slow
def test_parts_in_order_have_every_image_once(small_dataset):
    split = Split(small_dataset, "valid")
    whole = numpy_batches(split.identified_batches(12))[0]
    for index in range(5):
        part = numpy_batches(split.identified_batches(2, part=(index, 5)))
        columns = [np.concatenate(column) for column in zip(*part, strict=True)]
        assert same([[column[index::5] for column in whole]], [columns])


@pytest.mark.slow
def test_only_a_parts_images_are_decoded(small_dataset, monkeypatch):
    """Decoding any other image of the first epoch is an error here."""
    allowed, decode = [], Split._decode

    def guarded(self, record):
        image, label, image_id, patient = decode(self, record)
        known = tf.reduce_any(tf.constant(allowed) == image_id)
        with tf.control_dependencies([tf.debugging.assert_equal(known, True)]):
            return tf.identity(image), label, image_id, patient

    split = Split(small_dataset, "train")
    order = next(iter(split.training_positions(8))).numpy().reshape(3, 4, 2)
    monkeypatch.setattr(Split, "_decode", guarded)
    allowed[:] = [f"traini{position}" for position in order[:, 1].ravel()]
    assert len(numpy_batches(split.training_batches(8, part=(1, 4)), 3)) == 3
    with pytest.raises(tf.errors.InvalidArgumentError):
        numpy_batches(split.training_batches(8, part=(2, 4)), 3)

    allowed[:] = [f"traini{position}" for position in range(1, 24, 3)]
    assert len(numpy_batches(split.identified_batches(2, part=(1, 3)))) == 4


def test_a_batch_that_parts_cannot_share(small_dataset):
    with pytest.raises(ValueError, match="3 equal parts of a batch of 8"):
        Split(small_dataset, "train").training_batches(8, part=(0, 3))
