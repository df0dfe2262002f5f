"""Damage that verify must find, each named with its file."""

import dataclasses
import shutil

import numpy as np
import pytest

from data_prep import verify
from medcolor_tf.data import schema
from medcolor_tf.data.schema import DatasetInfo


@pytest.fixture
def dataset(make_table, run_build, table_flags):
    flags = ("--valid_fraction=0.25", "--test_fraction=0.25", "--records_per_shard=3")
    status, output, folder = run_build(*table_flags(make_table(), *flags))
    assert status == 0, output
    return folder


def problems(folder):
    return "\n".join(verify.find_problems(folder))


def first_shard(folder):
    return folder / DatasetInfo.load(folder).split_shards("train")[0].file


def rewrite(folder, change):
    """Changes records of the first training shard and mends its size and SHA-256."""
    import hashlib

    import tensorflow as tf

    path = first_shard(folder)
    examples = [
        tf.train.Example.FromString(content)
        for content in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    change([example.features.feature for example in examples])
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    info, content = DatasetInfo.load(folder), path.read_bytes()
    shards = [
        dataclasses.replace(shard, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        if shard.file == path.name
        else shard
        for shard in info.shards
    ]
    dataclasses.replace(info, shards=tuple(shards)).save(folder)
    return path.name


def test_a_good_one_passes_also_as_a_command(dataset, capsys):
    assert verify.main([str(dataset), "--workers=1"]) == 0
    assert "all is well" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_other_encodings_pass(make_table, run_build, table_flags, encoding):
    flags = ("--valid_fraction=0.25", "--test_fraction=0.25", f"--encoding={encoding}")
    _, _, folder = run_build(*table_flags(make_table(), *flags))
    assert problems(folder) == ""


def test_cut_shard(dataset, capsys):
    path = first_shard(dataset)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert verify.main([str(dataset), "--workers=1"]) == 1
    output = capsys.readouterr().out
    assert f"{path}: cut off or damaged after" in output
    assert "bytes, expected" in output


def test_flipped_byte_and_missing_shard(dataset):
    path = first_shard(dataset)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{path}: SHA-256" in problems(dataset)
    path.unlink()
    assert f"{path}: no such file" in problems(dataset)


def test_changed_labels(dataset):
    def change(features):
        features[0]["label"].float_list.value[0] = 0.5

    name = rewrite(dataset, change)
    assert f"{name} record 0: label [0.5," in problems(dataset)

    def change_raw(features):
        changed = 1 - round(features[0]["raw_label"].float_list.value[0])
        for kind in ("label", "raw_label"):
            features[0][kind].float_list.value[0] = changed

    rewrite(dataset, change_raw)
    assert f"{name} record 0: raw label is" in problems(dataset)


def test_changed_image_size_and_ids(dataset):
    def change(features):
        features[0]["image"].bytes_list.value[0] = b"no image"
        features[1]["size"].int64_list.value[0] = 99
        features[2]["patient"].bytes_list.value[0] = b"somebody"

    name = rewrite(dataset, change)
    found = problems(dataset)
    assert f"{name} record 0: the image" in found
    assert f"{name} record 1: " in found
    assert f"{name} record 2: patient is b'somebody'" in found


def test_changed_pixels_disagree_with_mean(dataset):
    from data_prep.images import encode_image

    def change(features):
        features[0]["image"].bytes_list.value[0] = encode_image(np.zeros((16, 20), np.uint8), "png")

    rewrite(dataset, change)
    assert "pixel_mean" in problems(dataset)


def test_missing_feature(dataset):
    name = rewrite(dataset, lambda features: features[0].pop("index"))
    assert f"{name} record 0: no feature 'index'" in problems(dataset)


def test_wrong_description_and_indices(dataset):
    info = DatasetInfo.load(dataset)
    counts = {**info.label_counts, "train": {}}
    dataclasses.replace(info, label_counts=counts, images={**info.images, "train": 3}).save(dataset)
    assert "dataset.json: 3 train images, but its shards hold" in problems(dataset)
    info.save(dataset)
    path = schema.SplitIndex.path(dataset, "valid")
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path}: cannot be read" in problems(dataset)


def test_patient_in_two_splits(dataset):
    train, test = (schema.SplitIndex.load(dataset, split) for split in ("train", "test"))
    patient = train.patient.copy()
    patient[0] = test.patient[0]
    dataclasses.replace(train, patient=patient).save(dataset, "train")
    found = problems(dataset)
    assert f"patient {test.patient[0].decode()} is in train and in test" in found
    assert "index-train.npz: SHA-256" in found


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_picture_twice(dataset, split):
    import tensorflow as tf

    assert problems(dataset) == ""
    info = DatasetInfo.load(dataset)
    other = tf.data.TFRecordDataset(str(dataset / info.split_shards(split)[-1].file))
    last = list(other.as_numpy_iterator())[-1]
    picture = tf.train.Example.FromString(last).features.feature["image"].bytes_list.value[0]

    def change(features):
        features[0]["image"].bytes_list.value[0] = picture

    name = rewrite(dataset, change)
    found = problems(dataset)
    assert "again (SHA-256, train" in found
    assert f"{name} record 0" in found
    assert ("train and test" in found) == (split == "test")


def test_extra_and_no_files(dataset, tmp_path, capsys):
    shutil.copy(first_shard(dataset), dataset / "extra.tfrecord")
    assert "extra.tfrecord: not named" in problems(dataset)
    assert verify.main([str(tmp_path / "none")]) == 2
    assert "dataset.json: no such file" in capsys.readouterr().err
    assert verify.main(["--help"]) == 0
