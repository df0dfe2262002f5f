"""On Keras' JAX backend: models, learning rates, images on the device, and a run as on TensorFlow.

In processes of their own, since a backend is for life; they are forks of one that imported it.
"""

import csv
import dataclasses
import importlib.util
import shutil
from pathlib import Path

import keras
import pytest
from forks import Forks

from medcolor_tf.files import read_json
from medcolor_tf.runs import folder
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.serving.evaluate_run import evaluate_run
from medcolor_tf.training import trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed"),
]


@pytest.fixture(scope="module")
def jax():
    """Starts commands on the JAX backend."""
    # Hundreds of programs run once each: what XLA would gain by optimizing them is less.
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    with Forks(KERAS_BACKEND="jax", XLA_FLAGS=flags) as forks:
        yield forks


MODELS = """
import keras, numpy as np
from medcolor_tf.catalog import COLORIZERS
from medcolor_tf.models import build_backbone, build_classifier
from medcolor_tf.models.layers import local_mean
assert keras.backend.backend() == "jax"
with keras.name_scope("backbone"):
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 4, 4, name="stem")(image)
    backbone = keras.Model(image, keras.layers.BatchNormalization(name="bn")(x))
pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype("uint8")
for name in COLORIZERS:
    model = build_classifier(name, backbone, 2, pixel_mean=0.5, pixel_std=0.25, seed=0)
    assert np.isfinite(np.asarray(model(pixels))).all(), name
    for part in ("colorizer", "backbone"):
        norms = [x for x in model.get_layer(part).layers if "moving_mean" in dir(x)]
        assert {type(x) for x in norms} <= {keras.layers.BatchNormalization}, part
        assert norms or (part == "colorizer" and name.endswith("_map"))
lite = build_backbone("EfficientNetLite0", weights=None, seed=0)
features = lite.predict_on_batch(pixels.repeat(3, -1).astype("float32") / 128 - 1)
assert features.shape == (2, 1, 1, 1280) and np.isfinite(features).all() and features.std() > 0
for shape in ((1, 1, 1, 1), (1, 4, 30, 2)):  # smaller than the square of 21, and at borders
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = [
        x[:, max(i - 10, 0) : i + 11, max(j - 10, 0) : j + 11].mean((1, 2))
        for i in range(shape[1]) for j in range(shape[2])
    ]
    expected = np.stack(expected, 1).reshape(shape)
    np.testing.assert_allclose(np.asarray(local_mean(x, 21)), expected, atol=1e-6)
model.compile(keras.optimizers.SGD(0.01), "mse")
colorizer = model.get_layer("colorizer")
before = colorizer.get_weights()
model.fit(pixels, np.zeros((2, 2)), verbose=0)
assert any((old != new).any() for old, new in zip(before, colorizer.get_weights()))
print("fine")
"""


def test_models_train(jax):
    done = jax.run(["-c", MODELS])
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("multiplier_cases", ("ours", "AdamW", "SGD with momentum", "loss scaling")),
        ("one_cycle_cases", ("SGD", "SGD with momentum", "Adam", "AdamW", "ours", "loss scaling")),
    ],
)
def test_optimizers_keep_their_rates(jax, module, names):
    """What test_lr_multipliers.py and test_schedule.py check on TensorFlow."""
    done = jax.run(["-m", f"tests.training.{module}", *names])
    assert done.stdout.strip().endswith("fine jax"), done.stderr[-2000:]


DEVICE_CACHE = """
import sys
import keras, numpy as np
from medcolor_tf.data.packed_images import PackedImages
from medcolor_tf.data.pipeline import Split
from medcolor_tf.training.augment import RandomRotationZoom
from medcolor_tf.training.device_cache import DeviceImageCache
from medcolor_tf.training.losses import MaskedBinaryCrossentropy
from medcolor_tf.training.optimizer import MomentumSGD
assert keras.backend.backend() == "jax"
split = Split(sys.argv[1], "train")
stream = 8, 0, 0, 100

def trained(on_device):
    inputs = keras.Input((32, 32, 1), dtype="float32")
    x = keras.layers.Conv2D(4, 8, 8, kernel_initializer=keras.initializers.GlorotUniform(1))(
        RandomRotationZoom(seed=1)(inputs)
    )
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(2))(x)
    model = keras.Model(inputs, x)
    model.compile(MomentumSGD(0.05), MaskedBinaryCrossentropy())
    model.optimizer.build(model.trainable_variables)
    if on_device:
        front = DeviceImageCache.load(PackedImages.from_split(split), model)
        before = front.model.get_layer("images").rows.numpy()
        front.model.fit(front.batches(*stream), epochs=2, steps_per_epoch=4, verbose=0)
        np.testing.assert_array_equal(front.model.get_layer("images").rows.numpy(), before)
    else:
        model.fit(split.training_batches(*stream), epochs=2, steps_per_epoch=4, verbose=0)
    assert int(model.optimizer.iterations) == 8
    return model.get_weights()

for one, two in zip(trained(False), trained(True), strict=True):
    np.testing.assert_array_equal(one, two)
print("fine")
"""


def test_weights_are_the_same_with_images_on_the_device(jax, small_dataset):
    done = jax.run(["-c", DEVICE_CACHE, str(small_dataset)])
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


class Killed(BaseException):
    """Stands for a kill."""


def test_a_run_begun_on_tensorflow_goes_on_alike(jax, small_dataset, tmp_path, monkeypatch):
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
    done = jax.run(["-m", "medcolor_tf.train", *words])
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
