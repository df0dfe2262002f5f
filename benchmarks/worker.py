"""One variant in a process of its own: waits idle, works when told, answers with the time it took.

Two frameworks in one process would share threads and memory; two processes that work in turns
share neither, and the machine's noise falls on both alike.
"""

import importlib
import json
import resource
import sys
import time


def main() -> None:
    """Reads a spec, then a number of steps a line; writes one JSON answer a line."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not be taken for an answer
    spec = json.loads(sys.stdin.readline())
    try:
        run = importlib.import_module(f"benchmarks.{spec['module']}").build(spec)
        run(2)  # traces, compiles, warms up
        _answer(answers, {"ready": True})
    except Exception as error:
        _answer(answers, {"ready": False, "error": f"{type(error).__name__}: {error}"[:300]})
        return
    for line in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        run(int(line))
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak}
        _answer(answers, answer)


def _answer(file, content: dict) -> None:
    print(json.dumps(content), file=file, flush=True)


if __name__ == "__main__":
    main()
