"""Exports for other runtimes, their contract, and the comparison before they have a name."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_helpers import made_decision, make_run, pixels

from medcolor_tf import catalog
from medcolor_tf.catalog import EXPORT_FORMATS
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.export import ExportConfig
from medcolor_tf.export import main as export_main
from medcolor_tf.files import file_sha256
from medcolor_tf.keras_ops import ops
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import load_decision, save_decision
from medcolor_tf.serving import export as export_module
from medcolor_tf.serving import portable
from medcolor_tf.serving.export import CONTRACT, export

pytestmark = pytest.mark.slow
PORTABLE = ("onnx", "litert")


def needs(form):
    """Skips where the packages of a format are not installed."""
    for package in EXPORT_FORMATS[form].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'medcolor_tf[{EXPORT_FORMATS[form].extra}]'")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Of two channels of 16 bits, with local contrast, and a decision."""
    folder = tmp_path_factory.mktemp("formats of Mrs Miller") / "run"
    run_dir = make_run(folder, channels=2, bits=16, colorizer="context_map")
    save_decision(made_decision(run_dir, (0.6, None), slope=2.0, intercept=17.0), run_dir)
    return run_dir


@pytest.fixture(scope="module")
def exported(run_dir):
    """Exports once per format."""
    made = {}

    def export_as(form):
        needs(form)
        if form not in made:
            made[form] = export(ExportConfig(run_dir=str(run_dir), format=form))
        return made[form]

    return export_as


@pytest.fixture
def written_as(monkeypatch):
    """Has exports written by a function of the test's: given the model, what answers for it."""
    resolve = catalog.resolve
    addresses = {form.build for form in EXPORT_FORMATS.values()}

    def use(answer_of):
        def write(spec, model, folder, contract):
            folder.mkdir(parents=True)
            return answer_of(model)

        monkeypatch.setattr(
            catalog, "resolve", lambda name: write if name in addresses else resolve(name)
        )

    return use


def faithful(model):
    """Answers as the Keras model itself does."""
    return lambda reads: sigmoid(model.predict_on_batch(np.stack([r.image for r in reads]))[0])


def answers(form, folder, images) -> dict[str, Any]:
    """Outputs by name, of a runtime that knows nothing of this project."""
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / portable.ONNX_FILE))
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"images": images}), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / portable.LITERT_FILE))
    return interpreter.get_signature_runner()(images=images)


@pytest.mark.parametrize("form", PORTABLE)
def test_a_runtime_of_its_own_gives_the_numbers_of_keras(form, exported, run_dir):
    folder = exported(form)
    assert folder == run_dir / form
    model = classify_and_colorize(runs.load_classifier(run_dir)[1])
    decision = load_decision(run_dir)
    assert decision is not None
    for count in (1, 3):  # the batch is of any size
        images = np.stack(
            [pixels(32, 32, seed=i, dtype=np.uint16) for i in range(2 * count)], axis=-1
        ).reshape(32, 32, count, 2)
        images = np.ascontiguousarray(images.transpose(2, 0, 1, 3))
        logits, colorized = model.predict_on_batch(images)
        received = answers(form, folder, images)
        np.testing.assert_allclose(received["probabilities"], sigmoid(logits), atol=1e-5)
        np.testing.assert_allclose(received["logits"], logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(received["colorized"], colorized, atol=1e-4)
        np.testing.assert_allclose(received["calibrated"], decision.calibrated(logits), atol=2e-5)
        np.testing.assert_array_equal(received["decisions"], decision.classify(logits=logits))
    assert np.ptp(received["probabilities"]) > 0.01
    assert set(received["decisions"][:, 0]) == {0, 1}
    assert set(received["decisions"][:, 1]) == {-1}


@pytest.mark.parametrize("form", PORTABLE)
def test_the_contract_says_what_goes_in_and_of_which_weights_it_is(form, exported, run_dir):
    folder = exported(form)
    contract = json.loads((folder / CONTRACT).read_text())
    assert contract["observations"] == ["Edema", "Pleural Effusion"]
    assert contract["input"]["dtype"] == "uint16"
    assert contract["input"]["shape"] == ["batch", 32, 32, 2]
    assert contract["input"]["values"] == [0, 65535]
    assert (contract["normalisation"]["mean"], contract["normalisation"]["std"]) == (0.5, 0.25)
    assert "short side of 32 pixels" in " ".join(contract["preparation"])
    assert contract["weights"]["step"] == 7
    assert contract["weights"]["sha256"][runs.BEST] == file_sha256(run_dir / runs.BEST)
    assert contract["checked"]["largest_difference"] <= contract["tolerance"]
    assert contract["checked"]["films"] == 0
    for name, digest in contract["files"].items():
        assert file_sha256(folder / name) == digest
    assert {path.name for path in folder.iterdir()} - set(contract["files"]) == {CONTRACT}
    if form == "onnx":
        import onnx

        model = onnx.load(str(folder / portable.ONNX_FILE))
        (inside,) = [entry.value for entry in model.metadata_props]
        assert json.loads(inside)["observations"] == contract["observations"]
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("form", PORTABLE)
def test_nothing_of_this_machine_is_in_the_files(form, exported, run_dir):
    places = [str(run_dir), str(Path.cwd()), str(Path.home()), str(Path(tf.__file__).parent)]
    for path in exported(form).iterdir():
        content = path.read_bytes()
        for place in (*places, "Mrs Miller", "site-packages"):
            assert place.encode() not in content, (path, place)


def test_films_are_compared_and_counted(tmp_path, written_as, monkeypatch, capsys):
    written_as(faithful)
    run_dir = make_run(tmp_path / "run", colorizer="none")
    for i in range(3):
        Image.fromarray(pixels(40, 36, seed=i)).save(tmp_path / f"{i}.png")
    seen = []
    compare = export_module.compare
    monkeypatch.setattr(
        export_module,
        "compare",
        lambda answer, model, spec, films: (
            seen.extend(films) or compare(answer, model, spec, films)
        ),
    )
    words = [f"--run_dir={run_dir}", f"--check_inputs={tmp_path / '0.png'},{tmp_path / '2.png'}"]
    assert export_main(words) == 0
    said = capsys.readouterr().out
    assert "5 made-up images and 2 of --check_inputs, probabilities up to " in said
    assert [len(read.item.files) for read in seen] == [1, 1]
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = [f"--run_dir={run_dir}", f"--check_inputs={tmp_path / 'bad.png'}"]
    assert export_main([*words, f"--out={tmp_path / 'other'}"]) == 2
    assert "bad.png: not an image file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_validation_images_of_the_runs_data_set_are_compared(
    tmp_path, small_dataset, written_as, monkeypatch, capsys
):
    written_as(faithful)
    run_dir = make_run(tmp_path / "run", colorizer="none")
    fingerprint = json.loads((small_dataset / "dataset.json").read_text())["fingerprint"]
    config = {"flags": {"data_dir": str(small_dataset)}, "data_fingerprint": fingerprint}
    monkeypatch.setattr(runs.Run, "read_json", lambda run, name: config)
    spec, _, _ = runs.load_classifier(run_dir)
    films = export_module.films_of_run(run_dir, spec)
    assert len(films) == 12
    assert {np.shape(read.image) for read in films} == {(32, 32, 1)}
    config["data_fingerprint"] = "another"
    assert export_module.films_of_run(run_dir, spec) == []
    config["flags"] = {"data_dir": str(tmp_path / "gone")}
    assert export_module.films_of_run(run_dir, spec) == []
    assert export_main([f"--run_dir={run_dir}"]) == 0
    assert "no film was compared: name some by --check_inputs" in capsys.readouterr().out


def test_what_differs_on_a_film_is_refused(run_dir, tmp_path, written_as, capsys):
    """On the made-up images alone it is the same."""

    def answer_of(model):
        answer = faithful(model)
        return lambda reads: answer(reads) + 2e-4 * (np.stack([r.image for r in reads]).max() < 100)

    written_as(answer_of)
    for channel in ("a", "b"):
        Image.fromarray(np.full((32, 32), 50, np.uint16)).save(tmp_path / f"{channel}.png")
    (tmp_path / "films.csv").write_text("path,other\na.png,b.png\n")
    out = tmp_path / "new" / "export"
    words = [f"--run_dir={run_dir}", f"--out={out}", f"--check_inputs={tmp_path / 'films.csv'}"]
    assert export_main([*words, "--path_column=path,other", "--decision=none"]) == 2
    error = capsys.readouterr().err
    assert "the exported model and predict are up to 0.0002 apart on the images compared" in error
    assert "expected at most 1e-05, so nothing was exported" in error
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(("form", "package"), [("onnx", "tf2onnx"), ("litert", "ai_edge_litert")])
def test_a_missing_extra_is_named_before_anything_is_read(form, package, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    assert export_main(["--run_dir=nowhere", f"--format={form}"]) == 2
    error = capsys.readouterr().err
    assert f"--format={form} needs {package}" in error
    assert f"pip install 'medcolor_tf[{form}]'" in error


@pytest.mark.parametrize(("form", "named"), [("onnx", "Erfinv"), ("litert", "ops: Erfinv")])
def test_an_operation_that_a_runtime_lacks_is_named(form, named, tmp_path, run_dir):
    needs(form)
    spec, _, _ = runs.load_classifier(run_dir)
    images = keras.Input((None, None, 2))
    x = ops.cast(ops.sum(images, axis=(1, 2)), "float32")
    model = keras.Model(images, [ops.erfinv(x), ops.repeat(images, 3, axis=-1)[..., :3]])
    write = {"onnx": portable.write_onnx, "litert": portable.write_litert}[form]
    with pytest.raises(InputError, match=rf"={form}: the model cannot be conv.*{named}") as e:
        write(spec, model, tmp_path / "new", {})
    assert str(e.value).endswith("nothing was exported. --format=savedmodel takes every operation")
    assert "func.func" not in str(e.value)
