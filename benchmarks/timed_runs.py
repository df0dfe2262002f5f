"""Commands that are timed: run to their end, or until they say that an AUC is reached."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]
VALIDATION = r"step ([\d,]+): .*validation mean AUC ([\d.]+|nan)"  # as both sides print it


@dataclass(frozen=True)
class Reached:
    """How a run went.

    Attributes:
        wall, processor: seconds to the target, or to the run's end.
        step: of the validation that reached the target; 0: none did.
        best: the highest validation AUC.
        parts: seconds of data preparation, of the start up to the first step, of the rest.
    """

    wall: float
    processor: float
    step: int
    best: float
    parts: tuple[float, float, float]


def until_reached(
    words: list[str],
    target: float,
    seconds: float,
    begun: float | None = None,
    prepared: float = 0.0,
    spent: float = 0.0,
) -> Reached:
    """Runs a training until a line says that the target is reached, and ends it there.

    Args:
        words: the command.
        target: validation AUC.
        seconds: after which a run that has not reached it is given up.
        begun: reading of time.perf_counter() when the work began; None: now.
        prepared: seconds since then, of preparation.
        spent: processor seconds of preparation.
    """
    begun = time.perf_counter() if begun is None else begun
    environment = _environment() | {"PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        validations, processor = [], 0.0
        try:
            for step, value in validations_of(process.stdout):
                validations.append((step, value, time.perf_counter() - begun))
                processor = spent + session_seconds(process.pid)
                if value >= target or validations[-1][2] > seconds:
                    break
            else:
                process.wait()
        finally:
            _end(process)
        if not validations:
            errors.seek(0)
            text = errors.read().decode("utf-8", "replace")
            raise RuntimeError(f"{' '.join(words)} said no AUC:\n{text[-2000:]}")
    return reached(validations, processor, prepared, target)


def reached(validations: list, processor: float, prepared: float, target: float) -> Reached:
    """Says how a run went, of (step, AUC, seconds since the beginning) per validation."""
    step, value, wall = validations[-1]
    _, _, first = validations[0]
    intervals = (wall - first) / (len(validations) - 1) if len(validations) > 1 else 0.0
    start = max(0.0, first - intervals - prepared)
    return Reached(
        wall,
        processor,
        step if value >= target else 0,
        max(value for _, value, _ in validations),
        (prepared, start, wall - prepared - start),
    )


def validations_of(lines: Iterable[str]) -> Iterator[tuple[int, float]]:
    """Yields step and AUC of the lines that say them."""
    for line in lines:
        if found := re.match(VALIDATION, line):
            yield int(found[1].replace(",", "")), float(found[2])


def session_seconds(session: int) -> float:
    """Returns the processor seconds of a session's processes and of their ended children."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen) -> None:
    """Ends a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def finish(words: list[str]) -> float:
    """Runs a command to its end; returns its processor seconds, its children's included."""
    before = os.times()
    found = subprocess.run(words, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{found.stderr[-2000:]}")
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def _environment() -> dict[str, str]:
    return dict(os.environ) | machine.waiting(machine.busy_share(0.2))
