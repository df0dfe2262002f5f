"""Runs one function over many tasks, in processes or on a cluster, with a bounded queue of them."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool

from medcolor_tf.errors import InputError
from medcolor_tf.parallel.cluster import ClusterExecutor, WorkerLostError

# Of a cluster whose workers are still to come.
UNKNOWN_SLOTS = 16


def worker_count(workers: int, tasks: int) -> int:
    """Returns how many processes to use: ``workers``, or one per core when 0; at most ``tasks``."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(workers or available or 1, tasks))


def hide_gpus() -> None:
    """Keeps TensorFlow off the GPUs, in a process that only reads and writes records."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def _start_worker() -> None:
    hide_gpus()
    # Ctrl-C reaches the whole group: the parent ends its workers and reports.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A parent that was killed cannot tell its workers, which would wait for tasks for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def run_tasks(function: Callable, tasks: Iterable, workers: int) -> Generator:
    """Yields ``function(task)`` for every task, in the tasks' order.

    At most two tasks per worker are submitted ahead, so that memory does not grow with their
    number. One worker runs in this process. Closing the iterator drops what is queued and waits
    for what is running; an interruption ends the workers at once.

    Raises:
        InputError: a worker process died. Whatever ``function`` raises is raised here.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    # spawn, not fork: TensorFlow and its threads do not survive a fork.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    others = {child.pid for child in multiprocessing.active_children()}
    try:
        yield from _in_order(pool, function, tasks, 2 * workers)
    except BrokenProcessPool:
        raise InputError(
            "a worker process died, killed from outside or for want of memory. What was finished "
            "is kept and the same command continues; fewer --workers need less memory"
        ) from None
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_on_cluster(function: Callable, tasks: Iterable, executor: ClusterExecutor) -> Generator:
    """Yields ``function(task)`` for every task, in their order, from the workers of a cluster.

    What is queued is dropped when the iterator is closed; what is running ends by itself.

    Raises:
        InputError: a worker is unfit, or workers died at one task. Whatever ``function`` raises.
    """
    try:
        yield from _in_order(executor, function, tasks, 2 * (executor.slots or UNKNOWN_SLOTS))
    except WorkerLostError as error:
        raise InputError(
            f"--cluster: a shard could not be built, {error}. What was finished is kept and the "
            "same command continues; workers that hold fewer tasks need less memory"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _in_order(executor: Executor, function: Callable, tasks: Iterable, ahead: int) -> Generator:
    """Yields results in the tasks' order, with so many of them submitted ahead."""
    pending: collections.deque = collections.deque()
    for task in tasks:
        pending.append(executor.submit(function, task))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
