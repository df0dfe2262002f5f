"""Steps on an accelerator beside PyTorch's: ``python -m benchmarks.accelerator --batch=64``."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.rows import BACKBONES, WORKS, Row, check_above_zero, choose, model_spec
from benchmarks.run import results_file
from benchmarks.table import OURS, ratio
from benchmarks.variant import Variant, in_turns
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

DESCRIPTION = """
Measures this project, on Keras' JAX backend, beside PyTorch on an accelerator: training steps,
inference, augmentation, and crops from images that the device holds (--cache=device). Models in
bfloat16; PyTorch compiled, with and without CUDA graphs. The workers of a backbone start together,
since compiling takes minutes and needs the processor; then they work in turns, alone on the device.
Beside each row stands how long the device would need for its arithmetic at the rate of a large
matrix product, and for the bytes that the compiled program reads and writes at the rate of a large
pass over memory, both measured first. A cache of programs (JAX_COMPILATION_CACHE_DIR) saves
compiling ours twice.
"""
COMPILED, GRAPHS, COUNTED = "torch compile", "torch compile, CUDA graphs", "counted"
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share the device
    "TORCHINDUCTOR_COMPILE_THREADS": "2",
}
HEAD = (
    "| work | images/s: ours | PyTorch | graphs | to the best (range) | a step, ms "
    "| arithmetic, ms | bytes, ms | peak GiB: ours | PyTorch |",
    "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|",
)
# Rates of the device, in float operations and bytes per second: the best of three turns each.
CEILINGS = """
import json, time
import jax, jax.numpy as jnp

def rate(function, work, *arguments):
    function(*arguments).block_until_ready()
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(20):
            result = function(*arguments)
        result.block_until_ready()
        best = max(best, 20 * work / (time.perf_counter() - start))
    return best

side, count = {side}, {count}
a, b = (jax.random.normal(jax.random.key(k), (side, side), jnp.bfloat16) for k in (0, 1))
x = jnp.arange(count, dtype=jnp.float32)
device = jax.local_devices()[0]
print(json.dumps(dict(
    device=device.device_kind,
    flops=rate(jax.jit(jnp.matmul), 2 * side**3, a, b),
    bytes=rate(jax.jit(lambda x: x + 1), 8 * count, x),
)))
"""


@dataclass(frozen=True)
class AcceleratorConfig:
    """Options of the command."""

    rows: tuple[str, ...] = option((), "Rows to measure, as of benchmarks.run; not set: all.")
    size: int = option(320, "Pixels of the images.")
    batch: int = option(64, "Images a step.")
    images: int = option(224_316, "Images of size x 1.2 size pixels on the device, last row.")
    rounds: int = option(3, "Turns of every variant.")
    seconds: float = option(1.0, "Length of a turn, about; at least one step.")
    timeout: float = option(600.0, "Seconds to wait for a worker, compiling included.")
    out: str = option("", "File of the results; not set: benchmarks/results/DATE-DEVICE.md.")


def benchmark(config: AcceleratorConfig) -> None:
    """Measures the rows, prints the table and writes it."""
    check_above_zero(config, "size", "batch", "images", "rounds", "seconds", "timeout")
    groups = accelerator_rows(config)
    chosen = choose([row for group in groups for row in group], config.rows)
    device = ceilings()
    about = [
        f"# {device['device']}",
        f"`{commandline.command_line('benchmarks.accelerator', config)}`, "
        f"{time.strftime('%Y-%m-%d')}. {machine.software()}",
        f"A large bfloat16 matrix product: {device['flops'] / 1e12:.0f} TFLOP/s; a large pass over "
        f"memory: {device['bytes'] / 1e12:.2f} TB/s.",
    ]
    path = Path(config.out) if config.out else results_file(device["device"])
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = [*HEAD]
    problems: list[str] = []
    print("\n\n".join(about) + "\n\n" + "\n".join(HEAD), flush=True)
    for group in groups:
        for row, said in measure([row for row in group if row in chosen], config, device):
            print(row, *said, sep="\n", flush=True)
            lines.append(row)
            problems += said
            parts = [*about, "\n".join(lines), "\n".join(f"- {problem}" for problem in problems)]
            path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def accelerator_rows(config: AcceleratorConfig) -> list[list[Row]]:
    """Returns the rows in groups whose workers start together."""
    shared = {"size": config.size, "batch": config.batch}
    groups = [
        [
            _row(f"{work}/{backbone}", "step", shared | model_spec(work, backbone, "bfloat16"))
            for work in WORKS
        ]
        for backbone in BACKBONES
    ]
    images = {OURS: {"module": "ours_jax", "work": "device_images", "count": config.images}}
    images = {name: shared | spec for name, spec in images.items()}
    others = [
        _row("augmentation", "augmentation", shared),
        Row("device_images", config.batch, images, ()),
    ]
    return [*groups, others]


def measure(rows: list[Row], config: AcceleratorConfig, device: dict):
    """Starts the workers of all rows, then yields each row's line and what went wrong."""
    with contextlib.ExitStack() as stack:
        started = [
            [
                Variant(name, spec, config.timeout, ENVIRONMENT | _environment(spec))
                for name, spec in row.specs.items()
            ]
            for row in rows
        ]
        everyone = [variant for variants in started for variant in variants]
        for variant in everyone:
            stack.callback(variant.close)
        for variant in everyone:  # nobody compiles while another one is timed
            _ = variant.ready
        for row, variants in zip(rows, started, strict=True):
            timed = (variant for variant in variants if variant.name != COUNTED)
            in_turns(timed, config.rounds, config.seconds)
            said = [f"{row.name}, {v.name}: {v.problem}" for v in variants if v.problem]
            yield line(row, [v for v in variants if not v.problem], device), said


def line(row: Row, variants: list, device: dict) -> str:
    """Formats a row of the table.

    Args:
        row: what was measured.
        variants: those that worked, with name, spec, rates, program and peak.
        device: of :func:`ceilings`.
    """
    found = {variant.name: variant for variant in variants}
    ours, others = found.get(OURS), [found[key] for key in row.rivals if key in found]
    best = max(others, key=lambda variant: np.median(variant.rates), default=None)
    cells = [row.name, *(_rate(row, found, key) for key in (OURS, COMPILED, GRAPHS))]
    cells.append(ratio(ours, best) if ours else "")
    cells.append(f"{1000 * row.batch / np.median(ours.rates):.2f}" if ours else "")
    program = {key: value for variant in variants for key, value in variant.program.items()}
    cells += [
        f"{1000 * program[key] / device[key]:.2f}" if key in program else ""
        for key in ("flops", "bytes")
    ]
    cells += [f"{v.peak / 2**30:.2f}" if v else "" for v in (ours, best)]
    return f"| {' | '.join(cells)} |"


def ceilings(side: int = 8192, count: int = 2**30) -> dict:
    """Returns name and rates of the device, measured in a process of its own."""
    code = CEILINGS.replace("{side}", str(side)).replace("{count}", str(count))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise InputError(f"the device was not measured: JAX says {said[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def _row(name: str, work: str, shared: dict) -> Row:
    counted = {COUNTED: {"module": "ours_jax", "work": "counted"}} if "strategy" in shared else {}
    specs = {
        OURS: {"module": "ours_jax"},
        COMPILED: {"module": "pytorch", "compile": True},
        GRAPHS: {"module": "pytorch", "compile": True, "graphs": True},
    }
    specs = {name: shared | {"work": work} | spec for name, spec in (specs | counted).items()}
    return Row(name, shared["batch"], specs, (COMPILED, GRAPHS))


def _environment(spec: dict) -> dict[str, str]:
    """What one worker needs beside the others' environment."""
    if spec["work"] == "counted":
        return {"JAX_PLATFORMS": "cpu"}
    # The images of the last row can need most of the device's memory, in one piece.
    return {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"} if "count" in spec else {}


def _rate(row: Row, found: dict, name: str) -> str:
    if name in found:
        return f"{np.median(found[name].rates):,.0f}"
    return "failed" if name in row.specs else ""


def main(argv=None) -> int:
    """Runs the command."""
    return commandline.run(AcceleratorConfig, benchmark, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
