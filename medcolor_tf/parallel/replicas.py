"""Several devices of one machine that share each batch: --devices, TensorFlow's MirroredStrategy.

A replica is one device's copy of the model; each gets as many rows of the batch as the others, in
order. The run does not depend on their number: batch statistics, the loss and the augmentation are
those of the whole batch, so losses and weights are those of one device up to rounding. On other
backends, and wherever no strategy runs a step, there is one replica and every function gives back
what it was given.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.keras_ops import ops


@dataclass(frozen=True)
class Devices:
    """What a run trains on.

    Attributes:
        strategy: `tf.distribute.Strategy` of several devices; None leaves the one device to
            TensorFlow.
        note: for the log; "" where --devices was not set.
    """

    strategy: Any = None
    note: str = ""

    @classmethod
    def choose(cls, number: int | None, batch_size: int) -> "Devices":
        """Finds the devices of --devices and, where there are several, makes their strategy.

        Called before anything else uses TensorFlow, which takes no logical devices afterwards.

        Args:
            number: of devices; None for all GPUs of this machine.
            batch_size: images per step on all of them.

        Raises:
            InputError: not that many devices, a batch that they cannot share evenly, another
                backend, or TensorFlow has started already.
        """
        if number == 1:
            return cls()
        flag = f"--devices={'all' if number is None else number}"
        if (backend := keras.backend.backend()) != "tensorflow":
            raise InputError(f"{flag}: only Keras' TensorFlow backend can, this is {backend}")
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if number is None and len(gpus) < 2:
            return cls(note=f"devices: one trains ({flag}, GPUs on this machine: {len(gpus)})")
        number = number or len(gpus)
        if gpus and number > len(gpus):
            raise InputError(f"{flag}: expected at most {len(gpus)}, the GPUs of this machine")
        if batch_size % number:
            raise InputError(
                f"--batch_size={batch_size}: {number} devices share each batch evenly; "
                f"expected a multiple of {number}"
            )
        if not gpus:
            _make_logical(number)
        kind = "GPU" if gpus else "CPU"
        return cls(_mirrored(kind, number), _note(number, kind, batch_size // number))

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the context in which the model, its optimizer and so its variables are made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def prepare(self, classifier: keras.Model) -> None:
        """Makes the layers that look at more than one image see the whole batch."""
        if self.strategy is None:
            return
        drawing = []
        for layer in _layers(classifier):
            if isinstance(layer, keras.layers.BatchNormalization):
                # Layers of medcolor_tf.models.fast do it by themselves, faster.
                own = getattr(layer, "shares_statistics", None)
                layer.synchronized = not (own and own())
            elif type(layer) is keras.layers.Dropout:
                # The same layer with the same generator; only which part of a draw it uses changes.
                layer.__class__ = _SharedDropout
            elif hasattr(layer, "seed_generator"):
                drawing.append(layer.name)
        if drawing:
            print(
                f"warning: {', '.join(drawing)} draw random numbers for each device alone: the "
                "run on another number of devices is another sample"
            )


def unsharded(batches):
    """Returns a `tf.data.Dataset` of which a strategy splits each batch, and nothing else.

    By default it would rewrite the pipeline, images kept in memory included, to share out files.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options)


# -- inside a training step ----------------------------------------------------------------------


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
    """Returns this replica's part of a tensor with one row per image of the whole batch."""
    if count() == 1:
        return rows
    size = ops.shape(rows)[0] // count()
    first = _context().replica_id_in_sync_group * size
    return rows[first : first + size]


# -- a model of several replicas -----------------------------------------------------------------


def local_values(model: keras.Model, variable: keras.Variable) -> tuple:
    """Returns a variable's part in each replica of a compiled model: one tensor or variable each.

    Sums of metrics have another value in each.
    """
    if keras.backend.backend() != "tensorflow":
        return (variable.value,)
    strategy: Any = model.distribute_strategy  # pyright: ignore[reportAttributeAccessIssue]
    return strategy.experimental_local_results(variable.value)


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
    predict: Any = model.predict_function
    return ops.convert_to_numpy(predict([(shared,)]))[: len(images)]


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


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the context for a model that shares another's layers and so its replicas."""
    strategy = _strategy_of(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _strategy_of(model: keras.Model) -> Any:
    """The strategy of several replicas in whose scope a model was built, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    return strategy if strategy.num_replicas_in_sync > 1 else None


def _context() -> Any:
    """TensorFlow's replica context; None on other backends and between replicas."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()


@functools.cache
def _mirrored(kind: str, number: int):
    """The strategy of the first devices of a kind, for all runs of the process.

    TensorFlow numbers each strategy's exchanges from the same start, so that a second one of the
    same devices meets the first one's in its registry and fails. One of fewer or more devices is
    kept apart by its base, as in TensorFlow's own tests.
    """
    import tensorflow as tf

    class Mirrored(tf.distribute.MirroredStrategy):
        _collective_key_base = number

    return Mirrored([f"/{kind}:{i}" for i in range(number)])


def _make_logical(number: int) -> None:
    """Splits the CPU into logical devices; those of an earlier run in this process do as well."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(number)]
    with contextlib.suppress(RuntimeError):  # TensorFlow has started; it may have enough of them
        tf.config.set_logical_device_configuration(cpu, parts)
    made = len(tf.config.list_logical_devices("CPU"))
    if made < number:
        raise InputError(
            f"--devices={number}: TensorFlow has already started with {made} CPU device(s); "
            "logical ones are made in a new process only"
        )


def _note(number: int, kind: str, images: int) -> str:
    share = f"{images} images of each step on each"
    if kind == "CPU":
        return f"devices: no GPU here; {number} logical CPU devices to try it, {share}"
    # keras/src/trainers/trainer.py, _resolve_auto_jit_compile
    return (
        f"devices: {number} GPUs, {share}; WITHOUT XLA, which Keras switches off where several "
        "devices train"
    )


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers, those of nested models included."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


class _SharedDropout(keras.layers.Dropout):
    """Dropout that draws for the whole batch, as one device would, and uses its images' part."""

    def call(self, inputs, training=False):
        """See keras.layers.Dropout."""
        if not training or self.rate == 0 or count() == 1:
            return super().call(inputs, training=training)
        batch, *shape = ops.shape(inputs)
        if self.noise_shape is not None:  # a 1 there is one draw for the whole axis
            shape = [1 if n == 1 else s for n, s in zip(self.noise_shape[1:], shape, strict=True)]
        ones = ops.ones((batch * count(), *shape), inputs.dtype)
        return inputs * own_rows(super().call(ones, training=True))
