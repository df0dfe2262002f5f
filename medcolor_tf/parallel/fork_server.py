"""Commands in fresh processes that have TensorFlow imported already: the forks of one server.

A process that has imported TensorFlow, and begun nothing with it, forks within milliseconds. Each
command still has a process of its own, so it computes what it computes when it is started by hand,
its memory goes back to the system at its end, and a crash is its own alone. What it does not do
again is the import: seconds of processor time.

The server is started anew, not forked from its user: neither the user's threads nor its open files
are in it. It has one thread of Python and looks for no devices, so that a fork may take any.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from typing import Any

_CODE = "import sys; sys.path[:] = {path!r}; from {module} import main; main({handle}, {ends!r})"


class ServerLostError(Exception):
    """Raised by calls whose server has died: how they ended, nobody knows."""


class ForkExecutor(Executor):
    """Runs each call in a fork of a server process; its result is the fork's exit status.

    A call ends as a program does: with the status it returns or hands to ``sys.exit``, 1 after an
    exception (whose traceback is on standard error), or minus the signal that killed it. A server
    that dies costs the calls at work; the next one has a new server.

    Args:
        max_workers: calls at a time; the others wait.
        preload: called by the server first, such as for imports; what it raises is left to the
            calls, which then need longer.
        pass_fds: file descriptors that server and calls keep open, such as a lock's.
        environment: of the server, beside this process' own.
        end_with_parent: whether calls get SIGTERM when this process dies, instead of going on.
    """

    def __init__(
        self,
        max_workers: int,
        preload: Callable[[], Any] | None = None,
        pass_fds: Iterable[int] = (),
        environment: Mapping[str, str] | None = None,
        end_with_parent: bool = False,
    ):
        self._max_workers, self._preload = max_workers, preload
        self._pass_fds, self._environment = tuple(pass_fds), dict(environment or {})
        self._end_with_parent = end_with_parent
        self._lock = threading.RLock()  # signal handlers may call from the thread that has it
        self._waiting: collections.deque[tuple[Future, bytes]] = collections.deque()
        self._server: _Server | None = None
        self._is_closed = False

    def submit(self, fn: Callable[..., int | None], /, *args: Any, **kwargs: Any) -> Future[int]:
        """Has a fork call ``fn``, a function that a new process can import.

        Returns:
            Future of the exit status; ServerLostError where it will never be known.
        """
        future: Future[int] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append((future, pickle.dumps((fn, args, kwargs))))
            self._start_waiting()
        return future

    def send_signal(self, future: Future, signum: int) -> None:
        """Sends a signal to the fork of a call; nothing where it is not at work."""
        with self._lock:
            if self._server:
                self._server.send_signal(future, signum)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the server when the calls have ended; see :class:`concurrent.futures.Executor`."""
        with self._lock:
            self._is_closed = True
            if cancel_futures:
                for future, _ in self._waiting:
                    future.cancel()
                self._waiting.clear()
            server = self._server
            if server and not server.running and not self._waiting:
                server.close()
        if wait and server:
            server.join()

    def _start_waiting(self) -> None:
        """Sends the server calls while it may have more; the lock is held."""
        while self._waiting and (not self._server or len(self._server.running) < self._max_workers):
            future, call = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            if self._server is None:
                self._server = _Server(self)
            try:
                self._server.start(future, call)
            except OSError:  # it has died this moment
                self._server = _Server(self)
                self._server.start(future, call)

    def _ended(self, server: "_Server") -> None:
        """Goes on after a call has ended, or the server itself."""
        with self._lock:
            if server.is_lost and self._server is server:
                self._server = None
            self._start_waiting()
            if self._is_closed and self._server and not self._server.running:
                self._server.close()


class _Server:
    """The server as its user sees it: a process, a pipe, and a thread that hears from it."""

    def __init__(self, executor: ForkExecutor):
        self.running: dict[int, Future] = {}
        self.is_lost = False
        self._executor, self._numbers = executor, itertools.count()
        ours, theirs = multiprocessing.Pipe()
        code = _CODE.format(
            path=sys.path,
            module=__name__,
            handle=theirs.fileno(),
            ends=executor._end_with_parent,
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **executor._environment},
                pass_fds=(theirs.fileno(), *executor._pass_fds),
                process_group=0,  # Ctrl-C is for its user, who passes it on, once
            )
        self._connection = ours
        ours.send(executor._preload)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def start(self, future: Future, call: bytes) -> None:
        """Has a fork make a call; OSError where the server is dead."""
        number = next(self._numbers)
        self._connection.send((number, call))
        self.running[number] = future

    def send_signal(self, future: Future, signum: int) -> None:
        """Passes a signal on; the server knows which forks live, so none else gets it."""
        for number, other in list(self.running.items()):
            if other is future:
                with contextlib.suppress(OSError):
                    self._connection.send((number, signum))

    def close(self) -> None:
        """Lets the server go, which has nothing to do."""
        with contextlib.suppress(OSError):
            self._connection.send(None)

    def join(self) -> None:
        """Waits for its end."""
        self._thread.join()

    def _listen(self) -> None:
        """Completes futures until the server is gone."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, status = self._connection.recv()
                with self._executor._lock:
                    future = self.running.pop(number)
                self._executor._ended(self)
                future.set_result(status)
        with self._executor._lock:
            self.is_lost, lost = True, list(self.running.values())
            self.running.clear()
        status = self._process.wait()
        self._executor._ended(self)
        for future in lost:
            future.set_exception(ServerLostError(f"the server of its process died ({status})"))
        self._connection.close()


# -- in the server ---------------------------------------------------------------------------------


def main(handle: int, end_with_parent: bool) -> None:
    """Serves until the user is gone; in a fork, makes its call and ends this process.

    Args:
        handle: file descriptor of the pipe.
        end_with_parent: see :class:`ForkExecutor`.
    """
    connection = Connection(handle)
    os.set_inheritable(handle, False)
    with contextlib.suppress(Exception):  # the calls that need it say better what is wrong
        preload = connection.recv()
        if preload:
            preload()
    call = _Forks(connection).serve(end_with_parent)
    if call:
        function, args, kwargs = pickle.loads(call)
        sys.exit(function(*args, **kwargs))


class _Forks:
    """Forks a process per call and reports their ends.

    Args:
        connection: to the user.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        self._numbers: dict[int, int] = {}  # process -> number of the call
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)

    def serve(self, end_with_parent: bool) -> bytes | None:
        """Works until the user is gone; returns the call in a fork, None in the server."""
        while True:
            for ready in wait([self._connection, self._wake]):
                if ready is self._connection:
                    try:
                        message = self._connection.recv()
                    except (EOFError, OSError):
                        message = None
                        if end_with_parent:
                            self._end_all()
                    if message is None:
                        return None
                    number, content = message
                    if isinstance(content, int):
                        self._signal(number, content)
                    elif call := self._fork(number, content):
                        return call
                else:
                    os.read(self._wake, 4096)
                    self._reap()

    def _fork(self, number: int, call: bytes) -> bytes | None:
        pid = os.fork()
        if pid:
            self._numbers[pid] = number
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._connection.close()
        os.close(self._wake)
        os.close(self._woken)
        return call

    def _reap(self) -> None:
        for pid in list(self._numbers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                number = self._numbers.pop(pid)
                with contextlib.suppress(OSError):  # the user is gone
                    self._connection.send((number, os.waitstatus_to_exitcode(status)))

    def _signal(self, number: int, signum: int) -> None:
        for pid, own in self._numbers.items():
            if own == number:
                os.kill(pid, signum)

    def _end_all(self) -> None:
        for pid in self._numbers:
            os.kill(pid, signal.SIGTERM)
        for pid in self._numbers:
            os.waitpid(pid, 0)
