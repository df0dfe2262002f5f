"""The training step and inference of this project, on whatever batch normalisation is asked for."""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from medcolor_tf.models import build_classifier
from medcolor_tf.training.config import TrainConfig
from medcolor_tf.training.loop import training_model
from medcolor_tf.training.strategies import set_trainable


def build(spec: dict):
    """Returns ``run(steps)``: whole training steps, or inferences where spec["strategy"] is "".

    The step is the one of ``medcolor_tf.train`` without its augmentation, which PyTorch's does not
    have either: forward, loss, backward, optimizer, batch statistics.

    Args:
        spec: strategy, size, batch, bfloat16, and stock_bn (Keras' own batch normalisation).
    """
    if spec["bfloat16"]:
        keras.config.set_dtype_policy("mixed_bfloat16")
    if spec["stock_bn"]:
        _use_stock_batch_norm()
    strategy = spec["strategy"] or "all"
    colorizer = "none" if strategy.startswith("baseline") else "pixel_shuffle"
    classifier = build_classifier(
        colorizer, "ResNet18", 5, pixel_mean=0.5, pixel_std=0.3, backbone_weights=None, seed=0
    )
    set_trainable(classifier, strategy)
    config = TrainConfig(rotation_degrees=0.0, max_zoom=1.0, augment_probability=0.0)
    model = training_model(classifier, spec["size"], config)
    random = np.random.default_rng(0)
    shape = (spec["batch"], spec["size"], spec["size"], 1)
    images = random.integers(0, 255, shape, np.uint8)
    labels = (random.random((spec["batch"], 5)) < 0.3).astype("float32")
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensors((tf.constant(images), tf.constant(labels))).repeat()
    held = iter(batches)

    def train(steps: int) -> None:
        # train_function is what fit calls; the logs are fetched once, at the end.
        model.make_train_function()
        function = model.train_function
        for _ in range(steps):
            logs = function(held)
        np.asarray(logs["loss"] if isinstance(logs, dict) else logs)

    def infer(steps: int) -> None:
        step = tf.function(lambda x: classifier(x, training=False), reduce_retracing=True)
        if not hasattr(infer, "step"):
            infer.step = step
        for _ in range(steps):
            answer = infer.step(tf.constant(images))
        answer.numpy()

    return train if spec["strategy"] else infer


def _use_stock_batch_norm() -> None:
    """Puts Keras' own layer where the project has its fused one."""
    from medcolor_tf.models import backbones, classifier, torch_layers

    torch_layers.batch_normalization = keras.layers.BatchNormalization
    for module in (backbones, classifier):
        module.use_fast_layers = lambda model: model
