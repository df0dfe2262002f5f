"""Grad-CAM: equal to its definition by gradients, and drawn so that heat can be believed."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.evaluation import visualize
from medcolor_tf.models import build_classifier
from medcolor_tf.models.classifier import classify_and_colorize


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def classifier(request):
    """C∘E∘T with three logits and feature maps of both signs, under each policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    with keras.name_scope("backbone"):
        image = keras.Input((None, None, 3))
        initializer: Any = keras.initializers.GlorotUniform(seed=3)
        x = keras.layers.Conv2D(8, 4, 4, activation="relu", kernel_initializer=initializer)(image)
        x = keras.layers.Conv2D(16, 3, 2, padding="same", kernel_initializer=initializer)(x)
        backbone = keras.Model(image, x)
    # A T from the paper's initialisation would make one place of the image much like another.
    options = {"pixel_mean": 0.5, "pixel_std": 0.25, "colorizer_init": "gray", "seed": 1}
    yield build_classifier("color_u", backbone, 3, **options)
    keras.config.set_dtype_policy(before)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 48, 1)).astype(np.uint8)


def test_maps_equal_the_gradient_definition(classifier, images):
    """Equations 1 and 2 of Selvaraju et al., by automatic differentiation."""
    outputs = classify_and_colorize(classifier, features=True).predict_on_batch(images)
    features = outputs[2]
    assert features.dtype == np.float32
    maps = visualize.grad_cam(features, classifier.get_layer("head").kernel.numpy())
    assert maps.shape == (2, 4, 6, 3)
    watched = tf.constant(features)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(watched)
        logits = classifier.get_layer("head")(classifier.get_layer("pool")(watched))
        scores = [logits[:, k] for k in range(3)]
    np.testing.assert_allclose(logits, outputs[0], atol=1e-5)
    for k in range(3):
        gradient: Any = tape.gradient(scores[k], watched)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        expected = tf.nn.relu(tf.reduce_sum(weights * watched, axis=-1)).numpy()
        assert (expected > 0).any()
        assert (expected == 0).any()
        np.testing.assert_allclose(maps[..., k], expected, rtol=1e-4, atol=1e-6)


def test_what_raises_and_lowers_a_logit_adds_up_to_it(classifier, images):
    logits, _, features = classify_and_colorize(classifier, features=True).predict_on_batch(images)
    kernel, bias = (variable.numpy() for variable in classifier.get_layer("head").weights)
    raised, lowered = (visualize.grad_cam(features, sign * kernel) for sign in (1, -1))
    np.testing.assert_allclose((raised - lowered).sum((1, 2)) + bias, logits, atol=1e-5)


def test_the_feature_map_costs_no_second_pass_and_changes_nothing(classifier, images):
    plain = classify_and_colorize(classifier)
    explained = classify_and_colorize(classifier, features=True)
    assert (len(plain.outputs), len(explained.outputs)) == (2, 3)
    assert len(explained.layers) == len(plain.layers) + 1
    pairs = zip(plain.predict_on_batch(images), explained.predict_on_batch(images), strict=False)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_the_hottest_place_is_as_hot_as_the_finding_is_probable():
    maps = np.random.default_rng(0).random((2, 3, 4, 3)).astype(np.float32)
    maps[1, :, :, 2] = 0
    chances = np.array([[0.99, 0.01, 0.5], [0.2, 1.0, 0.7]], np.float32)
    heat = visualize.to_heat(maps, chances)
    expected = chances.copy()
    expected[1, 2] = 0  # nothing raised it: no place is made up
    np.testing.assert_allclose(heat.max((1, 2)), expected, rtol=1e-6)
    np.testing.assert_allclose(heat[0, ..., 0] / 0.99, maps[0, ..., 0] / maps[0, ..., 0].max())


def test_heat_lies_where_the_map_has_it_and_the_image_shows_through():
    random = np.random.default_rng(0)
    gray = np.repeat(random.integers(0, 256, (40, 80, 1), np.uint8), 3, axis=-1)
    heat = np.zeros((4, 8), np.float32)
    heat[0, 1] = 1
    drawn = visualize.blend(gray, heat)
    changed = (drawn != gray).any(-1)
    y, x = np.nonzero(changed)
    # Bilinear: one cell (10 pixels) and half of each neighbour.
    assert (y.max(), x.min(), x.max()) == (14, 5, 24)
    np.testing.assert_array_equal(drawn[~changed], gray[~changed])
    hot = drawn[2:8, 12:18].reshape(-1, 3).astype(float)
    below = gray[2:8, 12:18, 0].ravel()
    assert np.corrcoef(hot.mean(-1), below)[0, 1] > 0.9


def test_more_heat_is_another_and_brighter_colour():
    gray = np.full((4, 4, 3), 128, np.uint8)
    levels = [
        visualize.blend(gray, np.full((1, 1), v, np.float32))[0, 0] for v in (0, 0.01, 0.3, 1)
    ]
    np.testing.assert_array_equal(levels[0], gray[0, 0])
    assert np.abs(levels[1].astype(int) - 128).max() < 5  # a finding of 1 % hardly shows
    assert np.abs(levels[3].astype(int) - levels[2]).max() > 60
    assert levels[3].mean() > levels[2].mean()


def page(
    side=(64, 64),
    names=("Edema",),
    colorized=True,
    channels=1,
    dtype: type[np.unsignedinteger] = np.uint8,
    heat=0.5,
):
    ramp = np.linspace(0, np.iinfo(dtype).max, side[0] * side[1]).reshape(*side, 1)
    image = np.repeat(ramp, channels, axis=-1).astype(dtype)
    colors = np.random.default_rng(0).standard_normal((*side, 3)) if colorized else None
    cells = np.full((2, 2, len(names)), heat, np.float32)
    return visualize.draw_explanation(image, colors, cells, [heat] * len(names), names)


def test_pictures_have_a_panel_for_each_thing():
    step = 320 + visualize.GAP
    height = page().shape[0]
    assert page().shape == (height, 3 * step + visualize.GAP, 3)
    assert page().dtype == np.uint8
    assert page(colorized=False).shape[1] == 2 * step + visualize.GAP
    assert page(side=(400, 600)).shape[1] == 3 * (600 + visualize.GAP) + visualize.GAP
    fourteen = page(names=[f"Finding {i}" for i in range(14)])
    assert fourteen.shape[1] == 7 * step + visualize.GAP
    assert fourteen.shape[0] > 3 * step
    long = page(names=["Fracture of the left sixth rib, posterior, healing, Überblähung"])
    assert long.shape[0] > height  # wrapped, not cut


def test_16_bits_and_several_channels_look_like_8_bits_and_the_first():
    eight, sixteen = (page(dtype=dtype).astype(int) for dtype in (np.uint8, np.uint16))
    assert np.abs(eight - sixteen).max() <= 1
    assert page(channels=3).shape == page().shape


def test_captions_tell_findings_and_their_probability_apart():
    panels = [page(names=["Edema"], heat=heat) for heat in (0.5, 0.9, 0)]
    panels.append(page(names=["Hernia"], heat=0.5))
    caption = slice(0, visualize.GAP + 2 * visualize.LINE), slice(2 * (320 + visualize.GAP), None)
    captions = [panel[caption].tobytes() for panel in panels]
    assert len(set(captions)) == 4


@pytest.mark.parametrize(
    ("calibrated", "caption"),
    [(None, "Edema\n75.4 %"), ([0.766], "Edema\nprobability 75.4 %, calibrated 76.6 %")],
)
def test_captions_have_both_probabilities_of_a_calibrated_run(calibrated, caption):
    image, heat = np.zeros((8, 8, 1), np.uint8), np.full((2, 2, 1), 0.5, np.float32)
    panels = visualize.draw_panels(image, None, heat, [0.754], ["Edema"], calibrated)
    assert panels[-1][0] == caption


@pytest.mark.parametrize(
    ("chance", "text"),
    [(0, "< 0.1 %"), (0.0123, "1.2 %"), (0.5, "50.0 %"), (0.9989, "99.9 %"), (1, "> 99.9 %")],
)
def test_probabilities_are_never_rounded_to_certainty(chance, text):
    assert visualize.percent(chance) == text
