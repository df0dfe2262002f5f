"""Features computed once: C ends where the plain loop takes it, and the log says what was done."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from training_helpers import train_alone

from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import feature_cache
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.trainer import Trainer, train

pytestmark = pytest.mark.slow

SIDE = 32


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """As a pretrained network: batch normalisation with statistics, nothing random."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 5, strides=4, padding="same", name="conv", kernel_initializer="ones")
    normal: Any = keras.layers.BatchNormalization(name="bn")
    x = keras.layers.ReLU(name="relu")(normal(x(inputs)))
    x = keras.layers.Conv2D(6, 3, padding="same", name="last")(x)
    normal.moving_mean.assign(np.linspace(-20, 20, 8))
    normal.moving_variance.assign(np.linspace(100, 900, 8))
    path = tmp_path_factory.mktemp("backbone") / "frozen.keras"
    keras.Model(inputs, x, name="frozen").save(path)
    return str(path)


@pytest.fixture
def config(square_dataset, backbone_file, tmp_path):
    return TrainConfig(
        data_dir=str(square_dataset),
        run_dir=str(tmp_path / "run"),
        strategy="baseline",
        backbone=backbone_file,
        batch_size=5,
        steps=11,
        checkpoint_every=4,
        max_lr="0.3",
        log_every=3,
        shuffle_buffer=7,
        augment_probability=0.0,
    )


def arrays_of(config, name=runs.LAST):
    return checkpoint.load(f"{config.run_dir}/{name}")[0]


def test_c_ends_where_the_plain_loop_takes_it(config, tmp_path, capsys):
    plain = dataclasses.replace(config, features="each_step", run_dir=str(tmp_path / "plain"))
    expected = train_alone(plain)
    assert "features: computed anew at each step" in capsys.readouterr().out
    result = train_alone(config)
    assert "features: computed once" in capsys.readouterr().out
    for name in (runs.LAST, runs.BEST):
        one, two = arrays_of(plain, name), arrays_of(config, name)
        assert one.keys() == two.keys(), "whole classifier and whole state"
        for key in one:
            if "generator" not in key:
                np.testing.assert_allclose(two[key], one[key], atol=2e-6, rtol=2e-5, err_msg=key)
            if key.startswith("backbone/"):
                np.testing.assert_array_equal(two[key], one[key])
    assert result["best_step"] == expected["best_step"]
    logs = [runs.Run(Path(c.run_dir)).read_log() for c in (plain, config)]
    assert [row["step"] for row in logs[1]] == ["4", "8", "11"]
    for row, other in zip(*logs, strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_allclose(
            [float(v) for v in other.values()], [float(v) for v in row.values()], rtol=1e-4
        )


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.slow
def test_resume_is_exact(config, tmp_path, monkeypatch, views):
    probability = 0.75 if views else 0.0
    config = dataclasses.replace(
        config, features="once", views=views, augment_probability=probability
    )
    whole = dataclasses.replace(config, run_dir=str(tmp_path / "whole"))
    train(whole)

    def die(self, step, batch, loss):
        assert step == int(self.model.optimizer.iterations)
        if step == 6:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("medcolor_tf.training.callbacks.LossCurve.after", die)
        with pytest.raises(Killed):
            train(config)
    assert len(runs.Run(Path(config.run_dir)).read_log()) == 1
    train(config)
    one, two = arrays_of(whole), arrays_of(config)
    for key in one:
        np.testing.assert_array_equal(two[key], one[key], err_msg=key)


def test_positions_are_those_of_the_batches(square_dataset):
    split = Split(square_dataset, "train")
    order = {
        image.tobytes(): i for i, (image, _) in enumerate(split.examples().as_numpy_iterator())
    }
    batches = split.training_batches(5, 3, 2, shuffle_buffer=7).take(7).as_numpy_iterator()
    expected = [order[image.tobytes()] for images, _ in batches for image in images]
    epochs = split.training_positions(5, 3, shuffle_buffer=7).take(3).as_numpy_iterator()
    assert np.concatenate(list(epochs))[10:45].tolist() == expected


def test_all_views_are_used_in_turn(square_dataset):
    split = Split(square_dataset, "train")
    views = np.arange(3.0)[:, None, None] * 100 + np.arange(24.0)[:, None]
    no_valid = np.empty(0)
    stored = feature_cache.FrozenFeatures(views, np.arange(24.0), no_valid, no_valid)
    batches = stored.batches(split, 8, 0, 4, 100)  # from the middle of the second epoch on
    seen = {}
    for _ in range(2 + 6):
        for view, image in np.stack(divmod(next(batches)[0][:, 0], 100), axis=1).astype(int):
            seen.setdefault(image, []).append(view)
    whole = [found[-2:] for found in seen.values()]
    assert len(whole) == 24
    assert all(later == (before + 1) % 3 for before, later in whole)


def chosen(config, **changes):
    """What `auto`, or another choice, comes to."""
    config = dataclasses.replace(config, **changes)
    plan = TrainPlan.from_config(config)
    trainer = Trainer.build(plan, runs.Run(Path(config.run_dir)))
    return feature_cache.choose(config, trainer.classifier, plan.train, plan.total_steps)


def test_auto_takes_them_once_only_where_the_result_is_the_same(config, small_dataset, tmp_path):
    assert chosen(config)[0]
    for changes, why in (
        ({"features": "each_step"}, "anew at each step"),
        ({"augment_probability": 0.5}, "augmented"),
        ({"frozen_bn": "batch"}, "frozen_bn"),
        ({"steps": 4}, "no image is seen twice"),
        ({"data_dir": str(small_dataset)}, "not square"),
        ({"strategy": "baseline_all"}, ""),
    ):
        once, text = chosen(config, **changes)
        assert not once
        assert why in text
    once, text = chosen(config, data_dir=str(small_dataset), features="once")
    assert once
    assert "centre crop" in text
    random = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 1)])
    random.add(keras.layers.Dropout(0.5))
    random.save(tmp_path / "random.keras")
    once, text = chosen(config, backbone=str(tmp_path / "random.keras"))
    assert (once, "random layers" in text) == (False, True)


def test_a_diverging_run_says_so(config):
    with pytest.raises(InputError, match="training diverged"):
        train(dataclasses.replace(config, max_lr="3e38", steps=40, checkpoint_every=40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "once", "strategy": "baseline_all"}, "trains more than C"),
        ({"features": "once", "frozen_bn": "batch"}, "--frozen_bn=batch"),
        ({"features": "once", "augment_probability": 0.5}, "or --views=K"),
        ({"views": 3}, "--views=3 needs --features=once"),
    ],
)
def test_contradictions_are_named_and_leave_no_folder(config, changes, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(config, **changes))
    assert not Path(config.run_dir).exists()
