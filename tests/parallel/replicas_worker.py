"""Trains the same runs on one device and on two, for test_replicas.py; in a process of its own,
since TensorFlow can be given logical devices only once, before it starts.

    python -m tests.parallel.replicas_worker DATA_SET FOLDER

Leaves in FOLDER the run folders, what each looked like at its first checkpoint (NAME-half), and
seen.json.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from medcolor_tf.models.fast.batch_norm import FusedBatchNormalization
from medcolor_tf.parallel import replicas
from medcolor_tf.parallel.replicas import Devices
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import callbacks, trainer

losses: dict[str, list[float]] = {}
name = ""


def main(data: str, folder: Path) -> None:
    watch(folder)
    devices = Devices.choose(2, 6)
    seen = {"note": devices.note, **predict(devices), **normalize(devices)}
    base = TrainConfig(
        data_dir=data,
        run_dir="",
        colorizer="color_u",
        backbone=backbone(folder),
        batch_size=8,
        steps=4,
        checkpoint_every=2,
        log_every=1,
        max_lr="0.002",
        uncertain_policy="ignore",  # unknown labels, not the same number on both devices
        deterministic=True,  # so that what is left of rounding does not vary
    )
    for devices in ("1", "2"):
        change = {"devices": devices, "max_lr": "auto"}
        train(folder / f"color_module-{devices}", base, **change)
    source = {"init_from": str(folder / "color_module-1"), "colorizer": "", "backbone": ""}
    stage2 = source | {"strategy": "all", "lr_multipliers": "head=4"}
    for devices in ("1", "2"):
        train(folder / f"all-{devices}", base, **stage2, devices=devices, evaluate=("test",))
    for before, after in (("1", "2"), ("2", "1")):
        resumed = folder / f"all-{before}-then-{after}"
        shutil.copytree(folder / f"all-{before}-half", resumed)
        train(resumed, base, **stage2, devices=after)
    for devices in ("1", "2"):
        change = source | {"strategy": "last_layer", "features": "once", "devices": devices}
        train(folder / f"features-{devices}", base, **change, augment_probability=0.0)
    (folder / "seen.json").write_text(json.dumps(seen | {"losses": losses}))


def train(run_dir: Path, base: TrainConfig, **change) -> None:
    global name
    name = run_dir.name
    trainer.train(dataclasses.replace(base, run_dir=str(run_dir), **change))


def watch(folder: Path) -> None:
    """Keeps every loss and the first checkpoint; the LR finder takes fewer steps."""
    trainer.find_lr = functools.partial(trainer.find_lr, steps=8, low=0.002, high=0.02)
    point = callbacks.LossCurve.on_train_batch_end
    save_checkpoint = trainer.Trainer.save_checkpoint

    def save_and_copy(self, step, loss, auc):
        save_checkpoint(self, step, loss, auc)
        if step == 2:
            shutil.copytree(folder / name, folder / f"{name}-half")

    def keep_loss(self, batch, logs: Any = None):
        losses.setdefault(name, []).append(float(logs["loss"]))
        point(self, batch, logs)

    trainer.Trainer.save_checkpoint = save_and_copy
    callbacks.LossCurve.on_train_batch_end = keep_loss


def backbone(folder: Path) -> str:
    """One batch normalisation for the fused kernel, one that it leaves to Keras, and dropout."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(image)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    x = keras.layers.Dropout(0.1, noise_shape=(None, 1, 1, None), name="drop_maps")(x)
    x = keras.layers.Conv2D(12, 3, padding="same", name="conv2")(x)
    x = keras.layers.BatchNormalization(epsilon=1e-6, name="bn2")(x)
    keras.Model(image, x, name="small").save(folder / "small.keras")
    return str(folder / "small.keras")


class Rows(keras.layers.Layer):
    """Twice its input; keeps the batch sizes that it is traced with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x):
        self.seen.append(x.shape[0])
        return 2 * x


def predict(devices: Devices) -> dict:
    """Predicts a batch on two devices."""
    with devices.scope():
        rows = Rows()
        inputs = keras.Input((1,))
        model = keras.Model(inputs, rows(inputs))
    batch = [[float(i)] for i in range(6)]
    answers = replicas.predict_on_batch(model, batch).tolist()
    sizes = [size for size in rows.seen if size]
    uneven = replicas.predict_on_batch(model, batch[:5]).tolist()
    return {"answers": answers, "rows": sizes, "uneven": uneven}


def normalize(devices: Devices) -> dict:
    """Values and gradients of a batch normalisation on one device and on two."""
    random = np.random.default_rng(0)
    # Far from zero, and on the second device elsewhere than on the first.
    x = random.normal(100, 1, (6, 4, 4, 3)) + np.repeat([0, 3], 3)[:, None, None, None]
    x, slope = x.astype("float32"), random.normal(size=x.shape).astype("float32")
    results = {}
    for name, one in (("one", True), ("two", False)):
        with contextlib.nullcontext() if one else devices.scope():
            layer: Any = FusedBatchNormalization(epsilon=1e-3)
            layer.build((None, 4, 4, 3))
        layer.moving_mean.assign([100.0] * 3)  # as after some training

        def step(x, slope, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x, training=True)
                loss = tf.reduce_sum(outputs * slope)
            wanted = [x, layer.gamma.value, layer.beta.value]
            of_x, *of_weights = tape.gradient(loss, wanted)
            return outputs, of_x, [replicas.total(gradient) for gradient in of_weights]

        def run(step=step, one=one):
            if one:
                return step(tf.constant(x), tf.constant(slope))
            parts = [
                devices.strategy.experimental_distribute_values_from_function(
                    lambda context, a=a: tf.split(a, 2)[context.replica_id_in_sync_group]
                )
                for a in (x, slope)
            ]
            outputs, of_x, of_weights = devices.strategy.run(step, args=parts)
            local = devices.strategy.experimental_local_results
            return (
                tf.concat(local(outputs), 0),
                tf.concat(local(of_x), 0),
                [local(gradient)[0] for gradient in of_weights],
            )

        found = tf.nest.flatten(tf.function(run)())
        moving = [layer.moving_mean, layer.moving_variance]
        results[name] = [np.ravel(value.numpy()).tolist() for value in [*found, *moving]]
    return {"normalized": results}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
