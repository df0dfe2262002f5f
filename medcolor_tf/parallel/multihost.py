"""Several processes train one model on Keras' JAX backend (--hosts): start, shares, one writer.

`jax.distributed` starts the processes and watches their heartbeats; what they tell each other goes
through `jax.experimental.multihost_utils`. keras.distribution.DataParallel splits every batch over
the devices of all processes; the compiled step sees the whole batch, so that loss, batch
normalisation and the augmentation's draws are those of one process. Neither Keras nor JAX is
imported before there are several processes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.interrupts import Interrupted, exit_status
from medcolor_tf.parallel.hosts import find_cluster, start_jax
from medcolor_tf.parallel.watch import LastWords, Watch, coordination_client

if TYPE_CHECKING:
    import keras

# Machines may see the data elsewhere. One that sees the run elsewhere is told by Run.check_shared.
_MAY_DIFFER = {"hosts", "host_number", "hosts_timeout", "data_dir", "run_dir", "cache"}


class Processes:
    """The processes that train together, seen from one of them; one alone by default.

    Every method is called by all of them, in one order.

    Attributes:
        number: of this process, 0 to ``count - 1``.
        count: of all.
        machines: host name of each process, by number.
    """

    def __init__(self, number: int = 0, count: int = 1):
        self.number, self.count = number, count
        self.watch: Watch | None = None
        self.machines = self.all_gather(socket.gethostname())

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes the run folder and speaks to the user."""
        return self.number == 0

    @property
    def part(self) -> tuple[int, int]:
        """(number, count), as the data pipeline takes a share."""
        return self.number, self.count

    @property
    def local_process_count(self) -> int:
        """Number of processes on this machine."""
        return self.machines.count(self.machines[self.number])

    def name(self, number: int) -> str:
        """Returns "process 1 of 2 (its machine)"."""
        return f"process {number} of {self.count} ({self.machines[number]})"

    def all_gather(self, value: Any) -> list:
        """Returns the JSON value of every process, by number."""
        if self.count == 1:
            return [value]
        return [json.loads(data) for data in self._gather_bytes(json.dumps(value).encode())]

    def broadcast_from_main(self, make: Callable[[], Any]) -> Any:
        """Calls ``make`` in process 0 alone and returns its JSON value in all of them."""
        return self.all_gather(make() if self.is_main_process else None)[0]

    def gather_rows(self, parts: list[np.ndarray], total: int) -> np.ndarray:
        """Puts the rows of all processes in order: process k of n has rows k, k + n, ...

        Args:
            parts: this process' rows, of numbers or text, in some arrays one after the other; none
                where there are more processes than rows.
            total: rows of all processes.
        """
        if self.count == 1:
            return np.concatenate(parts)
        own = _to_bytes(np.concatenate(parts)) if parts else b""
        shares = [_from_bytes(data) if data else None for data in self._gather_bytes(own)]
        known = [share for share in shares if share is not None]
        rows = np.empty((total, *known[0].shape[1:]), np.result_type(*known))
        for number, share in enumerate(shares):
            if share is not None:
                rows[number :: self.count] = share
        return rows

    def check_same(self, own: dict) -> None:
        """Checks that all have the same JSON values; InputError in all where one has not."""
        main, *others = self.all_gather(own)
        for number, other in enumerate(others, start=1):
            names = sorted(main.keys() | other.keys())
            pairs = [
                f"{name}={other.get(name)} (there: {main.get(name)})"
                for name in names
                if other.get(name) != main.get(name)
            ]
            if pairs:
                raise InputError(
                    f"process {number} was started with {', '.join(pairs)}, another value than "
                    "process 0; expected the same everywhere"
                )

    def distribution(self) -> contextlib.AbstractContextManager:
        """Returns a context in which Keras makes variables for all processes and splits batches.

        All begin it together, since JAX gives the processes half a minute to connect for the first
        common operation of some devices, and models are not built equally fast everywhere.
        """
        if self.count == 1:
            return contextlib.nullcontext()
        import keras

        self.all_gather(None)
        names = [f"{device.platform}:{device.id}" for device in _all_devices()]
        return keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope()

    def replicate(self, variables: Iterable[keras.Variable]) -> None:
        """Makes variables those of all processes, with the values that process 0 has.

        Keras does so for variables that are made in :meth:`distribution`, but there JAX compares
        each of them between all processes, and ends the run where a random draw or a processor has
        rounded differently.
        """
        if self.count == 1:
            return
        import jax
        from jax.experimental import multihost_utils

        mesh = jax.sharding.Mesh(np.array(_all_devices()), ("batch",))
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        variables = list({id(variable): variable for variable in variables}.values())
        values = [np.array(variable.value, order="C") for variable in variables]
        # As bytes: one program, whatever the number of variables, that changes no bit.
        data = np.concatenate([value.reshape(-1).view(np.uint8) for value in values])
        data = np.asarray(multihost_utils.broadcast_one_to_all(data))
        parts = np.split(data, np.cumsum([value.nbytes for value in values])[:-1])
        for variable, value, part in zip(variables, values, parts, strict=True):
            value = part.copy().view(value.dtype).reshape(value.shape)
            variable.assign(_global_array(value, everywhere))

    def stop_signal(self, signum: int, step: int) -> int:
        """Returns the signal that ends all processes after ``step``, 0 to go on.

        Called after every execution, once its result is there. A process with a signal names the
        end of the next execution: all know of it by then, since none ends it without this one. Of
        several signals the first counts.

        Args:
            signum: the signal that this process has, 0 for none.
            step: steps done.
        """
        client = self.watch and self.watch.client
        if self.count == 1 or not client:
            return signum if self.count == 1 else 0
        if signum:
            with contextlib.suppress(Exception):  # another process has named a step before
                client.key_value_set(STOP, json.dumps([step + 1, signum]))
        try:
            last, signum = json.loads(client.key_value_try_get(STOP))
        except Exception:
            return 0
        return signum if step >= last else 0

    def advise(self, advice: Callable[[], str]) -> None:
        """Sets what the error says at its end when another process is gone."""
        if self.watch:
            self.watch.advise(advice)

    def _gather_bytes(self, data: bytes) -> list[bytes]:
        """The bytes of every process, by number."""
        from jax.experimental import multihost_utils

        sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
        # Powers of two, since JAX compiles a program for every size.
        own = np.zeros(1 << int(max(sizes)).bit_length(), np.uint8)
        own[: len(data)] = np.frombuffer(data, np.uint8)
        rows = multihost_utils.process_allgather(own)
        if self.watch:
            self.watch.refresh()
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


STOP = "medcolor_tf/stop"
ALONE = Processes()


@contextlib.contextmanager
def joined(config: Any) -> Iterator[Processes]:
    """Meets the other processes of --hosts and parts from them at the end.

    Args:
        config: options of a run, a dataclass whose fields are the flags.

    Raises:
        InputError: another backend than JAX, no coordinator, options that differ, or a batch that
            the devices cannot share.
    """
    cluster = find_cluster(config.hosts, config.host_number)
    if cluster.num_processes == 1:
        yield ALONE
        return
    import keras

    if keras.backend.backend() != "jax":
        raise InputError(
            f"--hosts={','.join(config.hosts)}: several processes need KERAS_BACKEND=jax in the "
            f"environment, received {keras.backend.backend()}"
        )
    import jax

    words = LastWords(
        f"{cluster.place} within {config.hosts_timeout:g} s (--hosts_timeout); see that all were "
        "started with the same --hosts, each with a number of its own, and reach that address"
    )
    try:
        start_jax(cluster, config.hosts_timeout)
        processes = Processes(jax.process_index(), jax.process_count())
    except BaseException:
        words.cancel()
        raise
    if processes.count == 1:  # a launcher's single task
        words.cancel()
        yield ALONE
        return
    names = [processes.name(number) for number in range(processes.count)]
    watch = processes.watch = Watch(processes.number, names, words, coordination_client())
    try:
        flags = {f"--{k}": value for k, value in vars(config).items() if k not in _MAY_DIFFER}
        processes.check_same(flags)
        _check_devices(processes, config.batch_size)
        with contextlib.ExitStack() as quiet:
            if processes.is_main_process:
                print(f"{processes.count} processes: {', '.join(names)}")
            else:
                print(f"{names[processes.number]}: {names[0]} reports", flush=True)
                nowhere = quiet.enter_context(open(os.devnull, "w"))
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
                quiet.enter_context(contextlib.redirect_stderr(nowhere))
            yield processes
        processes.all_gather(None)
    except BaseException as error:
        if isinstance(error, Interrupted) and error.together:
            watch.leave()
            jax.distributed.shutdown()
            raise
        watch.fail(error)
        _exit_without_the_others(error)
        raise
    watch.leave()
    jax.distributed.shutdown()


def _exit_without_the_others(error: BaseException) -> None:
    """Makes this process end at its exit; JAX would wait for the others, and then abort."""
    status = 2 if isinstance(error, InputError) else 1
    if isinstance(error, KeyboardInterrupt):
        status = exit_status(error)

    def leave():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)  # registered after JAX' own, called before it


def _check_devices(processes: Processes, batch_size: int) -> None:
    import jax

    local = processes.all_gather(len(jax.local_devices()))
    if len(set(local)) > 1:
        raise InputError(
            f"the processes have {', '.join(map(str, local))} devices; expected equally many, "
            "since each takes an equal part of every batch"
        )
    if batch_size % sum(local):
        raise InputError(
            f"--batch_size={batch_size}: expected a multiple of {sum(local)}, the number of "
            f"devices of {processes.count} processes"
        )


def placed_like(variable: keras.Variable, value: np.ndarray) -> Any:
    """Returns a value to assign to a variable, which may be one of all processes (`replicate`)."""
    import keras

    if keras.backend.backend() != "jax" or variable.value.is_fully_addressable:
        return value
    return _global_array(np.asarray(value, variable.dtype), variable.value.sharding)


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Makes variables those of this process alone, inside :meth:`Processes.distribution` too.

    There JAX compares a new variable between all processes, of which the others may make none.
    """
    import keras

    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def predict_here(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns what the model makes of a batch, computed on this process' devices alone.

    The weights are arrays of all processes (:meth:`Processes.replicate`), so what Keras computes
    with them is a computation that all have to start. Their copies here are used instead.

    Args:
        model: any; its output is one array.
        images: (B, ...); other processes may have other images, or none.
    """
    import jax

    devices = np.array(jax.local_devices())
    mesh = jax.sharding.Mesh(devices, ("batch",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def local(variable):
        copies = [shard.data for shard in variable.value.addressable_shards]
        return jax.make_array_from_single_device_arrays(variable.shape, everywhere, copies)

    trained = [local(variable) for variable in model.trainable_variables]
    others = [local(variable) for variable in model.non_trainable_variables]
    split = jax.sharding.PartitionSpec("batch" if len(images) % len(devices) == 0 else None)
    batch = jax.device_put(images, jax.sharding.NamedSharding(mesh, split))
    return np.asarray(_forward(model)(trained, others, batch))


@functools.lru_cache(maxsize=8)
def _forward(model: keras.Model) -> Callable:
    """The compiled forward pass of one of the last models."""
    import jax

    return jax.jit(
        lambda trained, others, batch: model.stateless_call(trained, others, batch, training=False)[
            0
        ]
    )


def _all_devices() -> list:
    import jax

    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def _global_array(value: np.ndarray, sharding: Any) -> Any:
    import jax

    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _to_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _from_bytes(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)
