"""Where a step's time goes: ``python -m benchmarks.profile --rows=color_module/ResNet18``."""

import collections
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.rows import Row, check_above_zero, choose, model_rows
from benchmarks.table import OURS
from medcolor_tf import commandline
from medcolor_tf.commandline import option

DESCRIPTION = """
Runs the steps of the benchmark's rows in this project and in PyTorch, one after the other, with
oneDNN's own timings (ONEDNN_VERBOSE=1), and prints seconds per step, time and GFLOP/s of the
convolutions by direction, the shapes that take longest, and the rest. TensorFlow runs one operation
after the other here, as PyTorch does, so that a convolution's time is its own on all cores; left
alone, it runs a convolution's two gradients side by side, which makes its step somewhat faster than
the one printed. PyTorch is eager, and compiled where nothing in front of the head trains.
"""
VERBOSE = {"ONEDNN_VERBOSE": "1", "TF_NUM_INTEROP_THREADS": "1"}
DIRECTIONS = {
    "forward_training": "forward",
    "forward_inference": "forward",
    "backward_data": "backward data",
    "backward_weights": "backward weights",
}
HEAD = (
    "| work | variant | ms a step | convolutions: ms | GFLOP | GFLOP/s | reorder | normalisation "
    "| other oneDNN | outside oneDNN | PyTorch's step to these convolutions |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True)
class ProfileConfig:
    """Options of the command."""

    rows: tuple[str, ...] = option(
        ("color_module/ResNet18/float32",),
        "Rows to profile, named as in benchmarks.run: all/ResNet18/bfloat16, or fewer parts.",
    )
    size: int = option(160, "Pixels of ResNet18's images.")
    densenet_size: int = option(160, "Pixels of DenseNet121's.")
    batch: int = option(16, "Images a step.")
    steps: int = option(3, "Steps that are counted, after two that are not.")
    shapes: int = option(8, "Shapes of convolutions to print, the slowest first.")
    out: str = option("", "Markdown file for the table of all rows.")


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


@dataclass(frozen=True)
class Profile:
    """What one variant of a row took, a step.

    Attributes:
        milliseconds: of the step.
        kinds: kind of a primitive -> milliseconds.
        gflop: of the convolutions.
    """

    milliseconds: float
    kinds: Mapping[str, float]
    gflop: float

    @classmethod
    def of(cls, seconds: float, calls: Iterable[Call], steps: int) -> "Profile":
        """Sums the calls of some steps."""
        kinds: dict[str, float] = collections.defaultdict(float)
        flops = 0.0
        for call in calls:
            kinds[call.kind] += call.milliseconds / steps
            flops += call.flops / steps if call.kind == "convolution" else 0.0
        return cls(1000 * seconds, kinds, flops / 1e9)

    @property
    def outside(self) -> float:
        """Milliseconds of the step that no primitive of oneDNN took."""
        return self.milliseconds - sum(self.kinds.values())

    def cells(self, rival: "Profile | None") -> list[str]:
        """The numbers of the table's line; the last is the most that a ratio could be."""
        named = [self.kinds.get(k, 0.0) for k in ("convolution", "reorder", "batch_normalization")]
        convolutions, reorder, norm = named
        most = rival.milliseconds / convolutions if rival and convolutions else None
        speed = 1000 * self.gflop / convolutions if convolutions else 0.0
        return [
            f"{self.milliseconds:.0f}",
            f"{convolutions:.0f}",
            f"{self.gflop:.1f}",
            f"{speed:.0f}",
            f"{reorder:.0f}",
            f"{norm:.0f}",
            f"{sum(self.kinds.values()) - sum(named):.0f}",
            f"{self.outside:.0f}",
            "" if most is None else f"{most:.2f}",
        ]


def profile(config: ProfileConfig) -> None:
    """Prints what both take, row by row, and the table of all rows."""
    check_above_zero(config, "size", "densenet_size", "batch", "steps")
    command = commandline.command_line("benchmarks.profile", config)
    print(command)
    lines = list(HEAD)
    for row in choose(model_rows(config), config.rows):
        lines += _profile_row(row, config)
    print("\n" + "\n".join(lines))
    if config.out:
        text = (f"# {machine.processor()}", f"`{command}`. {machine.software()}")
        text = "\n\n".join((*text, DESCRIPTION.strip(), "\n".join(lines)))
        Path(config.out).write_text(text + "\n", encoding="utf-8")


def _profile_row(row: Row, config: ProfileConfig) -> list[str]:
    """Prints the row's profiles; returns its lines of the table."""
    rival = "torch compile" if row.name.startswith(("last_layer", "inference")) else "torch eager"
    print(f"\n{row.name}", flush=True)
    found: dict[str, Profile] = {}
    for name in (OURS, rival):
        try:
            seconds, calls = run(row.specs[name], config.steps)
        except RuntimeError as error:
            print(f"{name}: left out, {error}")
            continue
        found[name] = Profile.of(seconds, calls, config.steps)
        print("\n".join(report(name, seconds, calls, config.steps, config.shapes)), flush=True)
    return [
        f"| {row.name if name == OURS else ''} | {name} | "
        f"{' | '.join(one.cells(found.get(rival)))} |"
        for name, one in found.items()
    ]


def run(spec: Mapping, steps: int) -> tuple[float, list[Call]]:
    """Runs a worker with oneDNN's timings; returns seconds per step and the calls of all steps.

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
    profiled = Profile.of(seconds, calls, steps)
    for kind, milliseconds in sorted(profiled.kinds.items(), key=lambda item: -item[1]):
        if kind != "convolution":
            lines.append(f"  {kind:<20}{milliseconds:9.1f}")
    lines.append(f"  {'outside oneDNN':<20}{profiled.outside:9.1f}  (the step less all of these)")
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
