"""Random rotation and zoom of a batch: this project's layer, and Keras' own two."""

import keras
import tensorflow as tf

from benchmarks.keras_step import threads
from benchmarks.work import DEGREES, MAX_ZOOM, batch_of
from medcolor_tf.training.augment import RandomRotationZoom

__all__ = ["build", "threads"]


def build(spec: dict):
    """Returns ``run(steps)``, a batch of (B, S, S, 1) float32 a step.

    Args:
        spec: size, batch, and stock (Keras' layers, which resample one after the other, always and
            about the centre; ours does it once).
    """
    layers = [RandomRotationZoom(DEGREES, MAX_ZOOM, seed=0)]
    if spec["stock"]:
        border = {"fill_mode": "reflect", "interpolation": "bilinear", "seed": 0}
        layers = [
            keras.layers.RandomRotation(DEGREES / 360, **border),
            keras.layers.RandomZoom((1 / MAX_ZOOM - 1, 0.0), **border),
        ]
    images = tf.constant(batch_of(spec)[0], tf.float32)

    @tf.function
    def augment(x):
        for layer in layers:
            x = layer(x, training=True)
        return x

    def run(steps: int) -> None:
        for _ in range(steps):
            augmented = augment(images)
        augmented.numpy()

    return run
