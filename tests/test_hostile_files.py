"""Descriptions, weights and models of strangers: refused in words, before they take memory."""

import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import damage
import huggingface_hub
import keras
import numpy as np
import pytest

from medcolor_tf.data.pipeline import Split
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError
from medcolor_tf.models import build_backbone
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.reporting.contents import Table
from medcolor_tf.reporting.output import to_csv
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.sharing import model_card, pretrained

MODEL = {
    "colorizer": "color_u",
    "colorizer_init": "paper",
    "backbone": "",
    "observations": [],
    "image_size": 32,
    "short_side": 32,
    "input_channels": 1,
    "bits": 8,
    "pixel_mean": 0.5,
    "pixel_std": 0.25,
    "bn_momentum": 0.9,
}
TENSORS = {"colorizer/a/kernel": np.ones((2, 3), np.float32)}


@pytest.fixture
def little_memory():
    """Python's own memory grows by 50 MB at most; NumPy's is counted too."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 10**9}, r"image_size: expected an integer from 1 to 16,384, received"),
        ({"input_channels": 10**6}, "input_channels: expected an integer from 1 to 256"),
        ({"observations": [str(i) for i in range(10**5)]}, "observations: expected 0 to 10,000"),
        ({"observations": ["a", "a"]}, "observations: expected no item twice, received 'a' twice"),
        ({"observations": [1]}, r"observations\[0\]: expected a text"),
        ({"backbone": "../../secret/backbone.keras"}, "backbone: expected backbone.keras or a"),
        ({"backbone": "/etc/passwd"}, "backbone: expected backbone.keras or a backbone's name"),
        ({"colorizer": "nothing"}, "colorizer: expected one of deconv, pixel_shuffle, color_u"),
        ({"colorizer": {}}, "colorizer: expected one of"),
        ({"bits": True}, "bits: expected one of 8, 16, received True"),
        ({"pixel_mean": None}, "pixel_mean: expected a number from 0 to 1, received None"),
        ({"pixel_mean": float("nan")}, "pixel_mean: expected a number from 0 to 1, received nan"),
        ({"pixel_std": float("inf")}, "pixel_std: expected a number from 0 to 1, received inf"),
        ({"pixel_std": 10**400}, "pixel_std: expected a number from 0 to 1"),
        ({"head": "pickle"}, "head: expected one of linear"),
        ({"surprise": 1}, "expected entries out of .*, received 'surprise'"),
    ],
)
def test_descriptions_of_models(tmp_path, little_memory, change, message):
    (tmp_path / runs.MODEL).write_text(json.dumps(MODEL | change))
    with pytest.raises(InputError, match=rf"model\.json: .*{message}"):
        ModelSpec.load(tmp_path / runs.MODEL)
    file = tmp_path / "t.safetensors"
    checkpoint.save(file, TENSORS, {"model": MODEL | change})
    with pytest.raises(InputError, match=rf"t\.safetensors: .*{message}"):
        pretrained.read_parts(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"short_side": 10**9}, "short_side: expected an integer from 1 to 16,384"),
        ({"channels": 10**9}, "channels: expected an integer from 1 to 256"),
        ({"images": {"train": 10**15}}, r"images\['train'\]: expected an integer"),
        ({"images": {"../train": 1}}, "images: expected names out of train, valid, test"),
        ({"pixel_mean": "0.5"}, "pixel_mean: expected a number"),
        ({"observations": "Edema"}, "observations: expected a list"),
        ({"uncertain_policy": {}}, "uncertain_policy: none of"),
        ({"bits": 32}, "bits: expected one of 8, 16, received 32"),
        ({"shards": [{"file": "../x.tfrecord"}]}, r"shards\[0\]: no bytes, records, sha256, split"),
    ],
)
def test_descriptions_of_data_sets(tmp_path, small_dataset, little_memory, change, message):
    content = json.loads((small_dataset / "dataset.json").read_text())
    del content["sha256"]
    (tmp_path / "dataset.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=rf"dataset\.json: {message}.*not a data set description"):
        DatasetInfo.load(tmp_path)


def test_shards_are_files_of_the_folder(tmp_path, small_dataset):
    content = json.loads((small_dataset / "dataset.json").read_text())
    del content["sha256"]
    for file in ("../train.tfrecord", "/etc/train.tfrecord", "a/b.tfrecord"):
        content["shards"][0]["file"] = file
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"shards\[0\]: file: expected NAME.tfrecord"):
            DatasetInfo.load(tmp_path)


def test_every_flipped_bit_of_a_description_is_found(tmp_path, small_dataset):
    data = (small_dataset / "dataset.json").read_bytes()
    whole = DatasetInfo.load(small_dataset)
    for position in range(0, len(data), 13):
        changed = data[:position] + bytes([data[position] ^ 2]) + data[position + 1 :]
        (tmp_path / "dataset.json").write_bytes(changed)
        found, message = damage.answer(DatasetInfo.load, tmp_path)
        assert found == whole or "dataset.json" in message, position


def test_an_index_that_unpacks_to_more_than_its_records_take(tmp_path, small_dataset):
    """The digest is the one in dataset.json: the stranger made both."""
    import hashlib
    import shutil

    folder = shutil.copytree(small_dataset, tmp_path / "data")
    index = folder / "index-test.npz"
    np.savez_compressed(
        index,
        index=np.zeros(10**7, np.int64),
        raw_labels=np.zeros((12, 3), np.float32),
        patient=np.zeros(12, "S16"),
    )
    content = json.loads((folder / "dataset.json").read_text())
    del content["sha256"]
    content["index_sha256"]["test"] = hashlib.sha256(index.read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index-test.npz: .*80,\d+ bytes of arrays|,\d+ bytes of"):
        Split(folder, "test")


def raw_safetensors(path: Path, header: dict, data: bytes) -> str:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return str(path)


@pytest.mark.parametrize(
    ("tensor", "metadata", "message"),
    [
        ({"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}, "{}", "F8_E8M0"),
        ({"dtype": "XYZ", "shape": [4], "data_offsets": [0, 4]}, "{}", "not weights saved by"),
        ({"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}, "{}", "not weights saved by"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "[1]", "expected an object"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "{", "metadata: cannot be read"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "[" * 10**5, "nested deeper than"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, None, "no medcolor_tf in its"),
        (
            {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            '{"step": "one"}',
            "metadata: step: expected an integer",
        ),
        (
            {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            '{"step": 1, "best": {"auc": "x", "step": 1}}',
            "best: auc: expected a number from 0 to 1",
        ),
    ],
)
def test_weights_files(tmp_path, little_memory, tensor, metadata, message):
    header = {"x": tensor}
    if metadata is not None:
        header["__metadata__"] = {"medcolor_tf": metadata}
    file = raw_safetensors(tmp_path / "w.safetensors", header, bytes(4))
    for read in (checkpoint.load, checkpoint.TrainState.load):
        with pytest.raises(InputError, match=rf"w\.safetensors: .*{message}"):
            read(file)


def test_a_colorizer_without_tensors(tmp_path):
    file = tmp_path / "t.safetensors"
    checkpoint.save(file, {"head/kernel": np.ones(2, np.float32)}, {"model": MODEL})
    with pytest.raises(InputError, match=r"t.safetensors: no tensor of the colorizer that it"):
        pretrained.read_parts(str(file))


def test_a_flipped_bit_anywhere_in_a_colorizer_file_is_found(tmp_path):
    file = tmp_path / "t.safetensors"
    content = checkpoint.to_bytes(TENSORS, checkpoint.with_digest(TENSORS, {"model": MODEL}))
    file.write_bytes(content)
    whole = pretrained.read_parts(str(file))
    np.testing.assert_array_equal(whole.arrays["colorizer/a/kernel"], 1)
    for position in range(len(content)):
        flipped = content[:position] + bytes([content[position] ^ 2]) + content[position + 1 :]
        file.write_bytes(flipped)
        parts, message = damage.answer(pretrained.read_parts, str(file))
        assert parts is not None or "t.safetensors" in message
        if parts is not None:
            assert parts.spec == whole.spec, position
            np.testing.assert_array_equal(parts.arrays["colorizer/a/kernel"], 1)
    checkpoint.save(file, TENSORS, {"model": MODEL})
    assert pretrained.read_parts(str(file)).spec == whole.spec, "version 0.1 wrote no digest"


def test_a_card_of_another_form(tmp_path):
    file = tmp_path / "t.safetensors"
    checkpoint.save(file, TENSORS, {"model": MODEL, "card": {"data": [], "training": 3}})
    with pytest.raises(InputError, match=r"t.safetensors: card: no .*colorizer"):
        pretrained.read_parts(str(file))


# Keras model files


def keras_file(path: Path, change) -> str:
    """A small backbone whose config.json went through ``change`` (of text)."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    whole = path.with_name("whole.keras")
    keras.Model(inputs, keras.layers.Conv2D(4, 1, name="conv2")(x)).save(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("config.json"):
                data = change(data.decode()).encode()
            target.writestr(name, data)
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace('"filters": 4', '"filters": 1000000'),
            r"layer conv1 declares weights of shape \(3, 3, 3, 1000000\), 27,000,000 in all so far",
        ),
        (
            lambda text: text.replace("[null, null, null, 3]", "[null, null, null, 1000000000]"),
            r"layer conv1 declares weights of shape \(3, 3, 1000000000, 4\)",
        ),
        (lambda text: "[" * 10**5, "config.json: cannot be read"),
        (lambda text: text + " " * (65 * 2**20), "config.json: .* bytes, expected at most"),
    ],
)
def test_models_that_declare_more_than_they_hold(tmp_path, little_memory, change, message):
    add_weight = keras.layers.Layer.add_weight
    if "expected at most" in message:
        tracemalloc.clear_traces()
        tracemalloc.stop()  # the text itself is as large
        tracemalloc.start()
    path = keras_file(tmp_path / "b.keras", change)
    tracemalloc.reset_peak()
    with pytest.raises(InputError, match=rf"--backbone=.*b\.keras: {message}"):
        build_backbone(path)
    assert keras.layers.Layer.add_weight is add_weight


def test_a_model_file_as_it_should_be(tmp_path):
    backbone = build_backbone(keras_file(tmp_path / "b.keras", lambda text: text))
    assert backbone.count_params() == 3 * 3 * 3 * 4 + 4 + 4 * 4 + 4


# The hub


def test_downloads_are_compared_with_the_name_that_the_hub_gave_them(tmp_path, monkeypatch, capsys):
    import hashlib

    commit = "0123456789abcdef0123456789abcdef01234567"
    content = checkpoint.to_bytes(TENSORS, {"model": MODEL})
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    file = tmp_path / "snapshots" / commit / "colorizer.safetensors"
    for path in (blob, file):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    file.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *words, **more: str(file))
    parts = pretrained.read_parts("hf://me/T")
    assert parts.origin == f"hf://me/T@{commit}"
    assert f"hf://me/T is hf://me/T@{commit} today" in capsys.readouterr().out
    pretrained.read_parts(f"hf://me/T@{commit}")
    assert "today" not in capsys.readouterr().out
    with pytest.raises(InputError, match=rf"expected commit {'f' * 40}, received {commit}"):
        pretrained.read_parts(f"hf://me/T@{'f' * 40}")
    blob.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"damaged: its digest is .*, the hub's"):
        pretrained.read_parts(f"hf://me/T@{commit}")


# What is written of it


def test_cells_that_spreadsheets_would_compute():
    ordinary = [
        "-",
        "- to -",
        "+1.2",
        "-0.3 to +0.4",
        "85.1 ± 0.2",
        "-1.0 ± 0.2",
        "0.05",
        "plain",
        "a=b",
        "",
    ]
    formulas = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "-a", "+1-1"]
    rows = tuple((text, "x") for text in (*ordinary, *formulas))
    lines = to_csv(Table("t", "T", ("a", "b"), rows)).splitlines()[1:]
    assert lines[: len(ordinary)] == [f"{text},x" for text in ordinary]
    assert all(line.lstrip('"').startswith("'") for line in lines[len(ordinary) :])


def test_a_card_of_a_stranger_cannot_add_rows_or_links_to_a_page():
    evil = "x | y |\n\n# Heading [link](http://evil) `code` <b>"
    card = {
        **dict.fromkeys(("input_channels", "bits", "max_value", "image_size"), 1),
        **{"colorizer": "color_u", "colorizer_init": "gray", "pixel_mean": 0.5, "pixel_std": 0.2},
        "origin": evil,
        "data": dict.fromkeys(("source", "observations", "train_images", "fingerprint")),
        "training": dict.fromkeys(("strategy", "backbone", "step", "valid_mean_auc")),
        "test": None,
        "versions": None,
    }
    text = str(model_card.make(card, "me/T"))
    (line,) = [line for line in text.splitlines() if "made from" in line]
    assert line.endswith(r"| x \| y \| \# Heading \[link\](http://evil) \`code\` &lt;b> |")
    assert "\n# Heading" not in text
