"""The training loop: strategies, exact resume, run folder, LR finder, clear errors."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_helpers import train_alone

from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.locks import LOCK
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel import runtime
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import strategies
from medcolor_tf.training.inspection import Inspection
from medcolor_tf.training.lr_finder import LRCurve, find_lr, smooth, suggest
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.tensorboard import Log
from medcolor_tf.training.trainer import Trainer, range_test, train

pytestmark = pytest.mark.slow


WITHOUT_COLORIZER: dict[str, Any] = {"strategy": "baseline_all", "colorizer": ""}


def plain(data, folder, backbone):
    return TrainConfig(
        data_dir=str(data),
        run_dir=str(folder / "run"),
        colorizer="color_u",
        backbone=backbone,
        batch_size=8,
        steps=7,
        checkpoint_every=3,
        max_lr="0.05",
        log_every=2,
    )


@pytest.fixture
def config(small_dataset, tmp_path, backbone_file):
    return plain(small_dataset, tmp_path, backbone_file)


@pytest.fixture(scope="module")
def stage1(small_dataset, tmp_path_factory, backbone_file):
    """A finished color_module run."""
    config = plain(small_dataset, tmp_path_factory.mktemp("stage1"), backbone_file)
    config = dataclasses.replace(config, steps=4, checkpoint_every=2)
    train(config)
    return config.run_dir


@pytest.fixture(scope="module")
def finished(small_dataset, tmp_path_factory, backbone_file):
    """A finished run of plain options, for tests that read it: (config, result)."""
    config = plain(small_dataset, tmp_path_factory.mktemp("finished"), backbone_file)
    return config, train_alone(config)


@pytest.fixture
def short_range_test(monkeypatch):
    """A fifth of the LR finder's steps, where a rate must be found and any will do."""
    short = functools.partial(find_lr, steps=20)
    monkeypatch.setattr("medcolor_tf.training.trainer.find_lr", short)


def build(config):
    return Trainer.build(TrainPlan.from_config(config), runs.Run(Path(config.run_dir)))


def arrays_of(run_dir, name=runs.LAST):
    return checkpoint.load(f"{run_dir}/{name}")[0]


def test_a_run_leaves_its_folder_complete(finished):
    config, result = finished
    config_folder = Path(config.run_dir)
    run = runs.Run(config_folder)
    assert result["steps"] == 7
    assert [row["step"] for row in run.read_log()] == ["3", "6", "7"]
    best = max(run.read_log(), key=lambda row: float(row["valid_mean_auc"]))
    assert result["best_step"] == int(best["step"])
    assert result["best_valid_mean_auc"] == pytest.approx(float(best["valid_mean_auc"]))
    assert json.loads((config_folder / runs.CONFIG).read_text())["flags"]["steps"] == 7
    assert ModelSpec.load(config_folder / runs.MODEL).backbone.startswith(config.run_dir)
    assert (config_folder / runs.COLORIZER).is_file()
    hidden = {path.name for path in config_folder.iterdir() if path.name.startswith(".")}
    assert hidden == {LOCK}


def test_tensorboard_shows_what_was_promised(config, short_range_test):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    config = dataclasses.replace(config, evaluate=("test",), max_lr="auto", colorizer="color_map")
    result = train_alone(config, Inspection(graph=True, profiled=(2, 3)))
    events = EventAccumulator(config.run_dir, {"tensors": 0})
    events.Reload()
    names = ("Edema", "Cardiomegaly", "Pleural Effusion")
    assert {
        *("train/loss", "train/learning_rate", "train/momentum", "train/images_per_second"),
        *("valid/mean_auc", "valid/loss", "test/mean_auc", "visual/gray_and_colorized"),
        *(f"{split}/auc {name}" for split in ("valid", "test") for name in names),
        *(f"valid/{kind} Edema" for kind in ("sensitivity", "specificity", "threshold")),
    } <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("train/loss")] == [2, 4, 6]
    steps = [event.step for event in events.Tensors("valid/loss")]
    assert steps == [3, 6, 7] == [event.step for event in events.Tensors("valid/Edema/pr_curves")]
    # A curve's rows: true and false positives, true and false negatives, precision, recall.
    curve = tf.make_ndarray(events.Tensors("valid/Edema/pr_curves")[-1].tensor_proto)
    plan = TrainPlan.from_config(config)
    labels = plan.valid.labels[:, 0]
    assert curve[:4, 0].tolist() == [(labels == 1).sum(), (labels == 0).sum(), 0, 0]
    # Options as they were used, not as they were given.
    content = {tag: data.plugin_data.content for tag, data in events.summary_metadata.items()}
    session = metadata.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert session.hparams["max_lr"].number_value == pytest.approx(result["max_lr"])
    assert session.hparams["image_size"].number_value == 32
    experiment = metadata.parse_experiment_plugin_data(content["_hparams_/experiment"])
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["valid/mean_auc", "test/mean_auc"]
    shown = tf.make_ndarray(events.Tensors("test/mean_auc")[0].tensor_proto)
    assert float(shown) == pytest.approx(result["evaluations"][0]["mean_auc"])
    parts = {
        node.name.split("/")[1].split("_")[0] for node in events.Graph().node if "/" in node.name
    }
    assert {"colorizer", "backbone", "head"} <= parts
    assert list(Path(config.run_dir, "plugins", "profile").rglob("*.xplane.pb"))


def test_the_validation_loss_is_that_of_keras(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan, run = TrainPlan.from_config(config), runs.Run(Path(config.run_dir))
    trainer = Trainer.build(plan, run)
    trainer.log = Log(run.folder)
    labels = plan.valid.labels
    logits = np.linspace(-1, 1, labels.size).reshape(labels.shape)
    trainer._log_validation(5, labels, logits)
    trainer.log.close()
    events = EventAccumulator(config.run_dir, {"tensors": 0})
    events.Reload()
    logged = float(tf.make_ndarray(events.Tensors("valid/loss")[0].tensor_proto))
    known = np.isfinite(labels)
    losses = np.logaddexp(0, logits) - np.where(known, labels, 0) * logits
    assert logged == pytest.approx(losses[known].mean(), rel=1e-5)


@pytest.mark.parametrize("text", ["x", "3:", "0:2", "5:3", "1:2:3"])
def test_steps_to_profile_are_checked(text):
    with pytest.raises(InputError, match=f"--profile_steps={text}: expected FIRST:LAST"):
        Inspection.parse(False, text)


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize(("killed_at", "max_lr"), [(4, "0.05"), (6, "auto")])
def test_resume_is_exact(config, tmp_path, monkeypatch, short_range_test, killed_at, max_lr):
    config = dataclasses.replace(config, deterministic=True, max_lr=max_lr)
    if max_lr == "auto":  # the rate is what matters there
        config = dataclasses.replace(config, **WITHOUT_COLORIZER)
    whole = dataclasses.replace(config, run_dir=str(tmp_path / "whole"))
    train(whole)

    def die(self, step, batch, loss):
        assert step == int(self.model.optimizer.iterations)
        if step == killed_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("medcolor_tf.training.callbacks.LossCurve.after", die)
        with pytest.raises(Killed):
            train(config)
    assert not runs.Run(Path(config.run_dir)).finished
    read, load = [], checkpoint.load
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load", lambda path: read.append(Path(path).name) or load(path))
        train(config)
    assert read.count(runs.LAST) == 1
    for name in (runs.LAST, runs.BEST):
        one, two = arrays_of(whole.run_dir, name), arrays_of(config.run_dir, name)
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    assert any("generator" in key for key in arrays_of(whole.run_dir)), "dropout and augmentation"
    logs = [Path(folder, runs.LOG).read_text() for folder in (whole.run_dir, config.run_dir)]
    assert logs[0] == logs[1]


def test_several_steps_an_execution_are_the_same_run(config, tmp_path):
    config = dataclasses.replace(config, **WITHOUT_COLORIZER, deterministic=True)
    config = dataclasses.replace(config, checkpoint_every=4)  # 4 and 2 of 6
    several = dataclasses.replace(
        config, run_dir=str(tmp_path / "several"), steps_per_execution=3, log_every=1
    )
    train(config)
    train(several)
    one, two = arrays_of(config.run_dir), arrays_of(several.run_dir)
    for key in one:
        np.testing.assert_array_equal(two[key], one[key], err_msg=key)
    logs = [Path(folder, runs.LOG).read_text() for folder in (config.run_dir, several.run_dir)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("wanted", "steps", "expected"), [(0, 100, 1), (32, 100, 25), (32, 7, 7), (4, 7, 1), (1, 6, 1)]
)
def test_executions_never_run_beyond_a_checkpoint(wanted, steps, expected):
    assert runtime.steps_together(wanted, steps) == expected


def test_a_step_without_xla_is_never_silent(monkeypatch):
    """A GPU is stood in for; Keras' choice and the layers are real."""
    gpu = runtime.Device("GPU:0", 2**30, True)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(inputs))

    def compile_model(jit_compile: Any):  # a bool, where Keras declares a str
        model.compile("sgd", "mse", jit_compile=jit_compile)

    compile_model(jit_compile=True)
    assert runtime.xla_note(model) == "", "nothing to say on a CPU"
    monkeypatch.setattr(runtime, "device", lambda: gpu)
    assert runtime.xla_note(model) == "the training step is compiled by XLA"
    model.get_layer("head").supports_jit = False
    compile_model(jit_compile=False)
    note = runtime.xla_note(model)
    assert note.startswith("warning: the training step runs WITHOUT XLA")
    assert "cannot compile: head" in note
    runtime.make_deterministic()
    assert "--deterministic" in runtime.xla_note(model)


def test_a_whole_training_step_compiles_under_xla(config):
    """What a GPU would do: the same loss as without, so that no operation lacks a kernel.

    Random numbers are others there (TensorFlow leaves the algorithm to XLA), so none are drawn.
    """
    losses = []
    config = dataclasses.replace(config, rotation_degrees=1e-9, max_zoom=1.0)
    for jit in (False, True):
        trainer = build(config)
        trainer.classifier.get_layer("backbone").get_layer("dropout").rate = 0.0
        model = trainer.model
        model.compile(model.optimizer, model.loss, jit_compile=jit)
        history = model.fit(trainer.batches(0), steps_per_epoch=3, verbose=0, shuffle=False)
        losses.append(history.history["loss"][0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_same_command_on_a_finished_run_does_nothing(finished, capsys):
    config, first = finished
    before = arrays_of(config.run_dir)
    assert train(config) == first
    assert "already finished" in capsys.readouterr().out
    after = arrays_of(config.run_dir)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_run_folder_of_other_options_is_not_touched(finished):
    config, _ = finished
    before = sorted((path.name, path.stat().st_mtime_ns) for path in Path(config.run_dir).iterdir())
    with pytest.raises(InputError, match=r"--batch_size=4 \(there: 8\)"):
        train(dataclasses.replace(config, batch_size=4))
    after = sorted((path.name, path.stat().st_mtime_ns) for path in Path(config.run_dir).iterdir())
    assert after == before


def test_a_folder_of_something_else_is_not_touched(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="not empty and no run"):
        train(config)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def moved(before, after, part):
    keys = [key for key in before if key.startswith(part + "/")]
    trained = [key for key in keys if "moving" not in key]
    statistics = [key for key in keys if "moving" in key]

    def any_change(names):
        return any(not np.array_equal(before[name], after[name]) for name in names)

    return any_change(trained), any_change(statistics)


@pytest.mark.parametrize("frozen_bn", ["moving", "batch"])
@pytest.mark.parametrize("strategy", list(strategies.STRATEGIES))
def test_a_strategy_moves_what_it_says_and_nothing_else(
    config, stage1, strategy, frozen_bn, monkeypatch
):
    needs_source = strategies.STRATEGIES[strategy].colorizer == "source"
    config = dataclasses.replace(
        config,
        strategy=strategy,
        frozen_bn=frozen_bn,
        steps=2,
        colorizer="" if strategy != "color_module" else "color_u",
        init_from=stage1 if needs_source else "",
    )
    before, fit = {}, Trainer.fit

    def from_here(trainer):
        before.update(checkpoint.to_arrays(checkpoint.named_weights(trainer.classifier)))
        fit(trainer)

    monkeypatch.setattr(Trainer, "fit", from_here)
    train(config)
    after = arrays_of(config.run_dir)
    expected = strategies.STRATEGIES[strategy]
    assert moved(before, after, "head")[0]
    assert moved(before, after, "backbone") == (
        "backbone" in expected.trains,
        "backbone" in expected.trains or frozen_bn == "batch",
    )
    has_colorizer = expected.colorizer != "none"
    assert any(key.startswith("colorizer/") for key in before) == has_colorizer
    if has_colorizer:
        trains = "colorizer" in expected.trains
        assert moved(before, after, "colorizer") == (trains, trains or frozen_bn == "batch")


def test_stage_two_starts_from_stage_one_with_a_new_head(config, stage1):
    config = dataclasses.replace(config, strategy="all", init_from=stage1, colorizer="", seed=5)
    trainer = build(config)
    start = checkpoint.to_arrays(checkpoint.named_weights(trainer.classifier))
    best = arrays_of(stage1, runs.BEST)
    for key, value in start.items():
        assert np.array_equal(value, best[key]) == (not key.startswith("head/")), key


def test_a_colorizer_file_brings_T_alone(config, stage1):
    file = f"{stage1}/{runs.COLORIZER}"
    config = dataclasses.replace(config, strategy="last_layer", init_from=file, colorizer="")
    trainer = build(config)
    start, best = (
        checkpoint.to_arrays(checkpoint.named_weights(trainer.classifier)),
        checkpoint.load(file)[0],
    )
    assert all(np.array_equal(start[key], best[key]) for key in best)
    assert {k for k in start if k.startswith("colorizer/")} == set(best)


def test_normalisation_is_the_targets_or_the_sources(config, stage1, tmp_path, write_small_dataset):
    write_small_dataset(tmp_path / "other", seed=9)
    config = dataclasses.replace(
        config, strategy="all", init_from=stage1, colorizer="", data_dir=str(tmp_path / "other")
    )
    target = TrainPlan.from_config(config).spec
    source = TrainPlan.from_config(dataclasses.replace(config, normalization="source")).spec
    assert source.pixel_mean == ModelSpec.load(f"{stage1}/{runs.MODEL}").pixel_mean
    assert target.pixel_mean != source.pixel_mean


def test_it_learns(config, tmp_path, write_small_dataset):
    """Stripes in noise are learnt well above chance: data, labels and gradients belong together."""
    write_small_dataset(tmp_path / "more", images=(128, 64, 1), records_per_shard=64)
    config = dataclasses.replace(
        config,
        data_dir=str(tmp_path / "more"),
        strategy="baseline_all",  # the quickest: this backbone is tiny
        colorizer="",
        batch_size=16,
        steps=150,
        max_lr="0.1",
        checkpoint_every=50,
        augment_probability=0.0,  # stripes of 4 pixels do not survive much resampling
    )
    assert train_alone(config)["best_valid_mean_auc"] > 0.8


def test_several_channels_of_16_bits_in_mixed_precision(config, tmp_path, write_small_dataset):
    """The paper's outlook, several MR sequences; weights stay in float32 under bfloat16."""
    write_small_dataset(tmp_path / "mr", channels=2, bits=16)
    config = dataclasses.replace(config, data_dir=str(tmp_path / "mr"), mixed_precision=True)
    assert np.isfinite(train_alone(config)["best_valid_mean_auc"])
    spec, classifier, _ = runs.load_classifier(config.run_dir)
    assert (spec.input_channels, spec.bits) == (2, 16)
    assert classifier.input_shape[-1] == 2
    assert {a.dtype for k, a in arrays_of(config.run_dir).items() if "/kernel" in k} == {
        np.dtype("float32")
    }
    assert keras.config.dtype_policy().name == "float32", "the policy is put back"


def test_the_lr_finder_leaves_no_trace(config):
    trainer = build(config)
    state = functools.partial(
        checkpoint.TrainState.capture, 0, checkpoint.Best(), trainer.classifier, trainer.model
    )
    before = state().arrays
    curve = find_lr(trainer.model, trainer.batches(0), steps=30)
    after = state().arrays
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key], err_msg=key)
    assert curve.rates[0] <= curve.suggestion <= curve.rates[-1]
    assert len(curve.rates) == len(curve.losses) > 10


def test_auto_rate_is_found_once_and_kept(config):
    config = dataclasses.replace(config, **WITHOUT_COLORIZER, max_lr="auto")
    result = train_alone(config)
    folder = Path(config.run_dir)
    assert result["max_lr"] == json.loads((folder / runs.LR_FINDER).read_text())["suggestion"]
    assert (folder / runs.LR_FINDER_PLOT).read_bytes().startswith(b"\x89PNG")


def test_range_test_writes_its_curve_and_refuses_a_used_folder(config):
    config = dataclasses.replace(config, **WITHOUT_COLORIZER)
    range_test(config)
    names = {path.name for path in Path(config.run_dir).iterdir()}
    assert names == {"lr_find.json", "lr_find.csv", "lr_find.png", LOCK}
    with pytest.raises(InputError, match="not empty"):
        range_test(config)


def test_the_suggestion_is_a_tenth_of_the_rate_at_the_minimum():
    rates = np.logspace(-5, 1, 61)
    losses = 1 - 0.8 / (1 + np.exp(-4 * (np.log10(rates) + 2)))
    losses[41:] += np.linspace(1, 5, 20)  # diverges above 0.1
    assert suggest(rates, losses) == pytest.approx(1e-2)
    # Noise at the start, where the slope is steepest, does not count.
    losses[:3] += [0.5, 0.3, 0.1]
    assert suggest(rates, losses) == pytest.approx(1e-2)
    assert suggest(rates, np.arange(61.0)) == rates[0]
    assert smooth([3.0] * 5) == pytest.approx([3.0] * 5)


def test_a_suggestion_near_the_lowest_rate_is_in_doubt():
    def curve(suggestion):
        return LRCurve((1e-5, 1e-3, 1.0), (1.0,) * 3, (1.0,) * 3, suggestion)

    assert "near the lowest tried (1e-05): the curve is probably noise" in curve(1e-5).warning
    assert curve(9e-5).warning.startswith("warning: the loss was lowest at a rate of 0.0009")
    assert curve(2e-4).warning == ""


def test_a_diverging_run_says_so_and_keeps_its_checkpoint(config):
    config = dataclasses.replace(config, **WITHOUT_COLORIZER, max_lr="1e30", steps=40)
    with pytest.raises(InputError, match=r"training diverged; start a new run with a lower"):
        train(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "either --steps or --epochs"),
        ({"epochs": 1.0}, "either --steps or --epochs"),
        ({"train_fraction": 2.0}, "--train_fraction=2.0: expected a value from"),
        ({"max_lr": "fast"}, "--max_lr=fast: expected a number above zero, or auto"),
        ({"normalization": "source"}, "needs --init_from"),
        ({"strategy": "all", "colorizer": ""}, "--strategy=all needs --init_from"),
        ({"strategy": "baseline"}, "--colorizer=color_u contradicts it"),
        ({"colorizer": "none"}, "--colorizer=none contradicts it"),
        ({"init_from": "/nowhere"}, "--init_from=/nowhere: no such run folder"),
        ({"data_dir": "/nowhere"}, "/nowhere/dataset.json: no such file"),
        ({"observations": ("Hernia",)}, "no observation 'Hernia'"),
        ({"backbone": "ResNet19"}, "ResNet19"),
        ({"image_size": 30}, "30"),
    ],
)
def test_bad_options_are_named_and_leave_no_folder(config, changes, message):
    config = dataclasses.replace(config, **changes)
    with pytest.raises(InputError, match=message):
        train(config)
    assert not Path(config.run_dir).exists()


def test_a_source_that_contradicts_the_flags(config, stage1):
    config = dataclasses.replace(config, strategy="all", init_from=stage1, colorizer="deconv")
    with pytest.raises(InputError, match=r"--colorizer=deconv: .* has color_u; leave the flag out"):
        train(config)


def test_files_that_are_no_weights(config, tmp_path, backbone_file):
    config = dataclasses.replace(config, strategy="all", colorizer="", init_from=backbone_file)
    with pytest.raises(InputError, match=r"small.keras: not weights saved by medcolor_tf"):
        train(config)
    cut = tmp_path / "cut.safetensors"
    checkpoint.save(cut, {"a": np.zeros(100)}, {})
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(InputError, match=r"cut.safetensors: not weights"):
        train(dataclasses.replace(config, init_from=str(cut)))


def test_weights_of_another_model_are_refused_whole(stage1, config):
    trainer = build(dataclasses.replace(config, strategy="baseline", colorizer=""))
    named = checkpoint.named_weights(trainer.classifier)
    before = checkpoint.to_arrays(named)
    with pytest.raises(InputError, match=r"unexpected colorizer/"):
        checkpoint.assign(named, arrays_of(stage1, runs.BEST), "elsewhere")
    after = checkpoint.to_arrays(named)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_moved_backbone_file_is_not_missed(stage1, tmp_path):
    copy = shutil.copytree(stage1, tmp_path / "moved")
    spec, classifier, step = runs.load_classifier(copy)
    assert spec.backbone == str(copy / "backbone.keras")
    assert step in (2, 4)
    arrays = checkpoint.to_arrays(checkpoint.named_weights(classifier))
    assert all(np.array_equal(arrays[k], v) for k, v in arrays_of(stage1, runs.BEST).items())


def test_evaluation_at_the_end_is_that_of_the_best_weights(config, capsys):
    """It runs in the model at hand; the evaluate command, with a model built anew, agrees."""
    from medcolor_tf.serving.evaluate_run import evaluate_run
    from medcolor_tf.train import main

    config = dataclasses.replace(config, colorizer="color_map", evaluate=("test", "valid"))
    words = [
        f"--{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in vars(config).items()
        if not isinstance(value, bool)
    ]
    assert main(words) == 0
    assert "test: 12 images" in capsys.readouterr().out
    folder = Path(config.run_dir)
    files = runs.Run(folder)
    path = files.evaluation("test")
    at_the_end = read_json(path)
    best = read_json(folder / runs.RESULT)
    assert at_the_end["step"] == best["best_step"]
    valid = read_json(files.evaluation("valid"))
    assert valid["mean_auc"] == pytest.approx(best["best_valid_mean_auc"])
    assert files.pictures("test").is_file()

    path.unlink()
    assert main(words) == 0  # a power cut after the training: only what is missing is made
    assert read_json(path) == at_the_end
    assert evaluate_run(config.run_dir, config.data_dir)["mean_auc"] == at_the_end["mean_auc"]
    evaluate_run(config.run_dir, config.data_dir, mixed_precision=True)
    assert main(words) == 0  # what is there now is not the run's own
    assert read_json(path) == at_the_end


def test_few_images_train_for_at_least_min_steps(config):
    config = dataclasses.replace(config, **WITHOUT_COLORIZER, checkpoint_every=9)
    settings = dataclasses.replace(config, steps=0, epochs=1.0, min_steps=5, train_fraction=0.5)
    assert train_alone(settings)["steps"] == 5
    other = dataclasses.replace(settings, run_dir=config.run_dir + "2", epochs=8.0)
    assert train_alone(other)["steps"] == 8


def test_min_steps_contradicts_steps(config):
    with pytest.raises(InputError, match="--min_steps=5 goes with --epochs"):
        train(dataclasses.replace(config, min_steps=5))
    assert not Path(config.run_dir).exists()


def test_a_run_of_an_older_version_without_an_option_is_the_same_run(finished, tmp_path):
    """config.json of a run that was made before an option existed lacks it."""
    config, result = finished
    copy = shutil.copytree(config.run_dir, tmp_path / "run")
    config = dataclasses.replace(config, run_dir=str(copy))
    path = Path(config.run_dir) / runs.CONFIG
    record = read_json(path)
    for name in ("min_steps", "evaluate"):
        del record["flags"][name]
    path.write_text(json.dumps(record))
    (Path(config.run_dir) / runs.MANIFEST).unlink()  # which runs of older versions do not have
    again = train_alone(config)
    assert again["best_step"] == result["best_step"]
    with pytest.raises(InputError, match=r"--seed=9 \(there: 0\)"):
        train(dataclasses.replace(config, seed=9))


def test_where_a_source_comes_from_is_recorded(config, stage1):
    source = {"init_from": stage1, "colorizer": "", "backbone": ""}
    train(dataclasses.replace(config, **source, strategy="last_layer", steps=1))
    record = read_json(Path(config.run_dir) / runs.CONFIG)
    origin = record["init_from"]
    assert origin["strategy"] == "color_module"
    assert origin["data_fingerprint"] == record["data_fingerprint"]
    assert origin["backbone"].endswith("small.keras")
    assert record["train_images"] == 24
    assert set(record["train_labels"]["Edema"]) == {"positive", "negative", "uncertain", "blank"}
