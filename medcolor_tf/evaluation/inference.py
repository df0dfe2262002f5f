"""A classifier's logits on a split, beside the labels and the keyed ids."""

from dataclasses import dataclass

import keras
import numpy as np

from medcolor_tf.data.pipeline import Split
from medcolor_tf.parallel import multihost, replicas
from medcolor_tf.parallel.multihost import ALONE


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


def predict_split(
    classifier: keras.Model, split: Split, batch_size: int, progress=None, group=ALONE
) -> Predictions:
    """Runs the classifier over a split, every image once, centre crop.

    Args:
        classifier: raw images to logits.
        split: an opened split of the classifier's image size and observations.
        batch_size: images at a time.
        progress: called with the number of images after each batch.
        group: the processes that share the images; all get all predictions.
    """
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for images, labels, image_id, patient in split.identified_batches(batch_size, group.part):
        logits = predict_full(classifier, images, batch_size)
        batch = (logits, labels.numpy(), image_id.numpy().astype(str), patient.numpy().astype(str))
        for column, values in zip(columns, batch, strict=True):
            column.append(values)
        if progress:
            progress(len(logits))
    return Predictions(*(group.gather_rows(column, len(split)) for column in columns))


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
    return multihost.predict_here(model, np.asarray(images))
