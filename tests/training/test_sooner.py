"""Small images first (--progressive), and the end of a run at a target (--stop_at_auc)."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from training_helpers import train_alone

from medcolor_tf import train as command
from medcolor_tf.errors import InputError
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.folder import Run
from medcolor_tf.training import callbacks, feature_cache
from medcolor_tf.training.augment import ScaledImages, scale_weights
from medcolor_tf.training.trainer import train


@pytest.fixture
def config(square_dataset, tmp_path, one_layer_backbone_file):
    return TrainConfig(
        data_dir=str(square_dataset),
        run_dir=str(tmp_path / "run"),
        colorizer="color_map",
        backbone=one_layer_backbone_file,
        batch_size=8,
        steps=6,
        checkpoint_every=2,
    )


@pytest.mark.parametrize(("before", "after"), [(32, 16), (30, 7), (20, 15)])
def test_images_are_scaled_as_tensorflow_scales_them(before, after):
    images = np.random.default_rng(0).uniform(0, 255, (2, before, before, 2)).astype("float32")
    expected = tf.image.resize(images, (after, after), antialias=True)
    scaled = ScaledImages(after)(images)
    np.testing.assert_allclose(scaled, expected, atol=1e-3)
    assert scale_weights(before, after).sum(axis=1) == pytest.approx(np.ones(after))
    np.testing.assert_array_equal(ScaledImages(before)(images), images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config")  # tf.data's functions stay graphs
def test_the_first_steps_see_small_images_and_validation_whole_ones(config, monkeypatch, capsys):
    sides, call = [], ScaledImages.call

    def note(self, images):
        scaled = call(self, images)
        sides.append(scaled.shape[1])
        return scaled

    monkeypatch.setattr(ScaledImages, "call", note)
    tf.config.run_functions_eagerly(True)
    try:
        train(dataclasses.replace(config, progressive="0.5:0.6"))
    finally:
        tf.config.run_functions_eagerly(False)
    assert sides[-6:] == [16, 16, 16, 16, 32, 32]
    assert [row["image_size"] for row in Run(Path(config.run_dir)).read_log()] == ["16", "16", "32"]
    said = "training images of 16 px in steps 1 to 4, 32 px in steps 5 to 6"
    assert said in capsys.readouterr().out


def test_what_does_not_go_with_several_sizes_is_refused(config, capsys):
    with pytest.raises(InputError, match=r"of 32 px: image size: color_u needs .* received 20"):
        train(dataclasses.replace(config, colorizer="color_u", progressive="0.625:0.5"))
    frozen = dataclasses.replace(config, strategy="baseline", colorizer="", progressive="0.5:0.5")
    once = dataclasses.replace(frozen, features="once", augment_probability=0.0)
    with pytest.raises(InputError, match=r"--progressive=0\.5:0\.5 has images of several sizes"):
        feature_cache.check(once)
    words = (f"--data_dir={config.data_dir}", f"--run_dir={config.run_dir}", "--steps=6")
    assert command.main([*words, "--progressive=2"]) == 2
    assert "expected SCALE:SHARE" in capsys.readouterr().err
    assert command.main([*words, "--stop_at_auc=90"]) == 2
    assert "--stop_at_auc=90.0: expected a value from 0 to 1" in capsys.readouterr().err
    assert not Path(config.run_dir).exists()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_ends_at_its_target_and_stays_finished(config, tmp_path, frozen, capsys, monkeypatch):
    if frozen:
        config = dataclasses.replace(
            config, strategy="baseline", colorizer="", features="once", augment_probability=0.0
        )
    whole = dataclasses.replace(config, run_dir=str(tmp_path / "whole"))
    assert "stopped" not in train_alone(whole)
    target = dataclasses.replace(config, stop_at_auc=0.001)
    result, run = train_alone(target), Run(Path(target.run_dir))
    assert (result["steps"], result["best_step"]) == (2, 2)
    assert result["stopped"].startswith("at step 2 of 6: the mean AUC of the validation images, 0.")
    assert "training ended at step 2 of 6" in capsys.readouterr().out
    # The schedule is that of the whole run.
    assert run.read_log() == Run(Path(whole.run_dir)).read_log()[:1]
    assert run.last_step == 2
    assert train_alone(target) == result
    # Killed after the checkpoint and before the result.
    (run.folder / runs.RESULT).unlink()
    monkeypatch.setattr(callbacks.AtCheckpoint, "on_epoch_end", None)
    assert train_alone(target) == result
    assert run.last_step == 2
