"""What several processes say and do when one of them fails or is lost.

:class:`Watch` tells an error to the others through JAX' coordination service. Where JAX misses a
process it aborts the others from a thread of its own, and no Python code runs any more: there
:class:`LastWords`, a small child process, says what to do.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from medcolor_tf.errors import InputError

# How long a process that lives may take to answer an alarm, on a busy machine.
ANSWER_SECONDS = 5.0
# How long the others may take to raise the same error by themselves.
SAME_ERROR_SECONDS = 1.0
# How much longer process 0 stays, with which the coordination service ends.
MAIN_PROCESS_SECONDS = 1.0
FOREVER_MS = 10**11
ALARM, ALIVE = "medcolor_tf/alarm", "medcolor_tf/alive/"
# Reads sentences, and prints the last one when the process that wrote them is gone.
_CHILD = """
import sys
words = b""
for line in sys.stdin.buffer:
    words = line.strip()
if words:
    sys.stderr.buffer.write(b"\\nerror: " + words + b"\\n")
"""


class LastWords:
    """A sentence on the error stream when this process ends, however it ends: abort, kill, crash.

    Args:
        words: the sentence.
    """

    def __init__(self, words: str):
        # In a session of its own: Ctrl-C is for this process, which cancels the words.
        command = [sys.executable, "-I", "-S", "-c", _CHILD]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self.change(words)

    def change(self, words: str) -> None:
        """Sets another sentence; "" for none."""
        assert self._child.stdin
        with contextlib.suppress(OSError, ValueError):  # the child was killed, or has ended
            self._child.stdin.write(os.fsencode(" ".join(words.split())) + b"\n")
            self._child.stdin.flush()

    def cancel(self) -> None:
        """Ends the child: from now on this process ends without a word."""
        self.change("")
        with contextlib.suppress(OSError, ValueError):
            self._child.communicate()


class Watch:
    """Ends this process when another one fails or is lost, whatever its main thread is doing.

    Args:
        number: of this process.
        names: of all processes, by number.
        words: changed to what to do after an end that only JAX has seen coming.
        client: of JAX' coordination service; None where there is none, and only JAX watches.
        stop: called with the error's text; ends this process with status 1.
    """

    def __init__(
        self,
        number: int,
        names: list[str],
        words: LastWords,
        client: Any,
        stop: Callable[[str], None] | None = None,
    ):
        self._number, self._names, self._words, self.client = number, names, words, client
        self._stop = stop or _stop
        self._advice: Callable[[], str] = str
        self._ending = threading.Lock()  # taken for good by the first reason to end
        self._own_error = threading.Event()  # set when an error is found to be this process' own
        self.refresh()
        if client:
            threading.Thread(target=self._listen, daemon=True).start()

    def advise(self, advice: Callable[[], str]) -> None:
        """Sets what is called for the end of the error's text: what is kept and what to do."""
        self._advice = advice
        self.refresh()

    def refresh(self) -> None:
        """Makes the last words those of now."""
        name = self._names[self._number]
        self._words.change(
            f"{name} ended unexpectedly: another process was lost, as JAX says above, or this one "
            f"was killed{self._advice()}"
        )

    def leave(self) -> None:
        """From now on nothing ends this process, and it ends without a word."""
        self._ending.acquire(blocking=False)
        self._words.cancel()

    def fail(self, error: BaseException) -> None:
        """Tells the others why this process ends, unless it is because another one does.

        Does not return where another process is lost or failed first: its name is the news then.
        """
        refused = isinstance(error, InputError)
        certain = refused or not isinstance(error, Exception)  # else perhaps the end of another one
        alarm = {
            "number": self._number,
            "reason": str(error) if refused else f"{type(error).__name__}: {error}",
            "certain": certain,
            "may_go_on": not refused,
        }
        if certain:
            self._ending.acquire()
        if self.client:
            with contextlib.suppress(Exception):  # there is an alarm already, or no service
                self.client.key_value_set(ALARM, json.dumps(alarm))
            if not certain:
                self._own_error.wait(2 * ANSWER_SECONDS)
            if self._number == 0:
                time.sleep(SAME_ERROR_SECONDS + MAIN_PROCESS_SECONDS)
        if not certain:
            self._ending.acquire()
        if self.client or certain:  # else the last words are all that tells what to do
            self._words.cancel()

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # the service has ended: in peace, or JAX will abort
            alarm = json.loads(self.client.blocking_key_value_get(ALARM, FOREVER_MS))
            own = alarm["number"] == self._number
            if alarm["certain"]:
                time.sleep(0 if own else SAME_ERROR_SECONDS)
            elif lost := self._missing():
                names = ", ".join(self._names[number] for number in lost)
                return self._end(f"{names} was lost{self._advice()}")
            if own:
                return self._own_error.set()
            advice = self._advice() if alarm["may_go_on"] else ""
            self._end(
                f"{self._names[alarm['number']]} ended with an error: {alarm['reason']}{advice}"
            )

    def _missing(self) -> list[int]:
        """Numbers of the processes that do not answer."""
        self.client.key_value_set(f"{ALIVE}{self._number}", "")
        time.sleep(ANSWER_SECONDS)
        answers = self.client.key_value_dir_get(ALIVE)
        alive = {int(key.rpartition("/")[2]) for key, _ in answers}
        return sorted(set(range(len(self._names))) - alive)

    def _end(self, text: str) -> None:
        if not self._ending.acquire(blocking=False):
            return
        if self._number == 0:
            time.sleep(MAIN_PROCESS_SECONDS)
        self._words.cancel()
        self._stop(text)


def coordination_client() -> Any:
    """Returns the client of JAX' coordination service, None where JAX has moved it.

    A private name, the only one here: JAX gives its key-value store no public one. Without it all
    works but the reason why another process ends.
    """
    try:
        from jax._src import distributed

        return distributed.global_state.client
    except (ImportError, AttributeError):
        return None


def _stop(text: str) -> None:
    try:
        print(f"\nerror: {text}", file=sys.__stderr__, flush=True)
        if sys.__stdout__:
            sys.__stdout__.flush()
    finally:
        os._exit(1)
