"""Several devices of one machine that share each batch: --devices, TensorFlow's MirroredStrategy.

The run does not depend on their number: batch statistics, the loss and the augmentation are those
of the whole batch (:mod:`medcolor_tf.parallel.replicas` and its callers), so losses and weights are
those of one device up to rounding.
"""

import contextlib
import functools
from dataclasses import dataclass

import keras
from keras import ops

from medcolor_tf.errors import InputError
from medcolor_tf.models.fast.batch_norm import FusedBatchNormalization
from medcolor_tf.parallel import replicas
from medcolor_tf.runs.config import TrainConfig


@dataclass(frozen=True)
class Devices:
    """What a run trains on.

    Attributes:
        strategy: of several devices; None leaves the one device to TensorFlow.
        note: for the log; "" where --devices was not set.
    """

    strategy: object = None
    note: str = ""

    @classmethod
    def choose(cls, config: TrainConfig) -> "Devices":
        """Finds the devices of --devices and, where there are several, makes their strategy.

        Called before anything else uses TensorFlow, which takes no logical devices afterwards.

        Raises:
            InputError: not that many devices, a batch that they cannot share evenly, another
                backend, or TensorFlow has started already.
        """
        number = config.device_count()
        if number == 1:
            return cls()
        wanted = f"--devices={config.devices}"
        if (backend := keras.backend.backend()) != "tensorflow":
            raise InputError(f"{wanted}: only Keras' TensorFlow backend can, this is {backend}")
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if number is None and len(gpus) < 2:
            return cls(note=f"devices: one trains ({wanted}, GPUs on this machine: {len(gpus)})")
        number = number or len(gpus)
        if gpus and number > len(gpus):
            raise InputError(f"{wanted}: expected at most {len(gpus)}, the GPUs of this machine")
        if config.batch_size % number:
            raise InputError(
                f"--batch_size={config.batch_size}: {number} devices share each batch evenly; "
                f"expected a multiple of {number}"
            )
        if not gpus:
            _make_logical(number)
        kind = "GPU" if gpus else "CPU"
        return cls(_mirrored(kind, number), _note(number, kind, config.batch_size // number))

    def scope(self):
        """Returns the context in which the model, its optimizer and so its variables are made."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def prepare(self, classifier: keras.Model) -> None:
        """Makes the layers that look at more than one image see the whole batch."""
        if self.strategy is None:
            return
        drawing = []
        for layer in _layers(classifier):
            if isinstance(layer, keras.layers.BatchNormalization):
                # The fused kernel's layer does it by itself, faster, where the kernel is used.
                own = isinstance(layer, FusedBatchNormalization) and layer.shares_statistics()
                layer.synchronized = not own
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
    found = len(tf.config.list_logical_devices("CPU"))
    if found < number:
        raise InputError(
            f"--devices={number}: TensorFlow has already started with {found} CPU device(s); "
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


def _layers(model):
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
        if not training or self.rate == 0 or replicas.count() == 1:
            return super().call(inputs, training=training)
        batch, *shape = ops.shape(inputs)
        if self.noise_shape is not None:  # a 1 there is one draw for the whole axis
            shape = [1 if n == 1 else s for n, s in zip(self.noise_shape[1:], shape, strict=True)]
        ones = ops.ones((batch * replicas.count(), *shape), inputs.dtype)
        return inputs * replicas.own_rows(super().call(ones, training=True))
