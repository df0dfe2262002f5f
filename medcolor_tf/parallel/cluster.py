"""Calls on the workers of a dask.distributed cluster, which its user has started.

All machines need the same versions and one file system: each call looks first whether its worker
has both, since workers may come while others are at work. A worker that dies costs nothing but
time: dask gives its calls to another one.
"""

import contextlib
import importlib.metadata
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medcolor_tf
from medcolor_tf.errors import InputError
from medcolor_tf.files import remove, temporary_for, write_atomically

CLUSTER_HELP = (
    "Address of a dask.distributed scheduler (tcp://HOST:8786), or the JSON file that it wrote "
    "(--scheduler-file): its workers do the work. See docs/studies.md."
)
SECONDS_TO_CONNECT = 20.0
# What decides on results beside our own version.
PACKAGES = ("tensorflow", "keras", "numpy", "pillow")
GPU = "GPU"


class ClusterLostError(InputError):
    """Raised where the scheduler is gone: what its workers have finished is in their folders."""


class WorkerLostError(Exception):
    """Raised by a call that ended several workers, one after the other."""


@dataclass(frozen=True)
class Requirements:
    """What a worker must have.

    Attributes:
        token_file: in a folder that it must see.
        token: the file's content.
        folders: further ones that must be there.
        versions: of medcolor_tf and PACKAGES.
    """

    token_file: str
    token: str
    folders: tuple[str, ...]
    versions: dict[str, str]

    def check(self) -> Callable[[], str]:
        """Returns a function that says what is wrong where it is called; "" for nothing.

        It is pickled as code, not by name, so that a worker without this module can call it.
        """
        token_file, token, folders = self.token_file, self.token, self.folders
        versions = self.versions

        def problem() -> str:
            import importlib.metadata
            import os

            for name, expected in versions.items():
                try:
                    if name == "medcolor_tf":
                        received = importlib.import_module(name).__version__
                    else:
                        received = importlib.metadata.version(name)
                except ImportError:  # PackageNotFoundError is one
                    received = "none"
                if received != expected:
                    return f"expected {name} {expected} as here, received {received}"
            try:
                with open(token_file, encoding="utf-8") as file:
                    seen = file.read() == token
            except OSError:
                seen = False
            if not seen:
                folder = os.path.dirname(token_file)
                return f"does not see {folder}: expected a file system that all machines share"
            for folder in folders:
                if not os.path.isdir(folder):
                    return f"does not see {folder}: expected the same folders on all machines"
            return ""

        return problem


class ClusterExecutor(Executor):
    """Runs calls on a cluster's workers; see :func:`connected`.

    Attributes:
        client: dask's.
        slots: calls that the workers of this moment take at a time.
    """

    def __init__(self, client: Any, requirements: Requirements):
        self.client, self._requirements = client, requirements
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        gpus = sum(int(worker["resources"].get(GPU, 0)) for worker in workers)
        self.slots = gpus or sum(worker["nthreads"] for worker in workers)
        # The same call twice is done twice; a worker with GPUs does one at a time on each.
        options = {"pure": False, **({"resources": {GPU: 1}} if gpus else {})}
        self._inner = client.get_executor(**options)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Has a worker call ``fn``.

        Returns:
            Future of its result; of InputError where a worker is unfit, ClusterLostError,
            WorkerLostError, or what ``fn`` raises.
        """
        return chained(
            self._inner.submit(_checked_call, self._requirements, fn, args, kwargs), _translated
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the executor, not the cluster."""
        self._inner.shutdown(wait=wait and not cancel_futures)


def _checked_call(requirements: Requirements, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Calls a function on a worker, where that is fit."""
    if problem := requirements.check()():
        from distributed import get_worker

        raise InputError(f"worker {get_worker().address} {problem}")
    return function(*args, **kwargs)


def _translated(error: BaseException) -> BaseException:
    """Returns what a call's error means to us."""
    from distributed import KilledWorker

    if isinstance(error, CancelledError) or type(error).__name__ == "FutureCancelledError":
        return ClusterLostError(
            "--cluster: the connection to the scheduler is lost. What was finished is kept; the "
            "same command goes on when there is a scheduler again"
        )
    if isinstance(error, KilledWorker):
        return WorkerLostError(f"its workers died, one after the other ({error})")
    return error


def chained(
    future: Future,
    of_error: Callable[[BaseException], Any] = lambda error: error,
    of_result: Callable[[Any], Any] = lambda result: result,
) -> Future:
    """Returns a future of what another one's result or error becomes.

    Args:
        future: the other one.
        of_error: an exception stays one; anything else is the result.
        of_result: the same for results.
    """
    after: Future = Future()
    after.set_running_or_notify_cancel()

    def finish(done: Future) -> None:
        error = CancelledError() if done.cancelled() else done.exception()
        outcome = of_result(done.result()) if error is None else of_error(error)
        if isinstance(outcome, BaseException):
            after.set_exception(outcome)
        else:
            after.set_result(outcome)

    future.add_done_callback(finish)
    return after


@contextlib.contextmanager
def connected(
    address: str, folder: str | Path, others: Iterable[str | Path] = ()
) -> Iterator[ClusterExecutor]:
    """Yields an executor whose calls run on the workers of a cluster.

    Args:
        address: of the scheduler, or its --scheduler-file.
        folder: that this process can write to and all workers must see; a token is left there
            meanwhile.
        others: further folders that they must see.

    Raises:
        InputError: dask is missing, no scheduler answers, or a worker has other versions or does
            not see the folders.
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "--cluster: dask.distributed is not installed; pip install 'medcolor_tf[cluster]'"
        ) from None
    where: dict[str, Any] = (
        {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    )
    if "scheduler_file" in where and not os.path.isfile(address):
        raise InputError(f"--cluster={address}: no such file; expected a scheduler's own")
    try:
        client = Client(**where, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--cluster={address}: no scheduler answers there within {SECONDS_TO_CONNECT:g} "
            f"seconds ({_first_line(error)}); expected the address that `dask scheduler` prints, "
            "such as tcp://HOST:8786"
        ) from None
    token_file = temporary_for(Path(folder).resolve() / "cluster")
    with client:
        token = secrets.token_hex(16)
        write_atomically(token_file, token)
        try:
            places = tuple(str(Path(other).resolve()) for other in others)
            requirements = Requirements(str(token_file), token, places, _versions())
            _check_workers(client, requirements, address)
            yield ClusterExecutor(client, requirements)
        finally:
            remove(token_file)


def _check_workers(client: Any, requirements: Requirements, address: str) -> None:
    """Raises InputError where a worker that is there now is unfit."""
    for worker, problem in client.run(requirements.check()).items():
        if problem:
            raise InputError(f"--cluster={address}: worker {worker} {problem}")


def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"medcolor_tf": medcolor_tf.__version__, **versions}


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
