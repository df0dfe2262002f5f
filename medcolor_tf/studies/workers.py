"""Where the runs of a study are executed: forks on this machine, or the workers of a cluster.

Each run is the command that `--dry_run` prints, in a process of its own, with its log; what is
shared is a process that has imported TensorFlow and is forked for it.
"""

import contextlib
import importlib
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcolor_tf import commandline
from medcolor_tf.errors import InputError
from medcolor_tf.locks import LOCK, locked, refusal
from medcolor_tf.parallel import cluster
from medcolor_tf.parallel.cluster import ClusterExecutor, WorkerLostError, chained
from medcolor_tf.parallel.fork_server import ForkExecutor, ServerLostError

# What a run's server imports for it.
PRELOADED = ("medcolor_tf.evaluation.evaluate", "medcolor_tf.training.trainer")
# On a cluster, settings of the study's own environment that decide on results.
PASSED_ON = (
    *("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS"),
    *("TF_NUM_INTEROP_THREADS", "XLA_FLAGS"),
)
THREADS = "TF_NUM_INTRAOP_THREADS"
MANY = 10_000
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RunTask:
    """A run as a worker needs it.

    Attributes:
        words: of its command, after "python".
        folder: the working directory.
        log: file that output is added to.
        run_dir: the run's folder.
        environment: variables to set.
    """

    words: tuple[str, ...]
    folder: str
    log: str
    run_dir: str
    environment: dict[str, str]


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        status: of its process: 0, an exit status, or minus the signal that killed it.
        seconds: that it took.
        reason: why, where the log cannot say.
    """

    status: int
    seconds: float
    reason: str = ""

    @classmethod
    def from_status(cls, status: int, begun: float) -> "RunEnd":
        """Returns the end, now, of a process that began at a time of ``perf_counter``."""
        reason = f"killed by {signal.Signals(-status).name}" if status < 0 else ""
        return cls(status, time.perf_counter() - begun, reason)


NOT_BEGUN = RunEnd(128 + signal.SIGTERM, 0.0, "stopped before it began")


def preload() -> None:
    """Imports what every run needs, and begins nothing that a fork could not take over."""
    for name, value in commandline.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return  # JAX starts threads when it is imported: a run imports it itself
    commandline.import_tensorflow(devices=False)
    for name in PRELOADED:
        importlib.import_module(name)


def run_command(task: RunTask) -> None:
    """Does a run in this process, which ends with it, as ``python -m ...`` does."""
    log = os.open(task.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(task.folder)
    os.environ.update(task.environment)
    if task.words[0] == "-m":
        sys.argv = list(task.words[1:])
        runpy.run_module(task.words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(task.words)
        runpy.run_path(task.words[0], run_name="__main__")


class LocalWorkers:
    """Runs on this machine.

    Args:
        jobs: runs at a time.
        lock: file descriptor of the study's lock, which runs keep open: a study that was killed
            stays locked until its last run has ended.
    """

    def __init__(self, jobs: int, lock: int):
        self.jobs = jobs
        self._executor = ForkExecutor(jobs, preload, (lock,))
        self._running: set[Future] = set()
        self._signalled: set[Future] = set()
        self._signum = 0

    def submit(self, task: RunTask) -> "Future[RunEnd]":
        """Starts a run."""
        begun = time.perf_counter()
        future = self._executor.submit(run_command, task)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        if self._signum and future not in self._signalled:  # it came just now
            self._executor.send_signal(future, self._signum)
        return chained(
            future,
            lambda error: _lost(error, begun),
            lambda status: RunEnd.from_status(status, begun),
        )

    def stop(self, signum: int) -> None:
        """Sends the runs at work a signal, upon which they save and end."""
        self._signum = signum
        for future in list(self._running):
            self._signalled.add(future)
            self._executor.send_signal(future, signum)

    def close(self) -> None:
        """Waits for the runs at work."""
        self._executor.shutdown()


class ClusterWorkers:
    """Runs on the workers of a cluster.

    Args:
        jobs: runs at a time; 0 for as many as the cluster takes.
        executor: of the cluster.
    """

    def __init__(self, jobs: int, executor: ClusterExecutor):
        from distributed import Event

        self.jobs = jobs or MANY
        self._executor = executor
        self._stop = Event(client=executor.client)
        self._running: set[Future] = set()
        slots = f"{executor.slots} at a time" if executor.slots else "none yet, runs wait for one"
        print(f"cluster: workers for {slots}", flush=True)

    def submit(self, task: RunTask) -> "Future[RunEnd]":
        """Hands a run to the cluster, which starts it when a worker is free."""
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment = commandline.ENVIRONMENT | {"KERAS_BACKEND": "tensorflow"} | passed
        task = replace(task, environment=environment)
        begun = time.perf_counter()
        future = self._executor.submit(run_on_worker, task, self._stop.name)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return chained(future, lambda error: _lost(error, begun))

    def stop(self, signum: int) -> None:
        """Has the runs at work save and end."""
        # Not Event.set, which waits: a signal's handler must not.
        client = self._executor.client
        client.loop.add_callback(client.scheduler.event_set, name=self._stop.name)

    def close(self) -> None:
        """Has runs that are still at work end, and waits for them."""
        if self._running:
            self._stop.set()
        self._executor.shutdown(wait=True)


Workers = LocalWorkers | ClusterWorkers


@contextlib.contextmanager
def started(config: Any, lock: int) -> Iterator[Workers]:
    """Yields the workers that a study asks for; waits at its end for the runs at work.

    Args:
        config: :class:`medcolor_tf.studies.config.StudyConfig`.
        lock: see :class:`LocalWorkers`.
    """
    with contextlib.ExitStack() as stack:
        if config.cluster:
            data = (config.data_dir, *config.target_dirs)
            connection = cluster.connected(config.cluster, config.study_dir, (os.getcwd(), *data))
            workers = ClusterWorkers(config.jobs, stack.enter_context(connection))
        else:
            workers = LocalWorkers(config.jobs or max(1, len(config.gpus)), lock)
        stack.callback(workers.close)
        yield workers


def _lost(error: BaseException, begun: float) -> RunEnd | BaseException:
    """A run whose worker was lost has failed; any other error is the study's."""
    if isinstance(error, ServerLostError | WorkerLostError):
        return RunEnd(1, time.perf_counter() - begun, str(error))
    return error


# -- on a cluster's workers ------------------------------------------------------------------------

_servers: dict[tuple, ForkExecutor] = {}


def run_on_worker(task: RunTask, stop_event: str) -> RunEnd:
    """Does a run on a worker of a cluster, in a fork that ends when the worker does.

    Args:
        task: the run.
        stop_event: name of the dask event upon which it is to save and end.
    """
    from distributed import Event, get_worker

    threads = max(1, (os.cpu_count() or 1) // get_worker().state.nthreads)
    environment = {THREADS: os.environ.get(THREADS, str(threads)), **task.environment}
    key = tuple(sorted(environment.items()))
    server = _servers.setdefault(
        key, ForkExecutor(MANY, preload, environment=environment, end_with_parent=True)
    )
    _wait_for_writer(Path(task.folder) / task.run_dir, Path(task.log))
    begun, event, is_stopping = time.perf_counter(), Event(stop_event), False
    if event.is_set():
        return NOT_BEGUN
    future = server.submit(run_command, task)
    while True:
        try:
            return RunEnd.from_status(future.result(timeout=_POLL_SECONDS), begun)
        except TimeoutError:
            if not is_stopping and event.is_set():
                is_stopping = True
                server.send_signal(future, signal.SIGTERM)
        except ServerLostError as error:
            return RunEnd(1, time.perf_counter() - begun, str(error))


def _wait_for_writer(run_dir: Path, log: Path) -> None:
    """Waits until a run's folder is free: that of a worker which was lost may still be ending."""
    path = run_dir / LOCK
    if not path.is_file():
        return

    def busy() -> None:
        with log.open("a", encoding="utf-8") as file:
            print(f"{refusal(f'run {run_dir}', path)}; waiting", file=file)

    with contextlib.suppress(OSError, InputError), locked(path, busy, shared=True, held=False):
        pass
