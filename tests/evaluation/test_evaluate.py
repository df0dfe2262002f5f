"""The evaluate command: numbers, files, observations without both classes, unfit data."""

import csv
import json
from typing import Any

import numpy as np
import pytest

from medcolor_tf.data import schema
from medcolor_tf.evaluate import main
from medcolor_tf.evaluation import roc_auc
from medcolor_tf.evaluation.visualize import gray_picture, side_by_side, to_picture
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training.trainer import train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, small_dataset):
    import keras

    folder = tmp_path_factory.mktemp("evaluate")
    inputs = keras.Input((None, None, 3))
    kernel: Any = keras.initializers.GlorotUniform(seed=0)
    x = keras.layers.Conv2D(4, 3, 4, "same", name="conv1", kernel_initializer=kernel)(inputs)
    keras.Model(inputs, x).save(folder / "net.keras")
    config = TrainConfig(
        data_dir=str(small_dataset),
        run_dir=str(folder / "run"),
        strategy="baseline",
        backbone=str(folder / "net.keras"),
        batch_size=8,
        steps=2,
    )
    train(config)
    return config.run_dir


def test_numbers_and_files_agree(run_dir, small_dataset, tmp_path, capsys):
    arguments = [f"--run_dir={run_dir}", f"--data_dir={small_dataset}", f"--out={tmp_path}"]
    assert main([*arguments, "--batch_size=5"]) == 0
    result = json.loads((tmp_path / "evaluation-test.json").read_text())
    with open(tmp_path / "predictions-test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["images"] == result["patients"] == 12
    raw = schema.SplitIndex.load(small_dataset, "test")
    assert [row["patient"] for row in rows] == [name.decode() for name in raw.patient]
    printed = capsys.readouterr().out
    aucs = []
    for name, entry in result["observations"].items():
        labels = np.array([float(row[f"label {name}"] or "nan") for row in rows])
        scores = np.array([float(row[f"probability {name}"]) for row in rows])
        aucs.append(roc_auc(labels, scores)[0])
        assert entry["auc"] == pytest.approx(aucs[-1])
        assert entry["positive"] == (labels == 1).sum()
        assert entry["negative"] == (labels == 0).sum()
        assert f"{name:<16} {entry['auc']:7.4f}" in printed
    assert result["mean_auc"] == pytest.approx(np.mean(aucs))


def test_an_observation_of_one_class_is_named_and_left_out(
    run_dir, tmp_path, write_small_dataset, capsys
):
    """Under the policy `ignore` nothing is left of an observation that is always uncertain."""
    write_small_dataset(tmp_path / "data", always_uncertain="Cardiomegaly")
    arguments = [f"--run_dir={run_dir}", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path}"]
    assert main([*arguments, "--uncertain_policy=ignore"]) == 0
    result = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert result["undefined"] == ["Cardiomegaly"]
    assert result["observations"]["Cardiomegaly"]["auc"] is None
    assert result["observations"]["Cardiomegaly"]["unknown"] == 12
    others = [entry["auc"] for entry in result["observations"].values() if entry["auc"] is not None]
    assert result["mean_auc"] == pytest.approx(np.mean(others))
    assert "no AUC (needs a positive and a negative image): Cardiomegaly" in capsys.readouterr().out


def test_bfloat16_is_near_and_recorded(run_dir, small_dataset, tmp_path):
    found = []
    for flag in ("--nomixed_precision", "--mixed_precision"):
        out = tmp_path / flag
        arguments = [f"--run_dir={run_dir}", f"--data_dir={small_dataset}", f"--out={out}", flag]
        assert main(arguments) == 0
        mixed = json.loads((out / "evaluation-test.json").read_text())["mixed_precision"]
        assert mixed is (flag == "--mixed_precision")
        with open(out / "predictions-test.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        found.append([float(row["probability Edema"]) for row in rows])
    np.testing.assert_allclose(*found, atol=0.02)
    assert found[0] != found[1]


def test_data_of_another_label_set_or_kind_is_refused(
    run_dir, tmp_path, write_small_dataset, capsys
):
    write_small_dataset(tmp_path / "labels", observations=("Edema", "Hernia"))
    assert main([f"--run_dir={run_dir}", f"--data_dir={tmp_path / 'labels'}"]) == 2
    error = capsys.readouterr().err
    assert "no observation 'Cardiomegaly', 'Pleural Effusion'" in error
    assert "'Edema', 'Hernia'" in error
    write_small_dataset(tmp_path / "deep", bits=16)
    assert main([f"--run_dir={run_dir}", f"--data_dir={tmp_path / 'deep'}"]) == 2
    assert "16 bits a pixel, the model of" in capsys.readouterr().err
    assert main([f"--run_dir={tmp_path}", f"--data_dir={tmp_path / 'deep'}"]) == 2
    assert "expected a run folder made by" in capsys.readouterr().err


def test_pictures_show_colours_and_gray():
    images = np.array([[[[0], [255]], [[128], [64]]]], np.uint8)
    np.testing.assert_array_equal(gray_picture(images)[0, ..., 2], images[0, ..., 0])
    assert gray_picture(images.astype(np.uint16) * 257)[0, 0, 1, 0] == 255
    colours = np.random.default_rng(0).normal(size=(1, 8, 8, 3))
    picture = to_picture(colours)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() == 255
    # One scale for the three channels: their order of brightness, which is the hue, stays.
    flat, seen = colours.reshape(-1, 3), picture.reshape(-1, 3).astype(int)
    assert (seen[np.arange(64), flat.argmax(1)] == seen.max(1)).all()
    assert side_by_side(images, np.zeros((1, 2, 2, 3))).shape == (1, 2, 4, 3)
