"""What a step trains, and on what: the same for every framework; imports none of them."""

import numpy as np

LABELS = 5
DEGREES, MAX_ZOOM, PROBABILITY = 10.0, 1.1, 0.75  # the project's defaults
TRAINS = {
    "baseline": ("head",),
    "color_module": ("colorizer", "head"),
    "baseline_all": ("backbone", "head"),
    "all": ("colorizer", "backbone", "head"),
    "last_layer": ("head",),
}


def batch_of(spec: dict) -> tuple[np.ndarray, np.ndarray]:
    """Returns (B, S, S, 1) uint8 random images and (B, 5) float32 labels, always the same."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (spec["batch"], spec["size"], spec["size"], 1), np.uint8)
    labels = (random.random((spec["batch"], LABELS)) < 0.3).astype(np.float32)
    return images, labels
