"""Commands in forks are what they are as processes of their own."""

import os
import signal
import subprocess
import sys

import pytest
from forks import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys
print(__name__, sys.argv[1:], os.environ["MARK"], os.getcwd(), sys.stdin.read())
print("é to the other one", file=sys.stderr)
import atexit
atexit.register(print, "at the end")
"""


def real(args, environment=None, cwd=ROOT):
    """The same as Forks.run, in a process that imports everything itself."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(
        [sys.executable, *args],
        env=variables,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "args",
    [
        ["-c", PROGRAM, "a", "--b=c d"],
        ["-c", PROGRAM + "sys.exit('no more')"],
        ["-c", PROGRAM + "sys.stdout.flush()\nos.kill(os.getpid(), 9)"],
        ["-m", "medcolor_tf.train", "--no_such_flag"],
        ["-m", "medcolor_tf.train", "--version"],
        ["-m", "medcolor_tf.report", "nowhere"],
    ],
)
def test_output_and_status_are_those_of_a_process(forks, tmp_path, args):
    done = [run(args, environment={"MARK": "m"}, cwd=tmp_path) for run in (forks.run, real)]
    assert done[0].stdout == done[1].stdout
    assert done[0].stderr == done[1].stderr
    assert done[0].returncode == done[1].returncode


def test_an_error_is_a_traceback_and_a_status(forks):
    done = forks.run(["-c", "1 / 0"])
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_each_draws_numbers_of_its_own(forks):
    program = "import random, numpy; print(random.random(), numpy.random.random())"
    drawn = [forks.run(["-c", program]).stdout.split() for _ in range(2)]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_signals_reach_it_and_a_time_limit_ends_it(forks):
    loop = "import time\nprint('here', flush=True)\nwhile True: time.sleep(0.01)"
    process = forks.start(["-c", loop])
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(20) == ("here\n", "")
    assert process.returncode == process.poll() == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(["-c", loop], timeout=0.1)


def test_what_is_read_at_import_cannot_come_later(forks):
    with pytest.raises(AssertionError, match="KERAS_BACKEND is read when libraries are imported"):
        forks.start(["-c", ""], environment={"KERAS_BACKEND": "torch"})
