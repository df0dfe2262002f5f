"""Prediction of files: the same numbers as the Keras model's, and nothing lost."""

import csv
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_helpers import encode, make_run, pixels

from medcolor_tf.catalog import HEAT_MAPS
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import visualize
from medcolor_tf.evaluation.heat_maps import MultiscaleMaps
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.export import ExportConfig
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.predict import PredictConfig
from medcolor_tf.predict import main as predict_main
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving.export import export
from medcolor_tf.serving.partial import PartialTable
from medcolor_tf.serving.pictures import Pictures
from medcolor_tf.serving.predict import predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("serving") / "run")


def test_inference_runs_folded_weights(tmp_path):
    """The moving statistics are in the convolutions: no pass over the images for them."""
    run_dir = make_run(tmp_path / "run", colorizer="pixel_shuffle")
    spec, folded, step = runs.load_predictor(run_dir)
    plain_spec, plain, plain_step = runs.load_classifier(run_dir)
    assert (spec, step) == (plain_spec, plain_step)
    assert not folded.trainable_variables
    images = np.stack([pixels(32, 32, seed=i) for i in range(3)])[..., None]
    expected = plain.predict_on_batch(images)
    np.testing.assert_allclose(folded.predict_on_batch(images), expected, rtol=1e-4, atol=1e-5)
    exported = tf.saved_model.load(export(ExportConfig(run_dir=str(run_dir))))
    for model in (folded, exported):
        # Kernel, scale, shift, mean and variance of a convolution became kernel and bias.
        assert len(model.variables) < 0.6 * len(plain.variables)


def test_predict_in_bfloat16_is_near_and_leaves_the_precision_as_it_was(run_dir, tmp_path):
    Image.fromarray(pixels(40, 36)).save(tmp_path / "x.png")
    chances = []
    for mixed in (False, True):
        out = str(tmp_path / f"{mixed}.csv")
        config = PredictConfig(str(run_dir), (str(tmp_path / "x.png"),), out, mixed_precision=mixed)
        assert predict(config) == (1, 0)
        with open(out, newline="") as file:
            chances.append(float(next(csv.DictReader(file))["Edema"]))
    assert chances[0] != chances[1]
    assert chances[0] == pytest.approx(chances[1], abs=0.02)
    assert keras.config.dtype_policy().name == "float32"


def test_predict_goes_on_after_a_bad_file_and_draws_pictures(run_dir, tmp_path, capsys):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for i, name in enumerate(("b.png", "a.jpg", "sub/a.png")):
        (images / name).write_bytes(
            encode(pixels(48, 40, seed=i), "JPEG" if "jpg" in name else "PNG")
        )
    (images / "cut.png").write_bytes(encode(pixels(64, 64), "PNG")[:200])
    (images / "empty.jpg").write_bytes(b"")
    (images / "notes.txt").write_text("not an image")
    arguments = [
        f"--run_dir={run_dir}",
        f"--inputs={images}",
        f"--out={tmp_path / 'out.csv'}",
        f"--colorized_dir={tmp_path / 'colours'}",
        "--batch_size=2",
    ]
    assert predict_main(arguments) == 1
    assert "2 images could not be read" in capsys.readouterr().err
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == [
        "a.jpg",
        "b.png",
        "cut.png",
        "empty.jpg",
        "a.png",
    ]
    for row in rows:
        assert bool(row["error"]) == (row["Edema"] == "")
    assert rows[3]["error"] == "empty file"
    names = sorted(path.name for path in (tmp_path / "colours").iterdir())
    assert names == ["a.png", "b.png", "sub_a.png"]
    assert [Path(row["colorized"]).name for row in rows] == ["a.png", "b.png", "", "", "sub_a.png"]
    with Image.open(tmp_path / "colours" / "a.png") as picture:
        assert picture.size == (64, 32)
    assert predict_main(arguments) == 2
    assert "exists; expected a new file" in capsys.readouterr().err


def test_predictions_do_not_depend_on_the_batch(run_dir, tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(encode(pixels(32, 36, seed=i), "PNG"))
    texts = []
    for size in (1, 5):
        out = tmp_path / f"out{size}.csv"
        predict(PredictConfig(str(run_dir), (str(tmp_path),), str(out), batch_size=size))
        with open(out, newline="") as file:
            texts.append([float(row["Edema"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(*texts, atol=1e-6)
    assert len(set(texts[0])) == 5


@pytest.mark.parametrize("kind", HEAT_MAPS)
def test_explain_draws_heat_of_every_image_that_can_be_read(run_dir, tmp_path, kind):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "sub/a.png")):
        (images / name).write_bytes(encode(pixels(32, 32, seed=i), "PNG"))
    (images / "bad.png").write_bytes(b"no image")
    out, folder = tmp_path / "out.csv", tmp_path / "new" / "explained"
    command = [f"--run_dir={run_dir}", f"--inputs={images}", f"--out={out}", "--batch_size=2"]
    assert predict_main([*command, f"--explain={folder}", f"--heat_map={kind}"]) == 1
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-3:] == ["colorized", "explained", "error"]
    names = [Path(row["explained"]).name for row in rows]
    assert names == ["a.png", "b.png", "", "sub_a.png"]
    assert rows[2]["error"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "sub_a.png"]

    classifier = runs.load_classifier(run_dir)[1]
    image = pixels(32, 32, seed=2)[None, ..., None]
    model = classify_and_colorize(classifier, features=True)
    logits, colorized, features = model.predict_on_batch(image)
    if kind == "grad_cam":
        maps = visualize.grad_cam(features, classifier.get_layer("head").kernel.numpy())
    else:
        maps = MultiscaleMaps(classifier, 32, [0, 1])(colorized)
    heat = visualize.to_heat(maps, sigmoid(logits))
    assert heat.max() > 0
    observations = ("Edema", "Pleural Effusion")
    expected = visualize.draw_explanation(
        image[0], colorized[0], heat[0], sigmoid(logits)[0], observations, kind
    )
    found = np.asarray(Image.open(rows[3]["explained"])).astype(int)
    # One probability may round to its neighbour when the batch is another.
    assert np.mean(np.abs(found - expected) > 2) < 1e-3


def test_explain_takes_some_observations_deep_images_and_models_without_colorizer(tmp_path):
    folder = make_run(tmp_path / "run", channels=2, bits=16, colorizer="none")
    for i, name in enumerate(("t1.png", "t2.png")):
        (tmp_path / name).write_bytes(encode(pixels(40, 32, seed=i, dtype=np.uint16), "PNG"))
    (tmp_path / "list.csv").write_text("t1,t2\nt1.png,t2.png\n")
    widths = []
    for i, chosen in enumerate(((), ("Pleural Effusion",))):
        config = PredictConfig(
            str(folder),
            (str(tmp_path / "list.csv"),),
            str(tmp_path / f"{i}.csv"),
            path_column=("t1", "t2"),
            explain=str(tmp_path / f"explained{i}"),
            explain_observations=chosen,
        )
        assert predict(config) == (1, 0)
        with Image.open(tmp_path / f"explained{i}" / "t1.png") as picture:
            widths.append(picture.width)
    assert np.diff(widths) == -(320 + visualize.GAP)


def test_nothing_is_explained_unless_asked(run_dir, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("computed without --explain")

    for name in ("grad_cam", "to_heat", "draw_explanation"):
        monkeypatch.setattr(visualize, name, refuse)
    wanted = []
    monkeypatch.setattr(
        "medcolor_tf.serving.predict.classify_and_colorize",
        lambda model, features: wanted.append(features) or classify_and_colorize(model),
    )
    (tmp_path / "a.png").write_bytes(encode(pixels(32, 32), "PNG"))
    out = tmp_path / "out.csv"
    assert predict(PredictConfig(str(run_dir), (str(tmp_path / "a.png"),), str(out))) == (1, 0)
    assert wanted == [False]
    with open(out, newline="") as file:
        assert next(csv.DictReader(file))["explained"] == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--explain=new", "--explain_observations=Edema,Hernia"),
            "--explain_observations: the run has no 'Hernia'; it has Edema, Pleural Effusion",
        ),
        (("--explain_observations=Edema",), "--explain_observations without --explain=FOLDER"),
        (("--heat_map=grad_cam",), "--heat_map=grad_cam without --explain=FOLDER"),
        (("--explain=file",), "--explain=file: is a file, expected a folder"),
        (("--explain=file/sub",), "--explain=file/sub: cannot be written to (Not a directory)"),
        (("--colorized_dir=file",), "--colorized_dir=file: is a file, expected a folder"),
        (("--explain=old",), "--explain=old: old/a.png exists and would be written over; expected"),
        (("--explain=new", "--colorized_dir=./new"), "--explain=new: is --colorized_dir"),
        (("--explain=images",), "--explain=images: has images of --inputs; expected a folder"),
    ],
)
def test_flags_for_pictures_that_cannot_be_met(
    run_dir, tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/a.png").write_bytes(encode(pixels(32, 32), "PNG"))
    Path("file").write_text("")
    Path("old").mkdir()
    Path("old/a.png").write_text("another command's")
    assert predict_main([f"--run_dir={run_dir}", "--inputs=images", "--out=o.csv", *flags]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in Path().glob("*.csv")] == []
    assert [path.name for path in Path("images").iterdir()] == ["a.png"]
    assert Path("old/a.png").read_text() == "another command's"


def test_pictures_never_share_a_file_and_say_what_cannot_be_written(tmp_path):
    pictures = Pictures(tmp_path, "explain")
    picture = np.zeros((2, 2, 3), np.uint8)
    names = ["a", "a", "a-2", "a", "b-2", "b", "b"]
    paths = pictures.save(names, lambda i: picture)
    found = [Path(path).name for path in paths]
    expected = ["a", "a-2", "a-2-2", "a-3", "b-2", "b", "b-3"]
    assert found == [f"{name}.png" for name in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(found)
    with pytest.raises(InputError, match=r"a\.png exists, and 3 more of its files, and would be"):
        Pictures(tmp_path, "explain").check_free(["a", "c", "a", "a-2", "c", "a"])
    pictures.check_free(["c", "d"])
    with pytest.raises(InputError, match=r"x+\.png: cannot be written \(File name too long\)"):
        pictures.save(["x" * 300], lambda i: picture)


def test_runs_that_are_not_there_are_named(tmp_path, run_dir):
    with pytest.raises(InputError, match=r"model.json: no such file; expected a run folder"):
        runs.load_classifier(tmp_path)
    with pytest.raises(InputError, match=r"last.safetensors: no such file; the run has not"):
        runs.load_classifier(run_dir, "last")


def test_a_row_per_study_beside_the_images_rows(run_dir, tmp_path, capsys, monkeypatch):
    images = tmp_path / "patient1"
    for i, name in enumerate(("study1/a.png", "study1/b.png", "study2/a.png")):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(encode(pixels(48, 40, seed=i), "PNG"))
    (images / "study2" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = ["path,exam", "study1/a.png,A", "study1/b.png,A", "study2/a.png,B", "study2/cut.png,B"]
    (images / "list.csv").write_text("\n".join(rows) + "\n")

    def run(inputs, out, *flags):
        status = predict_main(
            [f"--run_dir={run_dir}", f"--inputs={inputs}", f"--out={out}", *flags]
        )
        return status, capsys.readouterr()

    def read(path):
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    status, said = run(images / "list.csv", tmp_path / "t.csv", "--study_column=exam")
    assert status == 1
    assert f"2 studies (mean of their images): {tmp_path / 't-studies.csv'}" in said.out
    of_images, studies = read(tmp_path / "t.csv"), read(tmp_path / "t-studies.csv")
    chances = [float(row["Edema"] or "nan") for row in of_images]
    assert [(row["study"], row["images"], row["unread"]) for row in studies] == [
        ("A", "2", "0"),
        ("B", "2", "1"),
    ]
    assert float(studies[0]["Edema"]) == pytest.approx(np.mean(chances[:2]), rel=1e-6)
    assert float(studies[1]["Edema"]) == pytest.approx(chances[2], rel=1e-6)
    status, _ = run(images, tmp_path / "f.csv", "--study_column=parent_folder", "--aggregate=max")
    assert status == 1
    studies = read(tmp_path / "f-studies.csv")
    assert [row["study"] for row in studies] == [str(images / f"study{n}") for n in (1, 2)]
    assert float(studies[0]["Edema"]) == pytest.approx(max(chances[:2]), rel=1e-6)
    # Killed after the studies were written and before the images' table had its name.
    before = (tmp_path / "t-studies.csv").read_bytes()
    (tmp_path / "t.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(PartialTable, "finish", lambda self: sys.exit(9))
        (tmp_path / "t-studies.csv").unlink()
        with pytest.raises(SystemExit):
            run(images / "list.csv", tmp_path / "t.csv", "--study_column=exam")
    assert (tmp_path / "t-studies.csv").read_bytes() == before
    assert run(images / "list.csv", tmp_path / "t.csv", "--study_column=exam")[0] == 1
    assert (tmp_path / "t-studies.csv").read_bytes() == before
    (tmp_path / "t.csv").unlink()
    status, said = run(images / "list.csv", tmp_path / "t.csv", "--study_column=exam")
    assert status == 2
    assert "t-studies.csv exists; expected a new file" in said.err
    (images / "list.csv").write_text("path,exam\nstudy1/a.png,\n")
    for inputs, flag, message in (
        (images, "--study_column=exam", "has no column 'exam' (--study_column names it)"),
        (images / "list.csv", "--study_column=exam", "line 2: column 'exam' is empty"),
        (images, "--aggregate=max", "--aggregate=max without --study_column"),
    ):
        status, said = run(inputs, tmp_path / "x.csv", flag)
        assert status == 2
        assert message in said.err
        assert not (tmp_path / "x.csv").exists()
