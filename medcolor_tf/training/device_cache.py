"""Training images in the accelerator's memory (--cache=device): steps are fed places alone."""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from medcolor_tf.data import image_cache as host
from medcolor_tf.data.packed_images import PackedImages
from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.parallel import accelerator


class DeviceImages(keras.layers.Layer):
    """Places to images: a gather from a variable that holds a split's decoded images.

    Args:
        count: lines of all images, see :class:`medcolor_tf.data.packed_images.PackedImages`.
        side: S of the square images, in pixels.
        channels: C.
        pixels: "uint8" or "uint16".
        turned: whether some images are stored with their axes exchanged.

    Input (B, 2) int32: first line, 1 where the axes are exchanged. Output (B, S, S, C), ``pixels``.
    """

    def __init__(self, count, side, channels, pixels, turned, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.side, self.channels, self.pixels, self.turned = side, channels, pixels, turned
        self.lines = self.add_weight(
            shape=(count, side * channels),
            initializer="zeros",
            dtype=pixels,
            trainable=False,
            autocast=False,
            name="lines",
        )

    def fill(self, blocks: Iterable[tuple[int, np.ndarray]]) -> None:
        """Stores the lines, block by block, so that the host never holds all of them.

        Args:
            blocks: (first line, lines (n, S * C)), all lines in order.
        """
        _FILL.get(keras.backend.backend(), _fill)(self.lines, blocks)

    def call(self, places):
        """Returns the images."""
        wanted = places[:, :1] + ops.arange(self.side, dtype="int32")
        images = ops.reshape(_gather(self.lines, wanted), (-1, self.side, self.side, self.channels))
        if not self.turned:
            return images
        turned = ops.transpose(images, (0, 2, 1, 3))
        return ops.where(ops.reshape(places[:, 1], (-1, 1, 1, 1)) == 1, turned, images)

    def compute_output_spec(self, places):
        """Returns shape and dtype of the images."""
        shape = (places.shape[0], self.side, self.side, self.channels)
        return keras.KerasTensor(shape, dtype=self.pixels)


@dataclass(frozen=True)
class Fed:
    """The training images on the device, and the training model behind them.

    Attributes:
        lines: where each image lies.
        model: places (B, 2) to logits; its weights and its optimizer are the training model's own,
            which knows nothing of the images, so that checkpoints do not hold them.
    """

    lines: PackedImages
    model: keras.Model

    @classmethod
    def load(cls, lines: PackedImages, model: keras.Model) -> "Fed":
        """Copies all images to the device and puts them before the compiled training model."""
        channels = lines.split.info.channels
        transposed = bool(lines.transposed.any())
        layer = DeviceImages(
            lines.rows, lines.side, channels, lines.dtype, transposed, name="images"
        )
        layer.fill(lines.blocks())
        lines.split.release_records()
        places = keras.Input((2,), dtype="int32")
        fed = keras.Model(places, model(layer(places)), name="fed")
        fed.compile(
            model.optimizer,
            model.loss,
            steps_per_execution=model.steps_per_execution,
            jit_compile=model.jit_compile,
        )
        return cls(lines, fed)


def keep(
    cache: str,
    train: Split,
    valid: Split,
    model: keras.Model,
    replicas: int = 1,
    sharers: int = 1,
) -> tuple[Fed | None, str]:
    """Keeps decoded images where ``cache`` says: on the device, in RAM or nowhere.

    Args:
        cache: "none", "ram", "device" or "auto".
        train: training images. Only they go to the device: the validation images are read once a
            checkpoint, and from RAM that costs next to nothing.
        valid: validation images.
        model: the compiled training model, images to logits.
        replicas: copies of the model; each would hold all images, so with several auto takes RAM.
        sharers: processes on this machine that keep images as well.

    Returns:
        (what to train instead of ``model``, or None; what was done and why, for the log).

    Raises:
        InputError: "device" or "ram", and the images do not fit there or cannot be kept there.
    """
    if cache not in ("auto", "device"):
        return None, host.cache_splits(cache, (train, valid), sharers)
    device = accelerator.device()
    if cache == "auto" and not device.accelerator:
        return None, host.cache_splits(cache, (train, valid), sharers)
    if why := _obstacle(cache, train, device, replicas):
        if cache == "device":
            raise InputError(f"--cache=device: {why}; expected --cache=ram, none or auto")
        where = host.cache_splits(cache, (train, valid), sharers)
        return None, f"{where}; not on {device.name}: {why}"
    lines = PackedImages.from_split(train)
    fed = Fed.load(lines, model)
    free = "" if device.free is None else f", {host.format_bytes(device.free)} were free"
    own = "" if device.accelerator else " (no accelerator: the machine's own memory)"
    return fed, (
        f"cache device: {len(train):,} training images, {host.format_bytes(lines.bytes)} decoded, "
        f"on {device.name}{own}{free}; validation: {host.cache_splits('auto', (valid,), sharers)}"
    )


def _obstacle(cache: str, train: Split, device: accelerator.Device, replicas: int) -> str:
    """Why the images cannot be on the device, or ""; the cheap questions first."""
    if replicas > 1:
        return f"each of {replicas} replicas would hold all images"
    if device.free is None:
        return "" if cache == "device" else "how much of its memory is free is not known"
    limit = device.free * (host.AUTO_SHARE if cache == "auto" else 1.0)
    needed = host.minimum_bytes(train, enlarged=True)
    if needed <= limit:  # only then is it worth reading every record's size
        try:
            needed = PackedImages.from_split(train).bytes
        except InputError as error:
            return str(error)
    if needed <= limit:
        return ""
    share = "half of " if cache == "auto" else ""
    return (
        f"{len(train):,} decoded images are {host.format_bytes(needed)} or more, beyond {share}the "
        f"{host.format_bytes(device.free)} that are free"
    )


def _gather(lines: keras.Variable, wanted):
    """Lines ``wanted`` (B, S) int32 of the variable: (B, S, S * C).

    TensorFlow reads a variable's uint8 and uint16 lines on a GPU, but has no such kernel for a
    tensor's (2.21; XLA has), and its kernel computes addresses in the type of the index, which
    2 GB of pixels overflow in int32. So this is a marked fast path with the same result.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(lines.value, tf.cast(wanted, tf.int64))
    return ops.take(lines, wanted, axis=0)


def _fill_tensorflow(lines: keras.Variable, blocks) -> None:
    """Assigns slices in place; ``variable[a:b].assign`` would read, and so copy, all of it."""
    import tensorflow as tf

    handle = lines.value.handle
    for first, block in blocks:
        last = first + len(block)
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=handle, begin=[first], end=[last], strides=[1], value=block
        )


def _fill_jax(lines: keras.Variable, blocks) -> None:
    """Updates the array in place: it is donated to every update."""
    import jax

    def put(array, block, first):
        return jax.lax.dynamic_update_slice(array, block, (first, np.int32(0)))

    put = jax.jit(put, donate_argnums=0)
    array = lines.value
    for first, block in blocks:
        array = put(array, block, np.int32(first)).block_until_ready()  # or blocks would queue
    lines.assign(array)


def _fill(lines: keras.Variable, blocks) -> None:
    """For any other backend: all lines on the host, then one copy."""
    lines.assign(np.concatenate([block for _, block in blocks]))


_FILL = {"tensorflow": _fill_tensorflow, "jax": _fill_jax}
