"""Learning rates per part: exact in every optimizer, and the same in every way of training."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from training_helpers import train_alone

from medcolor_tf import catalog
from medcolor_tf.errors import InputError
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig, parse_multipliers
from medcolor_tf.training.lr_finder import find_lr
from medcolor_tf.training.lr_multipliers import set_lr_multipliers
from medcolor_tf.training.trainer import range_test, train
from tests.training import multiplier_cases as cases

ROOT = Path(__file__).resolve().parents[2]


# -- the option -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tail=2", "--lr_multipliers=tail=2: expected PART=FACTOR .*head, received 'tail=2'"),
        ("head", "--lr_multipliers=head: expected PART=FACTOR"),
        ("head=fast", "a number above zero for head, received 'fast'"),
        ("head=0", "a number above zero for head, received '0'"),
        ("head=-1", "above zero for head"),
        ("head=inf", "above zero for head"),
        ("head=2,head=3", "--lr_multipliers=head=2,head=3: head is named twice"),
    ],
)
def test_bad_factors_name_the_flag(text, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(steps=1, lr_multipliers=text).check()


def test_factors_are_of_the_parts_that_train():
    assert parse_multipliers("head=4, backbone=0.1") == {"head": 4.0, "backbone": 0.1}
    config = TrainConfig(lr_multipliers="head=4,backbone=0.1,colorizer=1")
    assert config.lr_factors == {"head": 4.0}
    assert dataclasses.replace(config, strategy="all").lr_factors == {"backbone": 0.1, "head": 4.0}
    assert TrainConfig().lr_factors == {}


@pytest.mark.parametrize("name", catalog.RECIPES)
@pytest.mark.parametrize("strategy", catalog.STRATEGIES)
def test_a_recipe_is_whole(name, strategy):
    recipe = catalog.RECIPES[name]
    assert recipe.title
    assert set(recipe.lr_multipliers) <= set(catalog.STRATEGIES)
    config = TrainConfig(steps=1, recipe=name, strategy=strategy)
    config.check()
    expected = parse_multipliers(recipe.lr_multipliers.get(strategy, ""))
    assert config.lr_factors == expected, "of parts that train"
    assert dataclasses.replace(config, lr_multipliers="head=3").lr_factors == {"head": 3.0}


def test_the_paper_has_one_rate():
    assert TrainConfig().recipe == "paper"
    assert catalog.RECIPES["paper"].lr_multipliers == {}


# -- optimizers -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_a_part_trains_as_it_would_at_its_rate(name):
    cases.compare(name)


def test_factors_are_replaced_and_taken_away():
    made = cases.model(keras.optimizers.AdamW(weight_decay=0.1))
    set_lr_multipliers(made, {"first": 2})
    set_lr_multipliers(made, {"second": 3, "second_dense": 4})
    assert made.optimizer.update_step.__name__ == "update_step"
    set_lr_multipliers(made, {})
    assert not {"update_step", "_apply_weight_decay"} & vars(made.optimizer).keys()


def test_what_does_not_fit_is_refused():
    made = cases.model("sgd")
    with pytest.raises(InputError, match=r"no layer 'third'; the model's are .*first, second"):
        set_lr_multipliers(made, {"third": 2})
    with pytest.raises(InputError, match=r"first=0: expected a number above 0"):
        set_lr_multipliers(made, {"first": 0})
    with pytest.raises(InputError, match="expected a compiled model"):
        set_lr_multipliers(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), {})


@pytest.mark.slow
def test_the_finder_works_with_the_factors_and_leaves_them():
    def data():
        while True:
            yield from ((x, (y, y)) for x, y in zip(cases.INPUTS, cases.TARGETS, strict=True))

    curves = {}
    for factor in (1.0, 100.0):
        made = cases.model(keras.optimizers.SGD(0.01))
        set_lr_multipliers(made, {"first": factor, "second": factor})
        before = made.get_weights()
        curves[factor] = find_lr(made, data(), steps=40)
        for first, second in zip(before, made.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)
        assert ("update_step" in vars(made.optimizer)) == (factor != 1)
    ratio = curves[1.0].rates[-1] / curves[100.0].rates[-1]
    assert 30 < ratio < 300, "a hundred times the rate diverges at a hundredth of it"


# -- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def config(square_dataset, one_layer_backbone_file, tmp_path):
    return TrainConfig(
        data_dir=str(square_dataset),
        run_dir=str(tmp_path / "run"),
        strategy="baseline",
        backbone=one_layer_backbone_file,
        batch_size=8,
        steps=5,
        checkpoint_every=2,
        max_lr="0.05",
        log_every=1,
        augment_probability=0.0,
        lr_multipliers="head=4",
    )


def last(config):
    arrays, _ = checkpoint.load(f"{config.run_dir}/{runs.LAST}")
    # Without generators, the optimizer's own learning rate, and what else is not per weight.
    return {name: array for name, array in arrays.items() if array.ndim}


def assert_same_weights(first, second, **tolerance):
    one, two = last(first), last(second)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], err_msg=name, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["each_step", "once"])
def test_the_head_alone_at_four_times_the_rate_is_a_run_at_that_rate(config, tmp_path, features):
    config = dataclasses.replace(config, features=features)
    train(config)
    other = dataclasses.replace(
        config, lr_multipliers="", max_lr="0.2", run_dir=str(tmp_path / "other")
    )
    train(other)
    assert_same_weights(config, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_all_ways_of_training_agree(config, tmp_path):
    config = dataclasses.replace(
        config, strategy="baseline_all", lr_multipliers="head=4,backbone=0.5"
    )
    train(config)
    for name, options in {
        "device": {"cache": "device"},
        "together": {"steps_per_execution": 2},
    }.items():
        other = dataclasses.replace(config, run_dir=str(tmp_path / name), **options)
        train(other)
        assert_same_weights(config, other, rtol=1e-4, atol=1e-6)
    alone = dataclasses.replace(config, lr_multipliers="", run_dir=str(tmp_path / "alone"))
    train(alone)
    with pytest.raises(AssertionError):
        assert_same_weights(config, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_says_and_records_its_rates(config, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = dataclasses.replace(
        config, strategy="baseline_all", mixed_precision=True, lr_multipliers="head=4,colorizer=3"
    )
    result = train_alone(config)
    out = capsys.readouterr().out
    assert "peak learning rate 0.05, head 4 times: 0.2" in out
    assert "--lr_multipliers: colorizer without effect, since --strategy=baseline_all" in out
    assert result["lr_multipliers"] == {"head": 4.0}
    record = json.loads((Path(config.run_dir) / runs.CONFIG).read_text())
    assert record["lr_multipliers"] == {"head": 4.0}
    for row in runs.Run(Path(config.run_dir)).read_log():
        assert float(row["learning_rate head"]) == pytest.approx(4 * float(row["learning_rate"]))
    events = EventAccumulator(config.run_dir, {"tensors": 0})
    events.Reload()
    assert "train/learning_rate_head" in events.Tags()["tensors"]
    assert not [tag for tag in events.Tags()["tensors"] if "colorized" in tag], "there is no T"


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_factors(config, monkeypatch):
    config = dataclasses.replace(config, lr_multipliers="", recipe="fast_head")
    train(config)
    (Path(config.run_dir) / runs.RESULT).unlink()
    with pytest.raises(InputError, match=r"--lr_multipliers=head=2 \(there: \)"):
        train(dataclasses.replace(config, lr_multipliers="head=2"))
    changed = catalog.Recipe("another version's", {"baseline": "head=8"})
    monkeypatch.setattr(catalog, "RECIPES", {**catalog.RECIPES, "fast_head": changed})
    with pytest.raises(InputError, match=r"learning-rate factors {'head': 8.0} \(there: .*4"):
        train(config)


@pytest.mark.slow
def test_the_finders_files_say_which_parts_had_another_rate(config):
    curve = range_test(dataclasses.replace(config, strategy="baseline_all"))
    assert curve.parts == "head 4 times this"
    content = json.loads((Path(config.run_dir) / runs.LR_FINDER).read_text())
    assert content["multipliers"] == {"head": 4.0}
