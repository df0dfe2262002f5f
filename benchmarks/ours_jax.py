"""This project's part of the accelerator's rows: the same steps on Keras' JAX backend."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import keras
import numpy as np

from benchmarks import ours
from benchmarks.work import DEGREES, MAX_ZOOM, batch_of
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.training.augment import RandomRotationZoom
from medcolor_tf.training.device_cache import DeviceImages

BLOCKS = 100
PROGRAM: dict[str, float] = {}


def step(spec: dict) -> ours.Run:
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    The step is that of ``fit``, on a batch that the device holds, as :func:`benchmarks.ours.step`.

    Args:
        spec: strategy, backbone, size, batch, bfloat16.
    """
    model = _model(spec)
    images, labels = (jax.device_put(array) for array in batch_of(spec))
    return _training(model, images, labels) if spec["strategy"] else _inference(model, images)


def counted(spec: dict) -> ours.Run:
    """Counts a step's float operations, and returns what does nothing.

    On the processor, where JAX counts those of a program before it is compiled; a GPU's compiler
    does not know those of cuDNN's kernels.

    Args:
        spec: as of :func:`step`.
    """
    model = _model(spec)
    images, _ = batch_of(spec)
    trained, rest = _state(model)

    def forward(trained, rest, x):
        return model.stateless_call(trained, rest, x, training=bool(spec["strategy"]))[0]

    def loss(*arguments):
        return jnp.square(forward(*arguments).astype("float32")).sum()

    function = jax.grad(loss) if spec["strategy"] else forward
    counts = jax.jit(function).lower(trained, rest, images).cost_analysis() or {}
    if "flops" in counts:
        PROGRAM["flops"] = counts["flops"]
    return lambda steps: None


def augmentation(spec: dict) -> ours.Run:
    """Returns ``run(steps)``, (B, S, S, 1) float32 rotated and zoomed in one resample per step.

    Args:
        spec: size, batch.
    """
    images = jax.device_put(batch_of(spec)[0].astype(np.float32))
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, RandomRotationZoom(DEGREES, MAX_ZOOM, seed=0)(inputs))

    @jax.jit
    def augment(state, x):
        return model.stateless_call([], state, x, training=True)

    def run(steps: int) -> None:
        state = _values(model.non_trainable_variables)
        for _ in range(steps):
            augmented, state = augment(state, images)
        augmented.block_until_ready()

    return run


def device_images(spec: dict) -> ours.Run:
    """Returns ``run(steps)``, a batch of crops per step, gathered from images on the device.

    Args:
        spec: size (S), batch, count (images of S x 1.2 S pixels).
    """
    side, batch = spec["size"], spec["batch"]
    block_rows = max(side, spec["count"] * side * 6 // 5 // BLOCKS)
    layer = DeviceImages(BLOCKS * block_rows, side, 1, "uint8", False)
    random = np.random.default_rng(0)
    block = random.integers(0, 256, (block_rows, side), np.uint8)
    layer.fill(_numbered(block))
    _check_rows(layer, block)
    crops = np.zeros((batch, 2), np.int32)
    crops[:, 0] = random.integers(0, BLOCKS * block_rows - side, batch)
    crops = jax.device_put(crops)
    gather = jax.jit(lambda state, x: layer.stateless_call([], state, x)[0])

    def run(steps: int) -> None:
        state = _values(layer.non_trainable_variables)
        for _ in range(steps):
            images = gather(state, crops)
        images.block_until_ready()

    return run


def peak_bytes() -> int:
    """Returns the largest memory of the device that was in use so far, or is in use now."""
    counted = jax.local_devices()[0].memory_stats() or {}
    return counted.get("peak_bytes_in_use") or sum(a.nbytes for a in jax.live_arrays())


def program() -> dict[str, float]:
    """Returns what is known of a step of the model that was built.

    Keys: "flops", of :func:`counted`; "bytes" that the compiled program's kernels read and write as
    its compiler counts them, those that a cache holds included, of :func:`step`.
    """
    return PROGRAM


def _model(spec: dict) -> keras.Model:
    ours.use_precision(spec)
    classifier = ours.build(spec["strategy"] or "all", spec["backbone"])
    if not spec["strategy"]:
        return fold_batch_norm(classifier)
    return ours.compile_for_training(classifier, spec["strategy"], spec["size"])


def _state(model: keras.Model) -> tuple[list, list]:
    return _values(model.trainable_variables), _values(model.non_trainable_variables)


def _values(variables) -> list:
    return [variable.value for variable in variables]


def _training(model, images, labels):
    def run(steps: int) -> None:
        batches = itertools.repeat((images, labels), steps)
        model.fit((b for b in batches), steps_per_epoch=steps, shuffle=False, verbose=0)

    run(1)
    others = _values(model.optimizer.variables), _values(model.metrics_variables)
    # Compiled as fit has compiled it, so that a cache of programs has it.
    _note(jax.jit(model.train_step, donate_argnums=0), (*_state(model), *others), (images, labels))
    return run


def _inference(model, images):
    @jax.jit
    def forward(state, x):
        return model.stateless_call(*state, x, training=False)[0]

    state = _state(model)
    _note(forward, state, images)

    def run(steps: int) -> None:
        for _ in range(steps):
            logits = forward(state, images)
        logits.block_until_ready()

    return run


def _note(function, *arguments) -> None:
    counted = function.lower(*arguments).compile().cost_analysis() or {}
    if "bytes accessed" in counted:
        PROGRAM["bytes"] = counted["bytes accessed"]


def _numbered(block: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the same rows again and again, with the number of the block in the first column."""
    for number in range(BLOCKS):
        block[:, 0] = number
        yield number * len(block), block.copy()


def _check_rows(layer: DeviceImages, block: np.ndarray) -> None:
    """Raises AssertionError where the device does not hold the rows that it was given."""
    for number in (0, BLOCKS // 2, BLOCKS - 1):
        first = (number + 1) * len(block) - layer.side
        (image,) = np.asarray(layer(np.array([[first, 0]], np.int32)))
        expected = block[-layer.side :].copy()
        expected[:, 0] = number
        np.testing.assert_array_equal(image[..., 0], expected)
