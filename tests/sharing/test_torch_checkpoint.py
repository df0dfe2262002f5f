"""PyTorch checkpoints: recognised by names, T and E as they were in them, nothing unpickled."""

import dataclasses
import functools
import pickle
import sys
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import Call, Name, torch_save

from medcolor_tf.errors import InputError
from medcolor_tf.models import build_backbone, build_colorizer
from medcolor_tf.models.torch_weights import (
    _COLORIZER_NAMES,
    _DENSENET_NAMES,
    _RESNET_NAMES,
    load_torch_densenet121,
    torch_variables,
)
from medcolor_tf.sharing import colorizer_file, pretrained
from medcolor_tf.sharing.torch_checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

ops: Any = keras.ops  # not annotated in Keras

NAMES = ("deconv", "pixel_shuffle", "color_u")


@functools.cache
def resnet18():
    return build_backbone("ResNet18", weights=None, seed=1)


def torch_state(model, names, prefix=""):
    """The model's own weights as PyTorch names and lays them out."""
    state = {}
    for name, variable in torch_variables(model, names).items():
        array = ops.convert_to_numpy(variable)
        array = np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array
        state[prefix + name] = np.ascontiguousarray(array)
    return state


def authors_state(colorizer, prefix=""):
    """A checkpoint under the authors' names: T, torchvision's ResNet18, its replaced layer."""
    return {
        **torch_state(colorizer, _COLORIZER_NAMES, f"{prefix}deco."),
        **torch_state(resnet18(), _RESNET_NAMES, f"{prefix}pt_model."),
        f"{prefix}pt_model.fc.weight": np.zeros((5, 512), "float32"),
        f"{prefix}pt_model.bn1.num_batches_tracked": np.array(3),
    }


def run(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def assert_same_weights(first, second):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_arrives_whole(name, tmp_path):
    colorizer = build_colorizer(name, input_channels=2, seed=3)
    save_file(authors_state(colorizer, "module."), tmp_path / "theta.safetensors")
    found = read_checkpoint(tmp_path / "theta.safetensors")
    got, channels, model = found.build_colorizer()
    assert (got, channels) == (name, 2)
    assert_same_weights(model, colorizer)
    backbone_name, backbone = found.build_backbone() or ("", None)
    assert backbone_name == "ResNet18"
    assert_same_weights(backbone, resnet18())


def test_a_colorizer_without_prefixes(tmp_path):
    colorizer = build_colorizer("color_u", seed=3)
    save_file(torch_state(colorizer, _COLORIZER_NAMES), tmp_path / "t.safetensors")
    found = read_checkpoint(tmp_path / "t.safetensors")
    assert found.build_colorizer()[:2] == ("color_u", 1)
    assert found.build_backbone() is None


@pytest.mark.parametrize("name", NAMES)
def test_golden_through_the_import(name, golden, resnet18_state, tmp_path):
    """Reference tensors under the authors' names give the reference colours after the import."""
    arrays = golden(name)
    path = import_golden(arrays, resnet18_state, tmp_path)
    colorizer = colorizer_file.read(path).build()
    colors = run(colorizer, arrays["input"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.abs(colors - arrays["output_eval"]).max() < 1e-4


def import_golden(arrays, resnet18_state, tmp_path):
    state = {f"deco.{k[6:]}": v for k, v in arrays.items() if k.startswith("state/")}
    state |= {f"pt_model.{k}": v for k, v in resnet18_state.items()}
    save_file(state, tmp_path / "theta.safetensors")
    path, _ = colorizer_file.import_torch(
        str(tmp_path / "theta.safetensors"), str(tmp_path / "out")
    )
    return str(path)


def test_golden_backbone_through_the_import(golden, resnet18_state, tmp_path):
    reference = golden("resnet18")
    source = pretrained.read_parts(import_golden(golden("color_u"), resnet18_state, tmp_path))
    spec = dataclasses.replace(source.spec, observations=("any",))
    classifier = spec.build()
    pretrained.assign_parts(classifier, source)
    x = reference["input"].transpose(0, 2, 3, 1)
    features = run(classifier.get_layer("backbone"), x).transpose(0, 3, 1, 2)
    scale = np.abs(reference["features"]).max()
    assert np.abs(features - reference["features"]).max() < 1e-5 * scale


def densenet_state():
    """Draws DenseNet121's tensors in torchvision's names and order, as golden/README.md does."""
    shapes: dict[str, tuple[int, ...]] = {"features.conv0.weight": (64, 3, 7, 7)}

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{name}.{part}"] = (width,)

    norm("norm0", 64)
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            prefix = f"denseblock{block}.denselayer{layer}"
            norm(f"{prefix}.norm1", width)
            shapes[f"features.{prefix}.conv1.weight"] = (128, width, 1, 1)
            norm(f"{prefix}.norm2", 128)
            shapes[f"features.{prefix}.conv2.weight"] = (32, 128, 3, 3)
            width += 32
        if block < 4:
            norm(f"transition{block}.norm", width)
            width //= 2
            shapes[f"features.transition{block}.conv.weight"] = (width, 2 * width, 1, 1)
    norm("norm5", width)
    shapes |= {"classifier.weight": (1000, width), "classifier.bias": (1000,)}
    random = np.random.default_rng(0)
    return {name: draw(random, name, shape).astype("float32") for name, shape in shapes.items()}


def draw(random, name, shape):
    if name.endswith("running_mean"):
        return 0.2 * random.standard_normal(shape)
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape)
    if len(shape) == 4:
        return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) == 2:
        return random.standard_normal(shape) * np.sqrt(1 / shape[1])
    if name.endswith("weight"):
        return random.uniform(0.7, 1.3, shape)
    return 0.1 * random.standard_normal(shape)


def test_densenet121_equals_torchvisions():
    """The numbers are torchvision 0.28's (PyTorch 2.13) for the same weights and input."""
    state = densenet_state()
    model = build_backbone("DenseNet121", weights=None)
    load_torch_densenet121(model, state)
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype("float32")
    features = run(model, x.transpose(0, 2, 3, 1))
    assert features.shape == (2, 2, 2, 1024)
    pooled = features.mean((1, 2)).ravel()[[0, 100, 1023, 1024, 2047]]
    np.testing.assert_allclose(pooled, [0, 7.670787, 0.8040892, 0, 0.8636798], atol=2e-5)
    np.testing.assert_allclose(
        [features.mean(), features.std(), features.max()],
        [1.6155244, 2.571356, 24.492838],
        rtol=1e-5,
    )
    unused = state.keys() - torch_variables(model, _DENSENET_NAMES).keys()
    assert unused == {"classifier.weight", "classifier.bias"}


def test_which_network_it_is(tmp_path):
    """A larger member of a family is not taken for the smaller one."""
    state = authors_state(build_colorizer("color_u", seed=3))
    state["pt_model.layer1.2.conv1.weight"] = np.zeros((64, 64, 3, 3), "float32")  # ResNet34
    save_file(state, tmp_path / "34.safetensors")
    found = read_checkpoint(tmp_path / "34.safetensors")
    assert found.build_backbone() is None
    assert "tensors, " in found.describe_backbone()


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("deco.dw1.d.0.bias"), r"theta.safetensors: .*missing: dw1.d.0.bias"),
        (without("pt_model.layer2.0.bn1.bias"), r"theta.safetensors: .*ResNet18 .*missing: layer2"),
        (without("deco.dw1.d.0.weight"), r"no colorizer in it; expected .*received .*dw1.d.0.bias"),
        (lambda s: s.update({"deco.more": np.zeros(2)}), "unexpected: more"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, change, message):
    state = authors_state(build_colorizer("color_u", seed=3))
    change(state)
    save_file(state, tmp_path / "theta.safetensors")
    found = read_checkpoint(tmp_path / "theta.safetensors")
    with pytest.raises(InputError, match=message):
        _ = found.build_colorizer(), found.build_backbone()


def test_a_backbone_alone_is_no_colorizer(tmp_path):
    save_file(torch_state(resnet18(), _RESNET_NAMES, "pt_model."), tmp_path / "e.safetensors")
    with pytest.raises(InputError, match=r"no colorizer in it.*received none of deco\."):
        read_checkpoint(tmp_path / "e.safetensors").build_colorizer()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "none.pth: no such file"),
        ("t.onnx", b"x", "expected a .pth, .pt or .safetensors file, received .onnx"),
        ("t", b"x", "received no suffix"),
        ("t.safetensors", b"x", "not a readable .safetensors file"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", ["none", "model", "state_dict"])
def test_pth_as_fastai_and_others_save_it(tmp_path, monkeypatch, wrapper, legacy):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    colorizer = build_colorizer("color_u", seed=3)
    state = authors_state(colorizer)
    wrapped = state if wrapper == "none" else {wrapper: state, "opt": {"param_groups": [1]}}
    torch_save(wrapped, tmp_path / "theta.pth", legacy=legacy)
    found = read_checkpoint(tmp_path / "theta.pth")
    assert_same_weights(found.build_colorizer()[2], colorizer)
    _, backbone = found.build_backbone() or ("", None)
    assert_same_weights(backbone, resnet18())


def test_pth_in_half_precision(tmp_path):
    colorizer = build_colorizer("color_u", seed=3)
    state = torch_state(colorizer, _COLORIZER_NAMES)
    half = {name: array.astype("float16") for name, array in state.items()}
    torch_save(half, tmp_path / "half.pt")
    model = read_checkpoint(tmp_path / "half.pt").build_colorizer()[2]
    for weights, full in zip(model.get_weights(), colorizer.get_weights(), strict=True):
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(weights, full.astype("float16"))


class Code:
    """What a malicious pickle holds: unpickling it would call this."""

    def __reduce__(self):
        return (sys.exit, (3,))


def test_a_pickle_with_more_than_tensors_is_refused_and_not_run(tmp_path):
    content = {"model": {}, "learner": Call(Name("sys", "exit"), (3,))}
    torch_save(content, tmp_path / "zip.pth")
    torch_save(content, tmp_path / "legacy.pth", legacy=True)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "zip.pth").read_bytes()[:100])
    for name in ("zip", "legacy", "bare", "cut"):
        with pytest.raises(InputError, match=f"{name}.pth: refused, .* more than tensors") as error:
            read_checkpoint(tmp_path / f"{name}.pth")
        assert ("sys.exit" in str(error.value)) == (name != "cut")
        assert "weights_only=False" not in str(error.value)
        assert "PyTorch is not installed" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"epoch": 3}, "received epoch"), ([1, 2], "received list"), ({"model": {}}, "received dict")],
)
def test_pth_without_tensors(tmp_path, content, message):
    torch_save(content, tmp_path / "t.pth")
    with pytest.raises(InputError, match=f"no tensors by name; .*{message}"):
        read_checkpoint(tmp_path / "t.pth")
