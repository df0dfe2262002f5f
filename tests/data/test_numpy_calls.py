"""Numpy inside a pipeline: the program that reads from it ends, whenever it does."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data import numpy_calls

pytestmark = pytest.mark.slow

# What was registered first is called last, when the interpreter is about to shut down: a call that
# is running then never ends, and now and then the program that waits for it does not either.
SCRIPT = """
import atexit
begun, ended = [], []
atexit.register(lambda: print(len(begun) > 1, len(begun) - len(ended)))

import time
import tensorflow as tf
from medcolor_tf.data.numpy_calls import call_numpy

def slow(number):
    begun.append(number)
    time.sleep(0.1)
    ended.append(number)
    return number

numbers = tf.data.Dataset.range(100).map(lambda n: call_numpy(slow, [n], tf.int64)).prefetch(2)
iterator = iter(numbers)
print(int(next(iterator)))
"""


def test_no_call_is_running_when_the_interpreter_shuts_down():
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stdout) == (0, "0\nTrue 0\n"), found.stderr


def test_the_end_waits_for_a_call_that_runs_and_for_no_call_that_never_was():
    calls, inside = numpy_calls._Calls(), threading.Event()

    def slow():
        with calls:
            inside.set()
            time.sleep(0.2)

    begun = time.monotonic()
    calls.wait_until_idle()
    assert time.monotonic() - begun < 0.01
    thread = threading.Thread(target=slow)
    thread.start()
    inside.wait()
    calls.wait_until_idle()
    assert calls.ended == calls.begun == 1
    thread.join()


def test_a_program_that_reads_on_ends_as_well(monkeypatch):
    monkeypatch.setattr(numpy_calls, "_LONGEST_SECONDS", 0.1)
    calls = numpy_calls._Calls()
    calls.__enter__()  # and never ends
    begun = time.monotonic()
    calls.wait_until_idle()
    assert 0.1 <= time.monotonic() - begun < 5


def test_numpy_computes_what_the_pipeline_gets():
    numbers = tf.data.Dataset.range(3).map(
        lambda n: numpy_calls.call_numpy(lambda a: np.square(a), [n], tf.int64)
    )
    assert [int(n) for n in numbers] == [0, 1, 4]
