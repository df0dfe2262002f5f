"""Large JPEGs to small PNGs on one core, by this project and by plain Pillow."""

from pathlib import Path

from benchmarks.data_prep import ways

SHORT_SIDE = 320


def build(spec: dict):
    """Returns ``run(steps)``, every picture of the folder once a step.

    Args:
        spec: folder with JPEGs, and way, a key of :func:`benchmarks.data_prep.ways`.
    """
    paths = sorted(Path(spec["folder"]).glob("*.jpg"))
    way = ways(SHORT_SIDE)[spec["way"]]

    def run(steps: int) -> None:
        for _ in range(steps):
            for path in paths:
                way(path)

    return run
