"""Reference arrays from ../shared, where it is at hand, and tiny helpers."""

from pathlib import Path

import keras
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


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
