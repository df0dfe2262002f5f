"""Signals while a run trains, the lock of its folder, and a loss that is not finite."""

import dataclasses
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kill_campaign import campaign
from soak import soak

from medcolor_tf import locks
from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.files import temporary_for
from medcolor_tf.interrupts import Interrupted
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.folder import Run
from medcolor_tf.training import callbacks
from medcolor_tf.training.trainer import Trainer, range_test, train

pytestmark = pytest.mark.slow

# The colorizer that is traced quickest; test_trainer.py resumes one with normalisation.
PLAIN: dict[str, Any] = {"strategy": "color_module", "colorizer": "color_map"}
FROZEN: dict[str, Any] = {
    "strategy": "baseline",
    "colorizer": "",
    "augment_probability": 0.0,
    "features": "once",
    "cache": "none",
}


def plain(data, folder, backbone):
    return TrainConfig(
        data_dir=str(data),
        run_dir=str(folder / "run"),
        backbone=backbone,
        batch_size=4,
        steps=12,
        checkpoint_every=5,
        max_lr="0.05",
        deterministic=True,
        log_every=3,
        **PLAIN,
    )


@pytest.fixture
def config(square_dataset, tmp_path, backbone_file):
    return plain(square_dataset, tmp_path, backbone_file)


@pytest.fixture(scope="module")
def whole(square_dataset, tmp_path_factory, backbone_file):
    """The content of the plain run when nothing stops it."""
    config = plain(square_dataset, tmp_path_factory.mktemp("whole"), backbone_file)
    train(config)
    return content(config.run_dir)


def signal_at(monkeypatch, step, signum):
    """Has this process get a signal while it does a step, as from `kill`."""
    from medcolor_tf.training.callbacks import AtCheckpoint

    def send(self, batch, logs=None):
        if step == self.first + batch + 1:
            os.kill(os.getpid(), signum)

    # Before the callback that looks for signals.
    monkeypatch.setattr(AtCheckpoint, "on_train_batch_end", send, raising=False)


def content(run_dir):
    """All that two equal runs have in common, as bytes."""
    folder = Path(run_dir)
    return {name: (folder / name).read_bytes() for name in (runs.LAST, runs.BEST, runs.LOG)}


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, [(3, 3)]),
        ({"cache": "device", "steps_per_execution": 5}, [(5, 5)]),
        (FROZEN, [(3, 3), (6, 6), (9, 9)]),
        (
            {"progressive": "0.5:0.4", "colorizer": "color_map"},
            [(3, 3), (8, 8)],
        ),  # the size changes at step 5
    ],
    ids=["plain", "device", "frozen features", "progressive"],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_been(config, tmp_path, whole, changes, stops):
    config = dataclasses.replace(config, **changes)
    if changes:
        other = dataclasses.replace(config, run_dir=str(tmp_path / "whole"))
        train(other)
        whole = content(other.run_dir)
    run = Run(Path(config.run_dir))
    for step, saved in stops:
        with pytest.MonkeyPatch.context() as patch:
            signal_at(patch, step, signal.SIGTERM)
            with pytest.raises(Interrupted, match=f"step {saved} is saved in .*same command"):
                train(config)
        assert run.last_step == saved
        assert not list(run.folder.glob(".*.tmp"))
    train(config)
    assert content(config.run_dir) == whole


def test_an_interrupt_during_a_checkpoint_needs_no_other_one(config, monkeypatch):
    """And in other work than steps, as the evaluation is, it ends the run at once."""
    real = runs.Run.log_with

    def interrupt(self, row):
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, row)

    monkeypatch.setattr(runs.Run, "log_with", interrupt)
    with pytest.raises(Interrupted, match="step 5 is saved") as caught:
        train(config)
    assert caught.value.signum == signal.SIGINT
    assert checkpoint.TrainState.load(Path(config.run_dir, runs.LAST)).loss is None
    assert Run(Path(config.run_dir)).last_step == 5


COMMAND = """
import os, signal, sys
from medcolor_tf.training.callbacks import AtCheckpoint
def send(self, batch, logs=None):
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), int(sys.argv[2]))
AtCheckpoint.on_train_batch_end = send
from medcolor_tf.train import main
sys.exit(main(sys.argv[3:]))
"""


def flags(config):
    return [
        f"--{name}={value}"
        for name, value in vars(config).items()
        if value != getattr(TrainConfig, name) and not isinstance(value, bool)
    ]


@pytest.mark.parametrize(
    ("count", "signum", "status"),
    [(1, signal.SIGTERM, 143), (1, signal.SIGINT, 130), (2, signal.SIGTERM, -signal.SIGTERM)],
)
def test_a_signal_ends_the_command_with_its_status(forks, config, count, signum, status):
    done = forks.run(["-c", COMMAND, str(count), str(int(signum)), *flags(config)])
    assert done.returncode == status, done.stderr
    assert "finishing the step, then saving; a second signal stops at once" in done.stderr
    assert "Traceback" not in done.stderr
    if count == 1:
        assert "interrupted; step 1 is saved in" in done.stderr
        assert "the same command goes on from there" in done.stderr
    else:
        assert not Run(Path(config.run_dir)).started


def test_a_second_process_is_refused_with_the_first_ones_number_and_machine(config):
    first = f"process {os.getpid()} on {re.escape(socket.gethostname())} .since 20.* is writing"
    with locks.only_writer(config.run_dir, "--run_dir"):
        for start in (train, range_test):
            with pytest.raises(InputError, match=first):
                start(config)
        assert not runs.Run(Path(config.run_dir)).started
    assert not Path(config.run_dir).exists(), "nothing came of it"


def test_what_killed_processes_left_is_removed_and_their_lock_is_none(config):
    folder = Path(config.run_dir)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder.mkdir()
    locks.write_holder(folder / locks.LOCK)
    holder = locks.holder_file(folder / locks.LOCK)
    holder.write_text(json.dumps(json.loads(holder.read_text()) | {"pid": gone.pid}))
    of_gone = temporary_for(folder / runs.LAST).name.replace(f".{os.getpid()}@", f".{gone.pid}@")
    (folder / re.sub(r"-[0-9a-f]{8}", "-00000000", of_gone)).write_bytes(b"half")
    of_another = temporary_for(folder / "evaluation-test.json")
    of_another.write_bytes(b"under way")
    train(dataclasses.replace(config, steps=1))
    assert [path.name for path in folder.glob(".*.tmp")] == [of_another.name]
    assert not holder.exists()


def named_images(config, before, step):
    """The part of a message that names the images of some steps, and what it says of them."""
    ids = Split(config.data_dir, "train").ids_of_steps(before, step, 4, config.seed, 8192)
    assert len(ids) == 4 * (step - before)
    return f"Its {len(ids)} images (keyed ids): {', '.join(ids)}. "


@pytest.mark.parametrize(
    ("changes", "last"),
    [({}, 6), ({"cache": "device", "steps_per_execution": 5}, 10), (FROZEN, 6)],
    ids=["plain", "device", "frozen features"],
)
def test_a_loss_that_is_not_finite_names_steps_images_and_checkpoint(
    config, changes, last, monkeypatch
):
    config = dataclasses.replace(config, **changes)
    real = Trainer._fit_segment

    def poisoned(self, first, epochs, steps):
        real(self, first, 1, steps)
        head = self.classifier.get_layer("head")
        head.kernel.assign(np.full(head.kernel.shape, np.nan))
        real(self, first + steps, 1, steps)

    monkeypatch.setattr(Trainer, "_fit_segment", poisoned)
    with pytest.raises(InputError, match=r"the loss is nan .*: training diverged; ") as caught:
        train(config)
    text = str(caught.value)
    assert ("at step 6:" if last == 6 else "in steps 6 to 10, which were one execution") in text
    kept = f"The last checkpoint, of step 5, is kept in {config.run_dir}"
    assert named_images(config, 5, last) + kept in text
    state = checkpoint.TrainState.load(Path(config.run_dir, runs.LAST))
    assert state.step == 5
    assert all(np.isfinite(array).all() for array in state.arrays.values())


def test_a_run_that_diverges_before_its_first_checkpoint_says_so(config, monkeypatch):
    real = callbacks.Progress.on_train_batch_end

    def diverge(self, batch, logs=None):
        real(self, batch, {"loss": float("nan")} if self.first + batch + 1 == 7 else logs)

    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", diverge)
    with pytest.raises(InputError, match="There was no checkpoint yet") as caught:
        train(dataclasses.replace(config, checkpoint_every=12))
    assert "the loss is nan at step 7: training diverged" in str(caught.value)
    assert named_images(config, 6, 7) in str(caught.value)


def test_weights_that_are_not_finite_behind_a_finite_loss_are_found_at_the_checkpoint(config):
    """A ReLU inside a convolution's kernel turns NaN into 0."""
    with pytest.raises(InputError, match=r"is not finite at step 12|the loss is nan at step"):
        train(dataclasses.replace(config, max_lr="1e30", checkpoint_every=12))
    assert not Path(config.run_dir, runs.LAST).exists()


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on(config, whole, monkeypatch):
    real, written = os.fsync, []

    def fsync(descriptor):
        written.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if sum(f"/.{runs.LAST}." in name for name in written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=f"{runs.LAST}: cannot be written .No space left"):
            train(config)
    run = Run(Path(config.run_dir))
    assert run.last_step == 5
    assert not list(run.folder.glob(".*.tmp"))
    train(config)
    assert content(config.run_dir) == whole


def test_runs_that_are_killed_at_random_places_end_in_the_same_bytes(forks, config, tmp_path):
    """The short form of tests/nightly/test_kills.py."""
    words = [word for word in flags(config) if not word.startswith("--run_dir")]
    assert campaign(forks, tmp_path, [*words, "--deterministic"], kills=2, seed=3) >= 2


def test_memory_is_flat_over_many_checkpoints(forks, square_dataset, backbone_file, tmp_path):
    """tests/nightly/test_soak.py does 20,000 steps."""
    flags = ["--strategy=baseline_all", "--cache=ram"]
    soak(forks, tmp_path / "run", square_dataset, backbone_file, flags, 400)
