"""A trained run on one split: exact AUC per observation, counts, and the predictions themselves."""

import csv
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medcolor_tf.data.pipeline import Selection, Split, label_counts
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.auc import mean_auc, roc_auc
from medcolor_tf.evaluation.predictions import Predictions, predict_split
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.training import runs


def evaluate(config) -> dict:
    """Evaluates a run and writes ``evaluation-SPLIT.json`` and ``predictions-SPLIT.csv``.

    Args:
        config: :class:`medcolor_tf.evaluate.EvaluateConfig`.

    Returns:
        The JSON file's content.

    Raises:
        InputError: no such run, or a data set that does not fit it.
    """
    spec, classifier, step = runs.load_classifier(config.run_dir, config.weights)
    split = open_split(spec, config)
    with tqdm(total=len(split), unit=" images", disable=len(split) < 1000) as bar:
        predictions = predict_split(classifier, split, config.batch_size, bar.update)
    result = summarize(spec, predictions) | {
        "run_dir": config.run_dir,
        "data_dir": config.data_dir,
        "data_fingerprint": split.info.fingerprint,
        "split": config.split,
        "weights": config.weights,
        "step": step,
        "uncertain_policy": config.uncertain_policy or dict(split.info.uncertain_policy),
    }
    out = Path(config.out or config.run_dir)
    out.mkdir(parents=True, exist_ok=True)
    runs.write_json(out / f"evaluation-{config.split}.json", result)
    write_predictions(out / f"predictions-{config.split}.csv", spec.observations, predictions)
    return result


def open_split(spec: ModelSpec, config) -> Split:
    """Opens the split with the run's observations; InputError when the data does not fit."""
    selection = Selection(spec.observations, config.uncertain_policy)
    split = Split(config.data_dir, config.split, selection, spec.image_size)
    for what, wanted, found in (
        ("bits a pixel", spec.bits, split.info.bits),
        ("input channels", spec.input_channels, split.info.channels),
    ):
        if wanted != found:
            raise InputError(
                f"{config.data_dir}: {found} {what}, the model of {config.run_dir} takes {wanted}"
            )
    return split


def summarize(spec: ModelSpec, predictions: Predictions) -> dict:
    """AUC and counts of every observation; an undefined AUC is None."""
    auc = roc_auc(predictions.labels, predictions.logits)
    counts = label_counts(predictions.labels, spec.observations)
    rows = {
        name: {"auc": _number(value), **counts[name]}
        for name, value in zip(spec.observations, auc, strict=True)
    }
    return {
        "mean_auc": _number(mean_auc(auc)),
        "observations": rows,
        "undefined": [name for name, row in rows.items() if row["auc"] is None],
        "images": len(predictions.labels),
        "patients": len(np.unique(predictions.patient)),
    }


def table(result: dict) -> str:
    """The result as text for the terminal."""
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


def write_predictions(path: Path, observations, predictions: Predictions) -> None:
    """Writes a row an image: keyed ids, then label and probability of every observation."""
    temporary = path.with_name(f".{path.name}.tmp")
    heads = [f"{kind} {name}" for name in observations for kind in ("label", "probability")]
    with open(temporary, "w", newline="", encoding="utf-8") as file:
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
    os.replace(temporary, path)


def _number(value) -> float | None:
    return None if np.isnan(value) else float(value)
