"""Colorizers that travel: saved, published, downloaded, and trained on elsewhere."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import keras
import numpy as np
import pytest
from hub_stand_in import COMMIT, Downloads, FakeApi, on_the_hub
from PIL import Image

import medcolor_tf as mc
from medcolor_tf import colorizer, evaluate
from medcolor_tf import train as train_command
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.sharing import colorizer_file, pretrained
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.trainer import Trainer, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="conv1")(inputs)
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    keras.Model(inputs, x, name="small").save(path)
    return str(path)


@pytest.fixture(scope="module")
def run_dir(small_dataset, tmp_path_factory, backbone_file):
    """A finished color_module run."""
    return trained(small_dataset, tmp_path_factory.mktemp("run") / "run", backbone_file)


def trained(data, folder, backbone, **changes):
    config = TrainConfig(
        data_dir=str(data), run_dir=str(folder), backbone=backbone, batch_size=8, steps=2
    )
    train(dataclasses.replace(config, **{"colorizer": "color_u"} | changes))
    return str(folder)


@pytest.fixture
def file(run_dir, tmp_path):
    """A saved colorizer file."""
    return str(colorizer_file.save(run_dir, str(tmp_path / "colours"))[0])


@pytest.fixture
def other_data(tmp_path, write_small_dataset):
    """Another data set with other labels and other pixel statistics."""
    write_small_dataset(tmp_path / "other", observations=("Edema", "Hernia"), seed=9)
    return str(tmp_path / "other")


def best_colorizer(run):
    arrays, _ = checkpoint.load(Path(run) / runs.BEST)
    return {name: array for name, array in arrays.items() if name.startswith("colorizer/")}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_load_colorizer_gives_the_trained_t_from_run_file_and_hub(run_dir, file, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *arguments, **more: file)
    spec = ModelSpec.load(Path(run_dir) / runs.MODEL)
    model, observations, loaded_spec = mc.load_run(run_dir)
    assert (observations, loaded_spec) == (spec.observations, spec)
    gray = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype("float32")
    expected = model.get_layer("colorizer")(gray)
    for source in (run_dir, Path(run_dir), file, "hf://me/my.T"):
        np.testing.assert_array_equal(mc.load_colorizer(source)(gray), expected)
    with pytest.raises(InputError, match="/nowhere: no such run folder or colorizer file"):
        mc.load_colorizer("/nowhere")
    with pytest.raises(
        InputError, match=rf"colorizer file in {re.escape(str(Path.cwd()))}; expected"
    ):
        pretrained.read_parts("runs/nowhere")
    with pytest.raises(InputError, match=r"/nowhere/model\.json: no such file"):
        mc.load_run("/nowhere")


# Saving


def test_save_writes_T_of_the_best_checkpoint_and_its_card(run_dir, tmp_path, capsys):
    assert colorizer.main(["save", run_dir, str(tmp_path / "new" / "v1.2")]) == 0
    assert "use it with --init_from=" in capsys.readouterr().out
    path = tmp_path / "new" / "v1.2.safetensors"
    source = pretrained.read_parts(str(path))
    assert_same(source.arrays, best_colorizer(run_dir))
    assert (source.spec.colorizer, source.spec.backbone) == ("color_u", "")
    card = json.loads(path.with_suffix(".json").read_text())
    assert card == source.card, "the weights alone carry the card as well"
    spec = ModelSpec.load(Path(run_dir) / runs.MODEL)
    result = read_json(Path(run_dir) / runs.RESULT)
    assert card | {"versions": None} == {
        "colorizer": "color_u",
        "colorizer_init": "paper",
        "input_channels": 1,
        "bits": 8,
        "max_value": 255,
        "pixel_mean": spec.pixel_mean,
        "pixel_std": spec.pixel_std,
        "image_size": 32,
        "short_side": 32,
        "origin": "training run",
        "data": {
            "source": "test",
            "observations": ["Edema", "Cardiomegaly", "Pleural Effusion"],
            "train_images": 24,
            "fingerprint": "test-0",
        },
        "training": {
            "strategy": "color_module",
            "backbone": "backbone.keras",
            "step": result["best_step"],
            "valid_mean_auc": result["best_valid_mean_auc"],
        },
        "test": None,
        "versions": None,
    }
    assert {"medcolor_tf", "keras", "tensorflow", "numpy"} <= card["versions"].keys()
    assert str(tmp_path.parent) not in path.read_bytes().decode("latin-1"), "no paths in it"


def test_the_card_has_the_test_auc_of_these_weights(run_dir, small_dataset, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    assert evaluate.main([f"--run_dir={copy}", f"--data_dir={small_dataset}"]) == 0
    found = read_json(copy / "evaluation-test.json")
    test = colorizer_file.read(str(copy)).card["test"]
    assert test["mean_auc"] == found["mean_auc"]
    assert test["auc"]["Edema"] == found["observations"]["Edema"]["auc"]
    runs.Run(copy).write({"evaluation-test.json": found | {"weights": "last"}})
    assert colorizer_file.read(str(copy)).card["test"] is None


def test_nothing_already_made_is_lost(run_dir, tmp_path, capsys):
    for name in ("a.safetensors", "b.json"):
        (tmp_path / name).write_text("years")
    for target, there in (("a.safetensors", "a.safetensors"), ("a", "a.safetensors"), ("b", "b")):
        assert colorizer.main(["save", run_dir, str(tmp_path / target)]) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / there}" in error
        assert "is there already" in error
    assert colorizer.main(["save", run_dir, str(tmp_path)]) == 2
    assert "is a folder; expected the name of a new file" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.json"]
    assert (tmp_path / "a.safetensors").read_text() == "years"


def test_a_run_without_T_or_without_an_end_is_refused(
    run_dir, small_dataset, backbone_file, tmp_path
):
    baseline = trained(
        small_dataset, tmp_path / "baseline", backbone_file, strategy="baseline", colorizer=""
    )
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    (copy / runs.BEST).unlink()
    unfinished = shutil.copytree(run_dir, tmp_path / "unfinished")
    (unfinished / runs.RESULT).unlink()
    (tmp_path / "empty").mkdir()
    for source, message in (
        (baseline, "has no colorizer"),
        (copy, r"best.safetensors: no such file"),
        (unfinished, "the run has not finished"),
        (tmp_path / "empty", "expected a run folder"),
        (tmp_path / "nowhere", "no such run folder or colorizer file"),
        (backbone_file, "not weights saved by medcolor_tf"),
    ):
        with pytest.raises(InputError, match=message):
            colorizer_file.save(str(source), str(tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))


def test_weights_that_are_damaged_are_not_passed_on(file, tmp_path):
    arrays, metadata = checkpoint.load(file)
    name = next(iter(arrays))
    checkpoint.save(tmp_path / "nan.safetensors", arrays | {name: arrays[name] * np.nan}, metadata)
    with pytest.raises(InputError, match=rf"nan.safetensors: {name} holds NaN"):
        colorizer_file.read(str(tmp_path / "nan.safetensors"))
    del arrays[name]
    checkpoint.save(tmp_path / "less.safetensors", arrays, metadata)
    with pytest.raises(InputError, match=rf"less.safetensors: .*missing {name}"):
        colorizer_file.read(str(tmp_path / "less.safetensors"))


# Transfer


@pytest.mark.parametrize("normalization", ["source", "target"])
def test_T_keeps_its_weights_in_a_transfer_and_C_is_new(
    file, run_dir, other_data, backbone_file, tmp_path, normalization
):
    Path(file).with_suffix(".json").unlink()  # the weights are enough
    arguments = [
        "--strategy=last_layer",
        f"--init_from={file}",
        f"--normalization={normalization}",
        f"--data_dir={other_data}",
        f"--backbone={backbone_file}",
        "--batch_size=8",
        "--steps=2",
        f"--run_dir={tmp_path / 'run'}",
    ]
    assert train_command.main(arguments) == 0
    assert_same(best_colorizer(tmp_path / "run"), best_colorizer(run_dir))
    arrays, _ = checkpoint.load(tmp_path / "run" / runs.BEST)
    assert arrays["head/kernel"].shape == (4, 2)
    spec = ModelSpec.load(tmp_path / "run" / runs.MODEL)
    assert spec.observations == ("Edema", "Hernia")
    source = ModelSpec.load(Path(run_dir) / runs.MODEL).pixel_mean
    assert (spec.pixel_mean == source) == (normalization == "source")
    origin = read_json(tmp_path / "run" / runs.CONFIG)["init_from"]
    assert (origin["path"], origin["strategy"]) == (file, "color_module")
    assert origin["data_fingerprint"] == "test-0"


def test_stage_two_from_a_file_starts_with_its_T(file, run_dir, other_data, tmp_path):
    config = TrainConfig(
        data_dir=other_data,
        run_dir=str(tmp_path / "run"),
        strategy="all",
        init_from=file,
        backbone="MobileNet",
        backbone_weights="none",
        steps=2,
        batch_size=8,
    )
    trainer = Trainer.build(TrainPlan.from_config(config), runs.Run(tmp_path / "run"))
    start = checkpoint.to_arrays(checkpoint.named_weights(trainer.classifier))
    assert_same({k: start[k] for k in best_colorizer(run_dir)}, best_colorizer(run_dir))


# The hub


def cached(file, folder):
    """The file where huggingface_hub keeps it."""
    path = folder / "snapshots" / COMMIT / "colorizer.safetensors"
    path.parent.mkdir(parents=True)
    return str(shutil.copyfile(file, path))


def test_init_from_the_hub(file, other_data, backbone_file, tmp_path, monkeypatch):
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name, revision))
        return cached(file, tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    run = trained(
        other_data,
        tmp_path / "run",
        backbone_file,
        strategy="last_layer",
        colorizer="",
        init_from="hf://me/my.T@v1",
    )
    assert asked == [("me/my.T", "colorizer.safetensors", "v1")]
    assert_same(best_colorizer(run), checkpoint.load(file)[0])
    recorded = read_json(Path(run) / runs.CONFIG)
    assert recorded["flags"]["init_from"] == "hf://me/my.T@v1"
    assert recorded["init_from"]["path"] == f"hf://me/my.T@{COMMIT}"


def test_the_hub_out_of_reach(monkeypatch, tmp_path, capsys):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to host\nat all\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError) as error:
        pretrained.read_parts("hf://me/T")
    first, second = str(error.value).splitlines()
    assert first.startswith("hf://me/T: colorizer.safetensors could not be downloaded")
    assert "ConnectionError: no route to host at all" in first
    assert "https://huggingface.co/me/T/resolve/main/colorizer.safetensors" in second
    assert "give that file's path instead" in second


def test_offline_mode(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"hf://me/T: .* could not be downloaded"):
        pretrained.read_parts("hf://me/T")


@pytest.mark.parametrize("text", ["hf://", "hf://me", "hf://me/a/b", "hf://me/T@", "hf://me/T@a@b"])
def test_addresses_that_are_none(text):
    with pytest.raises(InputError, match=r"expected hf://owner/name or hf://owner/name@revision"):
        pretrained.read_parts(text)


def test_publish_uploads_what_init_from_takes(run_dir, tmp_path, monkeypatch, capsys):
    api = on_the_hub(monkeypatch, FakeApi())
    words = ["publish", run_dir, "hf://me/my-T", "--private", "--license=cc-by-4.0"]
    assert colorizer.main(words) == 0
    assert f"--init_from=hf://me/my-T@{COMMIT}" in capsys.readouterr().out
    assert api.calls == [("me/my-T", True, True)]
    assert set(api.files) == {"colorizer.safetensors", "colorizer.json", "README.md"}
    (tmp_path / "down.safetensors").write_bytes(api.files["colorizer.safetensors"])
    source = pretrained.read_parts(str(tmp_path / "down.safetensors"))
    assert_same(source.arrays, best_colorizer(run_dir))
    assert json.loads(api.files["colorizer.json"]) == source.card
    readme = api.files["README.md"].decode()
    assert readme.startswith("---\n")
    metadata = huggingface_hub.ModelCard(readme).data
    assert (metadata["license"], metadata["library_name"]) == ("cc-by-4.0", "keras")
    assert "medcolor_tf" in metadata["tags"]
    assert "--init_from=hf://me/my-T" in readme
    assert "| observations | Edema, Cardiomegaly, Pleural Effusion |" in readme
    for content in api.files.values():
        assert b"secret" not in content
        assert str(tmp_path.parent).encode() not in content


def test_publish_a_file_without_choosing_a_licence(file, monkeypatch):
    api = on_the_hub(monkeypatch, FakeApi())
    assert colorizer.main(["publish", file, "hf://me/my-T"]) == 0
    assert api.calls == [("me/my-T", None, True)]
    readme = api.files["README.md"].decode()
    assert "license: unknown\n" in readme
    assert "No licence has been chosen" in readme


def test_publish_without_a_token(file, monkeypatch, capsys):
    api = on_the_hub(monkeypatch, FakeApi(), token=None)
    assert colorizer.main(["publish", file, "hf://me/my-T"]) == 2
    assert "set HF_TOKEN or log in with `hf auth login`" in capsys.readouterr().err
    assert not api.calls


def test_private_means_private(file, monkeypatch, capsys):
    """The hub does not change a repository that is there; a public one must not get the weights."""
    api = on_the_hub(monkeypatch, FakeApi(public=True))
    assert colorizer.main(["publish", file, "hf://me/my-T", "--private"]) == 2
    assert "is there already and public; nothing was uploaded" in capsys.readouterr().err
    assert not api.files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["publish", "FILE", "hf://me/T@v1"], "leave @v1 out"),
        (["publish", "FILE", "me/T"], "me/T: expected hf://owner/name"),
        (["publish", "FILE", "hf://me/T", "--license=My Own"], "--license=My Own: expected an"),
        (["save", "FILE", "out", "--private"], "--private goes with publish, not with save"),
        (["save", "FILE", "out", "--license=mit"], "--license goes with publish, not with save"),
        (["publish", "FILE", "hf://me/T"], "could not be published (PermissionError: 403 no)"),
    ],
)
def test_contradictions_and_refusals(file, monkeypatch, capsys, words, message):
    on_the_hub(monkeypatch, FakeApi(failure=PermissionError("403\nno\nRequest 7")))
    assert colorizer.main([file if word == "FILE" else word for word in words]) == 2
    assert message in capsys.readouterr().err


# The whole classifier


@pytest.fixture(scope="module")
def published(run_dir, tmp_path_factory):
    """(FakeApi after `publish --what=model`, folder of the Space, what was printed)."""
    space = tmp_path_factory.mktemp("space") / "new"
    with pytest.MonkeyPatch.context() as monkeypatch:
        api = on_the_hub(monkeypatch, FakeApi())
        words = ["publish", run_dir, "hf://me/model", "--what=model", f"--space={space}"]
        assert colorizer.main(words) == 0
    return api, space


def test_a_published_classifier_is_loaded_back(published, run_dir, tmp_path, monkeypatch):
    api, _ = published
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", Downloads(api, tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1)).astype(np.uint8)
    loaded, expected = mc.load_classifier("hf://me/model"), mc.load_run(run_dir)
    assert loaded.observations == expected.observations
    np.testing.assert_array_equal(loaded.model(images), expected.model(images))

    damaged = bytearray(api.files["best.safetensors"])
    damaged[-1] ^= 1
    monkeypatch.setitem(api.files, "best.safetensors", bytes(damaged))
    with pytest.raises(InputError, match=r"best\.safetensors: "):
        mc.load_classifier("hf://me/model")


def test_the_card_of_a_classifier(published, run_dir, tmp_path, capsys):
    api, _ = published
    readme = api.files["README.md"].decode()
    metadata = huggingface_hub.ModelCard(readme).data
    assert metadata["library_name"] == "keras"
    assert metadata["pipeline_tag"] == "image-classification"
    assert 'mc.load_classifier("hf://me/model")' in readme
    assert "not a medical device" in readme
    assert "## Limits" in readme
    assert "(phantom.jpg)" in readme
    assert api.files["phantom.jpg"].startswith(b"\xff\xd8")
    code = readme.partition("```python\n")[2].partition("```")[0]
    Image.fromarray(np.full((40, 36), 99, np.uint8)).save(tmp_path / "film.png")
    code = code.replace("hf://me/model", run_dir).replace("film.jpg", str(tmp_path / "film.png"))
    exec(compile(code, "README.md", "exec"), {})
    assert "'Pleural Effusion': " in capsys.readouterr().out
    for content in api.files.values():
        assert b"secret" not in content
        assert str(tmp_path.parent).encode() not in content


def test_a_space_runs_the_page_on_it(published):
    _, space = published
    app = (space / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert f"--run_dir=hf://me/model@{COMMIT}" in app
    head = (space / "README.md").read_text().split("---\n")[1]
    assert "sdk: gradio" in head
    assert "app_file: app.py" in head
    assert (space / "requirements.txt").read_text().startswith("medcolor_tf[demo,dicom]==")


def test_classifiers_that_cannot_be_published(run_dir, file, tmp_path, monkeypatch, capsys):
    api = on_the_hub(monkeypatch, FakeApi())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "app.py").write_text("mine")
    full = f"--space={tmp_path / 'full'}"
    for words, message in (
        ([file, "hf://me/model", "--what=model"], "publishes a run folder"),
        ([run_dir, "hf://me/model", "--what=model", full], "not empty; expected a new folder"),
        ([run_dir, "hf://me/model", full], "--space goes with publish --what=model"),
        ([run_dir, "me/model", "--what=model"], "expected hf://owner/name"),
    ):
        assert colorizer.main(["publish", *words]) == 2
        assert message in capsys.readouterr().err
    assert not api.files
    assert (tmp_path / "full" / "app.py").read_text() == "mine"
