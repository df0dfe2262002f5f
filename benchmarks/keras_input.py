"""This project's input pipeline: shuffled training batches with random crops."""

from pathlib import Path

from benchmarks.input_data import RECORDS
from benchmarks.keras_step import threads
from medcolor_tf.data import image_cache
from medcolor_tf.data.pipeline import Split

__all__ = ["build", "threads"]


def build(spec: dict):
    """Returns ``run(steps)``, a batch of (B, S, S, 1) uint8 and (B, 1) float32 a step.

    Args:
        spec: folder (of :mod:`benchmarks.input_data`), batch, and cache (none or ram).
    """
    split = Split(Path(spec["folder"]) / RECORDS, "train")
    image_cache.keep(spec["cache"], (split,))
    batches = iter(split.training_batches(spec["batch"]))

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return run
