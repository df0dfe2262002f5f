"""A step of this project by TensorFlow's operations: ``python -m benchmarks.operations``.

TensorFlow's own profiler, one operation after the other (TF_NUM_INTEROP_THREADS=1), so that each
has all cores; a convolution's time includes bringing its weights into oneDNN's layout, and tracing
makes a step some percent slower.
"""

import collections
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.rows import check_above_zero, choose, model_rows
from benchmarks.table import OURS
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

# Events that contain others.
AROUND = ("Process", "Run", "EagerExecute", "EagerKernelExecute", "ParallelFor", "FunctionRun")


@dataclass(frozen=True)
class OperationsConfig:
    """Options of the command."""

    row: str = option("all/DenseNet121/float32", "Row, named as in benchmarks.run.")
    size: int = option(160, "Pixels of ResNet18's images.")
    densenet_size: int = option(160, "Pixels of DenseNet121's.")
    batch: int = option(16, "Images a step.")
    steps: int = option(3, "Steps that are counted.")
    shown: int = option(16, "Operations to print, the slowest first.")


def operations(config: OperationsConfig) -> None:
    """Prints the milliseconds and the number of calls of every kind of operation, a step."""
    check_above_zero(config, "size", "densenet_size", "batch", "steps")
    row, *others = choose(model_rows(config), (config.row,))
    if others:
        raise InputError(f"--row={config.row}: several rows; expected one, as {row.name}")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    print(f"{commandline.command_line('benchmarks.operations', config)}\n{machine.software()}\n")
    with tempfile.TemporaryDirectory() as folder:
        record(row.specs[OURS], config.steps, folder)
        found = read(Path(folder))
    print("| operation | ms a step | calls a step |\n|---|--:|--:|")
    for name, (milliseconds, calls) in table(found, config.shown).items():
        print(f"| {name} | {milliseconds / config.steps:.1f} | {calls / config.steps:.0f} |")


def record(spec: dict, steps: int, folder: str) -> None:
    """Runs steps under TensorFlow's profiler, which writes to a folder."""
    tf = commandline.import_tensorflow()
    from benchmarks import keras_step

    run = keras_step.build(spec)
    run(3)
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
    with tf.profiler.experimental.Profile(folder, options):
        run(steps)


def read(folder: Path) -> list[tuple[str, float]]:
    """Returns (kind of operation, milliseconds) of every event on the processor."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(next(folder.rglob("*.xplane.pb")).read_bytes())
    return [
        # "name of the node:kind", or the kind alone.
        (plane.event_metadata[event.metadata_id].name.split(":")[-1], event.duration_ps / 1e9)
        for plane in space.planes
        if "CPU" in plane.name
        for line in plane.lines
        for event in line.events
    ]


def table(events: list[tuple[str, float]], shown: int) -> dict[str, tuple[float, int]]:
    """Sums events by kind: kind -> (milliseconds, calls), the slowest first, then the others."""
    times, calls = collections.Counter(), collections.Counter()
    for name, milliseconds in events:
        # oneDNN's kernels are the operations of the same name; the capitals are kernels' alone.
        name = name.removeprefix("_MklNative").removeprefix("_Mkl")
        if name not in AROUND and name[:1].isupper() and not name.startswith("TFE_"):
            times[name] += milliseconds
            calls[name] += 1
    ordered = [name for name, _ in times.most_common()]
    result = {name: (times[name], calls[name]) for name in ordered[:shown]}
    rest = ordered[shown:]
    if rest:
        result["others"] = (sum(times[n] for n in rest), sum(calls[n] for n in rest))
    return result


if __name__ == "__main__":
    sys.exit(commandline.run(OperationsConfig, operations, __doc__))
