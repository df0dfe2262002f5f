"""Images in the accelerator's memory: the same crops and the same weights, bit for bit."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data.packed_images import PackedImages
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.parallel import runtime
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import device_cache
from medcolor_tf.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
LINE_BYTES = 24 * 40 * 32  # of the small data set's training images
NO_MODEL: Any = None  # where the images are refused, or their loading is replaced
pytestmark = pytest.mark.slow


def stored(split, block_bytes):
    """The split's images in a layer."""
    lines = PackedImages.from_split(split)
    channels, turned = split.info.channels, bool(lines.transposed.any())
    layer = device_cache.DeviceImages(lines.rows, lines.side, channels, lines.dtype, turned)
    layer.fill(lines.blocks(block_bytes))
    return lines, layer


@pytest.mark.parametrize(
    ("dataset", "image_size", "fraction", "block_bytes"),
    [
        ({}, None, 1.0, 10**9),
        ({"records_per_shard": 3}, None, 0.5, 3000),  # blocks end inside images
        ({"size": (40, 32), "bits": 16, "channels": 2, "encoding": "raw"}, None, 1.0, 1),
        ({"size": (32, 32)}, 16, 1.0, 3000),
        ({"size": (32, 32)}, 48, 1.0, 3000),
    ],
)
def test_crops_are_those_of_the_stream(
    tmp_path, write_small_dataset, dataset, image_size, fraction, block_bytes
):
    write_small_dataset(tmp_path, **dataset)
    split = Split(tmp_path, "train", Selection(train_fraction=fraction), image_size)
    lines, layer = stored(split, block_bytes)
    compiled = tf.function(layer, jit_compile=True)  # as on a GPU
    count = 2 * split.steps_per_epoch(5) + 1
    stream = 5, 3, 1, 7
    pairs = zip(
        split.training_batches(*stream).take(count), lines.batches(stream).take(count), strict=True
    )
    for number, ((images, labels), (places, same_labels)) in enumerate(pairs):
        assert places.dtype == tf.int32
        found = layer(places)
        assert found.dtype == images.dtype
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(same_labels, labels)
        if number == 0:
            np.testing.assert_array_equal(compiled(places), images)


def test_images_of_several_shapes_share_the_array(tmp_path, write_small_dataset, monkeypatch):
    """Upright, square and landscape images of one short side, which one data set may hold."""
    write_small_dataset(tmp_path)
    split = Split(tmp_path, "train")
    random = np.random.default_rng(0)
    sizes = np.array([[32, 40], [40, 32], [32, 32], [33, 32]] * 6)
    pictures = [random.integers(0, 256, (*size, 1), "uint8") for size in sizes]
    split.__dict__["sizes"] = sizes
    monkeypatch.setattr(
        Split,
        "decoded",
        lambda *_: tf.data.Dataset.from_generator(
            lambda: ((picture, b"") for picture in pictures),
            output_signature=(
                tf.TensorSpec((None, None, 1), tf.uint8),
                tf.TensorSpec((), tf.string),
            ),
        ),
    )
    lines, layer = stored(split, 5000)
    places = np.stack([lines.row_offsets + lines.overhang, lines.transposed], axis=1)
    places = places.astype("int32")
    for picture, found in zip(pictures, layer(places).numpy(), strict=True):
        np.testing.assert_array_equal(found, picture[-32:, -32:])


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """A small network with batch normalisation and dropout."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)


@pytest.fixture
def config(small_dataset, tmp_path, backbone_file):
    return TrainConfig(
        data_dir=str(small_dataset),
        run_dir=str(tmp_path / "run"),
        strategy="baseline_all",
        backbone=backbone_file,
        batch_size=8,
        steps=5,
        checkpoint_every=2,
        max_lr="0.05",
        deterministic=True,
    )


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def test_a_run_ends_with_the_same_bits_and_resumes(config, tmp_path, monkeypatch, capsys):
    folders = {}
    for cache in ("none", "ram", "device"):
        folders[cache] = str(tmp_path / cache)
        one = dataclasses.replace(config, cache=cache, run_dir=folders[cache])
        train(one)
        assert f"\ncache {cache}:" in capsys.readouterr().out

    def die(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 3:
            raise Killed

    folders["killed"] = str(tmp_path / "killed")
    killed = dataclasses.replace(config, cache="device", run_dir=folders["killed"])
    with monkeypatch.context() as patch:
        patch.setattr("medcolor_tf.training.callbacks.Progress.on_train_batch_end", die)
        with pytest.raises(Killed):
            train(killed)
    train(killed)
    for name in (runs.LAST, runs.BEST):
        arrays = {kind: checkpoint.load(f"{folder}/{name}")[0] for kind, folder in folders.items()}
        for kind in folders:
            assert arrays[kind].keys() == arrays["none"].keys()  # and so without the images
            for key, array in arrays[kind].items():
                np.testing.assert_array_equal(array, arrays["none"][key], err_msg=f"{kind} {key}")


def gpu(free, accelerated=True):
    return lambda: runtime.Device("GPU:0", free, accelerated)


@pytest.mark.parametrize(
    ("cache", "free", "accelerated", "replicas", "expected"),
    [
        ("auto", 2 * LINE_BYTES, True, 1, "cache device: 24 training images, 30.7 kB decoded, on"),
        ("auto", 2 * LINE_BYTES - 2, True, 1, "not on GPU:0: 24 decoded images are 30.7 kB"),
        ("auto", 1000, True, 1, "not on GPU:0: 24 decoded images are 24.6 kB or more, beyond half"),
        ("auto", None, True, 1, "not on GPU:0: how much of its memory is free is not known"),
        ("auto", 10**9, True, 2, "not on GPU:0: each of 2 replicas would hold all images"),
        ("auto", 10**9, False, 1, "cache ram: 36 images"),
        ("ram", 10**9, True, 1, "cache ram: 36 images"),
        ("device", LINE_BYTES, True, 1, "GPU:0, 30.7 kB were free; validation: cache ram: 12 im"),
        ("device", 10**9, False, 1, "GPU:0 (no accelerator: the machine's own memory)"),
    ],
)
def test_the_choice_follows_device_and_memory(
    small_dataset, monkeypatch, cache, free, accelerated, replicas, expected
):
    monkeypatch.setattr(runtime, "device", gpu(free, accelerated))
    monkeypatch.setattr(
        device_cache.DeviceImageCache, "load", lambda images, model: SimpleNamespace(images=images)
    )
    splits = [Split(small_dataset, name) for name in ("train", "valid")]
    cached, note = device_cache.cache_images(cache, splits[0], splits[1], NO_MODEL, replicas)
    assert expected in note
    assert (cached is not None) == note.startswith("cache device")
    assert [split._ram_cache is not None for split in splits] == [cached is None, True]


@pytest.mark.parametrize(
    ("free", "image_size", "replicas", "message"),
    [
        (LINE_BYTES - 1, None, 1, r"24 decoded images are 30.7 kB or more, beyond the 30.7 kB"),
        (10**9, 16, 1, "not square are cropped before they are scaled from 32 to 16 px"),
        (10**9, None, 2, "each of 2 replicas"),
    ],
)
def test_what_the_device_cannot_hold_is_refused(
    small_dataset, monkeypatch, free, image_size, replicas, message
):
    monkeypatch.setattr(runtime, "device", gpu(free))
    splits = [Split(small_dataset, name, None, image_size) for name in ("train", "valid")]
    with pytest.raises(InputError, match=f"--cache=device: .*{message}.*expected --cache=ram"):
        device_cache.cache_images("device", splits[0], splits[1], NO_MODEL, replicas)


def test_an_image_unlike_its_record_is_named(small_dataset):
    split = Split(small_dataset, "train")
    split.__dict__["sizes"] = np.array([[32, 40]] * 5 + [[40, 32]] + [[32, 40]] * 18)
    with pytest.raises(InputError, match=r"image traini5: \[32, 40\] pixels, expected \[40, 32\]"):
        list(PackedImages.from_split(split).blocks())


def test_free_memory_of_this_machine_is_plausible():
    found = runtime.device()
    assert not found.accelerator  # the tests hide accelerators
    assert found.free is not None
    assert 2**26 < found.free < 2**50


def test_tensorflow_tells_what_its_gpu_has_left(monkeypatch):
    """With stand-ins for TensorFlow's answers: no machine of the tests has a GPU."""
    from tensorflow.python.client import device_lib

    limits = {"/device:CPU:0": 9, "/device:GPU:0": 70}
    found = [SimpleNamespace(name=name, memory_limit=limit) for name, limit in limits.items()]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: found[1:])
    monkeypatch.setattr(device_lib, "list_local_devices", lambda: found)
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", {"GPU:0": {"current": 8}}.get)
    assert runtime.device() == runtime.Device("GPU:0", 62, True)


@pytest.mark.parametrize(
    ("told", "free"), [({"bytes_limit": 70, "bytes_in_use": 8}, 62), (None, None), ({}, None)]
)
def test_jax_tells_what_its_gpu_has_left(monkeypatch, told, free):
    gpu = SimpleNamespace(platform="gpu", id=0, memory_stats=lambda: told)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(local_devices=lambda: [gpu]))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert runtime.device() == runtime.Device("GPU:0", free, True)


def test_more_lines_than_their_type_can_number_are_refused(small_dataset):
    split = Split(small_dataset, "train")
    split.__dict__["sizes"] = np.array([[32, 2**27]] * 16 + [[32, 32]] * 8)
    with pytest.raises(InputError, match=r"2,147,483,904 rows of pixels; expected at most"):
        PackedImages.from_split(split)
