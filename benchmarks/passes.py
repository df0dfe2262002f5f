"""How fast the work between convolutions is: ``python -m benchmarks.passes``.

A pass is one trip over activations or weights: it computes next to nothing a value, so the memory
decides. Its rate is the least number of bytes that it must move (each input read once a trip, the
output written once) over its time, less what calling a TensorFlow function takes; a plain copy of
the same array is the limit to compare with.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks import machine
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

CALL = "call"


@dataclass(frozen=True)
class PassesConfig:
    """Options of the command."""

    precision: str = option("float32", "Of the activations.", ("float32", "bfloat16"))
    sides: tuple[str, ...] = option(("40", "20", "10"), "Pixels along a side.")
    channels: tuple[str, ...] = option(("64", "256", "512"), "Channels at each of the sides.")
    batch: int = option(16, "Images.")
    rounds: int = option(7, "Turns of every pass; the median counts.")
    seconds: float = option(0.2, "Length of a turn, about.")


@dataclass(frozen=True)
class Pass:
    """One operation.

    Attributes:
        name: as in TensorFlow.
        trips: how often an array of the activations' size is read or written.
        run: does it once.
    """

    name: str
    trips: int
    run: Callable[[], object]


def passes(config: PassesConfig) -> None:
    """Prints milliseconds and GB/s of every pass, and its share of the copy's."""
    if len(config.sides) != len(config.channels):
        raise InputError(
            f"--channels={','.join(config.channels)}: expected {len(config.sides)} numbers, one "
            "for each of --sides"
        )
    for name, numbers in (("sides", config.sides), ("channels", config.channels)):
        if not all(number.isdecimal() and int(number) > 1 for number in numbers):
            raise InputError(f"--{name}={','.join(numbers)}: expected whole numbers above one")
    print(f"{commandline.command_line('benchmarks.passes', config)}\n{machine.software()}\n")
    print("| activations | MB | pass | ms | GB/s | of a copy's |\n|---|--:|---|--:|--:|--:|")
    for side, channels in zip(config.sides, config.channels, strict=True):
        shape = (config.batch, int(side), int(side), int(channels))
        work, size = make(shape, config.precision)
        times = in_turns(work, config)
        calling = times.pop(CALL)
        title, copy = ("x".join(map(str, shape)), f"{size / 1e6:.1f}"), None
        for one in work[:-1]:
            seconds = times[one.name] - calling
            rate = one.trips * size / seconds / 1e9
            copy = copy or rate
            cells = (one.name, f"{1000 * seconds:.2f}", f"{rate:.1f}", f"{rate / copy:.0%}")
            print(f"| {' | '.join((*title, *cells))} |")
            title = ("", "")


def make(shape: tuple[int, ...], precision: str) -> tuple[list[Pass], int]:
    """Returns the passes, the copy first and an empty one last, and the activations' bytes."""
    tf = commandline.import_tensorflow()
    random = np.random.default_rng(0)
    x, dy = (tf.cast(tf.constant(random.normal(size=shape)), precision) for _ in range(2))
    scale = tf.constant(random.uniform(0.5, 1.5, shape[-1]), tf.float32)
    shift = tf.zeros_like(scale)
    half = shape[-1] // 2
    statistics = {"epsilon": 1e-5, "is_training": True}

    def normalize():
        moving = {"mean": [], "variance": []}
        return tf.raw_ops.FusedBatchNormV3(x=x, scale=scale, offset=shift, **moving, **statistics)

    _, _, _, *reserved = normalize()
    reserved = {f"reserve_space_{i}": one for i, one in enumerate(reserved, start=1)}

    def gradient():
        return tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=dy, x=x, scale=scale, **reserved, **statistics
        )

    found = {
        "copy": (2, lambda: tf.raw_ops.DeepCopy(x=x)),
        "FusedBatchNorm (training)": (3, normalize),
        "FusedBatchNormGrad": (5, gradient),
        "ReluGrad": (3, lambda: tf.raw_ops.ReluGrad(gradients=dy, features=x)),
        "LeakyRelu": (2, lambda: tf.raw_ops.LeakyRelu(features=x)),
        "LeakyReluGrad": (3, lambda: tf.raw_ops.LeakyReluGrad(gradients=dy, features=x)),
        "AddN": (3, lambda: tf.raw_ops.AddN(inputs=[x, dy])),
        "Mul by channel": (2, lambda: x * tf.cast(scale, precision)),
        "Slice of half": (1, lambda: tf.slice(x, [0] * 4, [*shape[:3], half])),
        "ConcatV2": (4, lambda: tf.concat([x, dy], axis=-1)),
        CALL: (0, lambda: tf.identity(shift)),
    }
    work = [Pass(name, trips, _compiled(tf, run)) for name, (trips, run) in found.items()]
    return work, int(np.prod(shape)) * x.dtype.size


def _compiled(tf, run):
    """In a graph, as inside a step: TensorFlow's oneDNN kernels are chosen there."""
    step = tf.function(run)
    step()
    return step


def in_turns(work: list[Pass], config: PassesConfig) -> dict[str, float]:
    """Returns the seconds of each pass, the median over rounds."""
    counts = {}
    for one in work:
        begin = time.perf_counter()
        for _ in range(5):
            one.run()
        counts[one.name] = max(1, round(5 * config.seconds / (time.perf_counter() - begin)))
    found: dict[str, list[float]] = {one.name: [] for one in work}
    for _ in range(config.rounds):
        for one in work:
            begin = time.perf_counter()
            for _ in range(counts[one.name]):
                one.run()
            found[one.name].append((time.perf_counter() - begin) / counts[one.name])
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


if __name__ == "__main__":
    sys.exit(commandline.run(PassesConfig, passes, __doc__))
