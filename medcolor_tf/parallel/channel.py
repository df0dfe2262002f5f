"""A line between the processes of one run: they meet, exchange small values, and miss each other.

Every process keeps one TCP connection to process 0. A process that dies takes its connection with
it; a machine that loses power or its network answers no keep-alive. Whoever is left then says so
and ends, from a thread, since the main one may wait for good inside a collective operation.
Messages are JSON, never pickles.
"""

import contextlib
import json
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

from medcolor_tf.errors import InputError
from medcolor_tf.parallel.hosts import Place

LENGTH = struct.Struct(">Q")
HELLO, HELLO_BYTES, HELLO_SECONDS = "medcolor_tf processes 1", 10_000, 10.0
# A silent machine is lost after IDLE + INTERVAL * COUNT seconds; the kernel answers, so a process
# that is busy compiling is not silent.
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
LOST, FAILED, GOODBYE, VALUE = "lost", "failed", "goodbye", "value"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def stop_process(text: str) -> None:
    """Prints an error and ends the process at once, whatever its main thread is doing."""
    print(f"\nerror: {text}", file=sys.__stderr__, flush=True)
    sys.__stdout__.flush()
    os._exit(1)


class Channel:
    """This process' end of the line.

    Args:
        place: this process.
        links: other process' number -> connection; process 0 has all, the others have process 0.
        about: what each process said of itself when it came, by number.
        stop: called once, from a thread, with what happened when another process is gone.

    Attributes:
        about: see above.
        advice: called for a last sentence of the error, for example what was saved.
    """

    def __init__(self, place: Place, links: dict[int, socket.socket], about: list[dict], stop):
        self.place, self.about = place, about
        self.advice: Callable[[], str] = lambda: ""
        self._links, self._stop = links, stop
        self._inbox = {number: queue.SimpleQueue() for number in links}
        self._ended = threading.Lock()  # taken for good by the first end: a goodbye or a loss
        self._sending = {number: threading.Lock() for number in links}
        self._threads = [
            threading.Thread(target=self._listen, args=(number,), daemon=True) for number in links
        ]
        for thread in self._threads:
            thread.start()

    def exchange(self, value) -> list:
        """Gives a JSON value to all and returns everyone's, by number; all must call it."""
        value = json.loads(json.dumps(value))  # the same here as for the others
        if not self._links:
            return [value]
        if self.place.number:
            self._send(0, {"kind": VALUE, "value": value})
            return self._inbox[0].get()
        values = [value, *(self._inbox[number].get() for number in sorted(self._links))]
        for number in self._links:
            self._send(number, {"kind": VALUE, "value": values})
        return values

    def leave(self) -> None:
        """Says goodbye: from now on nobody misses this process. All must call it."""
        self.exchange(None)
        self._ended.acquire(blocking=False)
        for number in self._links:
            self._send(number, {"kind": GOODBYE})
        self._close()

    def fail(self, reason: str, by_chance: bool) -> None:
        """Tells the others why this process ends, and whether it might not another time."""
        if self._ended.acquire(blocking=False):
            news = {"kind": FAILED, "who": self.place.number, "reason": reason}
            for number in self._links:
                self._send(number, news | {"by_chance": by_chance})
            self._close()

    def name(self, number: int) -> str:
        """Returns "process 1 of 2 (its machine)"."""
        return f"process {number} of {self.place.count} ({self.about[number]['machine']})"

    def _close(self) -> None:
        """Closes for sending and lets the other side take in what was sent."""
        for link in self._links.values():
            _quietly(link.shutdown, socket.SHUT_WR)
        for thread in self._threads:
            thread.join(timeout=2)
        for link in self._links.values():
            link.close()

    def _send(self, number: int, message: dict) -> None:
        with self._sending[number]:
            # A broken line is found by the thread that listens to it.
            _quietly(send, self._links[number], message)

    def _listen(self, number: int) -> None:
        while True:
            try:
                message = receive(self._links[number])
            except (OSError, ValueError):
                message = None
            if message is None:
                return self._end({"kind": LOST, "who": number})
            if message["kind"] == GOODBYE:
                return None
            if message["kind"] in (LOST, FAILED):
                return self._end(message)
            self._inbox[number].put(message["value"])

    def _end(self, message: dict) -> None:
        """Passes the news on and stops."""
        if not self._ended.acquire(blocking=False):
            return
        for number in self._links:
            if number != message["who"]:
                self._send(number, message)
                _quietly(self._links[number].shutdown, socket.SHUT_WR)
        time.sleep(0.3)  # a process that ends with unread input resets its lines
        reason = message.get("reason")
        what = f"ended with an error: {reason}" if reason else "was lost"
        advice = self.advice() if message.get("by_chance", True) else ""
        self._stop(f"{self.name(message['who'])} {what}{advice}")


def meet(place: Place, timeout: float, about: dict, stop=stop_process) -> Channel:
    """Connects all processes.

    Args:
        place: this process.
        timeout: seconds to wait for the others.
        about: JSON values that all others learn, as :attr:`Channel.about`.
        stop: see :class:`Channel`.

    Raises:
        InputError: a process did not come in time, or numbers contradict each other.
    """
    about = {"machine": socket.gethostname(), **about}
    if place.count == 1:
        return Channel(place, {}, [about], stop)
    hello = {"hello": HELLO, "number": place.number, "count": place.count, "about": about}
    if place.number == 0:
        links, everyone = _gather(place, time.monotonic() + timeout, timeout, hello)
    else:
        links, everyone = _join(place, time.monotonic() + timeout, timeout, hello)
    for link in links.values():
        link.settimeout(None)
        _keep_alive(link)
    return Channel(place, links, everyone, stop)


def _gather(place, deadline, timeout, hello):
    """Process 0: waits for all others, then tells everyone of everyone."""
    links, about = {}, {0: hello["about"]}
    with _listen_at(place) as server:
        while len(about) < place.count:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                link, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(place.count)) - set(about))
                problem = (
                    f"process {', '.join(map(str, missing))} of {place.count} did not come to "
                    f"{place.address} within {timeout:g} s (--hosts_timeout); see that all "
                    "processes were started, each with its own number, and reach that address"
                )
                _refuse(links.values(), problem)
                raise InputError(problem) from None
            link.settimeout(HELLO_SECONDS)
            try:
                other = receive(link, HELLO_BYTES)
                problem = _contradiction(place, links, about, other)
            except (OSError, ValueError, KeyError, TypeError):  # a stranger, not one of ours
                link.close()
                continue
            if problem:
                _refuse([link, *links.values()], problem)
                raise InputError(problem)
            links[other["number"]], about[other["number"]] = link, other["about"]
    everyone = [about[number] for number in range(place.count)]
    for link in links.values():
        _quietly(send, link, {"about": everyone})
    return links, everyone


def _contradiction(place, links, about, other) -> str:
    if other["hello"] != HELLO:
        raise ValueError("a stranger")
    number, count, machine = other["number"], other["count"], other["about"]["machine"]
    if count != place.count:
        return (
            f"process {number} ({machine}) counts {count} processes, process 0 {place.count}; "
            "expected the same --hosts everywhere"
        )
    if number in links and _is_open(links[number]):
        return (
            f"two processes are number {number}: on {about[number]['machine']} and on {machine}; "
            "expected another --host_number for each"
        )
    return ""


def _is_open(link: socket.socket) -> bool:
    """Says whether the other side is still there: one that was started again may take its place."""
    link.setblocking(False)
    try:
        return bool(link.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _join(place, deadline, timeout, hello):
    """The others: connect to process 0, which may come later, and wait for its word."""
    while True:
        left, answer, problem = deadline - time.monotonic(), None, "it hung up"
        try:
            link = socket.create_connection((place.host, place.port), timeout=max(left, 0.01))
            link.settimeout(max(left, 0.01) + HELLO_SECONDS)
            send(link, hello)
            answer = receive(link)
        except (OSError, UnicodeError, ValueError) as error:
            problem = error
        if answer:
            if "refused" in answer:
                raise InputError(answer["refused"])
            return {0: link}, answer["about"]
        if left <= 0:
            raise InputError(
                f"process {place.number} of {place.count} found no process 0 at {place.address} "
                f"within {timeout:g} s (--hosts_timeout): {problem}; see that it "
                "was started there and that its port is open"
            )
        time.sleep(min(0.2, max(left, 0)))


def forward(host: str, port: int) -> int:
    """Opens a local port whose connections lead to ``host:port``; returns its number.

    When that end breaks, the connections stay open and silent. JAX aborts a process, with a page of
    its own, at the moment it finds its coordinator gone; behind such a port it only finds out after
    a minute or more, when the line has long said what there is to say.
    """
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection((host, port), timeout=30)
                far.settimeout(None)
            except OSError:
                near.close()  # JAX tries again
                continue
            for arguments in ((near, far, True), (far, near, False)):
                threading.Thread(target=_copy, args=arguments, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


def _copy(source: socket.socket, target: socket.socket, close: bool) -> None:
    """Copies until ``source`` ends; what a broken ``target`` does not take is dropped."""
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            _quietly(target.sendall, data)
    if close:
        _quietly(target.shutdown, socket.SHUT_WR)


def _listen_at(place: Place) -> socket.socket:
    if place.host in LOOPBACK:
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        address, both = place.host, False
    else:
        # All of them: the machine's own name may mean its loopback address to itself.
        both = socket.has_dualstack_ipv6()
        family, address = (socket.AF_INET6 if both else socket.AF_INET), ""
    try:
        return socket.create_server((address, place.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"port {place.port} of --hosts, where the other processes connect to this one, cannot "
            f"be opened ({error.strerror}); choose another one with --hosts={place.host}:PORT,..."
        ) from None


def _refuse(links, problem: str) -> None:
    for link in links:
        _quietly(send, link, {"refused": problem})
        _quietly(link.shutdown, socket.SHUT_WR)


def _keep_alive(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # Linux has all of them
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _quietly(function, *arguments) -> None:
    with contextlib.suppress(OSError):
        function(*arguments)


def send(link: socket.socket, message) -> None:
    """Sends one JSON value."""
    data = json.dumps(message).encode()
    link.sendall(LENGTH.pack(len(data)) + data)


def receive(link: socket.socket, limit: int = 2**33):
    """Returns one JSON value, None when the line was closed; ValueError for anything else."""
    head = _read(link, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > limit:
        raise ValueError(f"a message of {length} bytes")
    data = _read(link, length)
    return None if data is None else json.loads(data)


def _read(link: socket.socket, count: int) -> bytes | None:
    parts, left = [], count
    while left:
        part = link.recv(min(left, 2**20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
