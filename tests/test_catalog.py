"""Every entry of the catalog's tables is whole: it resolves, builds, trains, and has its flag."""

import dataclasses
import functools
import json
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from training_helpers import SILENT, train_alone

from medcolor_tf import catalog, commandline
from medcolor_tf.catalog import (
    COLORIZERS,
    HEADS,
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    STRATEGIES,
    Component,
)
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.models import build_classifier, build_colorizer
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import SharedOptions, TrainConfig, differing_options
from medcolor_tf.studies.grid import StudyConfig
from medcolor_tf.training.losses import MaskedBinaryCrossentropy
from medcolor_tf.training.optimizer import MomentumSGD
from medcolor_tf.training.trainer import train

pytestmark = pytest.mark.slow

# flag -> table of the components that a training run is put together from
COMPONENTS = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSSES,
    "head": HEADS,
}
BUILT = {"colorizer": COLORIZERS, **COMPONENTS}
ENTRIES = [(flag, name) for flag, table in BUILT.items() for name in table]


def check_entry(flag: str, name: str, entry) -> None:
    """Fails where an entry of a table has no title, no builder, or a flag that refuses it."""
    assert entry.title, f"{flag} {name}: no title"
    assert callable(catalog.resolve(entry.build)), f"{flag} {name}: {entry.build}"
    words = [f"--{flag}={name}", "--data_dir=data", "--run_dir=run"]
    assert getattr(commandline.parse(TrainConfig, words), flag) == name


@pytest.mark.parametrize(("flag", "name"), ENTRIES)
def test_an_entry_resolves_and_its_flag_takes_it(flag, name):
    check_entry(flag, name, BUILT[flag][name])


@pytest.mark.parametrize("build", ["medcolor_tf.training.losses:nothing", "medcolor_tf.no:loss"])
def test_an_entry_without_its_builder_fails(build):
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        check_entry("loss", "bce", Component("Nothing", build))


def test_an_entry_that_no_flag_takes_fails():
    with pytest.raises(InputError, match="should be one of"):
        check_entry("loss", "hinge", LOSSES["bce"])


@pytest.mark.parametrize("config_class", [SharedOptions, TrainConfig, StudyConfig])
def test_commands_choose_among_the_tables(config_class):
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for flag, table in COMPONENTS.items():
        assert fields[flag].metadata["choices"] == tuple(table)
        assert fields[flag].default == next(iter(table)), "the default stands first"
        for name, entry in table.items():
            assert f"{name}: {entry.title}" in fields[flag].metadata["help"]


@pytest.mark.parametrize("flag", COMPONENTS)
def test_an_unknown_name_is_an_error_with_the_nearest(flag):
    name = next(iter(COMPONENTS[flag]))
    config = dataclasses.replace(TrainConfig(steps=1), **{flag: name + "x"})
    with pytest.raises(InputError, match=rf"--{flag}: expected one of .*did you mean {name}\?"):
        config.check()


def test_a_run_of_before_these_options_has_their_defaults():
    flags = dataclasses.asdict(TrainConfig())
    older = {name: value for name, value in flags.items() if name not in COMPONENTS}
    assert differing_options(older, flags) == {}
    assert differing_options(older, flags | {"loss": "other"}) == {"loss": ("bce", "other")}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_whole(name):
    strategy = STRATEGIES[name]
    assert strategy.title
    assert set(strategy.trains) <= set(checkpoint.PARTS)
    assert "head" in strategy.trains, "C is always learned anew"
    assert strategy.colorizer in ("none", "new", "source")
    assert strategy.backbone in ("imagenet", "source")
    assert strategy.without_colorizer in ("", *STRATEGIES)
    assert bool(strategy.starts_from) == (strategy.colorizer == "source")
    if strategy.starts_from:
        assert STRATEGIES[strategy.starts_from].colorizer != "none"
    if strategy.without_colorizer:
        assert STRATEGIES[strategy.without_colorizer].colorizer == "none"


@pytest.mark.parametrize("name", COLORIZERS)
def test_a_colorizer_builds_for_its_image_sizes(name):
    side = 3 * COLORIZERS[name].multiple
    model = build_colorizer(name, 1, init="gray", seed=0)
    gray = np.random.default_rng(0).normal(size=(1, side, side, 1)).astype("float32")
    colors = model.predict_on_batch(gray)
    np.testing.assert_allclose(colors, np.repeat(gray, 3, axis=-1), atol=1e-5)


# -- components: a step of a small model ----------------------------------------------------------

FEATURES = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
LABELS = np.random.default_rng(1).choice([0, 1, np.nan], (16, 3)).astype("float32")


def small_model(optimizer=None, loss=None, head=None):
    """A head on given features, compiled."""
    head = head or catalog.resolve(HEADS["linear"].build)(3, 6, 0)
    model = keras.Sequential([keras.Input((6,)), head])
    model.compile(optimizer or MomentumSGD(0.1), loss or MaskedBinaryCrossentropy())
    return model


def losses_of(model, steps=20):
    history = model.fit(FEATURES, LABELS, batch_size=16, epochs=steps, verbose=0, shuffle=False)
    return history.history["loss"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_lowers_the_loss(name):
    optimizer = catalog.builder(OPTIMIZERS, name, "optimizer")(0.05, 0.9)
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)
    losses = losses_of(small_model(optimizer=optimizer))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_lowered_and_leaves_unknown_labels_out(name):
    loss = catalog.builder(LOSSES, name, "loss")()
    assert isinstance(loss, keras.losses.Loss)
    unknown = LABELS.copy()
    unknown[:, 2] = np.nan
    model = small_model(loss=loss)
    before = model.get_weights()[0]
    model.fit(FEATURES, unknown, batch_size=16, epochs=1, verbose=SILENT)
    after = model.get_weights()[0]
    np.testing.assert_array_equal(after[:, 2], before[:, 2])
    assert (after[:, :2] != before[:, :2]).all()
    losses = losses_of(model)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 7, 200])
def test_a_schedule_stays_below_its_peak(name, total):
    schedule = functools.partial(
        catalog.builder(SCHEDULES, name, "schedule"),
        total_steps=total,
        max_lr=0.3,
        **TrainConfig().schedule_options,
    )
    values = np.array([schedule(step) for step in range(total)])
    assert values.shape == (total, 2)
    assert (values[:, 0] > 0).all()
    assert values[:, 0].max() <= 0.3 * (1 + 1e-9)
    assert ((values[:, 1] >= 0) & (values[:, 1] < 1)).all()
    if total >= 7:  # with fewer steps the peak may lie between two of them
        assert values[:, 0].max() == pytest.approx(0.3, rel=0.05)
    optimizer = MomentumSGD()
    assert optimizer.follow(values), "it can be followed inside the step"


@pytest.mark.parametrize("name", HEADS)
def test_a_head_makes_logits_and_learns(name):
    build = catalog.builder(HEADS, name, "head")
    heads = [build(3, 6, seed) for seed in (0, 0, 1)]
    assert {head.name for head in heads} == {"head"}
    models = [small_model(head=head) for head in heads]
    logits = [model.predict_on_batch(FEATURES) for model in models]
    assert logits[0].shape == (16, 3)
    assert logits[0].dtype == np.float32
    np.testing.assert_array_equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any()
    losses = losses_of(models[0])
    assert losses[-1] < losses[0]
    inputs = keras.Input((None, None, 3))
    backbone = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="conv")(inputs))
    classifier = build_classifier(None, backbone, 2, pixel_mean=0, pixel_std=1, head=name)
    names = checkpoint.named_weights(classifier)
    assert any(weight.startswith("head/") for weight in names)


# -- components: a run ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def square(tmp_path_factory, write_small_dataset):
    folder = tmp_path_factory.mktemp("data") / "square"
    write_small_dataset(folder, size=(32, 32))
    return str(folder)


@pytest.fixture
def config(square, tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3, strides=4, activation="relu", name="conv")(inputs)
    keras.Model(inputs, x, name="small").save(tmp_path / "small.keras")
    return TrainConfig(
        data_dir=square,
        run_dir=str(tmp_path / "run"),
        strategy="baseline",
        backbone=str(tmp_path / "small.keras"),
        batch_size=8,
        steps=3,
        checkpoint_every=2,
        max_lr="0.1",
        augment_probability=0.0,
    )


@pytest.mark.parametrize(
    ("flag", "name"),
    [("loss", "bce")]  # which stands for all defaults
    + [(flag, name) for flag, table in COMPONENTS.items() for name in list(table)[1:]],
)
def test_a_run_trains_with_it_and_says_so(config, flag, name):
    config = dataclasses.replace(config, features="each_step", **{flag: name})
    assert np.isfinite(train_alone(config)["best_valid_mean_auc"])
    record = read_json(Path(config.run_dir) / runs.CONFIG)
    assert record["flags"][flag] == name
    with pytest.raises(InputError, match="holds a run with other options"):
        train(dataclasses.replace(config, batch_size=4))


def two_layers(num_labels, features, seed):
    """A head of two layers, as somebody might add one."""
    inputs = keras.Input((features,))
    hidden = keras.layers.Dense(5, "relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(num_labels, name="last")(hidden), name="head")


@pytest.fixture
def another_head(monkeypatch):
    """One more entry in the table of heads."""
    module = types.ModuleType("another_head")
    vars(module)["build"] = two_layers
    monkeypatch.setitem(sys.modules, "another_head", module)
    entry = Component("two layers", "another_head:build")
    monkeypatch.setattr(catalog, "HEADS", {**HEADS, "two_layers": entry})


def test_another_head_trains_resumes_and_is_loaded_again(config, another_head, capsys, tmp_path):
    """What works for the linear head alone says so, or does without."""
    config = dataclasses.replace(config, head="two_layers")
    result = train_alone(config)
    assert "with --head=two_layers there is no step on stored features" in capsys.readouterr().out
    assert np.isfinite(result["best_valid_mean_auc"])
    folder = Path(config.run_dir)
    assert json.loads((folder / runs.MODEL).read_text())["head"] == "two_layers"
    arrays, _ = checkpoint.load(folder / runs.BEST)
    assert {"head/hidden/kernel", "head/last/bias"} <= arrays.keys()
    (folder / runs.RESULT).unlink()
    train(config)  # from its last checkpoint
    spec, classifier, _ = runs.load_classifier(folder)
    assert spec.head == "two_layers"
    for name, variable in checkpoint.named_weights(classifier).items():
        np.testing.assert_array_equal(variable, arrays[name])
    with pytest.raises(InputError, match="--features=once: with --head=two_layers"):
        train(dataclasses.replace(config, features="once", run_dir=str(tmp_path / "other")))


def test_grad_cam_of_another_head_is_refused(config, another_head, tmp_path, capsys):
    from PIL import Image

    from medcolor_tf.predict import main

    train(dataclasses.replace(config, head="two_layers"))
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "image.png")
    words = [
        f"--run_dir={config.run_dir}",
        f"--inputs={tmp_path / 'image.png'}",
        f"--out={tmp_path / 'out.csv'}",
    ]
    explained = [*words, f"--explain={tmp_path / 'heat'}"]
    assert main([*explained, "--heat_map=grad_cam"]) == 2
    expected = "--heat_map=grad_cam: computed of a run with --head=linear"
    assert expected in capsys.readouterr().err
    assert main(explained) == 0  # by gradients, whatever the head


def test_a_linear_head_is_not_written_down(config):
    """Descriptions stay what version 0.1 reads."""
    train(dataclasses.replace(config, steps=1))
    folder = Path(config.run_dir)
    assert "head" not in json.loads((folder / runs.MODEL).read_text())
    assert "head" not in checkpoint.load_metadata(folder / runs.BEST)["model"]
