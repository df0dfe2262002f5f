"""What data sets of different sizes cost: ``python -m benchmarks.size --counts=1000,10000``.

Draws N made-up images of 64 px (noise that compresses like an X-ray, random labels of five
observations), and measures each thing that is done with all of them in a process of its own: build,
verify, open, first batch, an epoch of input, evaluate (with a network so small that it hardly
counts), report. For each it prints wall and processor time and peak memory, and per size what an
image takes. Run it from the repository root; 224316 is CheXpert's number.
"""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import machine
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.progress import Progress

OBSERVATIONS = ("Edema", "Atelectasis", "Cardiomegaly", "Consolidation", "Effusion")
SIDE, IMAGES_PER_PATIENT, PER_FOLDER = 64, 3, 1000
# Runs something and prints what it took: seconds, processor seconds, peaks of it and its children.
MEASURE = """
import json, os, resource, sys, time
start = time.perf_counter()
from medcolor_tf import commandline
{code}
took, times = time.perf_counter() - start, os.times()
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF,
                                                       resource.RUSAGE_CHILDREN)]
print(json.dumps([took, sum(times[:4]), *peaks]))
"""
COMMAND = "import importlib\nassert importlib.import_module({module!r}).main(sys.argv[1:]) == 0"
OPEN = """
commandline.import_tensorflow()
from medcolor_tf.data.pipeline import Split
split = Split(sys.argv[1], "train")
"""
FIRST_BATCH = f"{OPEN}next(iter(split.training_batches(32, 0, 0, 8192)))\n"
EPOCH = f"""{OPEN}
batches = split.training_batches(32, 0, 0, 8192)
for _ in zip(range(len(split) // 32), batches):
    pass
"""
TINY_BACKBONE = """
commandline.import_tensorflow()
import keras
image = keras.Input((None, None, 3))
keras.Model(image, keras.layers.Conv2D(8, 8, 8)(image)).save(sys.argv[1])
"""


@dataclass(frozen=True)
class SizeConfig:
    """Options of the measurement."""

    counts: tuple[str, ...] = option(("1000", "10000", "100000"), "Numbers of images.")
    folder: str = option("", "Where the images and data sets are made; not set: a temporary one.")


@dataclass(frozen=True)
class Cost:
    """What a thing took.

    Attributes:
        wall, processor: seconds; the latter with its children's.
        memory: MB, peak of its largest process.
    """

    wall: float
    processor: float
    memory: float


def bench(config: SizeConfig) -> None:
    """Measures each size and prints the table."""
    print(f"{machine.processor()}. {machine.software()}")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(config.folder or temporary)
        costs: dict[int, dict[str, Cost]] = {int(text): {} for text in config.counts}
        for count, by_name in costs.items():
            for name, cost in measure(count, root / str(count)):
                by_name[name] = cost
                print(f"{count:,} images, {name}: {_cell(cost, count)}", flush=True)
    print("\n| | " + " | ".join(f"{count:,} images" for count in costs) + " |")
    print("|---|" + "---|" * len(costs))
    for name in next(iter(costs.values())):
        cells = (_cell(by_name[name], count) for count, by_name in costs.items())
        print(f"| {name} | " + " | ".join(cells) + " |")


def measure(count: int, folder: Path) -> Iterator[tuple[str, Cost]]:
    """Yields what each step costs with ``count`` images, made in ``folder``."""
    table, data, run = folder / "labels.csv", folder / "data", folder / "run"
    draw(count, folder)
    flags = ("--flagfile=prep_table.flags", f"--table={table}", f"--short_side={SIDE}")
    labels = f"--observations={','.join(OBSERVATIONS)}"
    yield "build", command("data_prep.build", *flags, labels, f"--out={data}")
    yield "verify", command("data_prep.verify", str(data))
    yield "open", take(OPEN, data)
    yield "first batch", take(FIRST_BATCH, data)
    yield "an epoch of input", take(EPOCH, data)
    take(TINY_BACKBONE, folder / "tiny.keras")
    short = ("--strategy=baseline", f"--backbone={folder / 'tiny.keras'}", "--steps=1")
    yield "train, one step", command("medcolor_tf.train", *short, f"--data_dir={data}", *_at(run))
    yield "evaluate", command("medcolor_tf.evaluate", *_at(run), f"--data_dir={data}")
    yield "report", command("medcolor_tf.report", str(run), f"--out={folder / 'report'}")


def draw(count: int, folder: Path) -> None:
    """Writes images and their table, unless an earlier measurement has."""
    table = folder / "labels.csv"
    if table.is_file():
        return
    random = np.random.default_rng(0)
    grain = random.normal(0, 3, (64, SIDE, SIDE))
    ramp = np.linspace(40, 200, SIDE)[None, :] * np.linspace(0.5, 1, SIDE)[:, None]
    rows = []
    with Progress("drawing", count) as progress:
        for number in range(count):
            path = folder / f"{number // PER_FOLDER:04}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = random.uniform(0.6, 1.2)
            pixels = np.clip(ramp * level + np.roll(grain[number % 64], number), 0, 255)
            picture = pixels.astype(np.uint8)
            picture[0, :4] = list(number.to_bytes(4))  # a build refuses the same image twice
            Image.fromarray(picture).save(path, compress_level=1)
            labels = random.integers(0, 2, len(OBSERVATIONS))
            rows.append([path.relative_to(folder), number // IMAGES_PER_PATIENT, *labels])
            progress.update()
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient_id", *OBSERVATIONS], *rows])


def command(module: str, *arguments: str) -> Cost:
    """Measures a command."""
    return take(COMMAND.format(module=module), *arguments)


def take(code: str, *arguments: str | Path) -> Cost:
    """Measures a piece of Python in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.replace("{code}", code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    wall, processor, *peaks = json.loads(done.stdout.splitlines()[-1])
    return Cost(wall, processor, max(peaks) / 1024)


def _at(run: Path) -> list[str]:
    return [f"--run_dir={run}"]


def _cell(cost: Cost, count: int) -> str:
    each = 1e3 * cost.processor / count
    return f"{cost.wall:.1f} s ({each:.3g} ms of a core per image), {cost.memory:,.0f} MB"


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(SizeConfig, bench, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
