"""What layers, losses and predictions must know of the devices that share a batch (--devices).

A replica is one device's copy of the model under `tf.distribute.MirroredStrategy`; each gets as
many rows of the batch as the others, in order. This is the only place of the model's code that
knows of it: on other backends, and wherever no strategy runs a step, there is one replica and
every function gives back what it was given.
"""

import contextlib

import keras
import numpy as np
from keras import ops


def count() -> int:
    """Returns how many replicas run the step that is being traced; 1 outside of one."""
    context = _context()
    return context.num_replicas_in_sync if context else 1


def total(value):
    """Sums a tensor over the replicas; each of them gets the sum, and gradients flow back."""
    return value if count() == 1 else _context().all_reduce("SUM", value)


def mean(value):
    """As :func:`total`, the mean."""
    return value if count() == 1 else _context().all_reduce("MEAN", value)


def own_rows(rows):
    """Returns this replica's part of a tensor with a row an image of the whole batch."""
    if count() == 1:
        return rows
    size = ops.shape(rows)[0] // count()
    first = _context().replica_id_in_sync_group * size
    return rows[first : first + size]


def predict_on_batch(model: keras.Model, images) -> np.ndarray:
    """As ``model.predict_on_batch``, each replica predicting its part of the batch.

    Keras' own hands the whole batch to every replica and returns all their answers.

    Args:
        model: built in a strategy's scope, or not.
        images: any number; where the replicas cannot share them evenly, some are computed twice.
    """
    strategy = _strategy_of(model)
    if strategy is None:
        return model.predict_on_batch(images)
    replicas = strategy.num_replicas_in_sync
    even = -(-len(images) // replicas) * replicas
    parts = np.split(np.asarray(filled_up(images, even)), replicas)
    shared = strategy.experimental_distribute_values_from_function(
        lambda context: ops.convert_to_tensor(parts[context.replica_id_in_sync_group])
    )
    model.make_predict_function()
    return ops.convert_to_numpy(model.predict_function([(shared,)]))[: len(images)]


def filled_up(images, count: int):
    """Returns a batch of at least ``count`` images, the first one repeated where they are fewer."""
    if len(images) >= count:
        return images
    filler = np.repeat(np.asarray(images)[:1], count - len(images), axis=0)
    return np.concatenate([images, filler])


def of(model: keras.Model) -> int:
    """Returns the number of replicas that a model was built for."""
    strategy = _strategy_of(model)
    return 1 if strategy is None else strategy.num_replicas_in_sync


def scope_of(model: keras.Model):
    """Returns the context for a model that shares another's layers and so its replicas."""
    strategy = _strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _strategy_of(model):
    """The strategy of several replicas in whose scope a model was built, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    return strategy if strategy.num_replicas_in_sync > 1 else None


def _context():
    """TensorFlow's replica context; None on other backends and between replicas."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
