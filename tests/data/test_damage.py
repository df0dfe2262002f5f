"""Records that cannot be read: found by shard and number, left out on request, counted."""

import dataclasses
import importlib
import json
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data import damage, schema
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError

pytestmark = pytest.mark.slow

FIRST = "train-00000-of-00003.tfrecord"  # 8 records each


def rewrite(folder, file, number, change):
    """Changes one record of a shard, with right checksums, and describes the shard anew."""
    reader: Any = tf.data.TFRecordDataset(str(folder / file)).as_numpy_iterator()
    records = list(reader)
    records[number] = change(records[number])
    with tf.io.TFRecordWriter(str(folder / file)) as writer:
        for record in records:
            writer.write(record)
    info = schema.DatasetInfo.load(folder)
    size = (folder / file).stat().st_size
    shards = (dataclasses.replace(s, bytes=size) if s.file == file else s for s in info.shards)
    dataclasses.replace(info, shards=tuple(shards)).save(folder)


def flip(folder, file, number, byte):
    """Flips a byte of a record: 0 is the first one of its length, 12 the first one of its data."""
    data = bytearray((folder / file).read_bytes())
    offset = 0
    for _ in range(number):
        offset += 16 + int.from_bytes(data[offset : offset + 8], "little")
    data[offset + byte] ^= 0x10
    (folder / file).write_bytes(bytes(data))


def with_feature(name, value):
    def change(record):
        example = tf.train.Example.FromString(record)
        feature = example.features.feature[name]
        kind = feature.WhichOneof("kind")
        getattr(feature, kind).ClearField("value")
        getattr(feature, kind).value.extend(value)
        return example.SerializeToString()

    return change


DAMAGES = {
    "checksum": (lambda folder: flip(folder, FIRST, 3, 40), [3], "wrong checksum"),
    "length": (
        lambda folder: flip(folder, FIRST, 5, 0),
        [5, 6, 7],
        "length of record 5 is damaged",
    ),
    "no example": (lambda f: rewrite(f, FIRST, 2, lambda r: b"\xff\xfe garbage"), [2], "parse"),
    "labels": (lambda f: rewrite(f, FIRST, 0, with_feature("raw_label", [1.0])), [0], "raw_label"),
    "image": (lambda f: rewrite(f, FIRST, 7, with_feature("image", [b"\x89PNG no"])), [7], "image"),
    "size": (lambda f: rewrite(f, FIRST, 1, with_feature("size", [8, 8])), [1], "another size"),
}


@pytest.fixture
def data(small_dataset, tmp_path):
    return shutil.copytree(small_dataset, tmp_path / "data")


def ids_of(batches):
    return np.concatenate([ids.numpy() for _, _, ids, _ in batches]).astype(str).tolist()


def batches_of(split, start, count):
    stream = split.training_batches(4, seed=3, start_step=start).take(count)
    return [(images.numpy(), labels.numpy()) for images, labels in stream]


def same(one, two):
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for first, second in zip(one, two, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def test_a_damaged_length_of_a_first_record_shows_at_once(data, monkeypatch):
    """The checksum of the length: the length is right, and TensorFlow would not read on."""
    monkeypatch.setattr("medcolor_tf.data.records._sample", lambda shards: ())
    Split(data, "train")
    flip(data, FIRST, 0, 8)
    with pytest.raises(InputError, match=rf"{FIRST}: its first record has index \[\] and"):
        Split(data, "train")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_bad_record_is_named_or_left_out(data, kind, monkeypatch):
    harm, numbers, reason = DAMAGES[kind]
    whole = Split(data, "train")
    everything, labels = ids_of(whole.identified_batches(5)), whole.labels
    harm(data)
    message = rf"{FIRST} record {numbers[0]} \(.*{reason}.*--max_bad_records=N"
    with pytest.raises(InputError, match=message):
        Split(data, "train")  # whose shards are compared with their SHA-256
    with monkeypatch.context() as patch:  # a shard that is not among those compared
        patch.setattr("medcolor_tf.data.records._sample", lambda shards: ())
        if kind in ("no example", "labels", "length") and numbers[0] == 0:
            with pytest.raises(InputError, match=rf"{FIRST}: its first record has"):
                Split(data, "train")
        else:
            split = Split(data, "train")
            with pytest.raises(InputError, match=message), damage.named(split):
                # A size alone is looked at where images are cached; the others show at once.
                split.cache_decoded() if kind == "size" else list(split.batches(5))
    with (
        pytest.raises(InputError, match="--max_bad_records=2 allows fewer")
        if len(numbers) > 2
        else damage.named()
    ):
        Split(data, "train", Selection(max_bad_records=2))
    split = Split(data, "train", Selection(max_bad_records=len(numbers)))
    assert [(bad.shard, bad.number) for bad in split.bad_records] == [(FIRST, n) for n in numbers]
    assert all(reason in bad.reason for bad in split.bad_records)
    left = [row for row in range(24) if row not in numbers]
    assert len(split) == len(left)
    assert ids_of(split.identified_batches(5)) == [everything[row] for row in left]
    np.testing.assert_array_equal(split.labels, labels[left])
    (line,) = damage.describe([split])
    assert f"{len(numbers)} of 24 records of train cannot be read and are left out: " in line


@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_order_and_crops_around_damage_are_the_same_at_every_start_and_from_memory(data, fraction):
    for number, byte in ((3, 40), (5, 30)):
        flip(data, FIRST, number, byte)
    flip(data, FIRST.replace("00000-", "00002-"), 6, 3)
    selection = Selection(train_fraction=fraction, max_bad_records=4)
    stream = batches_of(Split(data, "train", selection), 0, 14)
    for start in (3, 9):
        split = Split(data, "train", selection)
        assert same(batches_of(split, start, 14 - start), stream[start:])
    cached = Split(data, "train", selection)
    cached.cache_decoded()
    assert same(batches_of(cached, 0, 14), stream)
    ids = split.ids_of_steps(2, 7, 4, 3, 8192)
    assert ids == cached.ids_of_steps(2, 7, 4, 3, 8192)
    assert len(ids) == 20


def test_ids_of_steps_are_those_of_the_images(data):
    """Steps 4 to 8 of 6 an epoch: the end of one epoch and the beginning of the next."""
    split = Split(data, "train", Selection(), 32)
    images = [images for images, _ in batches_of(split, 3, 5)]
    known = {}
    for picture, _, ids, _ in split.identified_batches(24):
        known = {i.decode(): p for i, p in zip(ids.numpy(), picture.numpy(), strict=True)}
    ids = split.ids_of_steps(3, 8, 4, 3, 8192)
    for image, image_id in zip(np.concatenate(images), ids, strict=True):
        # Crops move along the longer side: the pixels in common are many, and of no other image.
        stored = known[image_id].astype(int)
        shifts = range(5)
        differences = [image[:, s:] - stored[:, : 32 - s] for s in shifts]
        differences += [image[:, : 32 - s] - stored[:, s:] for s in shifts]
        assert not min(np.abs(difference).max() for difference in differences)


@pytest.mark.slow
def test_train_evaluate_and_find_lr_count_bad_records(
    data, tmp_path, one_layer_backbone_file, capsys
):
    train, evaluate, find_lr = (
        importlib.import_module(f"medcolor_tf.{name}") for name in ("train", "evaluate", "find_lr")
    )
    flip(data, FIRST, 3, 40)
    flip(data, "test-00001-of-00002.tfrecord", 1, 40)
    run = tmp_path / "run"
    common = [
        *(f"--data_dir={data}", "--strategy=baseline"),
        f"--backbone={one_layer_backbone_file}",
        *("--batch_size=4", "--steps=2", "--max_lr=0.01", "--cache=none"),
    ]
    words = [*common, f"--run_dir={run}", "--evaluate=test"]
    assert train.main(words) == 2
    assert f"{data}/{FIRST} record 3 (wrong checksum): cannot be read" in capsys.readouterr().err
    assert train.main([*words, "--max_bad_records=1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"left out: {FIRST} record 3 (wrong checksum)") == 2
    result = json.loads((run / "result.json").read_text())
    assert result["bad_records"] == {"test": 1, "train": 1, "valid": 0}
    assert result["train_images"] == 23
    record = json.loads((run / "config.json").read_text())
    assert record["bad_records"] == {"train": [[FIRST, 3]]}
    evaluation = json.loads((run / "evaluation-test.json").read_text())
    assert (evaluation["bad_records"], evaluation["images"]) == (1, 11)

    flip(data, FIRST, 4, 40)
    assert train.main([*words, "--max_bad_records=2"]) == 2
    assert "2 bad records left out (there: 1, or others" in capsys.readouterr().err
    words = [f"--data_dir={data}", f"--run_dir={run}"]
    assert evaluate.main(words) == 2
    assert "test-00001-of-00002.tfrecord record 1 (wrong checksum)" in capsys.readouterr().err
    assert evaluate.main([*words, "--max_bad_records=1"]) == 0
    assert "1 of 12 records of test cannot be read" in capsys.readouterr().out
    words = [*common, f"--run_dir={tmp_path / 'lr'}"]
    assert find_lr.main(words) == 2
    assert f"{FIRST} record 3" in capsys.readouterr().err
