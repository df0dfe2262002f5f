"""Commands in forks of a process that has imported TensorFlow, for tests that start many.

A command takes seconds to import TensorFlow, Keras and JAX, and most tests of commands have nothing
to say about that. :class:`Forks` starts one process that imports them and does nothing with them,
and forks it for each command. What runs there is what ``python -m NAME`` or ``python -c CODE``
runs: the main module of a process of its own, with its arguments, variables, folder, signals and
exit. Libraries read some variables when they are imported: those must be given to :class:`Forks`.

Run as a program, this file is that process:

    python forks.py DESCRIPTOR

It takes requests from a socket, a message each: JSON and the descriptors of standard output, of
standard error and of the pipe for the process' number and its wait status.
"""

import contextlib
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LARGEST_REQUEST = 1 << 17
NUMBER = struct.Struct("i")
# Read while TensorFlow, Keras, JAX or NumPy is imported.
AT_IMPORT = ("TF_", "KERAS_", "JAX_COMPILATION_", "JAX_PERSISTENT_", "OMP_", "OPENBLAS_", "CUDA_")


class Fork:
    """A command that runs; a :class:`subprocess.Popen` as far as tests use one.

    Attributes:
        args: what follows ``python`` on the command line.
        pid: number of the process.
        returncode: exit status, or minus the signal; None while it runs.
    """

    def __init__(self, args: list[str], status: int, pipes: list[int]):
        self.args, self.returncode = args, None
        self._status, self._text = status, ["" for _ in pipes]
        self.pid = self._read_number(None)
        self._readers = [
            threading.Thread(target=self._read_all, args=(place, pipe), daemon=True)
            for place, pipe in enumerate(pipes)
        ]
        for reader in self._readers:
            reader.start()

    def _read_all(self, place: int, pipe: int) -> None:
        with open(pipe, encoding="utf-8", errors="replace") as file:
            self._text[place] = file.read()

    def _read_number(self, timeout: float | None) -> int:
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        content = os.read(self._status, NUMBER.size)
        assert content, "the process that forks has ended"
        return NUMBER.unpack(content)[0]

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit status; subprocess.TimeoutExpired where it still runs."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(self._read_number(timeout))
            os.close(self._status)
        return self.returncode

    def poll(self) -> int | None:
        """Returns the exit status; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Returns what was written to standard output and standard error, up to the end of both."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.wait(timeout)
        for reader in self._readers:
            reader.join(None if deadline is None else max(0.1, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        output, errors = (*self._text, "")[:2]
        return output, errors

    def send_signal(self, signum: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Sends SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that imports and forks; a context manager.

    Args:
        variables: of the environment, for what is imported: ``KERAS_BACKEND="jax"``.
    """

    def __init__(self, **variables: str):
        self._own, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
        with server:
            number = server.fileno()
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(number)],
                env=self.environment,
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
            )

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: Any) -> None:
        self._own.close()
        self._server.wait(60)

    def start(
        self,
        args: list[str],
        environment: dict[str, str] | None = None,
        cwd: Path | str = ROOT,
        merge: bool = False,
    ) -> Fork:
        """Starts ``python`` with ``args``: "-m", a module's name and its arguments, or "-c", code.

        Args:
            args: what follows ``python``.
            environment: variables to set beside :attr:`environment`.
            cwd: folder that it runs in.
            merge: writes standard error into standard output.
        """
        variables = {**self.environment, **(environment or {})}
        for name, value in variables.items():
            late = name.startswith(AT_IMPORT) and value != self.environment.get(name)
            assert not late, f"{name} is read when libraries are imported"
        request = {"args": args, "environment": variables, "cwd": str(cwd)}
        status, write_status = os.pipe()
        pipes = [os.pipe() for _ in range(1 if merge else 2)]
        given = [pipes[0][1], pipes[-1][1], write_status]
        try:
            socket.send_fds(self._own, [json.dumps(request).encode()], given)
        finally:
            for descriptor in set(given):
                os.close(descriptor)
        return Fork(args, status, [read for read, _ in pipes])

    def run(self, args: list[str], timeout: float = 240, **options: Any):
        """Runs :meth:`start`'s command to its end; returns a subprocess.CompletedProcess."""
        process = self.start(args, **options)
        try:
            output, errors = process.communicate(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(args, process.wait(), output, errors)


def import_all() -> None:
    """Imports what commands import, and checks that nothing of it has started."""
    import tensorflow  # noqa: F401  # not by import_tensorflow, which looks for devices
    from tensorflow.python.eager import context

    import medcolor_tf.evaluation.evaluate
    import medcolor_tf.training.trainer  # noqa: F401

    started = context.context_safe()
    assert started is None or not started._initialized
    if os.environ.get("KERAS_BACKEND") == "jax":
        from jax._src import xla_bridge

        assert not xla_bridge.backends_are_initialized()
    assert threading.active_count() == 1


def serve(requests: socket.socket) -> dict | None:
    """Forks for each request; returns it in the process that is to do it, None after the last."""
    waiting: set[int] = set()
    while True:
        content, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 3)
        # What ended, for its processor time to be counted; after the last request all do.
        waiting -= {pid for pid in waiting if os.waitpid(pid, os.WNOHANG if content else 0)[0]}
        if not content:
            return None
        if pid := _fork():
            waiting.add(pid)
        else:
            requests.close()
            _become(descriptors)
            return json.loads(content)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: those of libraries wait, and JAX' are to come
        return os.fork()


def _become(descriptors: list[int]) -> None:
    """Forks the command's process, which goes on; this one waits for it and tells its end."""
    output, errors, status = descriptors
    if pid := _fork():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(output)
        os.close(errors)
        os.write(status, NUMBER.pack(pid))
        os.write(status, NUMBER.pack(os.waitpid(pid, 0)[1]))
        os._exit(0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    for descriptor in {output, errors, status}:
        os.close(descriptor)


def do(request: dict) -> None:
    """Does in this process what ``python`` does with the request's arguments."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    random.seed()
    import numpy as np

    np.random.seed()
    kind, what, *arguments = request["args"]
    sys.path[0] = ""
    if kind == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    sys.argv = ["-c", *arguments]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    server = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()  # imports make hardly any garbage
    import_all()
    gc.freeze()  # the garbage collector of a fork need not copy all that is imported
    received = serve(server)
    if received:
        gc.enable()
        do(received)
