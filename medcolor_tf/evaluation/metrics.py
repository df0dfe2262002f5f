"""Area under the ROC curve, exact, with unknown labels left out (section IV-C)."""

import numpy as np


def roc_auc(labels, scores) -> np.ndarray:
    """Area under the ROC curve of each observation.

    Exact (by ranks, ties count half), unlike ``keras.metrics.AUC``, which bins the scores and
    calls the AUC of an observation without positives 0.

    Args:
        labels: (N, L) or (N,), 0, 1, or NaN for unknown; unknown ones count for nothing.
        scores: same shape, larger means more likely positive; any monotone scale.

    Returns:
        (L,) float64; NaN where an observation lacks positives or negatives.

    Raises:
        ValueError: shapes differ, a label is none of 0, 1, NaN, or a score is not finite.

    Source: Hanley and McNeil 1982; the same as ``sklearn.metrics.roc_auc_score``.

    Example:
        >>> import numpy as np
        >>> import medcolor_tf as mc
        >>> labels = np.array([[0, 1], [1, 1], [1, np.nan], [0, 1]])
        >>> logits = np.array([[-2.0, 0.3], [0.5, 0.1], [-1.0, 0.2], [-1.5, 0.4]])
        >>> mc.roc_auc(labels, logits)  # the second has no negative image
        array([ 1., nan])
    """
    labels, scores = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim not in (1, 2):
        raise ValueError(
            f"expected labels and scores of one shape, (N, L) or (N,); "
            f"got {labels.shape} and {scores.shape}"
        )
    if not np.isin(labels[~np.isnan(labels)], (0.0, 1.0)).all():
        raise ValueError("expected labels 0, 1 or NaN")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores")
    columns = labels.reshape(len(labels), -1).T, scores.reshape(len(scores), -1).T
    return np.array([_one(label, score) for label, score in zip(*columns, strict=True)])


def mean_auc(auc: np.ndarray) -> float:
    """Mean over the observations whose AUC is defined; NaN when none is.

    Args:
        auc: (L,) float, as :func:`roc_auc` returns it.

    Returns:
        A float in [0, 1], or NaN.

    Source: the paper's tables, section IV-C.

    Example:
        >>> import numpy as np
        >>> import medcolor_tf as mc
        >>> mc.mean_auc(np.array([0.5, np.nan, 0.75]))
        0.625
    """
    defined = auc[~np.isnan(auc)]
    return float(defined.mean()) if len(defined) else float("nan")


def ranks(ascending: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of ``ascending`` are less than, and at most, each value; those between are ties."""
    return np.searchsorted(ascending, values, "left"), np.searchsorted(ascending, values, "right")


def _one(labels: np.ndarray, scores: np.ndarray) -> float:
    """AUC of (N,) labels and scores; counts pairs in integers, hence exact.

    To import scikit-learn for it took a second, before a run's first validation.
    """
    positives, negatives = scores[labels == 1], scores[labels == 0]
    if not len(positives) or not len(negatives):
        return float("nan")
    below, through = ranks(np.sort(negatives), positives)
    return float((below.sum() + through.sum()) / (2 * len(positives) * len(negatives)))
