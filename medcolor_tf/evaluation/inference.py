"""Predictions of a split: logits beside the labels and the keyed ids."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from medcolor_tf.data.pipeline import WHOLE, Split
from medcolor_tf.parallel import replicas

# Raw images (B, S, S, C) uint8 or uint16 to logits (B, L) float32.
Predict = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """Predictions of N images and L observations.

    Attributes:
        logits: (N, L) float32.
        labels: (N, L) float32, NaN for unknown.
        image_id: (N,) str, keyed.
        patient: (N,) str, keyed.
    """

    logits: np.ndarray
    labels: np.ndarray
    image_id: np.ndarray
    patient: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """(N, L) float32 in [0, 1]."""
        return sigmoid(self.logits)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + e^-logits) without overflow."""
    from scipy.special import expit

    return expit(logits)


def concatenate(parts: list[np.ndarray], total: int) -> np.ndarray:
    """Gathers the rows of one process that has all of them; see :func:`predict_split`."""
    return np.concatenate(parts)


def predict_split(
    predict: Predict,
    split: Split,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    part: tuple[int, int] = WHOLE,
    gather: Callable[[list[np.ndarray], int], np.ndarray] = concatenate,
) -> Predictions:
    """Predicts every image of a split once, centre crop.

    Args:
        predict: raw images to logits, such as :func:`predictor` returns.
        split: an opened split of the model's image size and observations.
        batch_size: images per batch; the last one may be short.
        progress: called with the number of images after each batch.
        part: (index, count): the images index, index + count, ... alone, where several processes
            share the split.
        gather: puts the rows of all parts in the split's order, (this part's arrays, number of all
            rows) to one array.
    """
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for images, labels, image_id, patient in split.identified_batches(batch_size, part):
        logits = predict(images)
        batch = (logits, labels.numpy(), image_id.numpy().astype(str), patient.numpy().astype(str))
        for column, values in zip(columns, batch, strict=True):
            column.append(values)
        if progress:
            progress(len(logits))
    return Predictions(*(gather(column, len(split)) for column in columns))


def predictor(model: keras.Model, batch_size: int) -> Predict:
    """Returns the predict function of a model, for batches of up to ``batch_size`` images."""
    return functools.partial(predict_full, model, batch_size=batch_size)


def predict_full(model: keras.Model, images, batch_size: int) -> np.ndarray:
    """Predicts a batch; a short last one is filled up, since a new shape is traced anew."""
    return predict_batch(model, replicas.filled_up(images, batch_size))[: len(images)]


def predict_batch(model: keras.Model, images) -> np.ndarray:
    """Returns what the model makes of a batch, computed by this process alone on any backend.

    Keras' JAX backend does not take TensorFlow's tensors, which the data pipeline gives. And where
    several processes train one model, predict_on_batch would be a step of all of them, on the same
    images; here each uses its own copy of the weights.
    """
    if keras.backend.backend() == "tensorflow":
        return replicas.predict_on_batch(model, images)
    if keras.distribution.distribution() is None:
        return model.predict_on_batch(np.asarray(images))
    from medcolor_tf.parallel import multihost

    return multihost.predict_here(model, np.asarray(images))
