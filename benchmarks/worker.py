"""One variant in a process of its own: waits idle, works when told, answers with the time it took.

Two frameworks in one process would share threads and memory; two processes that work in turns
share neither, and the machine's noise falls on both alike.
"""

import contextlib
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    """Reads a spec, then a number of steps per line; writes one JSON answer per line."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not be taken for an answer
    spec = json.loads(sys.stdin.readline())
    try:
        module = importlib.import_module(f"benchmarks.{spec['module']}")
        run = getattr(module, spec["work"])(spec)
        run(spec.get("first", 2))  # traces, compiles, warms up
        threads = module.threads() if hasattr(module, "threads") else 1
        program = module.program() if hasattr(module, "program") else {}
        _answer(answers, {"ready": True, "threads": threads, "program": program})
        for line in sys.stdin:
            if spec.get("unmeasured"):  # what was made while others worked is used up first
                run(spec["unmeasured"])
            start, processor = time.perf_counter(), _processor_seconds()
            run(int(line))
            seconds, processor = time.perf_counter() - start, _processor_seconds() - processor
            answer = {"seconds": seconds, "processor_seconds": processor}
            device = module.peak_bytes() if hasattr(module, "peak_bytes") else 0
            _answer(answers, answer | {"peak_bytes": device or _peak_bytes()})
    except Exception as error:
        _answer(answers, {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


def _answer(file, content: dict) -> None:
    print(json.dumps(content), file=file, flush=True)


def _processor_seconds() -> float:
    """Of this process and of its children (a data loader's), user and system."""
    ticks = 0
    for child in children():
        with contextlib.suppress(OSError):  # it has just ended
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _peak_bytes() -> int:
    """Largest resident memory of this process so far, plus what its children have for themselves.

    Pages that a child shares with its parent count once.
    """
    own = kibibytes("self/status", ("VmHWM",))
    if not own:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    private = ("Private_Clean", "Private_Dirty")
    return 1024 * (own + sum(kibibytes(f"{c}/smaps_rollup", private) for c in children()))


def kibibytes(file: str, names: tuple[str, ...]) -> int:
    """Sums fields of a file of /proc; 0 where there is none."""
    try:
        lines = Path(f"/proc/{file}").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in names)


def children() -> list[str]:
    """Numbers of the processes that the main thread has started."""
    try:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        return []


if __name__ == "__main__":
    main()
