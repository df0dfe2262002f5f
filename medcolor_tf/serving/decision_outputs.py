"""A run's decision inside an exported model: calibrated probabilities and what is positive."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from medcolor_tf.runs.decision import UNDECIDED, Decision

CALIBRATED, DECISIONS = "calibrated", "decisions"
OUTPUTS = (CALIBRATED, DECISIONS)


def decision_of(contract: Mapping) -> Decision | None:
    """Returns the decision in an export's contract; None without one."""
    content = contract.get("decision")
    return Decision.from_dict(content) if content else None


def decision_outputs(logits: Any, decision: Decision | None) -> dict[str, Any]:
    """Computes a decision in Keras' operations, in float32.

    Args:
        logits: (B, L) tensor.
        decision: of the model; None gives an empty dictionary.

    Returns:
        "calibrated" (B, L) float32 probabilities, and "decisions" (B, L) int32: 1 positive, 0
        negative, -1 where there is no threshold.
    """
    if decision is None:
        return {}
    entries = decision.observations.values()
    slope, intercept = (
        np.array([getattr(entry, name) for entry in entries], np.float32)
        for name in ("slope", "intercept")
    )
    calibrated = keras.ops.sigmoid(logits * slope + intercept)
    called = keras.ops.cast(calibrated >= _bounds(decision), "int32")
    has = np.array([bound is not None for bound in decision.thresholds], np.int32)
    # Undecided ones become UNDECIDED without a branch, which not every runtime has for integers.
    return {CALIBRATED: calibrated, DECISIONS: called * has + UNDECIDED * (1 - has)}


def _bounds(decision: Decision) -> np.ndarray:
    """(L,) float32 thresholds; one just above 1, of which nothing is positive, stays above 1."""
    bounds = np.array([2 if bound is None else bound for bound in decision.thresholds])
    return np.where(bounds > 1, np.float32(2), bounds.astype(np.float32))
