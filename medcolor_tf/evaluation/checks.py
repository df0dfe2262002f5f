"""Checks of the arguments that the statistics share."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def checked(
    labels: ArrayLike, *scores: ArrayLike, dimensions: Sequence[int] = (1, 2)
) -> list[np.ndarray]:
    """Labels and scores as float64 arrays of one shape, or ValueError saying what is wrong."""
    labels = np.asarray(labels, np.float64)
    if labels.ndim not in dimensions or not len(labels):
        expected = " or ".join({1: "(N,)", 2: "(N, L)"}[count] for count in dimensions)
        raise ValueError(f"expected labels of shape {expected} with N > 0, got {labels.shape}")
    wrong = labels[~(np.isin(labels, (0.0, 1.0)) | np.isnan(labels))]
    if len(wrong):
        raise ValueError(f"expected labels 0, 1 or NaN, got {wrong[0]}")
    arrays = [np.asarray(array, np.float64) for array in scores]
    for array in arrays:
        if array.shape != labels.shape:
            raise ValueError(
                f"expected scores of the labels' shape {labels.shape}, got {array.shape}"
            )
        wrong = array[~np.isfinite(array)]
        if len(wrong):
            raise ValueError(f"expected finite scores, got {wrong[0]} ({len(wrong)} not finite)")
    return [labels, *arrays]


def group_index(groups: Iterable[Hashable], images: int) -> tuple[np.ndarray, int]:
    """Groups numbered in the order in which they appear, (N,), and how many there are."""
    ids = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if len(ids) != images:
        raise ValueError(
            f"expected a group (a patient's id) for each of {images} images, got {len(ids)}"
        )
    numbers: dict[Hashable, int] = {}
    for row, name in enumerate(ids):
        # A missing id would make one group of all images that lack one.
        if not isinstance(name, Hashable) or name is None or name != name:
            raise ValueError(f"expected a hashable patient id, got {name!r} for image {row}")
        numbers.setdefault(name, len(numbers))
    return np.array([numbers[name] for name in ids]), len(numbers)
