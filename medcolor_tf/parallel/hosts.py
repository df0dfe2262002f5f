"""Which processes train together, read from --hosts, and JAX' start among them.

``--hosts=one:9000,two`` names the machines, the first of which coordinates; ``--hosts=auto`` leaves
it to JAX and the user's environment (docs/hosts.md). No framework is imported before the start.
"""

import contextlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from medcolor_tf.errors import InputError

AUTO = "auto"
DEFAULT_PORT = 9476
COORDINATOR, PROCESSES, PROCESS = "MEDCOLOR_COORDINATOR", "MEDCOLOR_PROCESSES", "MEDCOLOR_PROCESS"
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# After so many seconds without a heartbeat of one process JAX ends all others.
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 20


@dataclass(frozen=True)
class Cluster:
    """This process among those that train together, as `jax.distributed.initialize` takes it.

    None leaves a value to JAX, which asks Slurm, Kubernetes or Open MPI.

    Attributes:
        coordinator_address: where process 0 is found, "host:port".
        num_processes: of all.
        process_id: 0 to ``num_processes - 1``; 0 coordinates, and writes the run folder.
        local_device_ids: the GPU that this process takes; None for all that it sees.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: int | None = None

    @property
    def place(self) -> str:
        """What is said where JAX ends a process before all have met."""
        name = "this process" if self.process_id is None else f"process {self.process_id}"
        return f"{name} did not meet the others at {self.coordinator_address or 'process 0'}"


def find_cluster(
    hosts: tuple[str, ...],
    host_number: int = -1,
    environment: Mapping[str, str] = os.environ,
    is_here: Callable[[str], bool] | None = None,
) -> Cluster:
    """Finds this process among those of --hosts.

    Args:
        hosts: --hosts; () for one process.
        host_number: --host_number; -1 to find it.
        environment: of the process.
        is_here: says whether a host of the list is this machine; None to ask the system.

    Raises:
        InputError: contradictory or missing numbers, or a host that cannot be read.
    """
    if not hosts:
        if host_number >= 0:
            raise InputError(f"--host_number={host_number} needs --hosts")
        return Cluster(None, 1, 0)
    if AUTO in hosts:
        if len(hosts) > 1 or host_number >= 0:
            raise InputError(
                "--hosts=auto reads everything from the environment; expected it alone, received "
                f"--hosts={','.join(hosts)}"
                + (f" --host_number={host_number}" if host_number >= 0 else "")
            )
        return _from_environment(environment)
    return _from_list(hosts, host_number, environment, is_here or is_this_machine)


def start_jax(cluster: Cluster, timeout: float) -> None:
    """Starts JAX in all processes, before any computation.

    JAX aborts this process where the others do not come in time.

    Args:
        cluster: this process among them.
        timeout: seconds to wait for the others.

    Raises:
        InputError: no launcher that JAX knows, or process 0 cannot listen.
    """
    import jax

    address = cluster.coordinator_address
    loopback = address is not None and address.rpartition(":")[0] in LOOPBACK
    known = None not in (address, cluster.num_processes, cluster.process_id)
    if address and cluster.process_id == 0:
        _check_port(address, loopback)
    # Else JAX keeps SIGTERM from ending the process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **asdict(cluster),
            cluster_detection_method="deactivate" if known else None,
            initialization_timeout=max(1, round(timeout)),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            coordinator_bind_address=address if loopback else None,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--hosts: JAX cannot start several processes: {error} (docs/hosts.md)"
        ) from error


def _check_port(address: str, loopback: bool) -> None:
    """Checks that process 0 can listen; JAX 0.10 may crash where it cannot."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") if loopback else ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        raise InputError(
            f"port {port} of {address}, where the other processes connect to this one, cannot be "
            f"opened ({error.strerror}); choose another one with --hosts=HOST:PORT,..."
        ) from None


def is_this_machine(host: str) -> bool:
    """Says whether a name or address is this machine's: a socket can be bound to its own alone."""
    host, name = host.strip("[]"), socket.gethostname()
    if host in (name, name.partition(".")[0]):
        return True
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in addresses:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return True
    return False


def split_address(text: str, origin: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Reads "host", "host:port", "[IPv6]" or "[IPv6]:port"; InputError naming ``origin``."""
    match = re.fullmatch(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(:(?P<port>\d+))?", text)
    port = int(match["port"] or default_port) if match else 0
    if not match or not 0 < port < 65536:
        raise InputError(
            f"{origin}: expected host or host:port (an IPv6 address in brackets), received {text!r}"
        )
    return match["host"], port


def _from_list(hosts, host_number, environment, is_here) -> Cluster:
    flag = f"--hosts={','.join(hosts)}"
    host, port = split_address(hosts[0], flag)
    names = [host, *(split_address(other, flag, port)[0] for other in hosts[1:])]
    for other in hosts[1:]:
        if split_address(other, flag, port)[1] != port:
            raise InputError(
                f"{flag}: {other} has another port than {hosts[0]}; all connect to the first host, "
                "so that only its port counts"
            )
    if host_number < 0:
        here = [number for number, name in enumerate(names) if is_here(name)]
        if len(here) != 1:
            which = f"{len(here)} of them are" if here else "none of them is"
            raise InputError(
                f"{flag}: {which} this machine ({socket.gethostname()}); expected one, or "
                f"--host_number=0 to {len(names) - 1}, another one for each process"
            )
        host_number = here[0]
    if host_number >= len(names):
        raise InputError(
            f"--host_number={host_number}: expected 0 to {len(names) - 1} for the {len(names)} "
            f"hosts of {flag}"
        )
    gpu = _own_gpu(names, host_number, environment.get("CUDA_VISIBLE_DEVICES"))
    return Cluster(f"{host}:{port}", len(names), host_number, gpu)


def _own_gpu(names: list[str], number: int, visible: str | None) -> int | None:
    """One GPU each for processes of one machine, unless each was given fewer than they are."""
    mates = [mate for mate, name in enumerate(names) if name == names[number]]
    if len(mates) == 1 or (visible is not None and len(visible.split(",")) < len(mates)):
        return None
    return mates.index(number)


def _from_environment(environment: Mapping[str, str]) -> Cluster:
    address = environment.get(COORDINATOR)
    if address:
        host, port = split_address(address, f"{COORDINATOR}={address}")
        address = f"{host}:{port}"
    number = _number(environment, PROCESS)
    if number is None:
        number = _number(environment, KUBERNETES_INDEX)
    return Cluster(address or None, _number(environment, PROCESSES), number)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """The number in a variable; None where it is not set, for JAX to find."""
    value = environment.get(name)
    if value and not re.fullmatch(r"\d{1,9}", value):
        raise InputError(f"{name}={value}: expected a whole number")
    return int(value) if value else None
