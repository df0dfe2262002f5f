"""Speed side by side: ``python -m benchmarks.run`` (``make bench``, ``make bench-quick``)."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medcolor_tf import commandline
from medcolor_tf.commandline import option

DESCRIPTION = """
Measures this project's training step and inference beside PyTorch's and beside the same with Keras'
own batch normalisation: every variant in a process of its own, working in turns, so that the
machine's noise falls on all alike. Prints images/s, the ratio to the best PyTorch variant in each
round (median, and the range over rounds) and peak memory; writes them to benchmarks/results.
"""
RESULTS = Path(__file__).parent / "results"
TORCH = ("torch eager", "torch compile")


@dataclass(frozen=True)
class BenchConfig:
    """Options of the command."""

    strategies: tuple[str, ...] = option(
        ("color_module", "all", "baseline_all"), "Rows; inference is added to them."
    )
    precisions: tuple[str, ...] = option(("float32", "bfloat16"), "Of every row.")
    size: int = option(160, "Pixels.")
    batch: int = option(16, "Images a step.")
    rounds: int = option(5, "Turns of every variant.")
    seconds: float = option(4.0, "Length of a turn, about.")
    out: str = option("", "File of the results; not set: benchmarks/results/DATE-MACHINE.md.")


class Variant:
    """A worker process."""

    def __init__(self, name: str, spec: dict):
        self.name, self.spec = name, spec
        self.rates: list[float] = []
        self.processor: list[float] = []
        self.peak = 0
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        self._tell(json.dumps(spec))

    @cached_property
    def problem(self) -> str:
        """Waits until the worker is warm; returns why it cannot work, or ""."""
        answer = self._hear()
        return "" if answer.get("ready") else answer.get("error", "ended without an answer")

    def _tell(self, line: str) -> None:
        print(line, file=self.process.stdin, flush=True)

    def _hear(self) -> dict:
        return json.loads(self.process.stdout.readline() or "{}")

    def measure(self, steps: int) -> float:
        """Does some steps; returns and keeps images/s."""
        self._tell(str(steps))
        answer = self._hear()
        images = steps * self.spec["batch"]
        self.rates.append(images / answer["seconds"])
        self.processor.append(1000 * answer["processor_seconds"] / images)
        self.peak = max(self.peak, answer["peak_bytes"])
        return self.rates[-1]

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


def variants(strategy: str, precision: str, config: BenchConfig) -> list[Variant]:
    """Starts the workers of a row; those that cannot run say why and are left out."""
    shared = {
        "strategy": "" if strategy == "inference" else strategy,
        "size": config.size,
        "batch": config.batch,
        "bfloat16": precision == "bfloat16",
    }
    specs = {
        "medcolor_tf": {"module": "keras_step", "stock_bn": False},
        "stock Keras BN": {"module": "keras_step", "stock_bn": True},
        "torch eager": {"module": "torch_step", "compile": False},
        "torch compile": {"module": "torch_step", "compile": True},
    }
    started = [Variant(name, shared | spec) for name, spec in specs.items()]
    for variant in started:
        if variant.problem:
            print(f"  {variant.name}: left out, {variant.problem}", flush=True)
    return [variant for variant in started if not variant.problem]


def measure_row(strategy: str, precision: str, config: BenchConfig) -> list[str]:
    """Measures one row in turns; returns its lines of the table."""
    row = variants(strategy, precision, config)
    for variant in row:  # a first turn finds how many steps fill the time
        rate = variant.measure(2)
        variant.steps = max(2, round(rate / config.batch * config.seconds))
        variant.rates.clear()
        variant.processor.clear()
    for turn in range(config.rounds):
        # Every other round backwards: who comes after whom should not matter.
        for variant in row if turn % 2 == 0 else row[::-1]:
            variant.measure(variant.steps)
    lines = table_lines(f"{strategy}, {precision}", row)
    for variant in row:
        variant.close()
    return lines


def table_lines(title: str, row: list[Variant]) -> list[str]:
    """A line a variant: images/s and the ratio to the best PyTorch variant, round by round."""
    torch = [variant for variant in row if variant.name in TORCH]
    best = max(torch, key=lambda variant: np.median(variant.rates)) if torch else None
    lines = []
    for variant in row:
        ratio = "-"
        if best:
            ratios = np.array(variant.rates) / np.array(best.rates)
            ratio = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        lines.append(
            f"| {title} | {variant.name} | {np.median(variant.rates):.1f} | {ratio} | "
            f"{np.median(variant.processor):.1f} | {variant.peak / 2**30:.2f} |"
        )
    return lines


def benchmark(config: BenchConfig) -> None:
    """Runs all rows, prints the table and writes it."""
    head = [
        "| work | variant | images/s | ratio to the best PyTorch (range) | processor ms an image | "
        "peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    lines = []
    for precision in config.precisions:
        for strategy in (*config.strategies, "inference"):
            found = measure_row(strategy, precision, config)
            print("\n".join(found), flush=True)
            lines += found
    out = Path(config.out) if config.out else _default_file()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*_about(config), "", *head, *lines]) + "\n", encoding="utf-8")
    print(f"written to {out}")


def _default_file() -> Path:
    machine = "".join(c if c.isalnum() else "-" for c in _processor()).strip("-")
    return RESULTS / f"{time.strftime('%Y-%m-%d')}-{machine}.md"


def _about(config: BenchConfig) -> list[str]:
    """What was measured with what, for the results' head."""
    import importlib.metadata as metadata

    found = []
    for name in ("tensorflow", "keras", "torch"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return [
        f"# {_processor()}, {os.cpu_count()} threads",
        "",
        commandline.command_line("benchmarks.run", config),
        "",
        f"{', '.join(found)}. PixelShuffle colorizer and ResNet18, {config.size} px, batch "
        f"{config.batch}, {config.rounds} rounds of {config.seconds:g} s in turns; images/s is the "
        "median, the ratio is taken round by round.",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(commandline.run(BenchConfig, benchmark, DESCRIPTION))
