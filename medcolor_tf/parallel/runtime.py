"""What a run computes with: seeds, precision, determinism, XLA, and the device with its memory."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras

XLA_DETERMINISM = "xla_gpu_deterministic_ops"
# Long enough that the return to Python is lost in it, short enough for a lively progress bar.
STEPS_TOGETHER = 32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds what Keras draws its own seeds from (dropout, default initialisers), then puts it back.

    Keras takes them from Python's ``random``; no global seed of a framework is touched.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def precision(mixed: bool) -> Iterator[None]:
    """Computes in bfloat16 where ``mixed``, then puts Keras' policy back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_deterministic() -> None:
    """Makes the backend's operations give the same bits in every run."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    if keras.backend.backend() == "jax":  # read when JAX first looks for devices
        flags = os.environ.get("XLA_FLAGS", "")
        if XLA_DETERMINISM not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{XLA_DETERMINISM}=true".strip()


def is_deterministic() -> bool:
    """Says whether TensorFlow gives the same bits in every run; False on other backends."""
    if keras.backend.backend() != "tensorflow":
        return False
    from tensorflow.python.framework.config import is_op_determinism_enabled  # as Keras does

    return is_op_determinism_enabled()


def compiled(function: Callable) -> Callable:
    """Returns ``function`` of tensors compiled by XLA, whatever step it becomes a part of.

    On TensorFlow a step is compiled as a whole only where Keras chooses so (not on a CPU, nor where
    several devices train); on JAX it always is.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    # One program per shape: sizes that XLA knows make the faster one.
    return tf.function(function, jit_compile=True, autograph=False)


def xla_note(model: keras.Model) -> str:
    """Says whether the training step of a compiled model runs through XLA; "" on a CPU.

    Keras decides: not on a CPU, where TensorFlow's own convolutions are faster, and nowhere that a
    layer says it cannot. Without a word of it a step on a GPU would be slow for no visible reason.
    """
    if not device().accelerator:
        return ""
    if model.jit_compile:
        return "the training step is compiled by XLA"
    unfit = [layer.name for layer in model._flatten_layers() if not layer.supports_jit]
    why = f"layers that XLA cannot compile: {', '.join(unfit)}" if unfit else "Keras' choice"
    if is_deterministic():
        why = "--deterministic: some of its operations are not"
    return f"warning: the training step runs WITHOUT XLA ({why}); expect it to be slower"


def steps_together(requested: int, steps: int) -> int:
    """Returns how many of ``steps`` run in one execution: the largest divisor up to ``requested``.

    Args:
        requested: 0 for 1 on a CPU (there a step takes far longer than the return to Python),
            STEPS_TOGETHER on an accelerator.
        steps: of a Keras epoch; more than are left must never run.
    """
    requested = requested or (STEPS_TOGETHER if device().accelerator else 1)
    return max(count for count in range(1, min(requested, steps) + 1) if steps % count == 0)


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
    accelerator = {"tensorflow": _tensorflow_gpu, "jax": _jax_accelerator}.get(
        backend, lambda: None
    )()
    return accelerator or Device("CPU", available_memory(), False)


def available_memory() -> int:
    """Returns the bytes of memory that this process can still take.

    The kernel's estimate, or what the container's limit leaves where that is less.
    """
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    container = _container_memory()
    return free if container is None else min(free, container)


def _container_memory() -> int | None:
    """Returns what a container's limit (cgroup v2) leaves, or None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat["inactive_file"]))  # file pages are given back
    except (OSError, KeyError, ValueError):  # ValueError: the limit is the word "max"
        return None


def _tensorflow_gpu() -> Device | None:
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    logical = tf.config.list_logical_devices("GPU")
    if not logical:
        return None
    name = logical[0].name.removeprefix("/device:")
    # TensorFlow reserves nearly all of a GPU at its start; no public function tells how much.
    limits = {local.name: local.memory_limit for local in device_lib.list_local_devices()}
    limit = limits.get(logical[0].name)
    used = tf.config.experimental.get_memory_info(name)["current"]
    return Device(name, None if limit is None else max(0, limit - used), True)


def _jax_accelerator() -> Device | None:
    import jax

    first = jax.local_devices()[0]
    if first.platform == "cpu":
        return None
    stats = first.memory_stats() or {}
    free = None
    if "bytes_limit" in stats:
        free = max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return Device(f"{first.platform.upper()}:{first.id}", free, True)
