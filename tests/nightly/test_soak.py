"""20,000 steps: memory stays flat, the loss stays finite."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20_000
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


@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy=baseline_all", "--cache=ram"],
        ["--strategy=baseline_all", "--cache=none"],
        ["--strategy=baseline", "--features=once", "--augment_probability=0"],
    ],
    ids=["from memory", "from the shards", "frozen features"],
)
def test_memory_is_flat_and_the_loss_finite(flags, square_dataset, backbone_file, tmp_path):
    words = [
        *(f"--data_dir={square_dataset}", f"--run_dir={tmp_path / 'run'}", *flags),
        *(f"--backbone={backbone_file}", "--batch_size=4", f"--steps={STEPS}", "--max_lr=0.01"),
        f"--checkpoint_every={STEPS // 20}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("MEMORY")]
    memory = [int(size) for _, _, size in lines]
    assert len(memory) == 20
    print(
        f"memory: {memory[4] / 1e6:,.0f} MB after a quarter, {memory[-1] / 1e6:,.0f} MB at the end"
    )
    assert memory[-1] < memory[4] * 1.05 + 20e6
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == STEPS
    assert all(math.isfinite(float(row["loss"])) for row in rows)
