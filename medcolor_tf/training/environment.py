"""What a run changes in its process, and puts back: seeds, precision, determinism."""

import contextlib
import random

import keras


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
    """Makes TensorFlow's operations give the same bits in every run."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
