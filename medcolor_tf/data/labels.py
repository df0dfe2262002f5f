"""Label values and the uncertainty policy, which is applied here and nowhere else.

Records and index files hold raw labels, as the source has them: 1 (positive), 0 (negative), -1
(uncertain) and NaN (blank: not mentioned). Training and evaluation apply a policy to them
(section IV-A of the paper), the data set's or another one. Nothing here imports TensorFlow.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medcolor_tf.errors import InputError

UNCERTAIN = -1.0
UNCERTAIN_POLICIES = ("ones", "zeros", "ignore")
BLANK_POLICIES = ("zeros", "ignore")
# Section IV-A of the paper: the policy that did best in CheXpert's own study, per observation.
PAPER_POLICY = {
    "Atelectasis": "ones",
    "Cardiomegaly": "zeros",
    "Consolidation": "zeros",
    "Edema": "ones",
    "Pleural Effusion": "ones",
}


def parse_policy(
    text: str | Sequence[str], observations: Sequence[str], default: Mapping[str, str]
) -> dict[str, str]:
    """Reads an uncertainty policy.

    Args:
        text: "" (the default), one policy for all ("ignore"), or "Edema=ones,Atelectasis=zeros"
            (or the same as a list); observations that are not named keep the default.
        observations: the label names.
        default: policy of the observations that ``text`` does not name; else "ignore".

    Raises:
        InputError: an unknown policy or observation.
    """
    parts = text.split(",") if isinstance(text, str) else text
    parts = [part.strip() for part in parts if part.strip()]
    policy = {name: default.get(name, "ignore") for name in observations}
    for part in parts:
        name, equals, value = part.rpartition("=")
        if value not in UNCERTAIN_POLICIES:
            raise InputError(
                f"uncertainty policy {part!r}: expected one of {', '.join(UNCERTAIN_POLICIES)}"
            )
        if equals and name not in policy:
            raise InputError(
                f"uncertainty policy {part!r}: no observation {name!r}; "
                f"the data set has {', '.join(observations)}"
            )
        policy.update({name: value} if equals else dict.fromkeys(policy, value))
    return policy


def apply_policy(
    raw: np.ndarray,
    observations: Sequence[str],
    uncertain_policy: Mapping[str, str],
    blank_policy: str,
) -> np.ndarray:
    """Turns raw labels into training labels (section IV-A of the paper).

    Args:
        raw: (..., L) float, values 0, 1, -1 (uncertain) and NaN (blank).
        observations: the L names.
        uncertain_policy: name -> "ones", "zeros", "ignore".
        blank_policy: "zeros" or "ignore".

    Returns:
        (..., L) float32 with 0, 1, and NaN for unknown.
    """
    values = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}
    uncertain = np.array([values[uncertain_policy[name]] for name in observations], np.float32)
    blank = np.float32(values[blank_policy])
    raw = np.asarray(raw, np.float32)
    return np.where(np.isnan(raw), blank, np.where(raw == UNCERTAIN, uncertain, raw))


def count_raw_labels(raw: np.ndarray, observations: Sequence[str]) -> dict[str, Mapping[str, int]]:
    """Counts raw label values per observation.

    Args:
        raw: (N, L) raw labels.
        observations: the L names.

    Returns:
        observation -> {"positive", "negative", "uncertain", "blank"} -> count.
    """
    kinds = {
        "positive": raw == 1,
        "negative": raw == 0,
        "uncertain": raw == -1,
        "blank": np.isnan(raw),
    }
    return {
        name: {kind: int(mask[:, number].sum()) for kind, mask in kinds.items()}
        for number, name in enumerate(observations)
    }


def count_labels(labels: np.ndarray, observations: Sequence[str]) -> dict[str, Mapping[str, int]]:
    """Counts labels after the policy.

    Args:
        labels: (N, L) labels, NaN for unknown.
        observations: the L names.

    Returns:
        observation -> {"positive", "negative", "unknown"} -> count.
    """
    return {
        name: {
            "positive": int((labels[:, i] == 1).sum()),
            "negative": int((labels[:, i] == 0).sum()),
            "unknown": int(np.isnan(labels[:, i]).sum()),
        }
        for i, name in enumerate(observations)
    }
