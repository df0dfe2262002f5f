"""Several processes train one model on Keras' JAX backend: start, shares, one writer, the end.

keras.distribution.DataParallel splits every batch over the devices of all processes; the compiled
step sees the whole batch, so that loss, batch normalisation and the augmentation's draws are those
of one process. JAX is imported only where there are several processes.
"""

import atexit
import base64
import contextlib
import dataclasses
import hashlib
import os
import socket
import sys
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import keras
import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.parallel import channel, hosts
from medcolor_tf.runs.config import TrainConfig

# JAX's own watch is slower and wordier than the channel's, so it only stands behind it.
JAX_SECONDS = {"heartbeat_timeout_seconds": 100, "shutdown_timeout_seconds": 20}
# A shared file system may show a new file late: NFS caches a folder for up to a minute.
SHARED_SECONDS = 75.0
AFTERMATH_SECONDS = 3.0
# Beginning of the name of a file that shows whether a folder is the same everywhere.
MARK = ".shared-"


class Processes:
    """The processes that train together, seen from one of them; one alone by default.

    Args:
        line: to the others; None for one process alone.
    """

    def __init__(self, line: channel.Channel | None = None):
        self._line = line
        self.number, self.count = (line.place.number, line.place.count) if line else (0, 1)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes the run folder and speaks to the user."""
        return self.number == 0

    @property
    def part(self) -> tuple[int, int]:
        """(number, count), as the data pipeline takes a share."""
        return self.number, self.count

    def all_gather(self, value) -> list:
        """Returns the JSON value of every process, by number; all must call it, in one order."""
        return self._line.exchange(value) if self._line else [value]

    def broadcast_from_main(self, make: Callable):
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
        own = np.concatenate(parts) if parts else None
        gathered = [part and _from_json(part) for part in self.all_gather(_to_json(own))]
        dtype = np.result_type(*(part.dtype for part in gathered if part is not None))
        everything = np.empty((total, *gathered[0].shape[1:]), dtype)
        for number, part in enumerate(gathered):
            if part is not None:
                everything[number :: self.count] = part
        return everything

    @property
    def local_process_count(self) -> int:
        """Number of processes on this machine."""
        if not self._line:
            return 1
        machines = [about["machine"] for about in self._line.about]
        return machines.count(machines[self.number])

    def distribution(self):
        """Returns a context in which Keras makes variables for all processes and splits batches.

        All begin it together, since JAX gives the first common operation half a minute, and models
        are not built equally fast everywhere.
        """
        if self.count == 1:
            return contextlib.nullcontext()
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

        mesh = jax.sharding.Mesh(np.array(_all_devices()), ("batch",))
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        variables = list({id(variable): variable for variable in variables}.values())
        values = [np.asarray(variable.value) for variable in variables]
        digest = hashlib.sha256()
        for value in values:
            digest.update(np.ascontiguousarray(value))
        if len(set(self.all_gather(digest.hexdigest()))) > 1:
            values = [
                _from_json(self.broadcast_from_main(lambda v=value: _to_json(v)))
                for value in values
            ]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(_global_array(value, everywhere))

    def advise(self, advice: Callable[[], str]) -> None:
        """Sets what the error says at its end when another process is gone."""
        if self._line:
            self._line.advice = advice


ALONE = Processes()


@contextlib.contextmanager
def joined(config: TrainConfig) -> Iterator[Processes]:
    """Meets the other processes of --hosts, starts JAX among them, and parts from them at the end.

    Raises:
        InputError: another backend than JAX, processes that do not come, options that differ, or a
            batch that the devices cannot share.
    """
    place = hosts.find(config.hosts, config.host_number)
    if place.count == 1:
        yield ALONE
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            f"--hosts={','.join(config.hosts)}: several processes need KERAS_BACKEND=jax in the "
            f"environment, received {keras.backend.backend()}"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    line = channel.meet(place, config.hosts_timeout, {"visible": visible})
    processes = Processes(line)
    try:
        flags = dataclasses.asdict(config)
        common = sorted(flags.keys() - _EACH_HIS_OWN)
        check_same(processes, {f"--{name}": flags[name] for name in common})
        _start_jax(processes, line)
        _check_devices(processes, config)
        with contextlib.ExitStack() as quiet:
            if processes.is_main_process:
                print(f"{place.count} processes: {', '.join(map(line.name, range(place.count)))}")
            else:
                print(f"{line.name(place.number)}: {line.name(0)} reports", flush=True)
                nowhere = quiet.enter_context(open(os.devnull, "w"))
                quiet.enter_context(contextlib.redirect_stdout(nowhere))
                quiet.enter_context(contextlib.redirect_stderr(nowhere))
            yield processes
    except BaseException as error:
        _part_on_error(line, error)
        raise
    line.leave()
    import jax

    jax.distributed.shutdown()


def _part_on_error(line: channel.Channel, error: BaseException) -> None:
    """Tells the others of this process' error, and does not wait for them when it exits."""
    expected = isinstance(error, InputError)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    if isinstance(error, Exception) and not expected:
        # The loss of another process may show here first, as an error of a collective operation:
        # time for the line to find out, which then ends this process.
        time.sleep(AFTERMATH_SECONDS)
    line.fail(reason, by_chance=not expected)
    status = 2 if expected else 1 if isinstance(error, Exception) else 130

    def leave():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    # JAX would wait for the others, who are gone, and then abort. Registered later, called sooner.
    atexit.register(leave)


def check_shared(processes: Processes, folder: Path, last_step: Callable[[], int]) -> None:
    """Checks that all processes see the same run folder.

    Args:
        processes: all of them.
        folder: of the run; it need not be there yet.
        last_step: returns that of the last checkpoint that this process sees there; 0 for none.

    Raises:
        InputError: in all processes, when one sees another folder or an older state.
    """
    if processes.count == 1:
        return
    if processes.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    mark = folder / processes.broadcast_from_main(lambda: f"{MARK}{uuid.uuid4().hex}")
    if processes.is_main_process:
        mark.touch()
    processes.all_gather(None)
    deadline = time.monotonic() + SHARED_SECONDS
    while not (seen := mark.name in _names(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = processes.all_gather([seen, last_step() if seen else 0])
    if processes.is_main_process:
        for name in filter(lambda name: name.startswith(MARK), _names(folder)):
            (folder / name).unlink()
        with contextlib.suppress(OSError):  # as it was, should nothing come of the run
            folder.rmdir()
    for number, (seen, other) in enumerate(found):
        if not seen or other != found[0][1]:
            what = f"a last checkpoint of step {other}" if seen else "another folder of that name"
            raise InputError(
                f"--run_dir={folder}: process {number} sees {what}, process 0 one with step "
                f"{found[0][1]} as the last; expected a folder on a file system that all machines "
                "share"
            )


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def placed_like(variable: keras.Variable, value: np.ndarray):
    """Returns a value to assign to a variable, which may be one of all processes (`replicate`)."""
    if keras.backend.backend() != "jax" or variable.value.is_fully_addressable:
        return value
    return _global_array(np.asarray(value, variable.dtype), variable.value.sharding)


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

    if model not in _FORWARD:
        _FORWARD[model] = jax.jit(
            lambda trained, others, batch: model.stateless_call(
                trained, others, batch, training=False
            )[0]
        )
    trained = [local(variable) for variable in model.trainable_variables]
    others = [local(variable) for variable in model.non_trainable_variables]
    split = jax.sharding.PartitionSpec("batch" if len(images) % len(devices) == 0 else None)
    batch = jax.device_put(images, jax.sharding.NamedSharding(mesh, split))
    return np.asarray(_FORWARD[model](trained, others, batch))


# Compiled forward passes, for as long as their models live.
_FORWARD: "weakref.WeakKeyDictionary[keras.Model, Callable]" = weakref.WeakKeyDictionary()


def check_same(processes: Processes, own: dict) -> None:
    """Checks that all have the same values; InputError in all of them where one has not."""
    first, *others = processes.all_gather(own)
    for number, other in enumerate(others, start=1):
        names = sorted(first.keys() | other.keys())
        differing = [name for name in names if other.get(name) != first.get(name)]
        if differing:
            pairs = ", ".join(f"{n}={other.get(n)} (there: {first.get(n)})" for n in differing)
            raise InputError(
                f"process {number} was started with {pairs}, another value than process 0; "
                "expected the same everywhere"
            )


# Machines may see the data elsewhere. One that sees the run elsewhere is told by check_shared.
_EACH_HIS_OWN = {"hosts", "host_number", "hosts_timeout", "data_dir", "run_dir", "cache"}


def _start_jax(processes: Processes, line: channel.Channel) -> None:
    """Starts JAX' own service in process 0 and joins it; before any computation.

    Processes of one machine that see the same GPUs take one each, as Slurm's tasks do.
    """
    import jax

    host, own = line.place.host, line.about[processes.number]
    port = processes.broadcast_from_main(_free_port)
    near = host in channel.LOOPBACK
    address = f"[{host}]" if ":" in host else host
    mates = [number for number, other in enumerate(line.about) if other == own]
    # Else JAX keeps SIGTERM from ending the process.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        f"{address}:{port}"
        if processes.is_main_process
        else f"127.0.0.1:{channel.forward(host, port)}",
        processes.count,
        processes.number,
        local_device_ids=[mates.index(processes.number)] if len(mates) > 1 else None,
        cluster_detection_method="deactivate",
        coordinator_bind_address=f"{address}:{port}" if near else None,
        **JAX_SECONDS,
    )


def _check_devices(processes: Processes, config: TrainConfig) -> None:
    import jax

    local = processes.all_gather(len(jax.local_devices()))
    if len(set(local)) > 1:
        raise InputError(
            f"the processes have {', '.join(map(str, local))} devices; expected equally many, "
            "since each takes an equal part of every batch"
        )
    if config.batch_size % sum(local):
        raise InputError(
            f"--batch_size={config.batch_size}: expected a multiple of {sum(local)}, the number of "
            f"devices of {processes.count} processes"
        )


def _all_devices() -> list:
    import jax

    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def _global_array(value: np.ndarray, sharding):
    import jax

    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _to_json(array: np.ndarray | None) -> dict | None:
    if array is None:
        return None
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": array.shape, "data": data}


def _from_json(value: dict) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["dtype"]))
    return data.reshape(value["shape"])


def _free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return probe.getsockname()[1]
