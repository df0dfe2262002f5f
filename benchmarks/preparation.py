"""Large JPEGs to small PNGs on one core, by this project or plain Pillow; imports no framework."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.data_prep import SHORT_SIDE, ways


def convert(spec: dict) -> Callable[[int], None]:
    """Returns ``run(steps)``, every JPEG of a folder per step.

    Args:
        spec: folder, and way, a key of :func:`benchmarks.data_prep.ways`.
    """
    paths = sorted(Path(spec["folder"]).glob("*.jpg"))
    way = ways(SHORT_SIDE)[spec["way"]]

    def run(steps: int) -> None:
        for _ in range(steps):
            for path in paths:
                way(path)

    return run
