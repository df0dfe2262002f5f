"""A run on Keras' JAX backend, in a process of its own, beside the same run on TensorFlow."""

import csv
import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from medcolor_tf.files import read_json
from medcolor_tf.runs import folder
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.serving.evaluate_run import evaluate_run
from medcolor_tf.training import trainer

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_a_run_begun_on_tensorflow_goes_on_alike_on_jax(small_dataset, tmp_path, monkeypatch):
    """From one checkpoint, since each backend draws its own initial weights (and augmentation).

    The kernels sum in another order: 1e-7 a step, which the steps magnify (with a colorizer, to
    2e-5 after four).
    """
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    keras.Model(inputs, keras.layers.ReLU()(x), name="small").save(tmp_path / "small.keras")
    config = TrainConfig(
        data_dir=str(small_dataset),
        run_dir=str(tmp_path / "tensorflow"),
        strategy="baseline_all",
        backbone=str(tmp_path / "small.keras"),
        batch_size=8,
        steps=6,
        checkpoint_every=1,
        max_lr="0.05",
        lr_multipliers="head=2",
        augment_probability=0.0,
        evaluate=("test",),
    )

    def die_after_two(self, step, *others):
        save_checkpoint(self, step, *others)
        if step == 2:
            raise Killed

    save_checkpoint = trainer.Trainer.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "save_checkpoint", die_after_two)
        with pytest.raises(Killed):
            trainer.train(config)
    other = dataclasses.replace(config, run_dir=str(tmp_path / "jax"))
    shutil.copytree(config.run_dir, other.run_dir)
    trainer.train(config)

    words = [
        f"--{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in vars(other).items()
        if value != getattr(TrainConfig, name, None)
    ]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "medcolor_tf.train", *words],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resuming at step 2" in done.stdout
    logs = []
    for run_dir in (config.run_dir, other.run_dir):
        with open(Path(run_dir) / folder.LOG, newline="") as file:
            logs.append([(int(r["step"]), float(r["loss"])) for r in csv.DictReader(file)])
    for (step, loss), (other_step, other_loss) in zip(*logs, strict=True):
        assert step == other_step
        assert other_loss == pytest.approx(loss, rel=1e-4)
    on_jax = read_json(Path(other.run_dir) / "evaluation-test.json")
    on_tensorflow = evaluate_run(other.run_dir, other.data_dir, out=str(tmp_path / "again"))
    assert on_jax["observations"] == on_tensorflow["observations"]
