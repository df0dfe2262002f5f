"""The exported model: the probabilities of predict, and errors that say what was expected."""

import csv
import io
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from odd_pictures import chunk, mutated, odd_pictures, png
from PIL import Image, PngImagePlugin
from serving_helpers import (
    OBSERVATIONS,
    compare_files,
    encode,
    load_export,
    made_decision,
    make_run,
    pixels,
)

from medcolor_tf.catalog import EXPORT_FORMATS
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.export import ExportConfig
from medcolor_tf.files import file_sha256, read_json
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.predict import PredictConfig
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import load_decision, save_decision
from medcolor_tf.serving import export as export_module
from medcolor_tf.serving import film
from medcolor_tf.serving.export import CONTRACT, export
from medcolor_tf.serving.inputs import InputImage, ReadImage
from medcolor_tf.serving.predict import predict
from medcolor_tf.serving.saved_model import EXTRA, answer_by

pytestmark = pytest.mark.slow


def make_decided_run(folder, **options):
    """A run whose decision file has calibrations, and a threshold for one of two findings."""
    run_dir = make_run(folder, **options)
    save_decision(made_decision(run_dir, (0.755, None), slope=2.0, intercept=-1.0), run_dir)
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a run of Mrs Miller") / "run"
    return make_decided_run(folder, colorizer="context_map")


@pytest.fixture(scope="module")
def exported(run_dir):
    return export(ExportConfig(run_dir=str(run_dir)))


@pytest.fixture(scope="module")
def signatures(exported):
    return load_export(exported).signatures


def predicted(run_dir, files, folder, **options):
    """The probabilities that the command writes, (B, L)."""
    out = folder / "predicted.csv"
    names = tuple(str(file) for file in files)
    predict(PredictConfig(str(run_dir), names, str(out), **options))
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in OBSERVATIONS] for row in rows])


def test_the_signatures_equal_the_keras_model(tmp_path):
    """Of a colorizer that is a network, with normalisation to fold."""
    run_dir = make_decided_run(tmp_path / "run", colorizer="color_u")
    loaded = tf.saved_model.load(export(ExportConfig(run_dir=str(run_dir))))
    signatures = loaded.signatures
    images = np.stack([pixels(32, 32, seed=i) for i in range(3)])[..., None]
    model = classify_and_colorize(runs.load_classifier(run_dir)[1])
    logits, colorized = model.predict_on_batch(images)
    decision = load_decision(run_dir)
    assert decision is not None
    calibrated = decision.calibrated(logits)
    assert set(decision.classify(logits=logits)[:, 0]) == {0, 1}
    files = [encode(image[..., 0], "PNG") for image in images]
    inputs = {"serving_default": images, "uint16": images.astype(np.uint16) * 257}
    inputs |= {"encoded": files, "prepared": images, "colorized": images}
    assert set(signatures) == set(inputs)
    outputs = {name: {"probabilities", "calibrated", "decisions"} for name in inputs}
    outputs["encoded"] |= {"observations"}
    outputs["prepared"] |= {"observations"}
    outputs["colorized"] |= {"colorized"}
    for name, given in inputs.items():
        answer = signatures[name](tf.constant(given))
        assert set(answer) == outputs[name], name
        np.testing.assert_allclose(answer["probabilities"], sigmoid(logits), atol=1e-5)
        assert np.ptp(answer["probabilities"].numpy()) > 0.05
        np.testing.assert_allclose(answer["calibrated"], calibrated, atol=2e-5)
        np.testing.assert_array_equal(answer["decisions"], decision.classify(logits=logits))
        # TensorFlow Serving's row format: a row of every output per image.
        assert all(len(output) == 3 for output in answer.values()), name
    np.testing.assert_allclose(answer["colorized"], colorized, atol=1e-5)
    names = signatures["encoded"](tf.constant(files))["observations"].numpy()
    assert [[name.decode() for name in row] for row in names] == [list(OBSERVATIONS)] * 3


def test_odd_files_give_what_predict_gives(exported, run_dir, tmp_path):
    """tests/nightly compares more of them."""
    compared = compare_files(exported, run_dir, odd_pictures(60), tmp_path)
    assert (compared.read, compared.only_predict, compared.only_graph) == (60, {}, {})
    assert compared.pixels == 0
    assert compared.probabilities <= 1e-5


def test_x_rays_give_what_predict_gives(exported, run_dir, tmp_path, shared):
    paths = sorted((shared / "xray" / "nih1000" / "images").glob("*.jpg"))[:15]
    files = ((path.name, path.read_bytes()) for path in paths)
    compared = compare_files(exported, run_dir, files, tmp_path)
    assert (compared.read, compared.pixels) == (15, 0)
    assert compared.probabilities <= 1e-5


def test_the_command_and_the_export_agree(exported, run_dir, signatures, tmp_path):
    contents = [encode(pixels(100, 90), "JPEG"), encode(pixels(20, 85, seed=1), "PNG")]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}").write_bytes(content)
    expected = predicted(run_dir, [tmp_path / "0", tmp_path / "1"], tmp_path)
    received = signatures["encoded"](tf.constant(contents))["probabilities"]
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_arrays_are_resized_as_files_are(signatures):
    for size, dtype in (((100, 90), np.uint8), ((20, 85), np.uint16), ((200, 40), np.uint8)):
        image = pixels(*size, dtype=dtype)
        name = "uint16" if dtype == np.uint16 else "serving_default"
        batch = tf.constant(np.stack([image, image[::-1]])[..., None])
        from_arrays = signatures[name](batch)["probabilities"]
        files = tf.constant([encode(image, "PNG"), encode(image[::-1], "PNG")])
        from_files = signatures["encoded"](files)["probabilities"]
        np.testing.assert_allclose(from_arrays, from_files, atol=1e-6)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """Of two channels, 16 bits, a stretched range, and without a colorizer."""
    folder = tmp_path_factory.mktemp("other") / "run"
    return make_run(folder, channels=2, bits=16, colorizer="none", pixel_range="percentile")


@pytest.fixture(scope="module")
def other_export(other_run):
    return export(ExportConfig(run_dir=str(other_run)))


def test_runs_of_stretched_images_are_exported(other_run, other_export, tmp_path):
    files = [("dark", encode(pixels(50, 60) // 5 + 10, "PNG"))]
    files += [("12 bits", encode(pixels(90, 60, dtype=np.uint16) // 16, "PNG"))]
    files += [("constant", encode(np.full((40, 50), 7, np.uint8), "PNG"))]
    compared = compare_files(other_export, other_run, [*files, *odd_pictures(6)], tmp_path)
    assert (compared.read, compared.pixels) == (9, 0)
    assert compared.probabilities <= 1e-5


def test_several_channels_of_16_bits(other_run, other_export, tmp_path):
    images = [pixels(40, 32, seed=i, dtype=np.uint16) // (i + 1) for i in range(2)]
    for name, image in zip(("t1.png", "t2.png"), images, strict=True):
        (tmp_path / name).write_bytes(encode(image, "PNG"))
    (tmp_path / "list.csv").write_text("id,t1,t2\n1,t1.png,t2.png\n")
    expected = predicted(other_run, [tmp_path / "list.csv"], tmp_path, path_column=("t1", "t2"))
    loaded = load_export(other_export)
    files = [encode(image, "PNG") for image in images]
    received = loaded.signatures["encoded"](tf.constant([files]))["probabilities"]
    np.testing.assert_allclose(received, expected, atol=1e-5)
    batch = np.stack(images, axis=-1)[None]
    answer = loaded.signatures["colorized"](tf.constant(batch))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["colorized"].shape == (1, 32, 32, 3)
    other = [files[0], encode(pixels(50, 32), "PNG")]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"different sizes, .* 32 x 40 and 32"):
        loaded.signatures["encoded"](tf.constant([other]))


def test_a_map_with_local_contrast_is_exported(run_dir, signatures):
    images = np.stack([pixels(32, 32, seed=i) for i in range(2)])[..., None]
    logits, colors = classify_and_colorize(runs.load_classifier(run_dir)[1])(images)
    answer = signatures["colorized"](tf.constant(images))
    np.testing.assert_allclose(answer["probabilities"], sigmoid(logits), atol=1e-5)
    np.testing.assert_allclose(answer["colorized"], colors, atol=1e-5)
    gray = (images / 255 - 0.5) / 0.25
    assert np.abs(colors - gray).max() > 0.1


def jpeg_of_size(width, height):
    """A JPEG whose header claims another size."""
    content = encode(pixels(16, 16), "JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + height.to_bytes(2) + width.to_bytes(2) + content[at + 4 :]


def png_of_size(width, height):
    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\0\0\0\0"
    ending = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ending


def animated():
    frames = [Image.fromarray(pixels(8, 8, seed=i)) for i in range(2)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


def damaged_exif():
    tags = Image.Exif()
    tags[0x0112] = 6
    content = encode(pixels(8, 8), "PNG", exif=tags)
    at = content.index(b"eXIf") + 4 + 18
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def exif_as_text():
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 4\n00000000\n", zip=True)
    return encode(pixels(8, 8), "PNG", pnginfo=text)


def bad_exif():
    return encode(pixels(8, 8), "JPEG", exif=b"Exif\0\0no TIFF")


CMYK = io.BytesIO()
Image.new("CMYK", (8, 8)).save(CMYK, "JPEG")
JPEG = encode(pixels(40, 50), "JPEG")
PNG = encode(pixels(40, 50), "PNG")
NEITHER = "not a JPEG or PNG file: expected one of these, received one that begins with"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: expected a file"),
        (b"II*\0" + bytes(90), f"{NEITHER} bytes 73 73 42 0 0"),
        (bytes(128) + b"DICM", NEITHER),
        (PNG[:-20], "PNG is truncated, or a chunk before byte"),
        (JPEG[:-10], "JPEG is truncated: it has no end marker"),
        (JPEG[:100], "JPEG ends, or is damaged, before its picture begins"),
        (png_of_size(20000, 20000), "PNG of 20000 x 20000 pixels: expected at most 89478485"),
        (png_of_size(2**31 - 1, 1), "PNG of 2147483647 x 1 pixels: expected at most"),
        (png_of_size(0, 5), "PNG of 0 pixels"),
        (jpeg_of_size(60000, 60000), "JPEG of 60000 x 60000 pixels: expected at most 89478485"),
        (jpeg_of_size(0, 5), "JPEG of 0 pixels"),
        (
            png(np.zeros((1, 90000, 1), np.uint8), 8, 0),
            "would be resized to 2880000 x 32 pixels: too la",
        ),
        (CMYK.getvalue(), r"JPEG of 4 channels: expected 1 \(gray\) or 3"),
        (animated(), "animated PNG: expected one image"),
        (damaged_exif(), "PNG is truncated, or a chunk before byte .* is damaged"),
        (exif_as_text(), "PNG with EXIF as text .*: expected EXIF in a chunk eXIf"),
        (bad_exif(), r"EXIF does not begin as a TIFF structure .* but with 110 111 32 84"),
    ],
)
def test_files_that_are_refused(signatures, content, message):
    files = tf.constant([PNG, content])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["encoded"](files)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("serving_default", (2, 8, 9, 3), "images: expected shape .batch, height, width, 1., rec"),
        ("serving_default", (8, 9, 1), r"received \(8, 9, 1\)"),
        ("serving_default", (2, 0, 9, 1), r"received \(2, 0, 9, 1\)"),
        ("prepared", (0, 32, 32, 1), r"received \(0, 32, 32, 1\)"),
        ("prepared", (2, 31, 32, 1), r"prepared: expected shape \(batch, 32, 32, 1\), received"),
        ("prepared", (32, 32, 1), r"prepared: .*received \(32, 32, 1\)"),
    ],
)
def test_arrays_that_are_refused(signatures, name, shape, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures[name](tf.zeros(shape, tf.uint8))


@pytest.mark.parametrize("shape", [(), (0,), (2, 1)])
def test_batches_of_files_that_are_refused(signatures, shape):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"encoded: expected shape \(batch\), "
    ):
        signatures["encoded"](tf.fill(shape, PNG))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_mutated_files_are_refused_or_read_as_predict_reads_them(exported, run_dir, tmp_path, form):
    """tests/nightly tries more. What libjpeg only warns of is not seen by TensorFlow."""
    content = encode(pixels(60, 50), form)
    compared = compare_files(exported, run_dir, mutated(content, 60), tmp_path)
    assert compared.read + compared.refused > 30
    assert compared.pixels == 0
    assert compared.probabilities <= 1e-5
    unseen = {
        name: why for name, why in compared.only_graph.items() if "JPEG is damaged" not in why
    }
    assert unseen == {}


def test_the_export_needs_nothing_but_tensorflow(exported, tmp_path):
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("medcolor_tf", "data_prep"):
            raise ImportError(f"{name} is not to be used")
sys.meta_path.insert(0, Refuse())
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
answer = model.signatures["colorized"](tf.zeros((2, 50, 40, 1), tf.uint8))
assert answer["probabilities"].shape == (2, 2) and answer["colorized"].shape == (2, 32, 32, 3)
"""
    command = [sys.executable, "-c", program, str(exported)]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_no_path_of_this_machine_is_in_the_exported_files(exported, run_dir):
    places = [str(place) for place in (run_dir, Path.cwd(), Path.home(), Path(tf.__file__).parent)]
    contents = {path: path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert {path.name for path in contents} >= {"saved_model.pb", runs.MODEL}
    for path, content in contents.items():
        for place in (*places, "Mrs Miller", "site-packages", ".py"):
            assert place.encode() not in content, (path, place)


def test_the_description_names_the_observations(exported):
    about = json.loads((exported / EXTRA / runs.MODEL).read_text())
    assert about["observations"] == list(OBSERVATIONS)
    assert (about["step"], about["weights"], about["image_size"]) == (7, "best", 32)


def test_the_contract_is_beside_the_description(exported, run_dir):
    contract = json.loads((exported / EXTRA / CONTRACT).read_text())
    assert contract["format"] == "savedmodel"
    assert contract["input"]["signature"] == contract["input"]["name"] == "prepared"
    outputs = {"probabilities", "observations", "calibrated", "decisions"}
    assert set(contract["outputs"]) == outputs
    assert contract["decision"]["observations"]["Edema"]["threshold"] == 0.755
    assert read_json(exported / EXTRA / runs.MODEL)["decision"] == contract["decision"]
    assert contract["checked"]["largest_difference"] <= 1e-5
    assert contract["weights"]["sha256"][runs.BEST] == file_sha256(run_dir / runs.BEST)
    files = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert files - set(contract["files"]) == {f"{EXTRA}/{CONTRACT}"}
    for name, digest in contract["files"].items():
        assert file_sha256(exported / name) == digest


def test_films_without_a_file_go_through_the_prepared_signature(exported, run_dir):
    spec, classifier, _ = runs.load_predictor(run_dir)
    images = [pixels(32, 32, seed=i)[..., None] for i in range(2)]
    films = [ReadImage(InputImage("film", (), ""), image) for image in images]
    answer = answer_by(load_export(exported), spec)
    expected = sigmoid(classifier.predict_on_batch(np.stack(images)))
    np.testing.assert_allclose(answer(films), expected, atol=1e-5)


def test_an_existing_export_is_not_overwritten(exported, run_dir):
    with pytest.raises(InputError, match="exists; expected a new folder"):
        export(ExportConfig(run_dir=str(run_dir)))


def test_an_export_that_differs_from_predict_is_refused(run_dir, exported, tmp_path, monkeypatch):
    def write(spec, model, folder, contract):
        shutil.copytree(exported, folder)
        return answer_by(load_export(exported), spec)

    monkeypatch.setattr("medcolor_tf.serving.saved_model.write", write)
    monkeypatch.setattr(export_module, "compare", lambda *args: float("nan"))
    with pytest.raises(InputError, match=r"--run_dir=.*: the exported model and predict are up to"):
        export(ExportConfig(run_dir=str(run_dir), out=str(tmp_path / "new")))
    assert list(tmp_path.iterdir()) == []


def test_the_comparison_sees_another_resampling(run_dir, exported, monkeypatch):
    """Pillow and TensorFlow's own resize are 1 of 255 apart: enough to be refused."""
    spec, classifier, _ = runs.load_predictor(run_dir)
    model = classify_and_colorize(classifier)
    answer = answer_by(load_export(exported), spec)
    tolerance = EXPORT_FORMATS["savedmodel"].tolerance
    assert export_module.compare(answer, model, spec) <= tolerance
    read = Image.Image.resize

    def resize(image, size, resample, box=None):
        return read(image, size, Image.Resampling.HAMMING, box)

    monkeypatch.setattr(Image.Image, "resize", resize)
    assert export_module.compare(answer, model, spec) > tolerance


def test_the_page_shows_an_export_as_its_run_but_for_the_heat(run_dir, exported, tmp_path):
    (tmp_path / "film.png").write_bytes(encode(pixels(40, 36), "PNG"))
    answers = [
        model.answer(tmp_path / "film.png")
        for model in (film.load_exported_model(str(exported)), film.load_run_model(str(run_dir)))
    ]
    for ours, theirs in zip(*(answer.findings for answer in answers), strict=True):
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-5)
    assert [caption for caption, _ in answers[0].panels] == ["image", "colorized"]
    assert len(answers[1].panels) == 4
