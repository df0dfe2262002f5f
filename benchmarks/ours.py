"""This project's part of each row: a training step, inference, augmentation, input."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import input_data
from benchmarks.work import DEGREES, LABELS, MAX_ZOOM, batch_of
from medcolor_tf.data import image_cache
from medcolor_tf.data.pipeline import Split
from medcolor_tf.models import build_classifier, build_colorizer
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training.augment import RandomRotationZoom
from medcolor_tf.training.build import training_model
from medcolor_tf.training.optimizer import MomentumSGD
from medcolor_tf.training.strategies import set_trainable

Run = Callable[[int], None]


def threads() -> int:
    """Returns how many threads an operation may use."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


def step(spec: dict) -> Run:
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    The step is the one of ``medcolor_tf.train`` without its augmentation, which has a row of its
    own: forward, loss, backward, optimizer, batch statistics. Inference is that of predict and
    evaluate.

    Args:
        spec: strategy, backbone, size, batch, bfloat16.
    """
    use_precision(spec)
    classifier = build(spec["strategy"] or "all", spec["backbone"])
    images, labels = batch_of(spec)
    if not spec["strategy"]:
        return inferences(fold_batch_norm(classifier), images)
    model = compile_for_training(classifier, spec["strategy"], spec["size"])
    return training_steps(model, images, labels)


def colorizer(spec: dict) -> Run:
    """Returns ``run(steps)``: training steps of T alone on a mean squared error, or inferences.

    Args:
        spec: colorizer, training, size, batch, bfloat16.
    """
    use_precision(spec)
    model = build_colorizer(spec["colorizer"], init="gray", seed=0)
    gray = ((batch_of(spec)[0] / 255 - 0.5) / 0.3).astype(np.float32)
    if not spec["training"]:
        return inferences(fold_batch_norm(model), gray)
    model.compile(MomentumSGD(1e-4), "mse")
    return training_steps(model, gray, np.zeros((*gray.shape[:3], 3), np.float32))


def build(strategy: str, backbone: str) -> keras.Model:
    """Returns the project's classifier, (B,H,W,1) uint8 to (B,LABELS) logits, random weights."""
    return build_classifier(
        "none" if strategy.startswith("baseline") else "pixel_shuffle",
        backbone,
        LABELS,
        pixel_mean=0.5,
        pixel_std=0.3,
        backbone_weights=None,
        seed=0,
    )


def compile_for_training(classifier: keras.Model, strategy: str, size: int) -> keras.Model:
    """Returns the model that ``medcolor_tf.train`` would fit, without augmentation."""
    set_trainable(classifier, strategy)
    config = TrainConfig(
        strategy=strategy, rotation_degrees=0.0, max_zoom=1.0, augment_probability=0.0
    )
    return training_model(classifier, size, config)


def use_precision(spec: dict) -> None:
    """Sets Keras' policy as spec["bfloat16"] says."""
    if spec["bfloat16"]:
        keras.config.set_dtype_policy("mixed_bfloat16")


def training_steps(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Run:
    """Returns ``run(steps)``, the steps that ``fit`` makes of a compiled model, on one batch."""
    batch = tf.data.Dataset.from_tensors((tf.constant(images), tf.constant(labels)))
    iterator = iter(batch.repeat())
    model.make_train_function()  # what fit calls for each step
    train_step: Any = model.train_function  # Keras says None, which it was before

    def run(steps: int) -> None:
        for _ in range(steps):
            logs = train_step(iterator)
        np.asarray(logs["loss"] if isinstance(logs, dict) else logs)  # waits for the last one

    return run


def inferences(classifier: keras.Model, images: np.ndarray) -> Run:
    """Returns ``run(steps)``, a forward pass of one batch per step."""
    constant = tf.constant(images)
    forward = tf.function(lambda x: classifier(x, training=False))

    def run(steps: int) -> None:
        for _ in range(steps):
            logits = forward(constant)
        logits.numpy()

    return run


def augmentation(spec: dict) -> Run:
    """Returns ``run(steps)``, (B, S, S, 1) float32 rotated and zoomed in one resample per step.

    Args:
        spec: size, batch.
    """
    return augmentations([RandomRotationZoom(DEGREES, MAX_ZOOM, seed=0)], spec)


def augmentations(layers: list[keras.layers.Layer], spec: dict) -> Run:
    """Returns ``run(steps)``, a batch through some layers per step."""
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


def inputs(spec: dict) -> Run:
    """Returns ``run(steps)``, a batch of (B, S, S, 1) uint8 and (B, 1) float32 per step.

    Args:
        spec: folder (of :mod:`benchmarks.input_data`), batch, and cache (none or ram).
    """
    split = Split(Path(spec["folder"]) / input_data.RECORDS, "train")
    image_cache.cache_splits(spec["cache"], (split,))
    batches = iter(split.training_batches(spec["batch"]))

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return run
