"""What the benchmarks compare is the same work: this project, stock Keras and PyTorch."""

# Tests marked `torch` need PyTorch, which is optional and absent where types are checked.
# pyright: reportMissingImports=false

import functools

import keras
import numpy as np
import pytest

from benchmarks import ours as ours_rows
from benchmarks import rows, stock_keras
from benchmarks.run import BenchConfig
from benchmarks.work import LABELS, TRAINS, batch_of
from medcolor_tf.catalog import COLORIZERS, STRATEGIES
from medcolor_tf.models import load_torch_colorizer, load_torch_resnet18
from medcolor_tf.models.torch_weights import load_torch_densenet121

SPEC = {"size": 64, "batch": 4}
PARAMETERS = {"colorizer": 599_440, "ResNet18": 11_176_512, "DenseNet121": 6_953_856}
LOAD = {"ResNet18": load_torch_resnet18, "DenseNet121": load_torch_densenet121}
pytestmark = pytest.mark.slow


@functools.cache
def ours_of(strategy, backbone):
    """The project's classifier, built once for the tests that do not train."""
    return ours_rows.build(strategy, backbone)


def trainable(part):
    return sum(int(np.prod(v.shape)) for v in part.trainable_variables)


def parts_of(classifier):
    names = {layer.name for layer in classifier.layers}
    return [classifier.get_layer(n) for n in ("colorizer", "backbone", "head") if n in names]


def randomize(classifier):
    """Gives batch normalisation statistics, scales and offsets that no default could equal."""
    random = np.random.default_rng(0)
    for part in parts_of(classifier):
        for variable in part.weights:
            if variable.name in ("gamma", "moving_variance"):
                variable.assign(random.uniform(0.7, 1.3, variable.shape))
            elif variable.name in ("beta", "moving_mean", "bias"):
                variable.assign(random.normal(0, 0.2, variable.shape))


@pytest.mark.parametrize(
    ("strategy", "backbone"),
    [("all", "ResNet18"), ("baseline_all", "ResNet18"), ("all", "DenseNet121")],
)
def test_stock_keras_is_the_same_model(strategy, backbone):
    ours = ours_of(strategy, backbone)
    stock = stock_keras.build(strategy, backbone, SPEC["size"])
    randomize(ours)
    for part in parts_of(ours):
        twin = stock.get_layer(part.name)
        if part.name == "head":
            twin.set_weights(part.get_weights())
            continue
        with_weights = [layer for layer in part.layers if layer.weights]
        for layer in with_weights:
            twin.get_layer(layer.name).set_weights(layer.get_weights())
        assert len(with_weights) == sum(bool(layer.weights) for layer in twin.layers)
    images, _ = batch_of(SPEC)
    expected = ours(images, training=False).numpy()
    np.testing.assert_allclose(
        stock(images, training=False), expected, atol=1e-4 * np.abs(expected).max()
    )
    assert np.abs(expected - expected[:1]).max() > 1e-3  # or it would be the biases alone
    # Only plain layers, keras.layers' and models of them.
    layers = [
        layer for model in (stock, *parts_of(stock)) for layer in getattr(model, "layers", ())
    ]
    assert {type(layer).__module__.split(".")[0] for layer in layers} == {"keras"}
    assert keras.layers.BatchNormalization in {type(layer) for layer in layers}


def test_every_strategy_trains_what_the_project_says():
    assert {name: STRATEGIES[name].trains for name in TRAINS} == TRAINS


@pytest.mark.parametrize("strategy", ["color_module", "last_layer"])
def test_stock_keras_trains_the_same(strategy):
    size = SPEC["size"]
    ours = ours_rows.build(strategy, "ResNet18")
    stock = stock_keras.build(strategy, "ResNet18", size)
    compiled = (
        ours_rows.compile_for_training(ours, strategy, size),
        stock_keras.compile_for_training(stock, strategy),
    )
    assert trainable(compiled[0]) == trainable(compiled[1])


@pytest.mark.parametrize("work", ["training", "inference"])
def test_every_colorizer_has_its_cost_measured(work):
    config = BenchConfig(size=32, batch=2)
    (row,) = rows.choose(rows.all_rows(config), (f"colorizer/{work}",))
    assert list(row.specs) == list(COLORIZERS)
    assert set(row.rivals) < set(row.specs)
    for name, spec in row.specs.items():
        assert spec["colorizer"] == name
        ours_rows.colorizer(spec)(1)


@pytest.fixture(scope="module")
def torch_models():
    from benchmarks import pytorch_models

    return pytorch_models


@pytest.mark.torch
@pytest.mark.parametrize("backbone", ["ResNet18", "DenseNet121"])
def test_pytorch_has_the_same_parts_and_shapes(torch_models, backbone):
    import torch

    model = torch_models.Classifier(True, backbone).eval()
    wanted = {
        "colorizer": PARAMETERS["colorizer"],
        "backbone": PARAMETERS[backbone],
        "head": (model.head.in_features + 1) * LABELS,
    }
    counts = {k: sum(p.numel() for p in part.parameters()) for k, part in model.parts().items()}
    assert counts == wanted
    ours = ours_of("all", backbone)
    assert {part.name: trainable(part) for part in parts_of(ours)} == wanted
    with torch.no_grad():
        colors = model.encoder.colorizer(torch.zeros(2, 1, 64, 96))
        assert colors.shape == (2, 3, 64, 96)
        assert model.encoder.backbone(colors).shape == (2, model.head.in_features, 2, 3)


def carry_over(model, classifier, backbone):
    """PyTorch's weights into the project's model, by the names of the authors and torchvision."""
    parts = model.parts()
    load_torch_colorizer(classifier.get_layer("colorizer"), parts["colorizer"].state_dict())
    LOAD[backbone](classifier.get_layer("backbone"), parts["backbone"].state_dict())
    weight, bias = (parameter.detach().numpy() for parameter in model.head.parameters())
    classifier.get_layer("head").set_weights([weight.T, bias])


@pytest.mark.torch
@pytest.mark.parametrize("backbone", ["ResNet18", "DenseNet121"])
def test_pytorch_has_the_same_logits(torch_models, backbone):
    model, images = torch_model(torch_models, backbone)
    classifier = ours_of("all", backbone)
    carry_over(model, classifier, backbone)
    with torch_models.torch.no_grad():
        expected = model.eval()(images).numpy()
    found = classifier(batch_of(SPEC)[0], training=False).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - expected[:1]).max() > 1e-3


def torch_model(torch_models, backbone):
    """A model with moving statistics that are not 0 and 1, and the images as it takes them."""
    torch = torch_models.torch
    torch.manual_seed(0)
    model = torch_models.Classifier(True, backbone)
    images = torch.from_numpy(batch_of(SPEC)[0]).permute(0, 3, 1, 2)
    with torch.no_grad():
        model.train()(images)
    return model, images


@pytest.mark.torch
@pytest.mark.parametrize("strategy", ["color_module", "all"])
def test_pytorch_has_the_same_loss_and_gradient(torch_models, strategy):
    import torch

    from benchmarks import pytorch

    model, images = torch_model(torch_models, "ResNet18")
    pytorch.freeze(model, TRAINS[strategy])
    classifier = ours_rows.build(strategy, "ResNet18")
    carry_over(model, classifier, "ResNet18")

    arrays = batch_of(SPEC)
    logits = pytorch.forward(model, TRAINS[strategy], {"compile": False})(images)
    labels = torch.from_numpy(arrays[1])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    loss.backward()
    assert (model.encoder.backbone.conv1.weight.grad is None) == (strategy == "color_module")

    training = ours_rows.compile_for_training(classifier, strategy, SPEC["size"])
    kernel = classifier.get_layer("colorizer").get_layer("resblock3_conv1").kernel
    before = kernel.numpy()
    assert float(training.train_on_batch(*arrays)) == pytest.approx(loss.item(), abs=1e-4)
    # The first step is the gradient times a rate.
    moved = (before - kernel.numpy()).transpose(3, 2, 0, 1)
    gradient = model.encoder.colorizer.resblocks[3].conv1[0].weight.grad.numpy()
    assert np.corrcoef(moved.ravel(), gradient.ravel())[0, 1] > 0.999


@pytest.mark.torch
def test_pytorch_last_layer_runs_without_a_graph(torch_models):
    import torch

    from benchmarks import pytorch

    model = torch_models.Classifier(True, "ResNet18")
    pytorch.freeze(model, TRAINS["last_layer"])
    statistics = model.encoder.backbone.bn1.running_mean.clone()
    images = torch.from_numpy(batch_of(SPEC)[0]).permute(0, 3, 1, 2)
    logits = pytorch.forward(model, TRAINS["last_layer"], {"compile": False})(images)
    logits.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        "head.weight",
        "head.bias",
    ]
    assert torch.equal(model.encoder.backbone.bn1.running_mean, statistics)
    # Nothing but the head is in the graph: the features that it got ask for no gradient.
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad))
    pytorch.forward(model, TRAINS["last_layer"], {"compile": False})(images)
    assert seen == [False]


@pytest.mark.torch
def test_pytorch_augments_as_the_project_does(torch_models):
    import torch

    from benchmarks import pytorch_augmentation
    from medcolor_tf.training.augment import resample, rotation_zoom

    random = np.random.default_rng(0)
    images = random.random((4, 32, 32, 1), np.float32)
    drawn = [
        np.array(values, np.float32)
        for values in (
            [0.17, -0.17, 0, 0.1],
            [1, 1.1, 1.05, 1.02],
            [0.2, 0, 1, 0.5],
            [0.9, 1, 0, 0],
        )
    ]
    ours = np.array(resample(images, rotation_zoom(*drawn, height=32, width=32)))
    matrices = pytorch_augmentation.rotation_zoom(*map(torch.from_numpy, drawn), size=32)
    theirs = pytorch_augmentation.resample(torch.from_numpy(images).permute(0, 3, 1, 2), matrices)
    np.testing.assert_allclose(theirs.permute(0, 2, 3, 1), ours, atol=1e-4)
    assert np.abs(ours - images).max() > 0.1


def test_input_pipelines_read_the_same_bytes(tmp_path):
    import tensorflow as tf

    from benchmarks import input_data
    from medcolor_tf.data import schema

    input_data.make(tmp_path, images=6, distinct=4, side=32)
    info = schema.DatasetInfo.load(tmp_path / input_data.RECORDS)
    names = [str(tmp_path / input_data.RECORDS / shard.file) for shard in info.shards]
    spec = schema.feature_spec(info)
    records = sorted(
        tf.io.parse_single_example(record, spec)["image"].numpy()[0]
        for record in tf.data.TFRecordDataset(names)
    )
    files = sorted(p.read_bytes() for p in (tmp_path / input_data.FILES).iterdir())
    assert len(set(files)) == 4
    assert records == files
