"""A training step, or an inference, of this project, and of the same model in stock Keras."""

import os

import keras
import numpy as np
import tensorflow as tf

from benchmarks import stock_models
from benchmarks.work import LABELS, TRAINS, batch_of
from medcolor_tf.models import build_classifier
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training.build import training_model
from medcolor_tf.training.strategies import set_trainable


def build(spec: dict):
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    The step is the one of ``medcolor_tf.train`` without its augmentation, which has a row of its
    own: forward, loss, backward, optimizer, batch statistics.

    Args:
        spec: strategy, backbone, size, batch, bfloat16, and stock (Keras alone, or the project).
    """
    if spec["bfloat16"]:
        keras.config.set_dtype_policy("mixed_bfloat16")
    make = stock if spec["stock"] else ours
    classifier, compiled = make(spec["strategy"] or "all", spec["backbone"], spec["size"])
    arrays = batch_of(spec)
    if spec["strategy"]:
        return _training(compiled(), arrays)
    # What medcolor_tf.predict and medcolor_tf.evaluate do.
    return _inference(classifier if spec["stock"] else fold_batch_norm(classifier), arrays[0])


def threads() -> int:
    """Returns how many threads an operation may use."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


def ours(strategy: str, backbone: str, size: int):
    """Returns the project's classifier, and a function that compiles it for training."""
    classifier = build_classifier(
        "none" if strategy.startswith("baseline") else "pixel_shuffle",
        backbone,
        LABELS,
        pixel_mean=0.5,
        pixel_std=0.3,
        backbone_weights=None,
        seed=0,
    )

    def compiled() -> keras.Model:
        set_trainable(classifier, strategy)
        config = TrainConfig(
            strategy=strategy, rotation_degrees=0.0, max_zoom=1.0, augment_probability=0.0
        )
        return training_model(classifier, size, config)

    return classifier, compiled


def stock(strategy: str, backbone: str, size: int):
    """Returns the same of a user of Keras alone."""
    with_colorizer = not strategy.startswith("baseline")
    classifier = stock_models.classifier(with_colorizer, backbone, size, LABELS)

    def compiled() -> keras.Model:
        for name in ("colorizer", "backbone") if with_colorizer else ("backbone",):
            classifier.get_layer(name).trainable = name in TRAINS[strategy]
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        classifier.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
        return classifier

    return classifier, compiled


def _training(model, arrays):
    held = iter(tf.data.Dataset.from_tensors(tuple(map(tf.constant, arrays))).repeat())
    model.make_train_function()  # what fit calls for each step
    step = model.train_function

    def train(steps: int) -> None:
        for _ in range(steps):
            logs = step(held)
        np.asarray(logs["loss"] if isinstance(logs, dict) else logs)  # waits for the last one

    return train


def _inference(classifier, images):
    images = tf.constant(images)
    step = tf.function(lambda x: classifier(x, training=False))

    def infer(steps: int) -> None:
        for _ in range(steps):
            logits = step(images)
        logits.numpy()

    return infer
