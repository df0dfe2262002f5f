"""Reference arrays from ../shared, where it is at hand, and tiny helpers."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def golden():
    """Load a reference file: `golden("deconv")` gives a dict of arrays."""

    def load(name):
        path = SHARED / "golden" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"no reference file {path}")
        with np.load(path) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def resnet18_state():
    """Draw torchvision-named tensors as golden/README.md says."""
    path = SHARED / "golden" / "resnet18_tensors.json"
    if not path.is_file():
        pytest.skip(f"no reference file {path}")
    rng, state = np.random.default_rng(0), {}
    for name, shape in json.loads(path.read_text()):
        state[name] = _draw(rng, name, shape).astype("float32")
    return state


def _draw(rng, name, shape):
    if name.endswith("running_mean"):
        return 0.2 * rng.standard_normal(shape)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 4:
        return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if len(shape) == 2:
        return rng.standard_normal(shape) * np.sqrt(1 / shape[1])
    if name.endswith("weight"):
        return rng.uniform(0.7, 1.3, shape)
    return 0.1 * rng.standard_normal(shape)


@pytest.fixture(scope="session")
def mobilenet_path():
    path = SHARED / "backbones" / "mobilenet_imagenet_block12.keras"
    if not path.is_file():
        pytest.skip(f"no backbone file {path}")
    return path


@pytest.fixture
def mixed_bfloat16():
    """Set the global policy for one test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture
def tiny_backbone():
    """Build a small (B,H,W,3) → (B,H/4,W/4,8) model with a BatchNormalization in a nested model."""

    def build(**kwargs):
        with keras.name_scope("backbone"):
            inner_in = keras.Input((None, None, 8))
            inner = keras.Model(
                inner_in, keras.layers.BatchNormalization(name="bn")(inner_in), name="inner"
            )
            image = keras.Input((None, None, 3), **kwargs)
            x = keras.layers.Conv2D(8, 4, 4, name="stem")(image)
            return keras.Model(image, inner(x), name="backbone")

    return build
