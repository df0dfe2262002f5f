"""One harness: every colorizer keeps the same promises."""

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.catalog import COLORIZERS
from medcolor_tf.errors import InputError
from medcolor_tf.models import build_colorizer, check_image_size, load_torch_colorizer
from medcolor_tf.models.torch_weights import _COLORIZER_NAMES, torch_state, torch_variables

ops: Any = keras.ops  # not annotated in Keras

NAMES = tuple(COLORIZERS)
PAPER = ("deconv", "pixel_shuffle", "color_u")
MAPS = ("color_map", "context_map")
PARAMETERS = {
    **{"deconv": 596_611, "pixel_shuffle": 599_440, "color_u": 192_659},
    **{"color_map": 1_219, "context_map": 1_315},
}
each = pytest.mark.parametrize("name", NAMES)
each_of_the_paper = pytest.mark.parametrize("name", PAPER)
each_map = pytest.mark.parametrize("name", MAPS)


@functools.cache
def _built(name, seed=0):
    """Build once for the tests that only look."""
    return build_colorizer(name, seed=seed)


def _image(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def _run(model, x, training=False):
    return ops.convert_to_numpy(ops.cast(model(x, training=training), "float32"))


def _torch_state(model):
    """Return the model's own weights as PyTorch would name and lay them out."""
    state = {}
    for name, variable in torch_variables(model, _COLORIZER_NAMES).items():
        array = ops.convert_to_numpy(variable)
        state[name] = np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array
    return state


@each_of_the_paper
def test_golden(name, golden):
    arrays = golden(name)
    model = build_colorizer(name)
    state = {key[6:]: value for key, value in arrays.items() if key.startswith("state/")}
    load_torch_colorizer(model, state)
    got = _run(model, arrays["input"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.abs(got - arrays["output_eval"]).max() < 1e-4


@each
def test_trainable_parameters(name):
    model = _built(name)
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == PARAMETERS[name]


@each
@pytest.mark.parametrize("channels", [1, 2])
def test_shape_and_name(name, channels):
    model = build_colorizer(name, input_channels=channels)
    assert model.name == "colorizer"
    assert model.input_shape == (None, None, None, channels)
    assert model.output_shape == (None, None, None, 3)
    assert model(_image(1, 24, 32, channels)).shape == (1, 24, 32, 3)


@each
@pytest.mark.parametrize(("channels", "training"), [(1, True), (2, False)])
def test_gray_starts_as_the_copied_image(name, channels, training):
    x = _image(2, 16, 16, channels)
    got = _run(build_colorizer(name, channels, init="gray"), x, training)
    expected = x if channels == 3 else np.repeat(x.mean(-1, keepdims=True), 3, -1)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@each
def test_gray_learns(name):
    """The zero must not be a trap: the layer that starts at zero gets a gradient."""
    model = build_colorizer(name, init="gray", seed=0)
    gradients = _gradients(model, _image(2, 16, 16, 1))
    assert any(np.abs(gradient).max() > 0 for gradient in gradients.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@each
def test_every_variable_gets_a_finite_gradient(name):
    model = build_colorizer(name, seed=0)
    for variable in model.trainable_variables:
        if name in MAPS and not np.any(variable):  # it starts at zero, and gets one step
            variable.assign(variable + 0.01)
    gradients = _gradients(model, _image(2, 16, 16, 1))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        # A bias before a normalisation has none but rounding; every kernel has one.
        assert np.abs(gradient).max() > 0 or path.endswith("bias"), path


def _gradients(model, x):
    with tf.GradientTape() as tape:
        y = model(x, training=True)
        loss = ops.mean(y * _image(*y.shape))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(gradient is not None for gradient in gradients)
    paths = [v.path for v in model.trainable_variables]
    return dict(zip(paths, map(ops.convert_to_numpy, gradients), strict=True))


@each
def test_seed_decides_the_initialisation(name):
    first, other = (_built(name, seed=seed).get_weights() for seed in (0, 1))
    again = build_colorizer(name, seed=0).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    drawn = [w.tobytes() for w in first if w.size > 3 and np.ptp(w) > 0]
    assert len(set(drawn)) == len(drawn)  # no two layers share their draw


def test_building_touches_no_global_randomness():
    keras.utils.set_random_seed(0)
    expected = np.random.rand()
    keras.utils.set_random_seed(0)
    build_colorizer("color_u", seed=3)
    assert np.random.rand() == expected


@each
def test_mixed_precision(name, mixed_bfloat16):
    model = build_colorizer(name, seed=0)
    got = model(_image(1, 16, 16, 1))
    assert got.dtype == "bfloat16"
    assert np.isfinite(ops.convert_to_numpy(ops.cast(got, "float32"))).all()
    assert {v.dtype for v in model.weights} == {"float32"}


@each
def test_variable_paths_are_stable_and_scoped(name):
    first, again = (
        [v.path for v in model.weights] for model in (_built(name), build_colorizer(name))
    )
    assert first == again
    assert len(set(first)) == len(first)
    assert all(path.startswith("colorizer/") for path in first)


@each
def test_survives_serialisation(name, tmp_path):
    model = build_colorizer(name, init="gray", seed=0)
    for variable in model.weights:  # away from the zeros
        variable.assign(variable + 0.01)
    model.save(tmp_path / "t.keras")
    twin = keras.saving.load_model(tmp_path / "t.keras", safe_mode=True)
    x = _image(1, 16, 16, 1)
    np.testing.assert_array_equal(_run(twin, x), _run(model, x))


@each
def test_keras_constants_are_torch_ones(name):
    for layer in _built(name).layers:
        if isinstance(layer, keras.layers.LeakyReLU):
            assert layer.negative_slope == pytest.approx(0.01)
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.epsilon, layer.momentum) == (1e-5, 0.9)


def _fan_in(array):
    return np.prod(array.shape[1:])


@each_of_the_paper
def test_initialisation(name):
    """Kernels and biases fill their interval; BatchNorm is 1 and 0."""
    state = _torch_state(_built(name))
    for key, array in state.items():
        if array.ndim == 4 and not key.startswith("pixel_shuffle"):
            transposed = key.startswith("deconv") or key in {
                f"{b}.u.0.weight" for b in ("up1", "up2", "out")
            }
            outward = array.shape[0] * np.prod(array.shape[2:])
            xavier = np.sqrt(6 / (_fan_in(array) + outward))
            plain = 1 / np.sqrt(_fan_in(array))
            bound = plain if transposed or name == "pixel_shuffle" else xavier
            assert 0.9 * bound < np.abs(array).max() <= bound * (1 + 1e-6), key
        elif key.endswith("bias") and np.any(array):
            bound = 1 / np.sqrt(_fan_in(state[key.replace("bias", "weight")]))
            assert np.abs(array).max() <= bound * (1 + 1e-6), key
            assert array.size < 16 or np.abs(array).max() > 0.7 * bound, key
        elif array.ndim == 1:
            assert np.all(array == (1 if key.endswith(("weight", "var")) else 0)), key
    biases = [key for key, a in state.items() if key.endswith("bias") and np.any(a)]
    kernels = [key for key, a in state.items() if a.ndim == 4]
    assert len(biases) == len(kernels) - (name == "deconv")  # only `deconv` has none


@each_of_the_paper
def test_round_trip_through_torch_names(name):
    source, target = _built(name), build_colorizer(name, seed=1)
    state = torch_state(source)
    for key, array in _torch_state(source).items():
        np.testing.assert_array_equal(state[key], array)
    state["bn1.num_batches_tracked"] = np.array(7)
    load_torch_colorizer(target, state)
    for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@each_of_the_paper
def test_names_are_the_authors(name, golden):
    arrays = golden(name)
    expected = {k[6:]: v.shape for k, v in arrays.items() if k.startswith("state/")}
    state = _torch_state(_built(name))
    assert {key: array.shape for key, array in state.items()} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.weight"), "missing: conv1.weight"),
        (lambda s: s.update(extra=np.zeros(3)), "unexpected: extra"),
        (
            lambda s: s.update({"conv1.weight": np.zeros((64, 3, 7, 7))}),
            r"wrong shape: conv1.weight \(expected \(64, 1, 7, 7\), received \(64, 3, 7, 7\)\)",
        ),
    ],
)
def test_unfitting_tensors_are_named_and_nothing_is_loaded(change, message):
    model = _built("deconv")
    state = _torch_state(_built("deconv", seed=1))
    before = model.get_weights()
    change(state)
    with pytest.raises(InputError, match=message):
        load_torch_colorizer(model, state)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_tensors_of_another_colorizer_are_refused():
    state = _torch_state(_built("color_u"))
    with pytest.raises(InputError, match=r"missing: conv1.*and \d+ more.*unexpected: dw1"):
        load_torch_colorizer(_built("deconv"), state)


def test_a_model_of_other_origin_is_refused():
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1, name="mine")])
    with pytest.raises(InputError, match="'mine' has no PyTorch counterpart"):
        load_torch_colorizer(model, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pixelshuffle"}, "did you mean pixel_shuffle"),
        ({"name": "none"}, "expected one of deconv, pixel_shuffle, color_u"),
        ({"name": "deconv", "init": "grey"}, "expected one of paper, gray"),
        ({"name": "color_map", "init": "grey"}, "expected one of paper, gray"),
        ({"name": "context_map", "init": "paper"}, "context_map has no such start; expected gray"),
        ({"name": "deconv", "input_channels": 0}, "positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        build_colorizer(**arguments)


@pytest.mark.parametrize(
    ("name", "multiple"), [("deconv", 4), ("pixel_shuffle", 4), ("color_u", 8)]
)
def test_check_image_size(name, multiple):
    check_image_size(name, 320)
    check_image_size(name, (5 * multiple, multiple))
    for bad in (321, 0, -8, 8.5, (320, 321), (320,), multiple // 2):
        with pytest.raises(InputError, match=f"multiples of {multiple}"):
            check_image_size(name, bad)


@each_map
def test_maps_take_any_image_size(name):
    check_image_size(name, (321, 1))
    with pytest.raises(InputError, match="multiples of 1"):
        check_image_size(name, 0)


def _moved(name, channels=1):
    """A map that is not at its start any more."""
    model = build_colorizer(name, channels, seed=0)
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, 0.2, variable.shape))
    return model


def test_a_color_map_looks_at_each_pixel_alone():
    model, x = _moved("color_map"), _image(1, 6, 7, 1)
    alone = _run(model, x.reshape(42, 1, 1, 1)).reshape(1, 6, 7, 3)
    np.testing.assert_allclose(_run(model, x), alone, atol=1e-5)


def test_a_context_map_sees_the_large_square_and_no_more():
    model, x = _moved("context_map"), np.zeros((1, 41, 41, 1), "float32")
    near = x.copy()
    near[0, 20, 20] = 3
    changed = np.abs(_run(model, near) - _run(model, x)).max(-1)[0] > 1e-5
    expected = np.zeros((41, 41), bool)
    expected[10:31, 10:31] = True
    np.testing.assert_array_equal(changed, expected)


@each_map
@pytest.mark.parametrize("channels", [1, 2])
def test_maps_are_the_same_under_xla(name, channels):
    model, x = _moved(name, channels), _image(2, 9, 30, channels)
    compiled = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(np.asarray(compiled(x)), _run(model, x), atol=1e-5)


def test_check_image_size_without_colorizer():
    check_image_size("none", 321)
    check_image_size(None, (3, 5))


@each
def test_smallest_sizes_keep_the_size(name):
    model = _built(name)
    step = COLORIZERS[name].multiple
    for size in (step, 3 * step):
        assert model(_image(1, size, size + step, 1)).shape == (1, size, size + step, 3)
