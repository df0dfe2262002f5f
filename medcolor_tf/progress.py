"""How far long work is: a bar on a terminal, a line now and then in a log file.

All commands show their progress through :class:`Progress` and say what comes meanwhile through
:func:`say`, on standard error, so that a log file has no carriage returns and a bar stays whole.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

# Between two lines where nobody watches, and before the first one: short work says nothing.
SECONDS = 30.0

T = TypeVar("T")


def say(text: str, file=None) -> None:
    """Prints a line, to standard output or ``file``, without breaking a bar that is shown."""
    tqdm.write(text, file=file)


class Progress:
    """Counts what is done of some work; also a context manager.

    Args:
        doing: what is done, as "predicting".
        total: of what is counted.
        unit: what is counted, in the plural.
        done: what was done before.

    Example:
        >>> with Progress("predicting", total=2) as progress:
        ...     progress.update(2)
    """

    def __init__(self, doing: str, total: int, unit: str = "images", done: int = 0):
        self.doing, self.total, self.unit, self.done = doing, total, unit, done
        self._first, self._note = done, ""
        self._start = self._said = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=doing,
                total=total,
                initial=done,
                unit=f" {unit}",
                unit_scale=total >= 10_000,
                smoothing=0.05,
                mininterval=0.5,
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def note(self, **values: str) -> None:
        """Sets what stands at the end of the line: ``loss="0.41"``."""
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
        else:
            self._note = "".join(f", {name} {value}" for name, value in values.items())

    def update(self, count: int = 1) -> None:
        """Counts what has been done since the last call."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif (now := time.monotonic()) - self._said >= SECONDS:
            self._said = now
            print(self.line(now - self._start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Returns the line of a log file.

        Args:
            seconds: since the beginning.
        """
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        speed = (self.done - self._first) / max(seconds, 1e-9)
        text = f"{self.doing}: {self.done:,} of {self.total:,} {self.unit}{share}"
        if speed > 0:
            left = duration((self.total - self.done) / speed)
            text += f", {_number(speed)} {self.unit}/s, {left} left"
        return text + self._note

    def close(self) -> None:
        """Ends the bar's line, for what is said next; twice is once."""
        if self._bar is not None:
            self._bar.close()


def progressing(
    items: Iterable[T], doing: str, total: int, unit: str = "images", done: int = 0
) -> Iterator[T]:
    """Yields the items and counts each one that has been used.

    Args:
        items: as many as are left of ``total`` after ``done``.
        doing, total, unit, done: see :class:`Progress`.
    """
    with Progress(doing, total, unit, done) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """Returns a length of time in words: "45 s", "12 min", "3 h 20 min"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def counted(number: int | str, noun: str) -> str:
    """Returns a number with its noun: "1 run", "3,000 runs", "2 to 3 runs"."""
    shown = f"{number:,}" if isinstance(number, int) else number
    return f"{shown} {noun}" + ("" if shown == "1" else "s")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
