"""A small disk that fills up: what every command says, and that nothing already made is lost.

The disk is a tmpfs, which root alone can mount.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcolor_tf.runs import checkpoint

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


class Disk:
    """A tmpfs of some kilobytes."""

    def __init__(self, path: Path, kilobytes: int):
        self.path = path
        path.mkdir()
        self._mount(f"size={kilobytes}k", "-t", "tmpfs", "tmpfs")

    def _mount(self, options, *what):
        subprocess.run(
            ["mount", "-o", options, *what, str(self.path)], check=True, capture_output=True
        )

    def grow(self):
        self._mount("remount,size=200m")

    def fill(self, leave: int) -> None:
        """Writes a file that leaves so many bytes free."""
        state = os.statvfs(self.path)
        (self.path / "filler").write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - leave)))

    def temporary(self):
        return list(self.path.rglob(".*.tmp"))


@pytest.fixture
def make_disk(tmp_path):
    disks = []

    def make(kilobytes):
        try:
            disks.append(Disk(tmp_path / f"disk{len(disks)}", kilobytes))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount a tmpfs here: {error}")
        return disks[-1]

    yield make
    for disk in disks:
        subprocess.run(["umount", str(disk.path)], check=False)


def refused(done, *texts):
    """The command said what is wrong, in one line, and nothing else."""
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    for text in ("cannot be written", *map(str, texts)):
        assert text in error, done.stderr[-3000:]


@pytest.fixture(scope="module")
def train_flags(square_dataset, backbone_file):
    return [
        *(f"--data_dir={square_dataset}", "--strategy=baseline_all", f"--backbone={backbone_file}"),
        *("--batch_size=4", "--steps=8", "--checkpoint_every=2", "--max_lr=0.01"),
        *("--deterministic", "--evaluate=test"),
    ]


@pytest.fixture(scope="module")
def finished(train_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = run("medcolor_tf.train", *train_flags, f"--run_dir={folder}")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def sizes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.15, 0.4, 0.6, 0.8])
def test_train_keeps_its_last_checkpoint_and_goes_on(share, finished, train_flags, make_disk):
    disk = make_disk(max(16, int(share * sizes(finished) / 1024)))
    words = ["medcolor_tf.train", *train_flags, f"--run_dir={disk.path / 'run'}"]
    done = run(*words)
    refused(done, "No space left on device")
    assert not disk.temporary()
    for name in ("last.safetensors", "best.safetensors"):
        path = disk.path / "run" / name
        if path.exists():
            checkpoint.load(path)
    disk.grow()
    done = run(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("last.safetensors", "best.safetensors", "log.csv"):
        assert (disk.path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_build(tmp_path, make_disk):
    images = tmp_path / "images"
    images.mkdir()
    lines = ["path,patient,Edema"]
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
        lines.append(f"{number}.png,{number},{number % 2}")
    (images / "labels.csv").write_text("\n".join(lines))
    disk = make_disk(128)
    words = [
        *("data_prep.build", "--source=table", f"--table={images / 'labels.csv'}"),
        *("--observations=Edema", "--patient_column=patient", "--short_side=64", "--workers=2"),
        *("--records_per_shard=10", f"--out={disk.path / 'data'}"),
    ]
    refused(run(*words), "No space left on device", ".tfrecord")
    assert not disk.temporary()
    disk.grow()
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "continuing: " in done.stdout


@pytest.mark.parametrize("command", ["predict", "export", "report", "experiment", "find_lr"])
def test_others(command, finished, train_flags, make_disk, square_dataset, tmp_path):
    for number in range(300):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:03d}-{'x' * 100}.png")
    disk = make_disk(256)
    disk.fill(8192)
    out = f"--out={disk.path / 'out'}"
    words = {
        "predict": [f"--run_dir={finished}", f"--inputs={tmp_path}", out],
        "export": [f"--run_dir={finished}", out],
        "report": [str(finished), out],
        "experiment": [
            *(f"--data_dir={square_dataset}", f"--study_dir={disk.path / 'out'}", "--name=s"),
            *("--strategies=baseline", "--seeds=0,1,2,3,4,5,6,7", "--steps=2", "--batch_size=4"),
            *("--backbone_weights=none", "--subset_seeds=0,1,2,3", "--train_fractions=0.5,1"),
        ],
        "find_lr": [*train_flags[:5], "--steps=8", f"--run_dir={disk.path / 'out'}"],
    }[command]
    done = run(f"medcolor_tf.{command}", *words)
    refused(done, "No space left on device")
    assert not disk.temporary()
    (disk.path / "filler").unlink()
    disk.grow()
    if command != "experiment":  # trains for minutes
        done = run(f"medcolor_tf.{command}", *words)
        assert done.returncode == 0, done.stderr[-3000:]
