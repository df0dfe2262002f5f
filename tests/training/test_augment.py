"""Rotation and zoom: agreement with tensorflow-addons, geometry, randomness by (seed, step)."""

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.training.augment import FILL_MODES, RandomRotationZoom, resample, rotation_zoom


def gray(count=2, height=24, width=32, seed=0):
    return np.random.default_rng(seed).random((count, height, width, 1), dtype=np.float32)


def rotated(images, angles, fill_mode="reflect"):
    none = np.zeros(len(angles), "float32")
    matrices = rotation_zoom(np.float32(angles), none + 1, none, none, *images.shape[1:3])
    return np.array(resample(keras.ops.convert_to_tensor(images), matrices, fill_mode))


@pytest.mark.parametrize("fill_mode", ["reflect", "constant", "nearest"])
def test_rotation_agrees_with_tensorflow_addons(shared, fill_mode):
    golden = np.load(shared / "golden" / "tfa_rotate.npz")
    found = rotated(golden["images"], golden["angles"], fill_mode)
    np.testing.assert_allclose(found, golden[f"rotate_{fill_mode}"], atol=1e-4)


def test_a_quarter_turn_is_exact():
    images = gray(height=16, width=16)
    expected = np.rot90(images, axes=(1, 2))
    np.testing.assert_allclose(rotated(images, [math.pi / 2] * 2), expected, atol=1e-5)


def test_zoom_leaves_its_focus_and_magnifies():
    ramp = np.tile(np.arange(32, dtype="float32")[None, None, :, None], (3, 24, 1, 1))
    scale, focus = np.full(3, 2.0, "float32"), np.array([0, 0.5, 1], "float32")
    matrices = rotation_zoom(np.zeros(3, "float32"), scale, focus, focus, 24, 32)
    found = np.array(resample(keras.ops.convert_to_tensor(ramp), matrices))
    for image, share in zip(found[..., 0], focus, strict=True):
        expected = share * 31 + (np.arange(32) - share * 31) / 2
        np.testing.assert_allclose(image[5], expected, atol=1e-4)


def test_reflection_repeats_the_border_pixel():
    row = np.arange(4, dtype="float32").reshape(1, 1, 4, 1)
    matrix = np.array([[[1, 0, -3], [0, 1, 0]]], "float32")
    found = np.array(resample(keras.ops.convert_to_tensor(row), matrix))
    assert found.ravel().tolist() == [2, 1, 0, 0]


def test_identity_at_inference_and_with_no_strength():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    np.testing.assert_array_equal(RandomRotationZoom()(images), images)
    for off in ({"degrees": 0, "max_zoom": 1}, {"probability": 0}):
        np.testing.assert_array_equal(RandomRotationZoom(**off)(images, training=True), images)


def test_draws_are_a_function_of_seed_and_step():
    def run(seed, steps):
        layer = RandomRotationZoom(seed=seed)
        return [np.array(layer(gray(), training=True)) for _ in range(steps)], layer

    first, layer = run(3, 3)
    second, _ = run(3, 3)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], run(4, 1)[0][0])
    # Step 2 again, from the state that a checkpoint holds.
    assert layer.seed_generator.state.numpy().tolist() == [3, 3]
    layer.seed_generator.state.assign([3, 2])
    np.testing.assert_array_equal(layer(gray(), training=True), first[2])


def test_strengths_and_probabilities_are_the_papers():
    layer = RandomRotationZoom(degrees=10, max_zoom=1.1, probability=0.75, seed=0)
    matrices = np.array(layer.draw((4000, 320, 320)))
    shrink = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    angle = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert np.abs(angle).max() <= 10 + 1e-3
    assert (1 / shrink).max() <= 1.1 + 1e-3
    assert shrink.max() <= 1 + 1e-3, "zoom only magnifies"
    assert np.mean(np.abs(angle) > 1e-3) == pytest.approx(0.75, abs=0.03)
    assert np.mean(shrink < 1 - 1e-5) == pytest.approx(0.75, abs=0.03)
    both = np.mean((np.abs(angle) > 1e-3) & (shrink < 1 - 1e-5))
    assert both == pytest.approx(0.75**2, abs=0.03), "the two are independent"
    assert np.abs(angle[np.abs(angle) > 1e-3]).mean() == pytest.approx(5, abs=0.3)


def test_one_resample_is_sharper_than_two():
    images = gray(1, 32, 32)
    tensor = keras.ops.convert_to_tensor(images)
    angle, scale, half, none, one = (
        np.array([value], "float32") for value in (0.1, 1.05, 0.5, 0, 1)
    )
    together = resample(tensor, rotation_zoom(angle, scale, half, half, 32, 32))
    turned = resample(tensor, rotation_zoom(angle, one, none, none, 32, 32))
    chained = resample(turned, rotation_zoom(none, scale, half, half, 32, 32))
    assert np.std(together) > 1.05 * np.std(chained)


def test_impossible_strengths_are_errors():
    with pytest.raises(ValueError, match="max_zoom >= 1"):
        RandomRotationZoom(max_zoom=0.9)


def test_the_layer_is_compiled_and_gives_what_the_operations_give():
    images = np.random.default_rng(0).uniform(0, 255, (5, 24, 17, 2)).astype("float32")
    layer = RandomRotationZoom(seed=3)
    matrices = RandomRotationZoom(seed=3).draw(images.shape)
    step = tf.function(lambda x: layer(x, training=True))
    # Fused multiply-adds may move a source position by a rounding: 1e-6 of a pixel, 255 apart.
    np.testing.assert_allclose(step(images), resample(images, matrices), atol=2e-3)
    other = step.get_concrete_function(tf.constant(images))
    calls = [op for op in other.graph.get_operations() if "PartitionedCall" in op.type]
    assert any(op.get_attr("_XlaMustCompile") for op in calls)


@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_positions_far_outside(fill_mode):
    """Against numpy's own padding, several image widths away on both sides."""
    image = np.random.default_rng(0).uniform(size=(1, 3, 4, 1)).astype("float32")
    mode: Any = {"reflect": "symmetric", "nearest": "edge", "constant": "constant"}[fill_mode]
    padded = np.pad(image[0, :, :, 0], ((9, 9), (12, 12)), mode)
    for dx, dy in ((-12, -9), (-5, 4), (0, 0), (7, -2), (11, 9)):
        shifted = resample(image, np.array([[[1, 0, dx], [0, 1, dy]]], "float32"), fill_mode)
        expected = padded[9 + dy : 12 + dy, 12 + dx : 16 + dx]
        np.testing.assert_array_equal(np.asarray(shifted)[0, :, :, 0], expected)
