"""Nested random subsets of a training split, for the small-data study (section V-B, Figure 6)."""

import numpy as np


def subset_order(raw_labels: np.ndarray, seed: int) -> np.ndarray:
    """Ranks a split's records so that every prefix of the ranking is a stratified random subset.

    Prefixes are nested by construction. Records that share all their raw labels are spread evenly
    over the ranking, so each prefix has nearly the split's proportions of positive, negative,
    uncertain and blank labels, as the paper's Figure 5 shows. The head of the ranking holds a
    positive of every observation that has one (each record there covers an observation that those
    before it do not), so no observation loses its positives in a subset of at least L records.

    Args:
        raw_labels: (N, L) float, values 0, 1, -1 and NaN.
        seed: another seed, another ranking.

    Returns:
        (N,) int64, a permutation of the row numbers.
    """
    random = np.random.default_rng([0x5B5E7, seed])
    raw_labels = np.nan_to_num(np.asarray(raw_labels, np.float32), nan=-2.0)
    _, group = np.unique(raw_labels, axis=0, return_inverse=True)
    group = group.reshape(-1)
    shuffled = random.permutation(len(raw_labels))
    position = np.empty(len(raw_labels))
    for members in _members(group[shuffled]):
        rows = shuffled[members]
        position[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    order = np.lexsort((shuffled, position))
    return _positives_first(order, raw_labels == 1.0)


def subset_rows(raw_labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns the ascending row numbers of the subset of ``fraction`` (0, 1] of the records."""
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    count = max(1, round(fraction * len(raw_labels)))
    return np.sort(subset_order(raw_labels, seed)[:count])


def _members(group: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _positives_first(order: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Moves the first positive of each observation to the head; rarest observation first."""
    head: list[int] = []
    for column in np.argsort(positive.sum(axis=0), kind="stable"):
        rows = order[positive[order, column]]
        if len(rows) and not positive[head, column].any():
            head.append(int(rows[0]))
    rest = order[~np.isin(order, head)]
    return np.concatenate([np.array(head, np.int64), rest])
