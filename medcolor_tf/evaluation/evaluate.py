"""A predict function on one split: exact AUC per observation, counts, and the predictions."""

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np

from medcolor_tf.data.labels import count_labels
from medcolor_tf.data.pipeline import WHOLE, Split
from medcolor_tf.evaluation.inference import Predict, Predictions, concatenate, predict_split
from medcolor_tf.evaluation.metrics import mean_auc, roc_auc
from medcolor_tf.progress import Progress

PICTURES = 4


def evaluate(
    predict: Predict,
    split: Split,
    batch_size: int,
    part: tuple[int, int] = WHOLE,
    gather: Callable[[list[np.ndarray], int], np.ndarray] = concatenate,
) -> tuple[dict, Predictions]:
    """Predicts a split and summarises it; shows how far it is.

    Args:
        predict: raw images (B, S, S, C) to logits (B, L), L the split's observations.
        split: images and labels.
        batch_size: images per batch.
        part, gather: where several processes share the images, see :func:`predict_split`.

    Returns:
        (:func:`summarize` and what the split is: "data_dir", "data_fingerprint", "split",
        "uncertain_policy"; the predictions).
    """
    with Progress("evaluating", len(split)) as progress:
        predictions = predict_split(predict, split, batch_size, progress.update, part, gather)
    result = summarize(split.observations, predictions) | {
        "data_dir": str(split.folder),
        "data_fingerprint": split.info.fingerprint,
        "split": split.split,
        "uncertain_policy": dict(split.policy),
    }
    if split.max_bad_records:
        result["bad_records"] = len(split.bad_records)
    return result, predictions


def summarize(observations: Sequence[str], predictions: Predictions) -> dict:
    """AUC and counts of every observation; an undefined AUC is None."""
    auc = roc_auc(predictions.labels, predictions.logits)
    counts = count_labels(predictions.labels, observations)
    rows = {
        name: {"auc": _number(value), **counts[name]}
        for name, value in zip(observations, auc, strict=True)
    }
    return {
        "mean_auc": _number(mean_auc(auc)),
        "observations": rows,
        "undefined": [name for name, row in rows.items() if row["auc"] is None],
        "images": len(predictions.labels),
        "patients": len(np.unique(predictions.patient)),
    }


def table(result: dict) -> str:
    """Returns an evaluation as text for the terminal.

    Args:
        result: of :func:`evaluate`, with "weights" ("best" or "last") and "step" of the weights.
    """
    width = max(len("observation"), *(len(name) for name in result["observations"]))
    lines = [
        f"{result['split']}: {result['images']:,} images of {result['patients']:,} patients, "
        f"{result['weights']} weights of step {result['step']}",
        f"{'observation':<{width}}     AUC  positive  negative  unknown",
    ]
    for name, row in result["observations"].items():
        auc = "      -" if row["auc"] is None else f"{row['auc']:7.4f}"
        counts = f"{row['positive']:9,} {row['negative']:9,} {row['unknown']:8,}"
        lines.append(f"{name:<{width}} {auc} {counts}")
    mean = "-" if result["mean_auc"] is None else f"{result['mean_auc']:.4f}"
    lines.append(f"{'mean':<{width}} {mean:>7}")
    if result["undefined"]:
        lines.append(
            "no AUC (needs a positive and a negative image): " + ", ".join(result["undefined"])
        )
    return "\n".join(lines)


def predictions_csv(observations: Sequence[str], predictions: Predictions) -> str:
    """Returns a row per image: keyed ids, then label and probability of every observation."""
    heads = [f"{kind} {name}" for name in observations for kind in ("label", "probability")]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["image_id", "patient", *heads])
    rows = zip(
        predictions.image_id,
        predictions.patient,
        predictions.labels,
        predictions.probabilities,
        strict=True,
    )
    for image_id, patient, labels, probabilities in rows:
        cells = []
        for label, probability in zip(labels, probabilities, strict=True):
            cells += ["" if np.isnan(label) else int(label), f"{probability:.7g}"]
        writer.writerow([image_id, patient, *cells])
    return file.getvalue()


def first_pictures(colorize: Predict, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns a split's first PICTURES images, as stored, and what T makes of them.

    Args:
        colorize: raw images (B, S, S, C) to T's output (B, S, S, 3).
        split: images.
    """
    images, _ = next(iter(split.examples().batch(PICTURES).take(1)))
    return images.numpy(), colorize(images)


def _number(value) -> float | None:
    return None if np.isnan(value) else float(value)
