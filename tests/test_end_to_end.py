"""All commands, one after the other, on drawn phantoms: what `make demo` does, in miniature."""

import csv
import importlib
import json

import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def command(name, *arguments):
    """Runs a command as `python -m NAME` does; returns its exit status."""
    return importlib.import_module(name).main(list(arguments))


def test_from_xray_files_to_an_exported_two_stage_model(tmp_path, capsys, backbone_file):
    images, data = tmp_path / "phantom", tmp_path / "tfrecords"
    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    build = [
        "data_prep.build",
        "--flagfile=prep_phantom.flags",
        f"--data_root={images}",
        f"--out={data}",
        "--phantom_images=60",
        "--short_side=32",
        "--workers=1",
    ]
    assert command(*build) == 0
    assert command("data_prep.verify", str(data)) == 0
    info = json.loads((data / "dataset.json").read_text())
    assert len(info["observations"]) == 5
    assert info["label_counts"]["train"]["Edema"]["uncertain"] > 0
    assert info["label_counts"]["train"]["Edema"]["blank"] > 0

    small = [
        "--flagfile=demo.flags",
        f"--backbone={backbone_file}",
        f"--data_dir={data}",
        "--colorizer=color_map",
        "--backbone_weights=none",
        "--evaluate=",
        "--image_size=0",
        "--batch_size=8",
        "--epochs=0",
        "--steps=4",
        "--checkpoint_every=2",
    ]
    train = ["medcolor_tf.train", "--flagfile=stage1.flags", *small]
    find_lr = ["medcolor_tf.find_lr", *train[1:], f"--run_dir={tmp_path / 'lr'}"]
    assert command(*find_lr) == 0
    assert "suggested --max_lr=" in capsys.readouterr().out
    assert command(*train, f"--run_dir={stage1}") == 0
    assert "RANDOM weights" in capsys.readouterr().out
    second = ["medcolor_tf.train", "--flagfile=stage2.flags", *small, "--colorizer="]
    assert command(*second, f"--run_dir={stage2}", f"--init_from={stage1}") == 0
    for run in (stage1, stage2):
        assert json.loads((run / "result.json").read_text())["steps"] == 4

    use = [f"--run_dir={stage2}"]
    assert command("medcolor_tf.evaluate", *use, f"--data_dir={data}") == 0
    table = capsys.readouterr().out
    result = json.loads((stage2 / "evaluation-test.json").read_text())
    assert f"{result['mean_auc']:.4f}" in table
    assert set(result["observations"]) == set(info["observations"])

    files = sorted(images.glob("valid/*/*/*.jpg"))[:3]
    inputs = ",".join(map(str, files))
    out, colours = tmp_path / "out.csv", tmp_path / "colours"
    predict = ["medcolor_tf.predict", *use, f"--inputs={inputs}", f"--out={out}"]
    assert command(*predict, f"--colorized_dir={colours}") == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert len(list(colours.iterdir())) == 3
    with Image.open(next(colours.iterdir())) as picture:
        assert picture.size == (64, 32)

    saved = tmp_path / "saved_model"
    assert command("medcolor_tf.export", *use, f"--out={saved}") == 0
    import tensorflow as tf

    content = tf.constant([files[0].read_bytes()])
    answer = tf.saved_model.load(saved).signatures["encoded"](content)
    expected = [float(rows[0][name]) for name in info["observations"]]
    assert answer["probabilities"].numpy()[0] == pytest.approx(expected, abs=1e-5)


def test_commands_say_what_was_wrong_with_their_input(tmp_path, capsys):
    """The messages a user meets first, through the commands themselves."""
    tried = [
        (["data_prep.build", "--source=table", "--table=nowhere.csv", "--observations=a",
          f"--out={tmp_path / 'o'}"],
         "nowhere.csv"),
        (["medcolor_tf.train", "--flagfile=stage1.flags", "--data_dir=nowhere"],
         "nowhere/dataset.json: no such file"),
        (["medcolor_tf.train", "--flagfile=stage1.flags", "--startegy=all"],
         "unknown flag --startegy; did you mean --strategy?"),
        (["medcolor_tf.evaluate", "--run_dir=nowhere", "--data_dir=nowhere"],
         "nowhere/model.json: no such file"),
        (["medcolor_tf.export", "--run_dir=nowhere"], "nowhere/model.json: no such file"),
    ]  # fmt: skip
    for arguments, message in tried:
        assert command(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert "Traceback" not in error
