"""A worker process seen from the command: started, told to work, timed, and watched."""

import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cached_property
from typing import IO

from medcolor_tf.commandline import ENVIRONMENT


class WorkerError(Exception):
    """The worker cannot go on; says why."""


class Variant:
    """A worker process and what was measured of it.

    Args:
        name: as in the table.
        spec: what the worker builds, with "module", "work", and "batch" images per step.
        timeout: seconds to wait for any one answer, compiling included.
        environment: variables for the worker, where they are not set already.

    Attributes:
        rates: images/s of each round.
        processor: processor milliseconds per image of each round.
        peak: bytes, of the accelerator where the worker has one.
        threads: that an operation of the worker may use.
        program: what a step does, as its compiler counts; empty where it does not.
        problem: why it stopped working; "" while it works.
    """

    def __init__(self, name: str, spec: dict, timeout: float, environment: dict | None = None):
        self.name, self.spec, self.timeout = name, spec, timeout
        self.rates: list[float] = []
        self.processor: list[float] = []
        self.peak = self.threads = 0
        self.program: dict[str, float] = {}
        self.steps = 1
        self.problem = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **(environment or {}), **os.environ},
            text=True,
            errors="replace",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._said: collections.deque[str] = collections.deque(maxlen=20)
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if not stdin or not stdout or not stderr:
            raise AssertionError("subprocess.PIPE opens all three")
        self._stdin = stdin
        self._listener = threading.Thread(target=self._listen, args=(stdout,), daemon=True)
        self._reader = threading.Thread(target=self._read_errors, args=(stderr,), daemon=True)
        self._listener.start()
        self._reader.start()
        self._tell(json.dumps(spec))

    @cached_property
    def ready(self) -> bool:
        """Waits until the worker is warm; False, with a problem, where it cannot work."""
        try:
            answer = self._hear()
            self.threads, self.program = answer["threads"], answer["program"]
        except WorkerError as error:
            self._fail(error)
        return not self.problem

    def measure(self, steps: int) -> bool:
        """Does some steps and keeps the rate; False, with a problem, where the worker failed."""
        try:
            self._tell(str(steps))
            answer = self._hear()
        except WorkerError as error:
            self._fail(error)
            return False
        images = steps * self.spec["batch"]
        self.rates.append(images / answer["seconds"])
        self.processor.append(1000 * answer["processor_seconds"] / images)
        self.peak = max(self.peak, answer["peak_bytes"])
        return True

    def calibrate(self, seconds: float) -> bool:
        """Finds how many steps fill a turn; nothing of it is kept."""
        for _ in range(2):  # the first one may still be slow from the start
            if not self.measure(self.steps):
                return False
            step = self.spec["batch"] / self.rates[-1]
            self.steps = max(1, round(seconds / step))
        self.rates.clear()
        self.processor.clear()
        return True

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(timeout=60 if not self.problem else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in (self._listener, self._reader):
            thread.join(timeout=10)  # each closes its pipe at the end

    def _listen(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                self._answers.put(line)
        self._answers.put("")  # the end

    def _read_errors(self, stderr: IO[str]) -> None:
        with stderr:
            self._said.extend(line.strip() for line in stderr if line.strip())

    def _tell(self, line: str) -> None:
        # A worker that has ended says so, or why, in what it answered before.
        with contextlib.suppress(OSError):
            print(line, file=self._stdin, flush=True)

    def _hear(self) -> dict:
        try:
            line = self._answers.get(timeout=self.timeout)
        except queue.Empty:
            raise WorkerError(f"no answer in {self.timeout:g} s") from None
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait(timeout=60)
        self._reader.join(timeout=10)
        said = self._said[-1] if self._said else "nothing on standard error"
        return f"ended with status {status}: {said[:200]}"

    def _fail(self, error: WorkerError) -> None:
        self.problem = str(error)
        self._process.kill()


def in_turns(started: Iterable[Variant], rounds: int, seconds: float) -> list[Variant]:
    """Lets workers work in turns of some seconds; returns those that did all rounds."""
    working = [variant for variant in started if variant.ready]
    working = [variant for variant in working if variant.calibrate(seconds)]
    for turn in range(rounds):
        # Every other round backwards: who comes after whom should not matter.
        for variant in working if turn % 2 == 0 else working[::-1]:
            variant.measure(variant.steps)
        working = [variant for variant in working if not variant.problem]
    return working
