"""The models on Keras' JAX backend, in a process of its own since a backend is for life."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "medcolor_tf" / "models"

SCRIPT = """
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
pytestmark = pytest.mark.slow


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_models_train_on_jax():
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(ROOT),
        # Hundreds of programs run once each: what XLA would gain by optimizing them is less.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


def test_models_import_no_backend():
    """What keeps them portable is checked even where jax is not installed."""
    for path in MODELS.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name in ("batch_norm.py", "stem.py"):  # TensorFlow inside their functions
            text = re.sub(r"^ +(?:import|from) tensorflow.*", "", text, flags=re.M)
        if path.name == "restricted_pickle.py":  # the numbers of opcodes, never its unpickler
            assert not re.search(r"pickle\.(?:loads?|_?Unpickler|_loads?)\b", text)
            text = text.replace("import pickle\n", "")
        found = re.findall(r"^\s*(?:import|from) (?:tensorflow|jax|torch|pickle)\b", text, re.M)
        assert not found, f"{path.name}: {found}"
        assert "layers.Lambda" not in text, path.name
