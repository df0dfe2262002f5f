"""Numpy inside a tf.data pipeline, and how a program ends while a pipeline is open.

TensorFlow's threads run such a call, and need Python's interpreter for it. A program whose last
lines still hold an iterator destroys it while the interpreter shuts down: TensorFlow waits for its
thread, and the thread for an interpreter that no thread gets any more, so the program would never
end (measured). A pipeline that nobody reads from stops by itself once its few batches are ready;
the end of a program waits for that.
"""

import atexit
import threading
import time
from collections.abc import Callable

import tensorflow as tf

# So long without a call, and every pipeline has its batches ready: the next call follows the last
# at once.
_IDLE_SECONDS = 0.02
# A thread of the program that reads on and on must not keep it from ending.
_LONGEST_SECONDS = 5.0


class _Calls:
    """How many calls began, and how many of them have ended."""

    def __init__(self):
        self._lock = threading.Lock()
        self.begun = self.ended = 0

    def __enter__(self):
        with self._lock:
            self.begun += 1

    def __exit__(self, *error):
        with self._lock:
            self.ended += 1

    def wait_until_idle(self) -> None:
        """Returns once no call has run for a while; at once where there never was one."""
        last, seen = time.monotonic() + _LONGEST_SECONDS, (0, 0)
        while time.monotonic() < last:
            now = self.begun, self.ended
            if now == seen and self.begun == self.ended:
                return
            seen = now
            time.sleep(_IDLE_SECONDS)


_calls = _Calls()
atexit.register(_calls.wait_until_idle)


def call_numpy(function: Callable, inputs: list, dtype) -> tf.Tensor:
    """Returns ``function`` of arrays, computed by numpy when the pipeline comes to it.

    Args:
        function: of as many arrays as there are inputs, to one array; without side effects.
        inputs: tensors.
        dtype: of what it returns.
    """

    def counted(*arrays):
        with _calls:
            return function(*arrays)

    return tf.numpy_function(counted, inputs, dtype, stateful=False)
