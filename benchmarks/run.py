"""Speed side by side: ``python -m benchmarks.run`` (``make bench``, ``make bench-quick``)."""

import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.rows import Row, all_rows, check_above_zero, choose, has_parts
from benchmarks.table import HEAD, table_lines
from benchmarks.variant import Variant, in_turns
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

DESCRIPTION = """
Measures this project beside PyTorch and beside stock Keras: training steps, inference,
colorizers alone, exported models, augmentation, input pipeline and data preparation. Every variant
is a process of its own; they work in turns, so that the machine's noise falls on all alike. Prints
images/s, the ratio to the best PyTorch variant and to stock Keras in each round (median, and the
range over rounds), processor time and peak memory; writes them to benchmarks/results.
"""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class BenchConfig:
    """Options of the command."""

    rows: tuple[str, ...] = option(
        (),
        "Rows to measure, each named by its parts: color_module/ResNet18/float32, or fewer of "
        "them (ResNet18: all with it), inference, augmentation, input, preparation, colorizer (T "
        "alone), serving (exported models); not set: all.",
    )
    leave_out: tuple[str, ...] = option(
        (), "Variants to leave out, as DenseNet121:torch compile (row, colon, variant)."
    )
    size: int = option(320, "Pixels of ResNet18's images.")
    densenet_size: int = option(
        160, "Pixels of DenseNet121's; by extrapolation four variants at 320 take some 40 GiB."
    )
    batch: int = option(16, "Images a step.")
    image_side: int = option(320, "Short side of the images of augmentation and input.")
    images: int = option(2048, "Images of the input's data set.")
    distinct: int = option(256, "Different ones among them; the others are copies.")
    picture_side: int = option(2320, "Short side of the JPEGs of the preparation.")
    pictures: int = option(3, "Number of those.")
    rounds: int = option(5, "Turns of every variant.")
    seconds: float = option(4.0, "Length of a turn, about; at least one step.")
    timeout: float = option(1800.0, "Seconds to wait for a worker, compiling included.")
    out: str = option("", "File of the results; not set: benchmarks/results/DATE-MACHINE.md.")


@dataclass
class Results:
    """What is there so far; the file is written anew after every row."""

    config: BenchConfig
    path: Path
    begin: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    threads: dict[str, int] = field(default_factory=dict)

    def write(self) -> None:
        """Writes the file."""
        parts = [_about(self), "\n".join([*HEAD, *self.lines])]
        for title, found in (("Notes", self.notes), ("Left out", self.left_out)):
            if found:
                parts.append("\n".join([f"{title}:", "", *(f"- {line}" for line in found)]))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def benchmark(config: BenchConfig) -> None:
    """Runs the rows, prints the table and writes it."""
    rows = all_rows(config)
    chosen = choose(rows, config.rows)
    _check(config, rows)
    results = Results(config, Path(config.out) if config.out else results_file(machine.processor()))
    others = [row.name for row in rows if row not in chosen]
    if others:
        results.left_out.append(f"not asked for (--rows): {', '.join(others)}")
    print("\n".join(HEAD), flush=True)
    with tempfile.TemporaryDirectory() as data:
        for row in chosen:
            lines = measure_row(row, config, results, Path(data))
            print("\n".join(lines), flush=True)
            results.lines += lines
            if row.note:
                results.notes.append(f"{row.name}: {row.note}.")
            results.write()
    print(f"written to {results.path}")


def _check(config: BenchConfig, rows: list[Row]) -> None:
    for pattern in config.leave_out:
        name, _, variant = pattern.partition(":")
        if not any(variant in row.specs for row in choose(rows, (name,))):
            raise InputError(f"--leave_out={pattern}: expected ROW:VARIANT, no row has that one")
    counts = ("batch", "images", "distinct", "pictures", "rounds", "seconds", "timeout")
    check_above_zero(config, *counts)
    for name in ("size", "densenet_size", "image_side"):
        if getattr(config, name) < 32 or getattr(config, name) % 4:
            raise InputError(
                f"--{name}={getattr(config, name)}: expected a multiple of 4 from 32 on"
            )


def measure_row(row: Row, config: BenchConfig, results: Results, data: Path) -> list[str]:
    """Measures one row in turns; returns its lines of the table.

    Args:
        row: what is measured.
        config: how.
        results: gets the reasons of what is left out.
        data: folder for the rows' data sets.
    """
    try:
        specs = _specs(row, config, results, data)
    except (OSError, RuntimeError) as error:
        results.left_out.append(f"{row.name}: its data could not be made, {error}")
        print(f"  {results.left_out[-1]}", flush=True)
        return []
    environment = _environment(row, results)
    with contextlib.ExitStack() as stack:
        started = [Variant(name, spec, config.timeout, environment) for name, spec in specs.items()]
        for variant in started:
            stack.callback(variant.close)
        working = in_turns(started, config.rounds, config.seconds)
    for variant in started:
        if variant.problem:
            results.left_out.append(f"{row.name}, {variant.name}: {variant.problem}")
            print(f"  {results.left_out[-1]}", flush=True)
        else:
            results.threads[variant.spec["module"]] = variant.threads
    return table_lines(row.name, working, row.rivals)


def _environment(row: Row, results: Results) -> dict[str, str]:
    """What the workers' environment needs where others use the machine; the results tell."""
    busy = machine.busy_share()
    environment = machine.waiting(busy)
    if environment:
        settings = ", ".join(f"{name}={value}" for name, value in environment.items())
        results.notes.append(f"{row.name}: others used {busy:.0%} of the cores; {settings}.")
        print(f"  {results.notes[-1]}", flush=True)
    return environment


def _specs(row: Row, config: BenchConfig, results: Results, data: Path) -> dict[str, dict]:
    """The row's variants without those that are not wanted, and its data in a folder."""
    specs = dict(row.specs)
    for pattern in config.leave_out:
        name, _, variant = pattern.partition(":")
        if variant in specs and has_parts(row, name):
            del specs[variant]
            results.left_out.append(f"{row.name}, {variant}: --leave_out")
    if row.prepare is None:
        return specs
    folder = data / row.name.split("/")[0]  # rows of one kind share it
    if not folder.exists():
        folder.mkdir()
        row.prepare(folder)
    return {name: spec | {"folder": str(folder)} for name, spec in specs.items()}


def results_file(device: str) -> Path:
    """Returns where today's results of a processor or an accelerator go."""
    name = "".join(c if c.isalnum() else "-" for c in device).strip("-")
    return RESULTS / f"{time.strftime('%Y-%m-%d')}-{name}.md"


def _about(results: Results) -> str:
    """What was measured with what, for the results' head."""
    config, cores = results.config, len(os.sched_getaffinity(0))
    threads = ", ".join(f"{name} {count}" for name, count in results.threads.items())
    minutes = (time.monotonic() - results.begin) / 60
    return "\n".join(
        [
            f"# {machine.processor()}, {cores} processors",
            "",
            f"`{commandline.command_line('benchmarks.run', config)}`",
            "",
            f"{time.strftime('%Y-%m-%d')}, {minutes:.0f} minutes. {machine.software()} Threads of "
            f"an operation: {threads}.",
            "",
            f"Models: PixelShuffle colorizer (none in baselines), ResNet18 at {config.size} px, "
            f"DenseNet121 at {config.densenet_size} px; batch {config.batch}. {config.rounds} "
            f"rounds of turns of {config.seconds:g} s or one step; "
            "images/s is the median over rounds. A ratio above 1 means faster; it is taken round "
            "by round: median (lowest to highest). The best of PyTorch is the variant with the "
            "highest median. Processor time and peak memory include a loader's own processes.",
        ]
    )


if __name__ == "__main__":
    sys.exit(commandline.run(BenchConfig, benchmark, DESCRIPTION))
