"""Several processes: how they meet, talk and miss each other, and the run they share."""

import csv
import dataclasses
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import Forks

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.parallel import multihost
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig, changed_options
from medcolor_tf.sharing.colormap import read_table

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_flag_errors_import_no_framework():
    script = (
        "import sys; from medcolor_tf.train import main\n"
        "status = main(['--data_dir=d', '--run_dir=r', '--steps=1', *sys.argv[1:]])\n"
        "assert not {'tensorflow', 'keras', 'jax'} & set(sys.modules), 'imported'\n"
        "sys.exit(status)"
    )
    for words, message in (
        (["--hosts=a,b", "--host_number=5"], "--host_number=5: expected 0 to 1"),
        (["--hosts=a,b", "--host_number=0", "--features=once"], "--features=once trains C alone"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            env=variables(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert message in done.stderr


def test_another_backend_is_refused(tmp_path):
    from medcolor_tf.training.trainer import range_test, train

    config = TrainConfig(
        data_dir="d", run_dir=str(tmp_path / "r"), steps=1, hosts=("a", "b"), host_number=0
    )
    with pytest.raises(InputError, match=r"need KERAS_BACKEND=jax .* received tensorflow"):
        train(config)
    with pytest.raises(InputError, match="the LR finder runs in one process"):
        range_test(config)


def test_where_it_runs_does_not_make_another_run():
    config = TrainConfig(data_dir="d", run_dir="r", steps=1)
    among = dataclasses.replace(config, hosts=("a", "b"), host_number=1, hosts_timeout=9.0)
    assert not changed_options(vars(config), vars(among))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Twin(multihost.Processes):
    """One of two processes, the other of which says what it says, changed by ``other``."""

    def __init__(self, other=lambda value: value):
        self.other = other
        super().__init__(0, 2)

    def all_gather(self, value):
        return [value, self.other(value)]


def test_a_mark_that_a_crash_left_does_not_make_a_folder_somebody_elses(tmp_path):
    (tmp_path / f"{runs.MARK}1234").touch()
    runs.Run(tmp_path).check({})
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="not empty and no run"):
        runs.Run(tmp_path).check({})


def test_a_run_folder_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SHARED_SECONDS", 0.1)
    runs.Run(tmp_path / "run").check_shared(Twin())
    assert not (tmp_path / "run").exists(), "as it was"

    def sees(answer):
        return Twin(lambda value: answer if isinstance(value, list) else value)

    with pytest.raises(InputError, match=r"process 1 sees another folder .* machines share"):
        runs.Run(tmp_path / "run").check_shared(sees([False, 0]))
    monkeypatch.setattr(runs.Run, "last_step", 6)
    (tmp_path / "config.json").touch()
    (tmp_path / f"{runs.MARK}left-by-a-crash").touch()
    with pytest.raises(InputError, match=r"process 1 sees a last checkpoint of step 3, .* step 6"):
        runs.Run(tmp_path).check_shared(sees([True, 3]))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@needs_jax
def test_a_batch_that_the_devices_cannot_share():
    with pytest.raises(InputError, match="--batch_size=7: expected a multiple of 2, the number"):
        multihost._check_devices(Twin(), 7)
    with pytest.raises(InputError, match="the processes have 1, 4 devices; expected equally many"):
        multihost._check_devices(Twin(lambda count: 4), 8)


# Processes on the JAX backend: forks of one that has imported it, and one pair that has not.


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Starts commands on the JAX backend."""
    compiled = tmp_path_factory.mktemp("compiled")  # what one has compiled the next need not
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with Forks(KERAS_BACKEND="jax", **cache) as forks:
        yield forks


class Imports:
    """Starts them as a launcher does: each imports everything itself."""

    def start(self, args, environment, merge):
        assert merge
        return subprocess.Popen(
            [sys.executable, *args],
            env=variables(KERAS_BACKEND="jax", **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


# Meets the others and does what it is asked to, without a run, which takes longer.
MEETING = """
import json, os, signal, sys
import keras, numpy as np
from medcolor_tf.errors import InputError
from medcolor_tf.parallel import hosts, multihost
from medcolor_tf.runs.config import TrainConfig

act, number, timeout, *names = sys.argv[1:]
number, hosts.HEARTBEAT_SECONDS = int(number), 10
config = TrainConfig(data_dir="d", run_dir="r", steps=1, batch_size=6, hosts=tuple(names),
                     host_number=number, hosts_timeout=float(timeout))

def talk(processes):
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    names = np.array([f"image{i}" * (i + 1) for i in range(5)])
    mine = [rows[number::3][:1], rows[number::3][1:]]
    variables = [keras.Variable(np.float32([number, 3] if number else [-0.0, 1])),
                 keras.Variable(np.uint32(7 + number)),
                 keras.Variable([0.5 + number], dtype="bfloat16")]
    processes.replicate(variables)
    return {
        "values": processes.all_gather({"number": number, "text": "x" * 1000 * number}),
        "main": processes.broadcast_from_main(lambda: number),
        "local": processes.local_process_count,
        "rows": processes.gather_rows(mine, 5).tolist(),
        "names": processes.gather_rows([names[number::3]], 5).tolist(),
        "few": processes.gather_rows([rows[:1]] if number == 0 else [], 1).tolist(),
        "variables": [np.asarray(v.value, np.float32).tolist() for v in variables],
        "alike": [v.value.sharding.is_fully_replicated for v in variables],
        "zero": bool(np.signbit(np.asarray(variables[0].value)[0])),
    }

def refuse(processes):
    if processes.number == 1:
        raise InputError("--flag=1: wrong")
    return processes.all_gather(None)

def hang(processes):
    processes.advise(lambda: "; ADVICE")
    if number == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return processes.all_gather(None)

try:
    with multihost.joined(config) as processes:
        done = globals()[act](processes)
    print(json.dumps(done))
except InputError as error:
    sys.exit(f"error: {error}")
"""


def meet(forks, act, numbers, count, timeout=60.0, address="", waited=None):
    """Starts processes of MEETING; returns (what it printed, exit status) of the first ones."""
    address = address or f"127.0.0.1:{free_port()}"
    hosts = [address] + [address.rpartition(":")[0]] * (count - 1)
    commands = [[act, str(number), str(timeout), *hosts] for number in numbers]
    return start(forks, [(words, {}) for words in commands], waited)


def start(forks, commands, waited=None):
    """Runs MEETING with (arguments, environment) each; waits for the first ones, ends the rest."""
    children = [
        forks.start(["-c", MEETING, *words], environment=more, merge=True)
        for words, more in commands
    ]
    try:
        return [
            (child.communicate(timeout=120)[0], child.returncode) for child in children[:waited]
        ]
    finally:
        for child in children:
            child.kill()
            child.wait()


@needs_jax
def test_values_rows_and_variables_of_three_processes(forks):
    done = meet(forks, "talk", range(3), 3)
    assert [status for _, status in done] == [0, 0, 0], done
    answers = [json.loads(text.splitlines()[-1]) for text, _ in done]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] == {
        "values": [{"number": n, "text": "x" * 1000 * n} for n in range(3)],
        "main": 0,
        "local": 3,
        "rows": np.arange(10.0).reshape(5, 2).tolist(),
        "names": [f"image{i}" * (i + 1) for i in range(5)],
        "few": [[0.0, 1.0]],
        "variables": [[0.0, 1.0], 7.0, [0.5]],
        "alike": [True, True, True],
        "zero": True,  # -0.0: every bit is process 0's
    }


def slurm(number, port):
    return {
        "JAX_COORDINATOR_PORT": str(port),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def open_mpi(number, port):
    return {
        "JAX_COORDINATOR_PORT": str(port),
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(number),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(number),
    }


def own_variables(number, port):
    return {
        "MEDCOLOR_COORDINATOR": f"127.0.0.1:{port}",
        "MEDCOLOR_PROCESSES": "2",
        "JOB_COMPLETION_INDEX": str(number),
    }


@needs_jax
@pytest.mark.parametrize(
    ("launcher", "forked"), [(slurm, True), (open_mpi, True), (own_variables, False)]
)
def test_a_launchers_processes_meet_and_one_tells_the_other_its_error(forks, launcher, forked):
    port = free_port()
    words = ["refuse", "-1", "60", "auto"]
    (first, one), (second, two) = start(
        forks if forked else Imports(),
        [(words, launcher(number, port)) for number in (0, 1)],
    )
    assert (one, two) == (1, 2), first + second
    here = socket.gethostname()
    assert first.endswith(
        f"\nerror: process 1 of 2 ({here}) ended with an error: --flag=1: wrong\n"
    )
    assert second.endswith("\nerror: --flag=1: wrong\n")


@needs_jax
def test_a_silent_process_is_missed_though_the_others_wait_for_it(forks):
    """As a machine without power or network: nothing breaks, JAX' heartbeats stay away."""
    started = time.monotonic()
    ((text, status),) = meet(forks, "hang", range(2), 2, waited=1)
    assert time.monotonic() - started < 100
    assert status == -signal.SIGABRT
    assert "stopped sending heartbeats" in text
    assert text.endswith(
        f"\nerror: process 0 of 2 ({socket.gethostname()}) ended unexpectedly: another process was "
        "lost, as JAX says above, or this one was killed; ADVICE\n"
    )


@needs_jax
@pytest.mark.parametrize("number", [0, 1])
def test_processes_that_do_not_come(forks, number):
    port = free_port()
    ((text, status),) = meet(forks, "talk", [number], 2, 3.0, f"127.0.0.1:{port}")
    assert status == -signal.SIGABRT
    assert f"process {number} did not meet the others at 127.0.0.1:{port} within 3 s" in text
    assert "Traceback" not in text


@needs_jax
def test_a_port_in_use_is_named(forks):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ((text, status),) = meet(forks, "talk", [0], 2, 3.0, address)
    assert status == 1
    assert f"of {address}, where the other processes connect to this one, cannot be open" in text
    assert "did not meet" not in text


@needs_jax
def test_no_launcher(forks):
    ((text, status),) = start(forks, [(["talk", "-1", "3", "auto"], {})])
    assert status == 1
    assert "error: --hosts: JAX cannot start several processes: coordinator_address" in text


# A process gets a signal when a step is done, while the others wait for it in the next one.
SCRIPT = """
import os, signal, sys
from medcolor_tf.training import callbacks

def die(self, batch, logs=None):
    if self.first + self.done + batch + 1 == int(os.environ["SIGNAL_STEP"]):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))

def begin(self, epoch, logs=None):
    self.done = epoch * self.interval

if "SIGNAL" in os.environ:
    callbacks.AtCheckpoint.on_train_batch_end, callbacks.AtCheckpoint.on_epoch_begin = die, begin
from medcolor_tf.train import main
sys.exit(main(sys.argv[1:]))
"""


def variables(**more):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **more}


class Machine:
    """Starts commands, each as one or several processes on the JAX backend with one CPU device."""

    def __init__(self, folder, data, backbone, forks):
        self.folder, self.data, self.backbone, self.forks = folder, data, backbone, forks

    def run(self, name, count, dies=None, flags=(), own_flags=(), step=5, how=signal.SIGKILL):
        """Returns (exit status, what it printed) of each process.

        The process ``dies`` gets the signal ``how`` when it has done ``step`` steps.
        """
        fatal = {"SIGNAL": str(int(how)), "SIGNAL_STEP": str(step)}
        port = free_port()
        words = [
            f"--data_dir={self.data}",
            f"--run_dir={self.folder / name}",
            f"--backbone={self.backbone}",
            "--strategy=baseline_all",
            "--uncertain_policy=ignore",  # labels that count in one share and not in another
            *("--batch_size=8", "--steps=7", "--checkpoint_every=3", "--max_lr=0.05"),
            *("--lr_multipliers=head=2", "--evaluate=test", "--deterministic"),
            *("--hosts_timeout=60", *flags),
        ]
        children = []
        try:
            for number in range(count):
                place = [f"--hosts=127.0.0.1:{port}" + ",127.0.0.1" * (count - 1)]
                place += [f"--host_number={number}"]
                own = own_flags[number] if own_flags else []
                arguments = ["-c", SCRIPT, *words, *own, *(place if count > 1 else [])]
                more = {
                    "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
                    **(fatal if number == dies else {}),
                }
                children.append(self.forks.start(arguments, environment=more, merge=True))
            output = [process.communicate(timeout=240)[0] for process in children]
        finally:
            for process in children:
                process.kill()
        return [(p.returncode, text) for p, text in zip(children, output, strict=True)]


@pytest.fixture(scope="module")
def machine(small_dataset, tmp_path_factory, forks):
    import keras

    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    folder = tmp_path_factory.mktemp("hosts")
    keras.Model(inputs, x, name="small").save(folder / "small.keras")
    return Machine(folder, small_dataset, folder / "small.keras", forks)


@pytest.fixture(scope="module")
def alone(machine):
    """A run of one process."""
    ((status, text),) = machine.run("alone", 1)
    assert status == 0, text
    return machine.folder / "alone"


@pytest.fixture(scope="module")
def both(machine, alone):
    """The same run of two processes: (folder, their output)."""
    done = machine.run("both", 2)
    assert [status for status, _ in done] == [0, 0], done
    return machine.folder / "both", [text for _, text in done]


def log_of(folder):
    with open(folder / runs.LOG, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@needs_jax
def test_two_processes_train_as_one(alone, both):
    """Loss, batch normalisation, augmentation and dropout are those of the whole batch.

    Sums of a batch are added up in another order, which costs an ulp or two (1e-7) a step; the
    seven steps of this small network do not magnify that much. A loss or a batch normalisation of
    half a batch would be off by 1e-2.
    """
    folder, _ = both
    rows, others = log_of(alone), log_of(folder)
    assert [row["step"] for row in rows] == [3, 6, 7]
    for row, other in zip(rows, others, strict=True):
        assert other == pytest.approx(row, rel=1e-5)
    one, two = (checkpoint.load(path / runs.LAST)[0] for path in (alone, folder))
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-5, atol=1e-6, err_msg=key)
    for name in (runs.RESULT, "evaluation-test.json"):
        one, two = (json.loads((path / name).read_text()) for path in (alone, folder))
        for values in (one, two):
            values.pop("run_dir", None)
            factors = values.pop("lr_multipliers", None)
            assert factors == ({"head": 2.0} if name == runs.RESULT else None)
        assert two == pytest.approx(one) if name == runs.RESULT else two == one
    predictions = [
        list(csv.reader((path / "predictions-test.csv").read_text().splitlines()))
        for path in (alone, folder)
    ]
    assert [row[:2] for row in predictions[0]] == [row[:2] for row in predictions[1]]


@needs_jax
def test_one_process_writes_and_speaks(alone, both):
    folder, (first, second) = both
    names, alone_names = (
        {path.name for path in place.iterdir() if not path.match(runs.EVENTS)}
        for place in (folder, alone)
    )
    assert names == alone_names
    assert len(list(folder.glob(runs.EVENTS))) == len(list(alone.glob(runs.EVENTS)))
    assert "step 7: training loss" in first
    assert "best validation mean AUC" in first
    own = [line for line in second.splitlines() if line and not line.startswith("[Gloo]")]
    assert len(own) == 1, second
    assert own[0].startswith("process 1 of 2 (")


@needs_jax
@pytest.mark.nightly
def test_the_table_of_a_color_map_is_made_by_one_process(machine):
    """At the end of the run, and without an operation of both."""
    flags = ("--strategy=color_module", "--colorizer=color_map", "--steps=3", "--max_lr=1")
    done = machine.run("map", 2, flags=flags)
    assert [status for status, _ in done] == [0, 0], done
    written = ColorTable.from_csv(runs.Run(machine.folder / "map").color_table)
    best = read_table(str(machine.folder / "map"))
    np.testing.assert_allclose(written.colors, best.colors, atol=1e-5)
    assert np.ptp(best.colors, axis=1).max() > 0.001  # it is gray no more


@needs_jax
@pytest.mark.parametrize("lost", [1, 0])
def test_a_lost_process_ends_the_others_and_the_run_resumes(machine, both, lost):
    name = f"lost{lost}"
    started = time.monotonic()
    done = machine.run(name, 2, dies=lost)
    assert time.monotonic() - started < 200, "communicate's limit, not the loss, would end it"
    assert done[lost][0] == -signal.SIGKILL
    status, text = done[1 - lost]
    # With process 0 goes JAX' service, which at once aborts all others.
    assert status == (1 if lost else -signal.SIGABRT), text
    here = socket.gethostname()
    error = (
        f"process 1 of 2 ({here}) was lost"
        if lost
        else f"process 1 of 2 ({here}) ended unexpectedly: another process was lost, as JAX says "
        "above, or this one was killed"
    )
    assert text.endswith(
        f"\nerror: {error}. The checkpoint of step 3 in {machine.folder / name} is kept: the same "
        "command on all machines goes on there\n"
    )
    assert "Traceback" not in text
    if lost == 0:
        return  # resuming is the same thing, and takes its time
    # A signal to one of them, while the run goes on, ends both at one step.
    done = machine.run(name, 2, dies=1, step=4, how=signal.SIGTERM)
    assert [status for status, _ in done] == [143, 143], done
    (_, first), (_, second) = done
    assert "resuming at step 3" in first
    assert "interrupted; step 5 is saved in" in first
    assert "finishing the step, then saving" not in first
    assert "Traceback" not in first + second
    done = machine.run(name, 2)
    assert [status for status, _ in done] == [0, 0], done
    assert "resuming at step 5" in done[0][1]
    for file in (runs.LAST, runs.BEST, runs.LOG):
        paths = [folder / file for folder in (both[0], machine.folder / name)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), file


@needs_jax
def test_commands_that_do_not_fit_together(machine):
    """Options are compared before anything is built."""
    done = machine.run("other", 2, own_flags=[[], ["--seed=3"]])
    assert 0 not in [status for status, _ in done]
    assert all("--seed=3 (there: 0)" in text for _, text in done), done
    assert not (machine.folder / "other").exists()
