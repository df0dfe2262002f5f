"""Many steps of a small run in a process of its own: memory stays flat, the loss stays finite."""

import csv
import math
from pathlib import Path

from forks import Forks

# Writes the resident memory at each checkpoint, in bytes.
CODE = """
import os, sys
from medcolor_tf.runs import folder
real = folder.Run.log_with
def log_with(self, row):
    pages = int(open("/proc/self/statm").read().split()[1])
    print("MEMORY", row["step"], pages * os.sysconf("SC_PAGE_SIZE"), flush=True)
    return real(self, row)
folder.Run.log_with = log_with
from medcolor_tf.train import main
sys.exit(main(sys.argv[1:]))
"""


def soak(
    forks: Forks, folder: Path, data: Path, backbone: str, flags: list[str], steps: int
) -> None:
    """Trains with 20 checkpoints; raises AssertionError where memory grows or a loss is not finite.

    Args:
        forks: starts the process.
        folder: new, for the run.
        data: a data set of square images.
        backbone: a .keras file.
        flags: of the training command.
        steps: a multiple of 20.
    """
    words = [
        *(f"--data_dir={data}", f"--run_dir={folder}", *flags),
        *(f"--backbone={backbone}", "--batch_size=4", f"--steps={steps}", "--max_lr=0.01"),
        f"--checkpoint_every={steps // 20}",
    ]
    done = forks.run(["-c", CODE, *words], timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("MEMORY")]
    memory = [int(size) for _, _, size in lines]
    assert len(memory) == 20
    print(
        f"memory: {memory[4] / 1e6:,.0f} MB after a quarter, {memory[-1] / 1e6:,.0f} MB at the end"
    )
    assert memory[-1] < memory[4] * 1.05 + 20e6
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == steps
    assert all(math.isfinite(float(row["loss"])) for row in rows)
