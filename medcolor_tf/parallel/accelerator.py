"""The device that a model runs on, and how much of its memory is free."""

from dataclasses import dataclass

import keras

from medcolor_tf.data.image_cache import available_memory


@dataclass(frozen=True)
class Device:
    """Where a model's variables live.

    Attributes:
        name: for the log.
        free: bytes; None where the backend does not tell.
        accelerator: whether it has a memory of its own.
    """

    name: str
    free: int | None
    accelerator: bool


def device() -> Device:
    """Returns the backend's first accelerator, or the processor with the machine's memory."""
    backend = keras.backend.backend()
    found = {"tensorflow": _of_tensorflow, "jax": _of_jax}.get(backend, lambda: None)()
    return found or Device("CPU", available_memory(), False)


def _of_tensorflow() -> Device | None:
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    logical = tf.config.list_logical_devices("GPU")
    if not logical:
        return None
    name = logical[0].name.removeprefix("/device:")
    # TensorFlow reserves nearly all of a GPU at its start; no public function tells how much.
    limits = {one.name: one.memory_limit for one in device_lib.list_local_devices()}
    limit = limits.get(logical[0].name)
    used = tf.config.experimental.get_memory_info(name)["current"]
    return Device(name, None if limit is None else max(0, limit - used), True)


def _of_jax() -> Device | None:
    import jax

    first = jax.local_devices()[0]
    if first.platform == "cpu":
        return None
    told = first.memory_stats() or {}
    free = None
    if "bytes_limit" in told:
        free = max(0, told["bytes_limit"] - told.get("bytes_in_use", 0))
    return Device(f"{first.platform.upper()}:{first.id}", free, True)
