"""Time to AUC: ours reaches a target on made-up films, and PyTorch's side is the same model."""

# Tests marked `torch` need PyTorch, which is optional and absent where types are checked.
# pyright: reportMissingImports=false

import csv
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from benchmarks import time_to_auc, timed_runs
from benchmarks.time_to_auc import NAMES, TASKS, Task
from benchmarks.timed_runs import Reached

SIDE = 32
EASY = Task(
    "labels.csv",
    ("--observations=bright",),
    "path",
    "bright",
    False,
    0.9,
    "baseline",
    SIDE,
    16,
    40,
    20,
    0.5,
    1.0,
    ours=(),
    pytorch=(),
    plain=("--recompute",),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """48 films, of which every other one is bright in the middle."""
    root, random = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    rows: list[tuple] = [("path", "bright")]
    for number in range(48):
        pixels = random.normal(90, 10, (SIDE, SIDE))
        pixels[8:24, 8:24] += 90 * (number % 2)
        name = f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name)
        rows.append((name, number % 2))
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def test_what_is_needed_is_said(capsys, tmp_path):
    assert time_to_auc.main([]) == 2
    error = capsys.readouterr().err
    assert "nih1000/labels.csv" in error
    assert "resnet18_imagenet_layer3_bn.keras" in error
    words = [f"--data={tmp_path}", f"--backbone={tmp_path / 'none.keras'}"]
    assert time_to_auc.main(words) == 2
    assert "none.keras: no such file" in capsys.readouterr().err
    assert time_to_auc.main([*words, "--settings=rate=1"]) == 2
    assert "--settings=rate=1: expected NAME=VALUE" in capsys.readouterr().err


def test_a_run_is_ended_where_the_target_is_reached():
    code = (
        "import time\nfor n, auc in enumerate((0.5, 0.95, 0.99)):\n"
        "    print(f'step {10 * n + 10}: validation mean AUC {auc}', flush=True)\n"
        "    time.sleep(60 * n)"
    )
    found = timed_runs.until_reached([sys.executable, "-c", code], 0.9, 100.0)
    assert (found.step, found.best) == (20, 0.95)
    assert 0 < found.wall < 50


def test_lines_of_both_sides_are_read():
    lines = [
        "step 1,020: training loss 0.51, validation mean AUC 0.7000",
        "step 20: validation mean AUC 0.8",
        "best validation mean AUC 0.8 at step 20",
        "step 30: validation mean AUC nan",
    ]
    assert str(list(timed_runs.validations_of(lines))) == "[(1020, 0.7), (20, 0.8), (30, nan)]"


def test_the_table_has_medians_ranges_and_ratios_per_seed():
    ours = [Reached(w, 2 * w, 20, 0.91, (1.0, 2.0, w - 3)) for w in (10.0, 11.0, 12.0)]
    theirs = [Reached(20.0, 20.0, 40, 0.92, (0.0, 5.0, 15.0))] * 2
    theirs += [Reached(30.0, 20.0, 0, 0.85, (0.0, 5.0, 25.0))]
    lines = list(time_to_auc.table("knee_oa", TASKS["knee_oa"], {"ours": ours, "pytorch": theirs}))
    row = next(line for line in lines if line.startswith("| ours |"))
    assert "| 11.0 (10.0 to 12.0) | 22.0 (20.0 to 24.0) | 20, 20, 20 |" in row
    assert "40, 40, not reached" in next(line for line in lines if line.startswith("| PyTorch, t"))
    ratios = next(line for line in lines if line.startswith("| ours / PyTorch"))
    assert "2 of 3 seeds reached by both | 0.53 (0.50 to 0.55) | 1.05 (1.00 to 1.10) |" in ratios


@pytest.mark.nightly
@pytest.mark.slow
def test_ours_reaches_the_target_from_jpegs(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "easy", EASY)
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Conv2D(8, 8, 4)(image)).save(tmp_path / "tiny.keras")
    words = [f"--data={folder}", f"--backbone={tmp_path / 'tiny.keras'}", "--tasks=easy"]
    settings = "--settings=batch=16,steps=40,interval=20,max_lr=0.5"
    out = tmp_path / "out.md"
    flags = ["--sides=ours", "--seeds=5", settings, f"--out={out}"]
    assert time_to_auc.main([*words, *flags]) == 0
    said = capsys.readouterr().out
    assert "easy, ours, seed 5: step " in said
    assert "| ours |" in out.read_text()


@pytest.fixture(scope="module")
def backbone():
    """Our ResNet18 to its third layer, with statistics that no default could equal."""
    from medcolor_tf.models.backbones import resnet18

    whole, random = resnet18(seed=0), np.random.default_rng(0)
    model = keras.Model(whole.input, whole.get_layer("layer3_1_act2").output, name="backbone")
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.7, 1.3, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(random.normal(0, 0.2, variable.shape))
    return model


def check_equal(model, path):
    import torch

    from benchmarks.pytorch_time_to_auc import Classifier, load_backbone
    from medcolor_tf.models.torch_weights import torch_state

    np.savez(path, allow_pickle=False, **torch_state(model, NAMES))
    theirs = Classifier().eval()
    load_backbone(theirs.backbone, path)
    images = np.random.default_rng(1).normal(0, 1, (2, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        features = theirs.backbone(torch.from_numpy(images).permute(0, 3, 1, 2))
    expected = np.array(model(images, training=False))
    assert expected.shape == (2, 4, 6, 256)
    features = features.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_has_the_same_features(backbone, tmp_path):
    check_equal(backbone, tmp_path / "weights.npz")


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_has_the_features_of_the_converted_file(shared, tmp_path):
    from medcolor_tf.models.backbones import build_backbone

    path = shared / "backbones" / time_to_auc.BACKBONE
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    check_equal(build_backbone(str(path)), tmp_path / "weights.npz")


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("mode", [["--head_only"], ["--head_only", "--recompute"], []])
def test_pytorch_reaches_the_target_from_jpegs(mode, folder, backbone, tmp_path, capsys):
    from benchmarks import pytorch_time_to_auc
    from medcolor_tf.models.torch_weights import torch_state

    np.savez(tmp_path / "weights.npz", allow_pickle=False, **torch_state(backbone, NAMES))
    films = tmp_path / "films.csv"
    with open(films, "w", newline="", encoding="utf-8") as file:
        rows = [(folder / f"{n}.jpg", n % 2, "valid" if n < 16 else "train") for n in range(48)]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    words = [f"--films={films}", f"--weights={tmp_path / 'weights.npz'}", f"--size={SIDE}"]
    words += ["--batch=16", "--steps=20", "--interval=10", "--max_lr=0.02", "--head_factor=4"]
    pytorch_time_to_auc.main([*words, "--seed=0", "--workers=0", *mode])
    values = dict(timed_runs.validations_of(capsys.readouterr().out.splitlines()))
    assert list(values) == [10, 20]
    assert values[20] > 0.9


@pytest.mark.torch
def test_pytorch_ranks_as_the_project_does():
    from benchmarks import pytorch_time_to_auc
    from medcolor_tf.evaluation.metrics import roc_auc

    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 2, 60).astype(np.float32), random.integers(0, 9, 60) / 4
    (expected,) = roc_auc(labels[:, None], logits[:, None])
    assert pytorch_time_to_auc.auc(labels, logits) == pytest.approx(float(expected))
