"""Several processes: who they are, how they meet and miss each other, and the run they share."""

import csv
import dataclasses
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.parallel import channel, hosts, multihost
from medcolor_tf.parallel.hosts import Place
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig, changed_options

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
ROOT = Path(__file__).resolve().parents[2]
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_JOB_NODELIST": "gpu[007-008,12],cpu1",
    "SLURM_JOB_ID": "4097",
}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "1",
    "MEDCOLOR_PROCESSES": "2",
    "MEDCOLOR_COORDINATOR": "train-0.train:9000",
}
pytestmark = pytest.mark.slow


def here_is(*names):
    return lambda host: host in names


@pytest.mark.parametrize(
    ("listed", "number", "here", "expected"),
    [
        ((), -1, (), Place()),
        (("a", "b"), -1, ("b",), Place(1, 2, "a", hosts.DEFAULT_PORT)),
        (("a:77", "b", "c:77"), -1, ("a",), Place(0, 3, "a", 77)),
        (("[fe80::1]:77", "[fe80::2]"), -1, ("fe80::2",), Place(1, 2, "fe80::1", 77)),
        (("a:77", "a"), 1, ("a",), Place(1, 2, "a", 77)),
    ],
)
def test_a_list_of_hosts(listed, number, here, expected):
    assert hosts.find(listed, number, {}, here_is(*here)) == expected


@pytest.mark.parametrize(
    ("listed", "number", "here", "message"),
    [
        (("a", "b"), -1, (), r"--hosts=a,b: none of them is this machine .*--host_number=0 to 1"),
        (("a", "a"), -1, ("a",), "2 of them are this machine"),
        (("a", "b"), 2, (), "--host_number=2: expected 0 to 1 for the 2 hosts of --hosts=a,b"),
        ((), 1, (), "--host_number=1 needs --hosts"),
        (("a:77", "b:78"), 0, (), "b:78 has another port than a:77"),
        (("a:77777", "b"), 0, (), "expected host or host:port .* received 'a:77777'"),
        (("a", "fe80::2"), 0, (), "IPv6 address in brackets.* received 'fe80::2'"),
        (("auto", "b"), -1, (), "--hosts=auto reads everything from the environment"),
        (("auto",), 0, (), "received --hosts=auto --host_number=0"),
    ],
)
def test_a_list_of_hosts_that_says_nothing(listed, number, here, message):
    with pytest.raises(InputError, match=message):
        hosts.find(listed, number, SLURM, here_is(*here))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SLURM, Place(3, 4, "gpu007", 61441)),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu008"}, Place(3, 4, "gpu008", 61441)),
        # The allocation has more tasks than the step that srun started.
        (SLURM | {"SLURM_NTASKS": "9"}, Place(3, 4, "gpu007", 61441)),
        (SLURM | {"MEDCOLOR_COORDINATOR": "gpu008-ib:7"}, Place(3, 4, "gpu008-ib", 7)),
        (KUBERNETES, Place(1, 2, "train-0.train", 9000)),
        (
            {"MEDCOLOR_PROCESS": "0", "MEDCOLOR_PROCESSES": "2", "MEDCOLOR_COORDINATOR": "[::1]"},
            Place(0, 2, "::1", hosts.DEFAULT_PORT),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Place()),
    ],
)
def test_launchers(environment, expected):
    assert hosts.find(("auto",), -1, environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "expected one of the variables MEDCOLOR_PROCESSES, SLURM_NTASKS, received none"),
        (
            {"MEDCOLOR_PROCESSES": "2"},
            "one of the variables MEDCOLOR_PROCESS, SLURM_PROCID, JOB_COMPLETION_INDEX",
        ),
        (KUBERNETES | {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2: expected 0 to 1"),
        (KUBERNETES | {"MEDCOLOR_PROCESSES": "two"}, "MEDCOLOR_PROCESSES=two: expected the number"),
        (KUBERNETES | {"MEDCOLOR_PROCESSES": "0"}, "MEDCOLOR_PROCESSES=0: expected 1 or more"),
        (KUBERNETES | {"MEDCOLOR_COORDINATOR": ""}, "expected MEDCOLOR_COORDINATOR=host:port"),
        (KUBERNETES | {"MEDCOLOR_COORDINATOR": "a b"}, "MEDCOLOR_COORDINATOR=a b: expected host"),
        (SLURM | KUBERNETES, "MEDCOLOR_PROCESSES=2 contradicts SLURM_STEP_NUM_TASKS=4"),
        (SLURM | {"JOB_COMPLETION_INDEX": "1"}, "SLURM_PROCID=3 contradicts JOB_COMPLETION_INDEX"),
        (SLURM | {"SLURM_JOB_NODELIST": "gpu[1-"}, "SLURM_JOB_NODELIST: expected a node list"),
    ],
)
def test_launchers_that_contradict_themselves(environment, message):
    with pytest.raises(InputError, match=message):
        hosts.find(("auto",), -1, environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("one", "one"),
        ("one,two", "one"),
        ("n[9-11]", "n9"),
        ("n[003,7-9],m1", "n003"),
        ("rack[2-3]node[04-05].site,x", "rack2node04.site"),
    ],
)
def test_first_of_a_node_list(nodes, first):
    assert hosts.first_node(nodes, "SLURM_JOB_NODELIST") == first


def test_own_addresses_are_known():
    assert hosts.is_this_machine("127.0.0.1")
    assert hosts.is_this_machine(socket.gethostname())
    assert not hosts.is_this_machine("192.0.2.1"), "an address that documentation reserves"
    assert not hosts.is_this_machine("no-such-host.invalid")


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
            env=environment(),
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


# The line between processes, in threads.


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Lines:
    """Some processes' ends of a line, each in a thread of its own while they meet."""

    def __init__(self, counts, numbers=None, timeout=20.0):
        numbers = range(len(counts)) if numbers is None else numbers
        port, self.ends, self.errors, self.told = free_port(), {}, {}, {}

        def meet(key, number, count):
            place = Place(number, count, "127.0.0.1", port)
            try:
                self.ends[key] = channel.meet(
                    place, timeout, {}, lambda text: self.told.setdefault(key, text)
                )
            except InputError as error:
                self.errors[key] = str(error)

        self.together(
            [
                lambda args=(key, number, count): meet(*args)
                for key, (number, count) in enumerate(zip(numbers, counts, strict=True))
            ]
        )

    @staticmethod
    def together(functions):
        threads = [threading.Thread(target=function, daemon=True) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "hangs"

    def wait_for_news(self, *keys):
        deadline = time.monotonic() + 20
        while not set(keys) <= set(self.told) and time.monotonic() < deadline:
            time.sleep(0.02)
        return [self.told.get(key) for key in keys]


def test_values_are_exchanged_in_order_and_all_part_in_peace():
    lines, got = Lines([3, 3, 3]), {}

    def talk(number):
        line = lines.ends[number]
        got[number] = [line.exchange({"who": number, "round": turn}) for turn in range(3)]
        line.leave()

    Lines.together([lambda number=number: talk(number) for number in range(3)])
    expected = [[{"who": n, "round": turn} for n in range(3)] for turn in range(3)]
    assert got == dict.fromkeys(range(3), expected)
    assert not lines.told


@pytest.mark.parametrize("lost", [0, 2])
def test_a_broken_line_is_a_lost_process_for_all_others(lost):
    lines = Lines([3, 3, 3])
    left = [number for number in range(3) if number != lost]
    for number in left:
        lines.ends[number].advice = lambda: "; ADVICE"
    lines.ends[lost]._ended.acquire()  # it would notice its own end, which a dead process does not
    for link in lines.ends[lost]._links.values():
        link.shutdown(socket.SHUT_RDWR)
    told = lines.wait_for_news(*left)
    assert told == [f"process {lost} of 3 ({socket.gethostname()}) was lost; ADVICE"] * 2


def test_an_error_of_one_process_is_told_to_the_others():
    lines = Lines([2, 2])
    lines.ends[0].advice = lambda: "; ADVICE"
    lines.ends[1].fail("--flag=1: wrong", by_chance=False)
    (told,) = lines.wait_for_news(0)
    assert told == f"process 1 of 2 ({socket.gethostname()}) ended with an error: --flag=1: wrong"


def test_numbers_that_contradict_each_other():
    lines = Lines([2, 3])
    assert "counts 3 processes, process 0 2" in lines.errors[0]
    assert lines.errors[0] == lines.errors[1]
    twice = Lines([3, 3, 3], numbers=[0, 1, 1])
    assert "two processes are number 1" in twice.errors[0]


def test_processes_that_do_not_come():
    late = Lines([3, 3], timeout=1.0)
    assert "process 2 of 3 did not come to 127.0.0.1" in late.errors[0]
    assert late.errors[0] == late.errors[1]
    alone = Lines([2], numbers=[1], timeout=0.5)
    assert "process 1 of 2 found no process 0 at 127.0.0.1" in alone.errors[0]


def test_a_stranger_at_the_port_is_ignored():
    port, ends = free_port(), {}

    def meet(number):
        ends[number] = channel.meet(Place(number, 2, "127.0.0.1", port), 20.0, {})

    def stranger_first():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as link:
                    link.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        meet(1)

    Lines.together([lambda: meet(0), stranger_first])
    assert [line.place.number for line in (ends[0], ends[1])] == [0, 1]
    Lines.together([ends[0].leave, ends[1].leave])


def test_a_port_that_leads_on_stays_open_when_its_end_breaks():
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = channel.forward("127.0.0.1", server.getsockname()[1])
        link = socket.create_connection(("127.0.0.1", near), 10)
        far, _ = server.accept()
        link.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert link.recv(100) == b"answer"
        far.close()
    link.settimeout(0.5)
    with pytest.raises(TimeoutError):
        link.recv(1)
    link.close()


class Twin(multihost.Processes):
    """One of two processes, the other of which says what it says, changed by ``other``."""

    def __init__(self, other=lambda value: value):
        super().__init__()
        self.count, self.other = 2, other

    def exchange(self, value):
        return [value, self.other(value)]


def test_a_mark_that_a_crash_left_does_not_make_a_folder_somebody_elses(tmp_path):
    (tmp_path / f"{multihost.MARK}1234").touch()
    runs.Run(tmp_path).check({})
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="not empty and no run"):
        runs.Run(tmp_path).check({})


def test_a_run_folder_that_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(multihost, "SHARED_SECONDS", 0.1)
    multihost.check_shared(Twin(), tmp_path / "run", lambda: 0)
    assert not (tmp_path / "run").exists(), "as it was"

    def sees(answer):
        return Twin(lambda value: answer if isinstance(value, list) else value)

    with pytest.raises(InputError, match=r"process 1 sees another folder .* machines share"):
        multihost.check_shared(sees([False, 0]), tmp_path / "run", lambda: 0)
    (tmp_path / "config.json").touch()
    (tmp_path / f"{multihost.MARK}left-by-a-crash").touch()
    with pytest.raises(InputError, match=r"process 1 sees a last checkpoint of step 3, .* step 6"):
        multihost.check_shared(sees([True, 3]), tmp_path, lambda: 6)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@needs_jax
def test_a_batch_that_the_devices_cannot_share():
    config = TrainConfig(data_dir="d", run_dir="r", steps=1, batch_size=7)
    with pytest.raises(InputError, match="--batch_size=7: expected a multiple of 2, the number"):
        multihost._check_devices(Twin(), config)
    with pytest.raises(InputError, match="the processes have 1, 4 devices; expected equally many"):
        multihost._check_devices(Twin(lambda count: 4), config)


def test_rows_of_all_processes_come_in_order():
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    names = np.array([f"image{i}" * (i + 1) for i in range(5)])
    for whole in (rows, names):
        own = [whole[0:1], whole[2::2]]
        other = multihost._to_json(whole[1::2])
        assert np.array_equal(Twin(lambda _, other=other: other).interleave(own, 5), whole)
    only = Twin(lambda _: None).interleave([rows[:1]], 1)  # fewer rows than processes
    assert np.array_equal(only, rows[:1])


# Real processes on the JAX backend.

# A process that is to die does so when step 5 is done, while the others wait for it in step 6.
SCRIPT = """
import os, signal, sys
from medcolor_tf.training import callbacks

def die(self, batch, logs=None):
    if self.first + self.done + batch + 1 == 5:
        os.kill(os.getpid(), signal.SIGKILL)

def begin(self, epoch, logs=None):
    self.done = epoch * self.interval

if os.environ.pop("DIES", "") == "1":
    callbacks.AtCheckpoint.on_train_batch_end, callbacks.AtCheckpoint.on_epoch_begin = die, begin
from medcolor_tf.train import main
sys.exit(main(sys.argv[1:]))
"""


def environment(**more):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **more}


class Machine:
    """Starts commands, each as one or several processes on the JAX backend with one CPU device."""

    def __init__(self, folder, data, backbone):
        self.folder, self.data, self.backbone = folder, data, backbone

    def run(self, name, count, dies=None, flags=(), own_flags=()):
        """Returns (exit status, what it printed) of each process."""
        port = free_port()
        words = [
            f"--data_dir={self.data}",
            f"--run_dir={self.folder / name}",
            f"--backbone={self.backbone}",
            "--strategy=baseline_all",
            "--uncertain_policy=ignore",  # labels that count in one share and not in another
            *("--batch_size=8", "--steps=7", "--checkpoint_every=3", "--max_lr=0.05"),
            *("--evaluate=test", "--deterministic", "--hosts_timeout=60", *flags),
        ]
        children = []
        try:
            for number in range(count):
                place = [f"--hosts=127.0.0.1:{port}" + ",127.0.0.1" * (count - 1)]
                place += [f"--host_number={number}"]
                own = own_flags[number] if own_flags else []
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-c", SCRIPT, *words, *own, *(place if count > 1 else [])],
                        env=environment(
                            KERAS_BACKEND="jax",
                            XLA_FLAGS="--xla_force_host_platform_device_count=1",
                            # What one has compiled the next need not.
                            JAX_COMPILATION_CACHE_DIR=str(self.folder / "compiled"),
                            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
                            DIES=str(int(number == dies)),
                        ),
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                )
            output = [process.communicate(timeout=240)[0] for process in children]
        finally:
            for process in children:
                process.kill()
        return [(p.returncode, text) for p, text in zip(children, output, strict=True)]


@pytest.fixture(scope="module")
def machine(small_dataset, tmp_path_factory):
    import keras

    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.Dropout(0.1, name="dropout")(x)
    folder = tmp_path_factory.mktemp("hosts")
    keras.Model(inputs, x, name="small").save(folder / "small.keras")
    return Machine(folder, small_dataset, folder / "small.keras")


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
        assert two == pytest.approx(one) if name == runs.RESULT else two == one
    predictions = [
        list(csv.reader((path / "predictions-test.csv").open())) for path in (alone, folder)
    ]
    assert [row[:2] for row in predictions[0]] == [row[:2] for row in predictions[1]]


@needs_jax
def test_one_process_writes_and_speaks(alone, both):
    folder, (first, second) = both
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
    events = list((folder / runs.TENSORBOARD).glob("events*"))
    assert len(events) == len(list((alone / runs.TENSORBOARD).glob("events*")))
    assert "step 7: training loss" in first
    assert "images/s" in first
    assert "best validation mean AUC" in first
    own = [line for line in second.splitlines() if line and not line.startswith("[Gloo]")]
    assert len(own) == 1, second
    assert own[0].startswith("process 1 of 2 (")


@needs_jax
@pytest.mark.parametrize("lost", [1, 0])
def test_a_lost_process_ends_the_others_and_the_run_resumes(machine, both, lost):
    name = f"lost{lost}"
    started = time.monotonic()
    done = machine.run(name, 2, dies=lost)
    assert time.monotonic() - started < 200, "communicate's limit, not the loss, would end it"
    status, text = done[1 - lost]
    assert done[lost][0] == -9
    assert status == 1, text
    error = [line for line in text.splitlines() if line.startswith("error: ")]
    assert error == [
        f"error: process {lost} of 2 ({socket.gethostname()}) was lost. The checkpoint of step 3 "
        f"in {machine.folder / name} is kept: the same command on all machines goes on there"
    ]
    assert "Traceback" not in text
    if lost == 0:
        return  # resuming is the same thing, and takes its time
    done = machine.run(name, 2)
    assert [status for status, _ in done] == [0, 0], done
    assert "resuming at step 3" in done[0][1]
    whole, resumed = (
        checkpoint.load(path / runs.LAST)[0] for path in (both[0], machine.folder / name)
    )
    for key in whole:
        np.testing.assert_array_equal(resumed[key], whole[key], err_msg=key)
    assert log_of(machine.folder / name) == log_of(both[0])


@needs_jax
def test_commands_that_do_not_fit_together(machine):
    """Options are compared before anything is built."""
    done = machine.run("other", 2, own_flags=[[], ["--seed=3"]])
    assert 0 not in [status for status, _ in done]
    assert all("--seed=3 (there: 0)" in text for _, text in done), done
    assert not (machine.folder / "other").exists()
