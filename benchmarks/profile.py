"""Where a training step's time goes: ``python -m benchmarks.profile --strategy=color_module``."""

import collections
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks import machine
from benchmarks.rows import BACKBONES, PRECISIONS, STRATEGIES
from benchmarks.table import OURS
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

DESCRIPTION = """
Runs training steps of this project and of eager PyTorch, one after the other, with oneDNN's own
timings (ONEDNN_VERBOSE=1), and prints seconds a step, time and GFLOP/s of the convolutions by
direction, the shapes that take longest, and the rest. Timings of single primitives are wall time.
TensorFlow runs independent operations at the same time, above all a convolution's backward data
and backward weights, each then on a part of the cores: its sums may exceed the step's time, its
GFLOP/s are lower than alone, and its rest may be below zero. PyTorch runs one after the other.
"""
VERBOSE = {"ONEDNN_VERBOSE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
DIRECTIONS = {
    "forward_training": "forward",
    "forward_inference": "forward",
    "backward_data": "backward data",
    "backward_weights": "backward weights",
}


@dataclass(frozen=True)
class ProfileConfig:
    """Options of the command."""

    strategy: str = option("color_module", "What trains.", STRATEGIES)
    backbone: str = option("ResNet18", "Backbone E.", BACKBONES)
    precision: str = option("float32", "Precision.", PRECISIONS)
    size: int = option(160, "Pixels.")
    batch: int = option(16, "Images a step.")
    steps: int = option(3, "Steps that are counted, after two that are not.")
    shapes: int = option(8, "Shapes of convolutions to print, the slowest first.")


@dataclass(frozen=True)
class Call:
    """One execution of a oneDNN primitive.

    Attributes:
        kind: "convolution", "reorder", ...
        direction: of a convolution, a value of DIRECTIONS.
        problem: its shape as oneDNN writes it.
        milliseconds: wall time.
    """

    kind: str
    direction: str
    problem: str
    milliseconds: float

    @classmethod
    def parse(cls, line: str) -> "Call | None":
        """Reads a line of oneDNN's output (v1: kind, implementation, direction, ..., time)."""
        fields = line.strip().split(",")
        if fields[0] != "onednn_verbose" or "exec" not in fields:
            return None
        kind, _, direction = fields[fields.index("exec") + 2 :][:3]
        direction = DIRECTIONS.get(direction, direction)
        return cls(kind, direction, fields[-2], float(fields[-1]))

    @property
    def flops(self) -> float:
        """Multiplications and additions of a convolution, the padding's included."""
        sizes = {name: int(size) for name, size in re.findall(r"([a-z]+)(\d+)", self.problem)}
        sizes = {"g": 1, "kw": sizes["kh"], "ow": sizes["oh"], **sizes}
        product = 2.0 / sizes["g"]
        for name in ("mb", "ic", "oc", "oh", "ow", "kh", "kw"):
            product *= sizes[name]
        return product


def profile(config: ProfileConfig) -> None:
    """Prints what both take."""
    for name in ("size", "batch", "steps"):
        if getattr(config, name) < 1:
            raise InputError(f"--{name}={getattr(config, name)}: expected a number above zero")
    shared = {
        "strategy": config.strategy,
        "backbone": config.backbone,
        "size": config.size,
        "batch": config.batch,
        "bfloat16": config.precision == "bfloat16",
    }
    specs = {
        OURS: {"module": "keras_step", "stock": False},
        "torch eager": {"module": "torch_step", "compile": False},
    }
    print(commandline.command_line("benchmarks.profile", config))
    for name, spec in specs.items():
        try:
            seconds, calls = run(shared | spec, config.steps)
        except RuntimeError as error:
            print(f"\n{name}: left out, {error}")
            continue
        print("\n" + "\n".join(report(name, seconds, calls, config.steps, config.shapes)))
    print("\n" + DESCRIPTION.strip())


def run(spec: Mapping, steps: int) -> tuple[float, list[Call]]:
    """Runs a worker with oneDNN's timings; returns seconds a step and the calls of all steps.

    Raises:
        RuntimeError: the worker failed.
    """
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker"],
        input=f"{json.dumps(spec)}\n{steps}\n",
        env={**machine.waiting(machine.busy_share()), **os.environ, **VERBOSE},
        capture_output=True,
        text=True,
        errors="replace",
    )
    calls: list[Call] = []
    for line in found.stdout.splitlines():
        if not line.startswith("{"):
            call = Call.parse(line)
            calls += [call] if call else []
            continue
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        if "seconds" in answer:
            return answer["seconds"] / steps, calls
        calls.clear()  # warm: what came before does not count
    last = found.stderr.strip().splitlines()[-1:] or ["nothing on standard error"]
    raise RuntimeError(f"the worker ended with status {found.returncode}: {last[0]}")


def report(name: str, seconds: float, calls: Iterable[Call], steps: int, shapes: int) -> list[str]:
    """Formats what one variant took, a step."""
    calls = list(calls)
    convolutions = [call for call in calls if call.kind == "convolution"]
    lines = [f"{name}: {seconds:.3f} s a step"]
    lines.append(f"  {'convolutions':<20}{'ms':>9}{'GFLOP':>9}{'GFLOP/s':>9}{'calls':>7}")
    for direction in dict.fromkeys(DIRECTIONS.values()):
        chosen = [call for call in convolutions if call.direction == direction]
        lines.append(f"  {direction:<20}{_sums(chosen, steps)}")
    lines.append(f"  {'together':<20}{_sums(convolutions, steps)}")
    others = collections.Counter()
    for call in calls:
        if call.kind != "convolution":
            others[call.kind] += call.milliseconds / steps
    for kind, milliseconds in others.most_common():
        lines.append(f"  {kind:<20}{milliseconds:9.1f}")
    rest = 1000 * seconds - sum(call.milliseconds for call in calls) / steps
    lines.append(f"  {'outside oneDNN':<20}{rest:9.1f}  (the step less all of these)")
    groups = collections.defaultdict(list)
    for call in convolutions:
        groups[call.direction, call.problem].append(call)
    slowest = sorted(groups.items(), key=lambda item: -sum(c.milliseconds for c in item[1]))
    if slowest[:shapes]:
        lines.append("  slowest shapes")
    for (direction, problem), chosen in slowest[:shapes]:
        lines.append(f"  {direction:<20}{_sums(chosen, steps)}  {problem}")
    return lines


def _sums(calls: list[Call], steps: int) -> str:
    """Milliseconds, GFLOP, GFLOP/s and number of calls, a step."""
    milliseconds = sum(call.milliseconds for call in calls) / steps
    gflop = sum(call.flops for call in calls) / steps / 1e9
    speed = 1000 * gflop / milliseconds if milliseconds else 0.0
    return f"{milliseconds:9.1f}{gflop:9.2f}{speed:9.0f}{len(calls) / steps:7.0f}"


if __name__ == "__main__":
    sys.exit(commandline.run(ProfileConfig, profile, DESCRIPTION))
