"""A run's decision inside an exported model: calibrated probabilities and what is positive."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medcolor_tf.keras_ops import ops
from medcolor_tf.runs.decision import UNDECIDED, Decision

CALIBRATED, DECISIONS = "calibrated", "decisions"
# A finite number that no logit reaches: not every runtime has infinities.
_END = 3e38


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
    line = logits * slope + intercept
    bounds = decision.bounds
    has = (~np.isnan(bounds)).astype(np.float32)
    finite = np.nan_to_num(bounds, nan=0.0, neginf=-_END, posinf=_END).astype(np.float32)
    called = ops.cast(line >= finite, "float32")
    # Undecided ones become UNDECIDED without a branch, which not every runtime has for integers,
    # and in float32: Keras adds a vector by BiasAdd, which LiteRT has for floats alone.
    decisions = called * has + UNDECIDED * (1 - has)
    return {CALIBRATED: ops.sigmoid(line), DECISIONS: ops.cast(decisions, "int32")}
