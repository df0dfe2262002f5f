"""A trained run on one split: exact AUC per observation, counts, and the predictions themselves."""

import csv
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from medcolor_tf.data.labels import count_labels
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import Predictions, predict_batch, predict_split
from medcolor_tf.evaluation.metrics import mean_auc, roc_auc
from medcolor_tf.evaluation.pictures import gray_picture, to_picture
from medcolor_tf.files import write_atomically
from medcolor_tf.models import colorize_model
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel.multihost import ALONE
from medcolor_tf.runs import folder as runs

PICTURES = 4


def evaluate(
    run_dir: str,
    data_dir: str,
    split: str = "test",
    weights: str = "best",
    uncertain_policy: str = "",
    batch_size: int = 32,
    out: str = "",
    mixed_precision: bool = False,
) -> dict:
    """Evaluates a run: ``evaluation-``, ``predictions-`` and ``colorized-SPLIT``.

    Args:
        run_dir: the run's folder.
        data_dir: a prepared data set.
        split: "train", "valid" or "test".
        weights: "best" or "last".
        uncertain_policy: another policy than the data set's.
        batch_size: images at a time.
        out: folder for the files; "" for the run's.
        mixed_precision: compute T and E in bfloat16.

    Returns:
        The JSON file's content.

    Raises:
        InputError: no such run, or a data set that does not fit it.
    """
    spec, classifier, step = runs.load_predictor(run_dir, weights, mixed_precision)
    opened = Split(data_dir, split, Selection(spec.observations, uncertain_policy), spec.image_size)
    about = {
        "run_dir": run_dir,
        "weights": weights,
        "step": step,
        "mixed_precision": mixed_precision,
    }
    colorize = colorize_model(classifier)
    return evaluate_model(spec, classifier, colorize, opened, batch_size, about, out or run_dir)


def evaluate_model(
    spec: ModelSpec,
    classifier,
    colorize,
    split: Split,
    batch_size: int,
    about: dict,
    out,
    group=ALONE,
) -> dict:
    """Evaluates a model that is built already; see :func:`evaluate`.

    Args:
        spec: of the model.
        classifier: raw images to logits.
        colorize: raw images to T's output.
        split: images and labels.
        batch_size: images at a time.
        about: "run_dir", "weights", "step" and "mixed_precision", kept with the result.
        out: folder for the files.
        group: the processes that share the images; the first of them writes the files.
    """
    _check_input(spec, split, about["run_dir"])
    with tqdm(total=len(split), unit=" images", disable=len(split) < 1000) as bar:
        predictions = predict_split(classifier, split, batch_size, bar.update, group)
    result = summarize(spec, predictions) | about
    result |= {
        "data_dir": str(split.folder),
        "data_fingerprint": split.info.fingerprint,
        "split": split.split,
        "uncertain_policy": dict(split.policy),
    }
    if not group.writes:
        return result
    folder, name = Path(out), split.split
    folder.mkdir(parents=True, exist_ok=True)
    # The summary last: where it is, the others are complete.
    write_predictions(folder / f"predictions-{name}.csv", spec.observations, predictions)
    if spec.has_colorizer:
        _write_pictures(folder / f"colorized-{name}.png", colorize, split)
    runs.write_json(folder / f"evaluation-{name}.json", result)
    return result


def first_pictures(colorize, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns a split's first PICTURES images, as stored, and what T makes of them."""
    images, _ = next(iter(split.examples().batch(PICTURES).take(1)))
    return images.numpy(), predict_batch(colorize, images)


def _write_pictures(path: Path, colorize, split: Split) -> None:
    """The split's first images, gray, over what T makes of them, as one PNG (Figure 4)."""
    images, colorized = first_pictures(colorize, split)
    rows = (gray_picture(images), to_picture(colorized))
    file = io.BytesIO()
    Image.fromarray(np.concatenate([np.hstack(list(row)) for row in rows])).save(file, "PNG")
    write_atomically(path, file.getvalue())


def _check_input(spec: ModelSpec, split: Split, run_dir: str) -> None:
    for what, wanted, found in (
        ("bits a pixel", spec.bits, split.info.bits),
        ("input channels", spec.input_channels, split.info.channels),
    ):
        if wanted != found:
            raise InputError(
                f"{split.folder}: {found} {what}, the model of {run_dir} takes {wanted}"
            )


def summarize(spec: ModelSpec, predictions: Predictions) -> dict:
    """AUC and counts of every observation; an undefined AUC is None."""
    auc = roc_auc(predictions.labels, predictions.logits)
    counts = count_labels(predictions.labels, spec.observations)
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
