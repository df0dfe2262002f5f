"""Training images in the accelerator's memory (--cache=device): a step reads row offsets alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from medcolor_tf.data import image_cache as host_cache
from medcolor_tf.data.packed_images import PackedImages
from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.keras_ops import ops
from medcolor_tf.parallel import runtime


class DeviceImages(keras.layers.Layer):
    """Row offsets to images: a gather from a variable that holds a split's decoded images.

    Args:
        count: rows of all images, see :class:`medcolor_tf.data.packed_images.PackedImages`.
        side: S of the square images, in pixels.
        channels: C.
        pixels: "uint8" or "uint16".
        transposed: whether some images are stored with their axes exchanged.

    Input (B, 2) int32: first row, 1 where the axes are exchanged. Output (B, S, S, C), ``pixels``.
    """

    def __init__(self, count, side, channels, pixels, transposed, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.side, self.channels, self.pixels = side, channels, pixels
        self.transposed = transposed
        self.rows = self.add_weight(
            shape=(count, side * channels),
            initializer="zeros",
            dtype=pixels,
            trainable=False,
            autocast=False,
            name="rows",
        )

    def fill(self, blocks: Iterable[tuple[int, np.ndarray]]) -> None:
        """Stores the rows, block by block, so that the host never holds all of them.

        Args:
            blocks: (first row, rows (n, S * C)), all rows in order.
        """
        _FILL.get(keras.backend.backend(), _fill)(self.rows, blocks)

    def call(self, row_offsets):
        """Returns the images."""
        numbers = row_offsets[:, :1] + ops.arange(self.side, dtype="int32")
        images = ops.reshape(_gather(self.rows, numbers), (-1, self.side, self.side, self.channels))
        if not self.transposed:
            return images
        exchanged = ops.transpose(images, (0, 2, 1, 3))
        is_transposed = ops.reshape(row_offsets[:, 1], (-1, 1, 1, 1)) == 1
        return ops.where(is_transposed, exchanged, images)

    def compute_output_spec(self, row_offsets):
        """Returns shape and dtype of the images."""
        shape = (row_offsets.shape[0], self.side, self.side, self.channels)
        return keras.KerasTensor(shape, dtype=self.pixels)


@dataclass(frozen=True)
class DeviceImageCache:
    """The training images on the device, and the training model behind them.

    Attributes:
        images: where each image lies.
        model: row offsets (B, 2) to logits; its weights and its optimizer are the training model's
            own, which knows nothing of the images, so that checkpoints do not hold them.
    """

    images: PackedImages
    model: keras.Model

    @classmethod
    def load(cls, images: PackedImages, model: keras.Model) -> "DeviceImageCache":
        """Copies all images to the device and puts them before the compiled training model."""
        channels, transposed = images.split.info.channels, bool(images.transposed.any())
        layer = DeviceImages(
            images.rows, images.side, channels, images.dtype, transposed, name="images"
        )
        layer.fill(images.blocks())
        images.split.release_records()
        row_offsets = keras.Input((2,), dtype="int32")
        outputs = model(layer(row_offsets))
        whole = keras.Model(row_offsets, outputs, name="training_from_device_images")
        jit_compile: Any = model.jit_compile  # a bool, where Keras declares a str
        whole.compile(
            model.optimizer,
            model.loss,
            steps_per_execution=model.steps_per_execution,
            jit_compile=jit_compile,
        )
        return cls(images, whole)

    def batches(self, *stream: int):
        """Row offsets (B, 2) and labels (B, L) of the images of :meth:`Split.training_batches`.

        Args:
            stream: batch_size, seed, start_step and shuffle_buffer.
        """
        return self.images.batches(stream)


def cache_images(
    cache: str,
    train: Split,
    valid: Split,
    model: keras.Model,
    replicas: int = 1,
    local_processes: int = 1,
) -> tuple[DeviceImageCache | None, str]:
    """Caches decoded images where ``cache`` says: on the device, in RAM or nowhere.

    Args:
        cache: "none", "ram", "device" or "auto".
        train: training images. Only they go to the device: the validation images are read once per
            checkpoint, and from RAM that costs next to nothing.
        valid: validation images.
        model: the compiled training model, images to logits.
        replicas: copies of the model; each would hold all images, so with several auto takes RAM.
        local_processes: processes on this machine that cache images as well.

    Returns:
        (what to train instead of ``model``, or None; what was done and why, for the log).

    Raises:
        InputError: "device" or "ram", and the images do not fit there or cannot be cached there.
    """
    if cache not in ("auto", "device"):
        return None, host_cache.cache_splits(cache, (train, valid), local_processes)
    device = runtime.device()
    if cache == "auto" and not device.accelerator:
        return None, host_cache.cache_splits(cache, (train, valid), local_processes)
    if reason := _obstacle(cache, train, device, replicas):
        if cache == "device":
            raise InputError(f"--cache=device: {reason}; expected --cache=ram, none or auto")
        note = host_cache.cache_splits(cache, (train, valid), local_processes)
        return None, f"{note}; not on {device.name}: {reason}"
    device_images = DeviceImageCache.load(PackedImages.from_split(train), model)
    free = "" if device.free is None else f", {host_cache.format_bytes(device.free)} were free"
    memory = "" if device.accelerator else " (no accelerator: the machine's own memory)"
    size = host_cache.format_bytes(device_images.images.bytes)
    return device_images, (
        f"cache device: {len(train):,} training images, {size} decoded, on {device.name}"
        f"{memory}{free}; validation: {host_cache.cache_splits('auto', (valid,), local_processes)}"
    )


def _obstacle(cache: str, train: Split, device: runtime.Device, replicas: int) -> str:
    """Says why the images cannot be on the device, or ""; the cheap questions first."""
    if replicas > 1:
        return f"each of {replicas} replicas would hold all images"
    if device.free is None:
        return "" if cache == "device" else "how much of its memory is free is not known"
    limit = device.free * (host_cache.AUTO_SHARE if cache == "auto" else 1.0)
    needed = host_cache.minimum_bytes(train, enlarged=True)
    if needed <= limit:  # only then is it worth reading every record's size
        try:
            needed = PackedImages.from_split(train).bytes
        except InputError as error:
            return str(error)
    if needed <= limit:
        return ""
    share = "half of " if cache == "auto" else ""
    return (
        f"{len(train):,} decoded images are {host_cache.format_bytes(needed)} or more, beyond "
        f"{share}the {host_cache.format_bytes(device.free)} that are free"
    )


def _gather(rows: keras.Variable, numbers):
    """The rows of the variable with these numbers (B, S) int32: (B, S, S * C).

    TensorFlow reads a variable's uint8 and uint16 rows on a GPU, but has no such kernel for a
    tensor's (2.21; XLA has), and its kernel computes addresses in the type of the index, which
    2 GB of pixels overflow in int32. So this is a marked fast path with the same result.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(rows.value, tf.cast(numbers, tf.int64))
    return ops.take(rows, numbers, axis=0)


def _fill_tensorflow(rows: keras.Variable, blocks) -> None:
    """Assigns slices in place; ``variable[a:b].assign`` would read, and so copy, all of it."""
    import tensorflow as tf

    handle = rows.value.handle
    for first, block in blocks:
        last = first + len(block)
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=handle, begin=[first], end=[last], strides=[1], value=block
        )


def _fill_jax(rows: keras.Variable, blocks) -> None:
    """Updates the array in place: it is donated to every update."""
    import jax

    def put(array, block, first):
        return jax.lax.dynamic_update_slice(array, block, (first, np.int32(0)))

    put = jax.jit(put, donate_argnums=0)
    array = rows.value
    for first, block in blocks:
        array = put(array, block, np.int32(first)).block_until_ready()  # or blocks would queue
    rows.assign(array)


def _fill(rows: keras.Variable, blocks) -> None:
    """For any other backend: all rows on the host, then one copy."""
    rows.assign(np.concatenate([block for _, block in blocks]))


_FILL = {"tensorflow": _fill_tensorflow, "jax": _fill_jax}
