"""SIGINT and SIGTERM: a word, and an end that leaves everything whole.

A command ends at once, by an exception that cleans up after itself: exit status 130 or 143. Work
that comes in steps (:func:`deferred`) finishes its step and saves before it does.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where a signal ends the work; as Ctrl-C does, past all that catches errors.

    Args:
        signum: the signal's number.
        words: what is kept and how to go on; "" where only the command knows.
        together: all processes of a run raise it at the same step.
    """

    def __init__(self, signum: int, words: str = "", together: bool = False):
        super().__init__(words)
        self.signum, self.words, self.together = signum, words, together


class StopRequest:
    """Whether a signal has come: ``signum``, 0 before."""

    def __init__(self):
        self.signum = 0


def exit_status(error: KeyboardInterrupt) -> int:
    """Returns the exit status of an interrupted command, as shells have it: 128 + signal."""
    return 128 + (error.signum if isinstance(error, Interrupted) else signal.SIGINT)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Makes SIGTERM raise :class:`Interrupted`, as SIGINT raises KeyboardInterrupt."""

    def interrupt(signum, frame):
        raise Interrupted(signum)

    with _handlers(interrupt):
        yield


@contextlib.contextmanager
def deferred(doing: str, pass_on: Callable[[int], Any] | None = None) -> Iterator[StopRequest]:
    """Notes the first signal for the work inside to look at; the second one ends the process.

    Args:
        doing: what happens after the first, for its message.
        pass_on: called with the signal's number, each time.
    """
    request = StopRequest()

    def note(signum, frame):
        if pass_on:
            pass_on(signum)
        if request.signum:
            _end(signum)
        request.signum = signum
        name = signal.Signals(signum).name
        _say(f"\n{name}: {doing}; a second signal stops at once\n")
        if not pass_on:  # ends it even where Python does not run, within a long operation
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)

    with _handlers(note):
        yield request


@contextlib.contextmanager
def _handlers(handler: Callable) -> Iterator[None]:
    """Sets a handler of both signals; only Python's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, old in before.items():
        if old is not signal.SIG_IGN:  # as in `nohup` and background jobs of a plain shell
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # the last: amid another write
        sys.stderr.write(text)
        sys.stderr.flush()


def _end(signum: int) -> None:
    """Ends this process as the signal does when nothing handles it."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
