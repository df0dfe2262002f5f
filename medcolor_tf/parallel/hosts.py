"""Which processes train together, read from --hosts or a launcher's environment; no framework.

``--hosts=one:9000,two`` names the machines, the first of which coordinates; ``--hosts=auto`` reads
what Slurm, Kubernetes or the user has put into the environment (docs/hosts.md).
"""

import contextlib
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medcolor_tf.errors import InputError

AUTO = "auto"
DEFAULT_PORT = 9476
# A machine that several Slurm jobs share gives each its own port, above most systems' ephemeral
# ones (JAX does the same).
SLURM_PORTS = range(61440, 65536)

COORDINATOR, PROCESSES, PROCESS = "MEDCOLOR_COORDINATOR", "MEDCOLOR_PROCESSES", "MEDCOLOR_PROCESS"
# Who says how many processes there are and which one this is; all that are set must agree.
COUNTS = (PROCESSES, "SLURM_STEP_NUM_TASKS")
NUMBERS = (PROCESS, "SLURM_PROCID", "JOB_COMPLETION_INDEX")
NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")


@dataclass(frozen=True)
class Place:
    """This process among those that train together.

    Attributes:
        number: 0 to ``count - 1``; 0 coordinates, and writes the run folder.
        count: of all processes.
        host, port: where process 0 is found.
    """

    number: int = 0
    count: int = 1
    host: str = "localhost"
    port: int = DEFAULT_PORT

    @property
    def address(self) -> str:
        """Host and port as text."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def find(
    hosts: tuple[str, ...],
    host_number: int = -1,
    environment: Mapping[str, str] = os.environ,
    is_here: Callable[[str], bool] | None = None,
) -> Place:
    """Finds this process' place.

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
        return Place()
    if AUTO in hosts:
        if len(hosts) > 1 or host_number >= 0:
            raise InputError(
                "--hosts=auto reads everything from the environment; expected it alone, received "
                f"--hosts={','.join(hosts)}"
                + (f" --host_number={host_number}" if host_number >= 0 else "")
            )
        return _from_environment(environment)
    return _from_list(hosts, host_number, is_here or is_this_machine)


def is_this_machine(host: str) -> bool:
    """Says whether a name or address is this machine's: a socket can be bound to its own alone."""
    name = socket.gethostname()
    if host in (name, name.partition(".")[0]):
        return True
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return True
    return False


def split_address(text: str, origin: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Reads "host", "host:port", "[IPv6]" or "[IPv6]:port"; InputError naming ``origin``."""
    match = re.fullmatch(
        r"(\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<name>[\w.-]+))(:(?P<port>\d+))?", text
    )
    port = int(match["port"] or default_port) if match else 0
    if not 0 < port < 65536:
        raise InputError(
            f"{origin}: expected host or host:port (an IPv6 address in brackets), received {text!r}"
        )
    return match["six"] or match["name"], port


def first_node(nodes: str, origin: str) -> str:
    """Returns the first name of a Slurm node list: "gpu[003-005,9],cpu1" begins with "gpu003"."""
    ranges = r"\d+(-\d+)?"
    part = rf"(?:[\w.-]+|\[{ranges}(?:,{ranges})*\])"
    match = re.match(rf"{part}+(?=,|$)", nodes.strip())
    if not match:
        raise InputError(f"{origin}: expected a node list as gpu[01-04],cpu7, received {nodes!r}")
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", match[0])


def _from_list(hosts, host_number, is_here) -> Place:
    text = f"--hosts={','.join(hosts)}"
    host, port = split_address(hosts[0], text)
    names = [host, *(split_address(other, text, port)[0] for other in hosts[1:])]
    for other in hosts[1:]:
        if split_address(other, text, port)[1] != port:
            raise InputError(
                f"{text}: {other} has another port than {hosts[0]}; all connect to the first host, "
                "so that only its port counts"
            )
    if host_number < 0:
        here = [number for number, name in enumerate(names) if is_here(name)]
        if len(here) != 1:
            which = f"{len(here)} of them are" if here else "none of them is"
            raise InputError(
                f"{text}: {which} this machine ({socket.gethostname()}); expected one, or "
                f"--host_number=0 to {len(names) - 1}, another one for each process"
            )
        host_number = here[0]
    if host_number >= len(names):
        raise InputError(
            f"--host_number={host_number}: expected 0 to {len(names) - 1} for the {len(names)} "
            f"hosts of {text}"
        )
    return Place(host_number, len(names), host, port)


def _from_environment(environment) -> Place:
    # Outside of srun only the allocation's number is there.
    counts = COUNTS if COUNTS[1] in environment else (PROCESSES, "SLURM_NTASKS")
    count_name, count = _agreed(environment, counts, "the number of processes")
    name, number = _agreed(environment, NUMBERS, "the number of this process")
    if not count >= 1:
        raise InputError(f"{count_name}={count}: expected 1 or more processes")
    if not 0 <= number < count:
        raise InputError(f"{name}={number}: expected 0 to {count - 1}, since {count_name}={count}")
    return Place(number, count, *_coordinator(environment, count))


def _agreed(environment, names, what) -> tuple[str, int]:
    """The first of the variables that are set, all of which must be the same number."""
    found = {name: environment[name] for name in names if environment.get(name)}
    if not found:
        raise InputError(
            f"--hosts=auto: {what} is unknown; expected one of the variables {', '.join(names)}, "
            "received none (docs/hosts.md)"
        )
    for name, value in found.items():
        if not re.fullmatch(r"\d{1,9}", value):
            raise InputError(f"{name}={value}: expected {what}")
    first, *others = found
    for other in others:
        if int(found[other]) != int(found[first]):
            raise InputError(
                f"--hosts=auto: {first}={found[first]} contradicts {other}={found[other]}; both "
                f"are {what}: unset one"
            )
    return first, int(found[first])


def _coordinator(environment, count) -> tuple[str, int]:
    if environment.get(COORDINATOR):
        text = environment[COORDINATOR]
        return split_address(text, f"{COORDINATOR}={text}")
    for name in NODE_LISTS:
        if environment.get(name):
            job = environment.get("SLURM_JOB_ID", "")
            spread = int(job) % len(SLURM_PORTS) if job.isdecimal() else 0
            return first_node(environment[name], name), SLURM_PORTS[spread]
    if count == 1:
        return "localhost", DEFAULT_PORT
    raise InputError(
        f"--hosts=auto: the address of process 0 is unknown; expected {COORDINATOR}=host:port, or "
        f"Slurm's {' or '.join(NODE_LISTS)}, received neither"
    )
