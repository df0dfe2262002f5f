"""Studies: which runs, in which order, by which commands; and what happens when some fail."""

import dataclasses
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medcolor_tf import commandline
from medcolor_tf.errors import InputError
from medcolor_tf.experiment import main
from medcolor_tf.interrupts import Interrupted, exit_status
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.studies import grid, runner, workers
from medcolor_tf.studies.grid import PlannedRun, StudyConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_small_dataset):
    """Three data sets: the first, and two to transfer to, one of them with other labels."""
    folder = tmp_path_factory.mktemp("study")
    write_small_dataset(folder / "first")
    write_small_dataset(folder / "second", seed=1)
    write_small_dataset(folder / "third", seed=2, observations=("Abnormal", "Implant"))
    return folder


def config(data, tmp_path, **changes):
    settings = {
        "study_dir": str(tmp_path / "study"),
        "data_dir": str(data / "first"),
        "colorizers": ("color_u",),
        "batch_size": 2,
        "steps": 2,
    }
    return StudyConfig(**(settings | changes))


def names(planned):
    return [run.name for run in planned]


def test_the_grid_of_table_1(data, tmp_path):
    """3 colorizers, 2 backbones, 2 stages, 3 repeats; the baselines once for all colorizers."""
    planned = grid.plan(
        config(
            data,
            tmp_path,
            colorizers=("deconv", "pixel_shuffle", "color_u"),
            backbones=("ResNet18", "DenseNet121"),
        )
    )
    assert len(planned) == 3 * 2 * (2 + 2 * 3)
    assert len(set(names(planned))) == len(planned)
    one = {run.name: run for run in planned}["first-all-deconv-DenseNet121-f1-s2"]
    assert one.needs == "first-color_module-deconv-DenseNet121-f1-s2"
    assert one.config.init_from == str(tmp_path / "study/runs" / one.needs)
    assert (one.config.strategy, one.config.seed, one.config.backbone) == ("all", 2, "")


def test_every_run_comes_after_the_run_it_starts_from(data, tmp_path):
    planned = grid.plan(
        config(
            data,
            tmp_path,
            strategies=("all", "baseline"),
            target_dirs=(str(data / "second"), str(data / "third")),
            transfers=("last_layer@color_module", "last_layer@all", "all@all"),
        )
    )
    seen = set()
    for run in planned:
        assert not run.needs or run.needs in seen
        seen.add(run.name)
    by_name = {run.name: run for run in planned}
    transfer = by_name["third-last_layer_from_all-color_u-ResNet18-f1-s1"]
    assert transfer.needs == "first-all-color_u-ResNet18-f1-s1"
    assert transfer.config.normalization == "source"
    assert transfer.config.observations == ()
    # On the target itself stage 2 starts from the target's own stage 1, with its own statistics.
    own = by_name["second-all-color_u-ResNet18-f1-s1"]
    assert own.needs == "second-color_module-color_u-ResNet18-f1-s1"
    assert own.config.normalization == "target"


def test_subsets_follow_the_seed_unless_they_are_given(data, tmp_path):
    planned = grid.plan(
        config(data, tmp_path, strategies=("baseline",), train_fractions=("0.5", "1"))
    )
    found = {(r.config.train_fraction, r.config.seed, r.config.subset_seed) for r in planned}
    halves = {(0.5, 0, 0), (0.5, 1, 1), (0.5, 2, 2)}
    assert found == halves | {(1.0, 0, 0), (1.0, 1, 0), (1.0, 2, 0)}
    product = grid.plan(
        config(
            data,
            tmp_path,
            strategies=("baseline",),
            train_fractions=("0.5",),
            seeds=("0", "1"),
            subset_seeds=("3", "4"),
        )
    )
    assert {(r.config.seed, r.config.subset_seed) for r in product} == {
        (0, 3),
        (0, 4),
        (1, 3),
        (1, 4),
    }


def test_both_stages_use_one_subset(data, tmp_path):
    planned = grid.plan(config(data, tmp_path, strategies=("all",), train_fractions=("0.5",)))
    for run in planned:
        assert run.config.train_fraction == 0.5
        assert run.config.subset_seed == run.config.seed


def test_overrides_reach_their_strategy_alone(data, tmp_path):
    planned = grid.plan(
        config(data, tmp_path, overrides=("baseline:max_lr=0.5", "all:epochs=3", "all:max_zoom=1"))
    )
    by_strategy = {run.config.strategy: run.config for run in planned}
    assert by_strategy["baseline"].max_lr == "0.5"
    assert by_strategy["baseline_all"].max_lr == TrainConfig().max_lr
    assert (by_strategy["all"].epochs, by_strategy["all"].steps) == (3.0, 0)
    assert by_strategy["all"].max_zoom == 1.0


def test_shards_are_whole_chains_and_together_all_runs(data, tmp_path):
    planned = grid.plan(
        config(
            data,
            tmp_path,
            train_fractions=("0.25", "1"),
            target_dirs=(str(data / "second"),),
            colorizers=("deconv", "color_u"),
        )
    )
    parts = [grid.shard_of(planned, f"{number}/4") for number in range(1, 5)]
    assert sorted(name for part in parts for name in names(part)) == sorted(names(planned))
    for part in parts:
        assert part
        assert {run.needs for run in part if run.needs} <= set(names(part))


def test_the_command_of_a_run_is_the_run(data, tmp_path):
    """What --dry_run prints, given to train, makes the very same options."""
    target = (str(data / "second"),)
    for run in grid.plan(config(data, tmp_path, target_dirs=target, max_lr="auto")):
        words = shlex.split(run.command)
        assert words[:3] == ["python", "-m", "medcolor_tf.train"]
        assert commandline.parse(TrainConfig, words[3:]) == run.config


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "figure6"])
def test_the_ready_studies_can_be_planned(name, data, tmp_path, monkeypatch):
    """With small data in the place of CheXpert; each share must still fill a batch."""
    monkeypatch.setattr(grid, "_check_data", lambda config: None)
    arguments = [f"--flagfile={name}.flags", f"--data_dir={data / 'first'}"]
    if name == "table3":
        arguments.append(f"--target_dirs={data / 'second'},{data / 'third'}")
    parsed = commandline.parse(StudyConfig, arguments)
    expected = {"table1": 48, "table2": 9, "table3": 66, "figure6": 84}
    assert len(grid.plan(parsed)) == expected[name]


def test_table_1_and_2_share_runs(data):
    plans = [
        grid.plan(
            commandline.parse(
                StudyConfig,
                [f"--flagfile={name}.flags", f"--data_dir={data / 'first'}", "--batch_size=2"],
            )
        )
        for name in ("table1", "table2")
    ]
    one, two = ({run.name: run.config for run in plan} for plan in plans)
    assert two.items() <= one.items()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategies": ("al",)}, ["--strategies", "'al'", "color_module"]),
        ({"colorizers": ("none",)}, ["--colorizers", "'none'", "pixel_shuffle"]),
        ({"colorizer_inits": ("grey",)}, ["'grey'", "paper, gray"]),
        ({"transfers": ("last_layer",)}, ["--transfers", "last_layer@color_module"]),
        ({"seeds": ("0", "0")}, ["--seeds", "twice"]),
        ({"seeds": ("one",)}, ["--seeds", "'one'", "whole numbers"]),
        ({"seeds": ()}, ["--seeds", "at least one"]),
        ({"train_fractions": ("10%",)}, ["--train_fractions", "'10%'"]),
        ({"train_fractions": ("0.01",)}, ["0.01 of 24 images", "--batch_size=2"]),
        ({"shard": "3/2"}, ["--shard=3/2", "NUMBER/COUNT"]),
        ({"observations": ("Edema", "Hernia")}, ["Hernia", "Edema, Cardiomegaly"]),
        ({"target_dirs": ("{data}/nothing",)}, ["nothing/dataset.json", "data_prep.build"]),
        ({"target_dirs": ("{data}/first",)}, ["one name"]),
        ({"backbones": ("a/net.keras", "b/net.keras")}, ["--backbones", "one name"]),
        ({"overrides": ("max_lr=0.1",)}, ["--overrides=max_lr=0.1", "STRATEGY:OPTION=VALUE"]),
        ({"overrides": ("all:learning_rate=1",)}, ["--overrides=all:learning_rate=1"]),
        ({"overrides": ("all:batch_size=many",)}, ["batch_size"]),
        ({"steps": 0}, ["--steps", "--epochs"]),
    ],
)
def test_bad_studies_are_refused_before_anything_runs(changes, words, data, tmp_path):
    changes = {
        name: tuple(v.format(data=data) for v in value) if isinstance(value, tuple) else value
        for name, value in changes.items()
    }
    with pytest.raises(InputError) as error:
        grid.plan(config(data, tmp_path, **changes))
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "study").exists()


def test_an_unknown_key_in_a_study_file_names_file_and_line(data, tmp_path, capsys):
    file = tmp_path / "mine.flags"
    file.write_text("# a study\n--name=mine\n--strategys=all\n")
    assert main([f"--flagfile={file}", f"--data_dir={data / 'first'}"]) == 2
    error = capsys.readouterr().err
    assert f"{file} line 3: unknown flag --strategys; did you mean --strategies?" in error


# -- running --------------------------------------------------------------------------------------

FAKE_TRAIN = """
import json, os, sys, time
from medcolor_tf import commandline
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.runs.config import TrainConfig

config = commandline.parse(TrainConfig, sys.argv[1:])
with open(os.environ["FAKE_CALLS"], "a") as file:
    print(os.path.basename(config.run_dir), os.environ.get("CUDA_VISIBLE_DEVICES"), file=file)
if config.init_from:
    assert os.path.isfile(config.init_from + "/result.json"), "started before its source"
time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
if config.strategy in os.environ.get("FAKE_KILLED", "").split(","):
    os.kill(os.getpid(), 9)
if config.strategy in os.environ.get("FAKE_FAILS", "").split(","):
    sys.exit("error: the disk is full")
os.makedirs(config.run_dir, exist_ok=True)
fingerprint = DatasetInfo.load(config.data_dir).fingerprint
for name, content in (
    ("config.json", {"flags": vars(config), "data_fingerprint": fingerprint}),
    ("result.json", {}),
    ("evaluation-test.json", {"mean_auc": 0.5}),
):
    with open(os.path.join(config.run_dir, name), "w") as file:
        json.dump(content, file)
"""


@pytest.fixture
def fake_train(tmp_path, monkeypatch):
    """Stands for the train command; returns a function that lists the runs it was called for."""
    monkeypatch.setattr(workers, "preload", None)  # it needs no TensorFlow
    script, calls = tmp_path / "fake_train.py", tmp_path / "calls.txt"
    script.write_text(FAKE_TRAIN)
    real = PlannedRun.command.fget
    assert real is not None
    fake = property(lambda run: real(run).replace("-m medcolor_tf.train", str(script)))
    monkeypatch.setattr(PlannedRun, "command", fake)
    monkeypatch.setenv("FAKE_CALLS", str(calls))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def called():
        return [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []

    return called


def test_finished_runs_are_not_run_again(data, tmp_path, fake_train, capsys):
    settings = config(data, tmp_path, seeds=("0",))
    assert runner.run_study(settings) == 0
    assert [name for name, _ in fake_train()] == names(grid.plan(settings))
    printed = capsys.readouterr().out
    assert "[4/4] first-all-color_u-ResNet18-f1-s0: test mean AUC 0.5000" in printed
    assert runner.run_study(settings) == 0
    assert len(fake_train()) == 4
    more = dataclasses.replace(settings, seeds=("0", "1"))
    assert runner.run_study(more) == 0
    assert sorted(name[-2:] for name, _ in fake_train()[4:]) == ["s1"] * 4


def test_a_failed_run_stops_only_what_starts_from_it(
    data, tmp_path, fake_train, monkeypatch, capsys
):
    monkeypatch.setenv("FAKE_FAILS", "color_module")
    settings = config(data, tmp_path, seeds=("0",))
    assert runner.run_study(settings) == 1
    ran = [name.split("-")[1] for name, _ in fake_train()]
    assert sorted(ran) == ["baseline", "baseline_all", "color_module"]
    printed = capsys.readouterr().out
    assert "FAILED with exit status 1: error: the disk is full" in printed
    assert "not run: first-all-color_u-ResNet18-f1-s0" in printed
    failure = tmp_path / "study/failures/first-color_module-color_u-ResNet18-f1-s0.json"
    assert json.loads(failure.read_text())["reason"] == "error: the disk is full"
    monkeypatch.setenv("FAKE_FAILS", "")
    assert runner.run_study(settings) == 0
    assert not failure.exists()
    assert len(fake_train()) == 5


def test_a_killed_run_is_told_and_costs_itself_alone(
    data, tmp_path, fake_train, monkeypatch, capsys
):
    monkeypatch.setenv("FAKE_KILLED", "baseline")
    settings = config(data, tmp_path, seeds=("0",), strategies=("baseline", "baseline_all"))
    assert runner.run_study(settings) == 1
    assert len(fake_train()) == 2
    failure = tmp_path / "study/failures/first-baseline-ResNet18-f1-s0.json"
    assert json.loads(failure.read_text())["exit_status"] == -signal.SIGKILL
    assert json.loads(failure.read_text())["reason"].startswith("killed by SIGKILL")
    assert "FAILED with exit status -9: killed by SIGKILL" in capsys.readouterr().out


def test_a_run_of_other_options_is_never_taken_for_this_one(data, tmp_path, fake_train):
    settings = config(data, tmp_path, seeds=("0",))
    runner.run_study(settings)
    with pytest.raises(InputError, match=r"--steps=3 \(there: 2\)"):
        runner.run_study(dataclasses.replace(settings, steps=3))
    assert len(fake_train()) == 4


def test_dry_run_prints_states_and_commands_and_writes_nothing(data, tmp_path, fake_train, capsys):
    settings = config(data, tmp_path, seeds=("0",))
    assert runner.run_study(dataclasses.replace(settings, dry_run=True)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[0] == "# 4 runs: 4 new"
    assert lines[7].startswith("# first-all-color_u-ResNet18-f1-s0: new, starts from first-color")
    assert not (tmp_path / "study").exists()
    assert fake_train() == []


def test_each_gpu_has_one_run_at_a_time(data, tmp_path, fake_train, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    settings = config(data, tmp_path, seeds=("0",), strategies=("baseline", "baseline_all"))
    assert runner.run_study(dataclasses.replace(settings, gpus=("2", "5"))) == 0
    assert sorted(gpu for _, gpu in fake_train()) == ["2", "5"]


@pytest.mark.slow
def test_after_a_kill_the_same_command_waits_for_the_orphan_and_goes_on(
    data, tmp_path, fake_train, monkeypatch
):
    """SIGKILL of the study leaves its child at work: a second trainer must not join it."""
    monkeypatch.setenv("FAKE_SECONDS", "4")
    settings = config(data, tmp_path, seeds=("0",), strategies=("baseline",))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_study as t\n"
        "from medcolor_tf.studies import grid, runner, workers\n"
        "workers.preload = None\n"
        "real = grid.PlannedRun.command.fget\n"
        "grid.PlannedRun.command = property(lambda run:"
        " real(run).replace('-m medcolor_tf.train', sys.argv[2]))\n"
        f"runner.run_study(grid.StudyConfig(**{dataclasses.asdict(settings)!r}))\n"
    )
    folder = str(Path(__file__).parent)
    words = [sys.executable, "-c", code, folder, str(tmp_path / "fake_train.py")]
    child = subprocess.Popen(words, env=os.environ)
    deadline = time.monotonic() + 60
    while not fake_train() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(fake_train()) == 1
    assert runner.run_study(settings) == 0
    assert len(fake_train()) == 1


def test_a_signal_is_passed_on_and_the_same_command_goes_on(
    data, tmp_path, fake_train, monkeypatch, capsys
):
    monkeypatch.setenv("FAKE_SECONDS", "60")
    settings = config(data, tmp_path, seeds=("0",), strategies=("baseline", "baseline_all"))

    def stop_when_begun():
        deadline = time.monotonic() + 60
        while not fake_train() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_begun)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(Interrupted, match="0 of 2 runs are done; the same command goes on") as end:
        runner.run_study(settings)
    thread.join()
    assert exit_status(end.value) == 143
    assert time.monotonic() - begun < 50, "the run at work got the signal"
    assert len(fake_train()) == 1
    assert not (tmp_path / "study" / grid.FAILURES).exists()
    assert "interrupted: first-baseline" in capsys.readouterr().out
    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert runner.run_study(settings) == 0
    assert len(fake_train()) == 3


def test_a_file_system_without_locks_gets_a_warning(
    data, tmp_path, fake_train, monkeypatch, capsys
):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    settings = config(data, tmp_path, seeds=("0",), strategies=("baseline",))
    assert runner.run_study(settings) == 0
    assert ".lock-all: no locks there" in capsys.readouterr().out
    assert len(fake_train()) == 1
