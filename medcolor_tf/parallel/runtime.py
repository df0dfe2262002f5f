"""What a run changes in its process, and puts back: seeds, precision, determinism."""

import contextlib
import os
import random

import keras

from medcolor_tf.models.fast import batch_norm
from medcolor_tf.parallel import accelerator

XLA_DETERMINISM = "xla_gpu_deterministic_ops"


@contextlib.contextmanager
def seeded(seed: int):
    """Seeds what Keras draws its own seeds from (dropout, default initialisers), then puts it back.

    Keras takes them from Python's ``random``; no global seed of a framework is touched.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def precision(mixed: bool):
    """Computes in bfloat16 where ``mixed``, then puts Keras' policy back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_deterministic() -> None:
    """Makes the backend's operations give the same bits in every run."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    if keras.backend.backend() == "jax":  # read when JAX first looks for devices
        flags = os.environ.get("XLA_FLAGS", "")
        if XLA_DETERMINISM not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{XLA_DETERMINISM}=true".strip()


def compiled(function):
    """Returns ``function`` of tensors compiled by XLA, whatever step it becomes a part of.

    On TensorFlow a step is compiled as a whole only where Keras chooses so (not on a CPU, nor where
    several devices train); on JAX it always is.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    # One program a shape: sizes that XLA knows make the faster one.
    return tf.function(function, jit_compile=True, autograph=False)


def xla_note(model: keras.Model) -> str:
    """Says whether the training step of a compiled model runs through XLA; "" on a CPU.

    Keras decides: not on a CPU, where TensorFlow's own convolutions are faster, and nowhere that a
    layer says it cannot. Without a word of it a step on a GPU would be slow for no visible reason.
    """
    if not accelerator.device().accelerator:
        return ""
    if model.jit_compile:
        return "the training step is compiled by XLA"
    unfit = [layer.name for layer in model._flatten_layers() if not layer.supports_jit]
    why = f"layers that XLA cannot compile: {', '.join(unfit)}" if unfit else "Keras' choice"
    if batch_norm.is_deterministic():
        why = "--deterministic: some of its operations are not"
    return f"warning: the training step runs WITHOUT XLA ({why}); expect it to be slower"


# Long enough that the return to Python is lost in it, short enough for a lively progress bar.
STEPS_TOGETHER = 32


def steps_together(wanted: int, steps: int) -> int:
    """Returns how many of ``steps`` run in one execution: the largest divisor up to ``wanted``.

    Args:
        wanted: 0 for 1 on a CPU (there a step takes far longer than the return to Python),
            STEPS_TOGETHER on an accelerator.
        steps: of a Keras epoch; more than are left must never run.
    """
    wanted = wanted or (STEPS_TOGETHER if accelerator.device().accelerator else 1)
    return max(count for count in range(1, min(wanted, steps) + 1) if steps % count == 0)
