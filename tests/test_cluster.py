"""A real dask scheduler with two worker processes: the same bytes, deaths, signals, errors."""

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import documented
import pytest

from data_prep import build
from medcolor_tf.errors import InputError
from medcolor_tf.interrupts import Interrupted
from medcolor_tf.parallel import cluster
from medcolor_tf.studies import grid, runner
from medcolor_tf.studies.config import StudyConfig

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
# Two runs at once, as on one machine with --jobs=2.
THREADS = {"TF_NUM_INTRAOP_THREADS": "1"}
RESULTS = ("log.csv", "result.json", "best.safetensors", "last.safetensors", "predictions-test.csv")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The scheduler's file, of a cluster that is started as docs/studies.md says."""
    pytest.importorskip("distributed", reason="needs dask.distributed (extra cluster)")
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    words = [
        ["scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard"],
        *[["worker", "--nthreads=1", "--no-dashboard", f"--local-directory={folder}"]] * 2,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    children = []
    with (folder / "dask.log").open("w") as log, contextlib.ExitStack() as stack:
        stack.callback(end, children)
        for command in words:
            child = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, f"--scheduler-file={file}"],
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
            children.append(child)
        wait_for(file.is_file)
        with dask_client(file) as client:
            client.wait_for_workers(2, timeout=60)
        yield str(file)


def end(children):
    for child in children:
        child.terminate()
    for child in children:
        child.wait()


def dask_client(file) -> Any:
    from distributed import Client

    return Client(scheduler_file=str(file), set_as_default=False)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def kill_worker_at_work(file, is_begun):
    """Waits, then kills the worker process that has a task."""
    with dask_client(file) as client:
        pids = client.run(os.getpid)
        wait_for(is_begun)
        (address,) = [worker for worker, tasks in client.processing().items() if tasks]
        os.kill(pids[address], signal.SIGKILL)


@pytest.fixture
def study(tmp_path, small_dataset, backbone_file, monkeypatch):
    """A study of one run, long enough to be killed amid it."""
    for name, value in THREADS.items():
        monkeypatch.setenv(name, value)
    return StudyConfig(
        study_dir=str(tmp_path / "study"),
        data_dir=str(small_dataset),
        strategies=("baseline_all",),
        backbones=(backbone_file,),
        seeds=("0",),
        batch_size=4,
        steps=150,
        checkpoint_every=50,
        deterministic=True,
    )


@pytest.fixture(scope="module")
def results_of_a_process(tmp_path_factory):
    """A function that does a study's run by its command and returns the bytes of its files."""
    bytes_of = {}

    def results(study):
        if not bytes_of:
            (run,) = grid.plan(study)
            folder = tmp_path_factory.mktemp("alone")
            command = [sys.executable, *shlex.split(run.command)[1:], f"--run_dir={folder / 'run'}"]
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            bytes_of.update({name: (folder / "run" / name).read_bytes() for name in RESULTS})
        return bytes_of

    return results


def results_of(study):
    (run,) = grid.plan(study)
    folder = Path(run.config.run_dir)
    return {name: (folder / name).read_bytes() for name in RESULTS}


def test_forks_give_the_bytes_of_a_process_per_run(study, results_of_a_process):
    assert runner.run_study(study) == 0
    assert results_of(study) == results_of_a_process(study)


def test_a_run_whose_worker_is_killed_goes_on_at_another_to_the_same_bytes(
    study, scheduler, results_of_a_process, capsys
):
    (run,) = grid.plan(study)
    checkpoint = Path(run.config.run_dir) / "last.safetensors"
    killer = threading.Thread(target=kill_worker_at_work, args=(scheduler, checkpoint.is_file))
    killer.start()
    assert runner.run_study(dataclasses.replace(study, cluster=scheduler)) == 0
    killer.join()
    assert "[1/1]" in capsys.readouterr().out
    log = (Path(study.study_dir) / grid.LOGS / f"{run.name}.log").read_text()
    assert "resuming at step" in log
    assert results_of(study) == results_of_a_process(study)


STOPPED_BY_SIGTERM = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
pathlib.Path(sys.argv[0] + ".begun").touch()
time.sleep(60)
"""


def test_a_signal_has_the_runs_on_a_cluster_end(study, scheduler, tmp_path, monkeypatch, capsys):
    script = tmp_path / "train.py"
    script.write_text(STOPPED_BY_SIGTERM)
    monkeypatch.setattr(grid.PlannedRun, "command", f"python {script}")

    def stop_when_begun():
        wait_for((tmp_path / "train.py.begun").is_file)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_begun)
    stopper.start()
    begun = time.monotonic()
    with pytest.raises(Interrupted, match="0 of 1 runs are done"):
        runner.run_study(dataclasses.replace(study, cluster=scheduler))
    stopper.join()
    assert time.monotonic() - begun < 60, "the run got the signal"
    assert "interrupted: " in capsys.readouterr().out
    assert not (Path(study.study_dir) / grid.FAILURES).exists()


def test_a_data_set_built_on_a_cluster_has_the_same_bytes(scheduler, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    options = ["--flagfile=prep_phantom.flags", "--phantom_images=12", "--short_side=16"]
    options += [f"--data_root={tmp_path / 'drawn'}", f"--id_key_file={key}"]
    options += ["--records_per_shard=8"]
    for name, own in (("here", "--workers=1"), ("there", f"--cluster={scheduler}")):
        assert build.main([*options, f"--out={tmp_path / name}", own]) == 0
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.*") if path.is_file()}
        for name in ("here", "there")
    )
    assert len(here) > 3
    assert here.keys() == there.keys()
    assert {n for n in here if here[n] != there[n]} <= {"dataset.json"}
    commands = [content.decode() for content in (here["dataset.json"], there["dataset.json"])]
    assert "--cluster" not in commands[1]


# In place of Slurm's commands: a job is a session of its own, its number that of its first process.
SLURM = {
    "sbatch": """
        import subprocess, sys
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        job = subprocess.Popen(["bash", sys.argv[-1]], start_new_session=True, **quiet)
        print("Submitted batch job", job.pid)
    """,
    "scancel": """
        import os, signal, sys
        os.killpg(int(sys.argv[-1]), signal.SIGTERM)
    """,
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Puts Slurm's commands in the path."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, program in SLURM.items():
        text = f"#!{sys.executable}\n{textwrap.dedent(program)}"
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o700)


@pytest.mark.usefixtures("slurm")
def test_workers_that_slurm_starts_have_what_a_run_asks_for(tmp_path, monkeypatch):
    """The program of docs/studies.md, with one job in place of eight."""
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue (extra dev)")
    from dask.config import set as dask_options

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (program,) = [
        text
        for text in documented.blocks((ROOT / "docs/studies.md").read_text("utf-8"), "python")
        if "SLURMCluster" in text
    ]
    names: dict[str, Any] = {}
    # Its own port for the scheduler's page: the usual one may be taken, which is a warning.
    with dask_options({"jobqueue.slurm.scheduler-options": {"dashboard_address": ":0"}}):
        exec(program.replace("jobs=8", "jobs=1"), names)
    with contextlib.closing(names["cluster"]) as slurm_cluster:
        for directive in ("--gpus=1", "--cpus-per-task=8"):
            assert f"#SBATCH {directive}\n" in slurm_cluster.job_script()
        with cluster.connected(slurm_cluster.scheduler_address, tmp_path) as executor:
            executor.client.wait_for_workers(1, timeout=60)
            (worker,) = executor.client.scheduler_info()["workers"].values()
            assert worker["resources"] == {"GPU": 1}
            assert worker["nthreads"] == 1
            assert executor.submit(os.getppid).result(timeout=60) != os.getppid()


def test_unfit_workers_are_named_with_what_they_lack(scheduler, tmp_path, monkeypatch):
    versions = cluster._versions()
    monkeypatch.setattr(cluster, "_versions", lambda: versions | {"keras": "1.0"})
    with (
        pytest.raises(InputError, match=r"worker tcp://\S+ expected keras 1.0 as here, received"),
        cluster.connected(scheduler, tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())
    right = cluster.Requirements(str(tmp_path / "token"), "1", (), versions)
    assert "does not see" in right.check()()
    (tmp_path / "token").write_text("1")
    assert right.check()() == ""
    other = dataclasses.replace(right, folders=(str(tmp_path / "data"),))
    assert f"does not see {tmp_path / 'data'}: expected the same folders" in other.check()()


def test_a_cluster_that_cannot_be_had_is_an_error(tmp_path, monkeypatch, study):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(InputError, match="no scheduler answers there within"):
        runner.run_study(dataclasses.replace(study, cluster="tcp://127.0.0.1:9"))
    with pytest.raises(InputError, match="no such file"):
        runner.run_study(dataclasses.replace(study, cluster="none.json"))
    with pytest.raises(InputError, match="--gpus=0: the workers of --cluster have their own"):
        runner.run_study(dataclasses.replace(study, cluster="tcp://127.0.0.1:9", gpus=("0",)))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'medcolor_tf\[cluster\]'"):
        runner.run_study(dataclasses.replace(study, cluster="tcp://127.0.0.1:9"))
