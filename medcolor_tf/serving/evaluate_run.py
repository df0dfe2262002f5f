"""A trained run on one split of a data set: numbers, predictions and pictures as files."""

import functools
import io
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from medcolor_tf.catalog import VERIFICATIONS
from medcolor_tf.data import damage
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.decisions import DecisionOptions
from medcolor_tf.evaluation.evaluate import evaluate, first_pictures, predictions_csv
from medcolor_tf.evaluation.inference import (
    Predict,
    Predictions,
    predict_batch,
    predictor,
)
from medcolor_tf.evaluation.units import BreakdownOptions
from medcolor_tf.evaluation.visualize import colorized_strip
from medcolor_tf.files import writing
from medcolor_tf.models import colorize_model
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel.multihost import ALONE, Processes
from medcolor_tf.private_paths import without_folders
from medcolor_tf.progress import say
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import data_name
from medcolor_tf.runs.decision import NO_DECISION
from medcolor_tf.serving.breakdown import Breakdown
from medcolor_tf.serving.decide_run import CHOSEN_ON, Decider, check_input, predict_shown


def evaluate_run(run_dir: str, data_dir: str, **options) -> dict:
    """Evaluates a run's weights alone; see :func:`evaluate_and_decide`.

    Args:
        run_dir: the run's folder.
        data_dir: a prepared data set.
        options: of :func:`evaluate_and_decide`.

    Returns:
        The content of ``evaluation-SPLIT.json``.
    """
    decisions = DecisionOptions(decision=NO_DECISION)
    return evaluate_and_decide(run_dir, data_dir, decisions=decisions, **options)[0]


def evaluate_and_decide(
    run_dir: str,
    data_dir: str,
    split: str = "test",
    weights: str = "best",
    uncertain_policy: str = "",
    batch_size: int = 32,
    out: str = "",
    mixed_precision: bool = False,
    verify: str = VERIFICATIONS[0],
    max_bad_records: int = 0,
    private_paths: bool = False,
    decisions: DecisionOptions | None = None,
    breakdown: BreakdownOptions | None = None,
) -> tuple[dict, str]:
    """Evaluates a run and its decision.

    Writes ``evaluation-``, ``predictions-``, ``colorized-`` and, of a decision,
    ``operating-points-SPLIT``; by group ``subgroups-SPLIT``, per study or patient ``units-SPLIT``.

    Args:
        run_dir: the run's folder.
        data_dir: a prepared data set.
        split: "train", "valid" or "test".
        weights: "best" or "last".
        uncertain_policy: another policy than the data set's.
        batch_size: images per batch.
        out: folder for the files; "" for the run's.
        mixed_precision: compute T and E in bfloat16.
        verify: how many shards are compared with their SHA-256, "sample" or "full".
        max_bad_records: damaged records that may be left out.
        private_paths: record the last component of paths alone.
        decisions: thresholds to choose on validation, or the decision to measure; None: the run's.
        breakdown: groups, and studies or patients, to evaluate by.

    Returns:
        (content of ``evaluation-SPLIT.json``, what the decision and the breakdown give as text).

    Raises:
        InputError: no such run, a data set that does not fit it, or a decision of other weights.
    """
    decisions = decisions or DecisionOptions()
    spec, classifier, step = runs.load_predictor(run_dir, weights, mixed_precision)
    selection = Selection(spec.observations, uncertain_policy, max_bad_records=max_bad_records)
    opened = Split(data_dir, split, selection, spec.image_size, verify)
    splits = [opened]
    parts = Breakdown(breakdown or BreakdownOptions(), opened)
    decider = Decider(run_dir, weights, step, decisions, spec.observations)
    if decisions.operating_point or parts.needs_validation(decider.decision):
        splits.append(Split(data_dir, CHOSEN_ON, selection, spec.image_size, verify))
    private = data_dir if private_paths else ""
    origin = origin_of(run_dir, weights, step, mixed_precision, private)
    files = runs.Run(Path(out or run_dir))
    with damage.named(*splits):
        for one in splits:
            check_input(spec, one, origin["run_dir"])
        validation = None
        for one in splits[1:]:
            choose = decider.choose if decisions.operating_point else _predict_only
            predict = predictor(classifier, batch_size)
            validation = one, choose(predict, one, batch_size, files)
        result, predictions = _evaluate_model(spec, classifier, opened, batch_size, origin, files)
    texts = (
        decider.measure(opened, predictions, files),
        parts.measure(predictions, decider.decision, validation, files),
    )
    for line in damage.describe(splits):
        print(line)
    return result, "\n".join(filter(None, texts))


def _predict_only(predict: Predict, split: Split, batch_size: int, files: runs.Run) -> Predictions:
    """Predicts validation images where no decision is chosen on them."""
    return predict_shown(predict, split, batch_size)


def evaluate_model(
    spec: ModelSpec,
    classifier: keras.Model,
    split: Split,
    batch_size: int,
    origin: Mapping,
    out: str | Path,
    colorize: Predict | None = None,
    processes: Processes = ALONE,
) -> dict:
    """Evaluates a model that is built already; see :func:`evaluate_run`.

    Args:
        spec: of the model.
        classifier: raw images to logits.
        split: images and labels.
        batch_size: images per batch.
        origin: of :func:`origin_of`, stored with the result.
        out: folder for the files.
        colorize: of :func:`colorizer_of`, where the caller has it already.
        processes: that share the images; the main one of them writes the files.
    """
    files = runs.Run(Path(out))
    return _evaluate_model(spec, classifier, split, batch_size, origin, files, colorize, processes)[
        0
    ]


def _evaluate_model(
    spec: ModelSpec,
    classifier: keras.Model,
    split: Split,
    batch_size: int,
    origin: Mapping,
    files: runs.Run,
    colorize: Predict | None = None,
    processes: Processes = ALONE,
) -> tuple[dict, Predictions]:
    check_input(spec, split, origin["run_dir"])
    predict = predictor(classifier, batch_size)
    result, predictions = evaluate(
        predict, split, batch_size, processes.part, processes.gather_rows
    )
    result |= origin
    if not processes.is_main_process:
        return result, predictions
    with writing(files.folder):
        files.folder.mkdir(parents=True, exist_ok=True)
    # The summary last: where it is, the others are complete.
    table = predictions_csv(spec.observations, predictions)
    contents: dict[str, bytes | str | Path | dict] = {files.predictions(split.split).name: table}
    if spec.has_colorizer:
        pictures = first_pictures(colorize or colorizer_of(classifier), split)
        contents[files.pictures(split.split).name] = _png(colorized_strip(*pictures))
    for line in _replaced(files, split, result):
        say(line)
    files.write(contents | {files.evaluation(split.split).name: result})
    return result, predictions


def _replaced(files: runs.Run, split: Split, result: Mapping) -> list[str]:
    """Says which evaluation of other images is written over."""
    path = files.evaluation(split.split)
    try:
        earlier = files.read_json(path) if path.is_file() else result
    except InputError:
        return []
    if earlier.get("data_fingerprint") == result["data_fingerprint"]:
        return []
    name = data_name(earlier["data_dir"])
    return [
        f"warning: replaces the evaluation of {split.split} of {name} "
        f"({earlier['images']:,} images) in {files.folder}; --out=FOLDER leaves it there"
    ]


def origin_of(
    run_dir: str, weights: str, step: int, mixed_precision: bool, private_data_dir: str = ""
) -> dict:
    """Returns what an evaluation says of the model: see :func:`evaluate_run`, and its step.

    ``private_data_dir`` is the data set's folder where it and the run's are to be recorded by their
    last component alone, else "".
    """
    origin = {
        "run_dir": run_dir,
        "weights": weights,
        "step": step,
        "mixed_precision": mixed_precision,
    }
    if private_data_dir:
        origin |= without_folders({"run_dir": run_dir, "data_dir": private_data_dir})
    return origin


def colorizer_of(classifier: keras.Model) -> Predict:
    """Returns the function from raw images (B, S, S, C) to T's output (B, S, S, 3)."""
    return functools.partial(predict_batch, colorize_model(classifier))


def evaluate_once(
    run_dir: str,
    split: Split,
    batch_size: int,
    mixed_precision: bool,
    private_paths: bool = False,
) -> dict:
    """Reads the evaluation of a run's best weights, or makes it where it is missing or another's.

    Args:
        run_dir: the folder of a finished run.
        split: of the run's image size and observations, with the wanted label policy.
        batch_size: images per batch.
        mixed_precision, private_paths: as in :func:`evaluate_run`.
    """
    options = {
        "weights": "best",
        "uncertain_policy": dict(split.policy),
        "mixed_precision": mixed_precision,
    }
    path = runs.Run(Path(run_dir)).evaluation(split.split)
    if path.is_file():
        run = runs.Run(Path(run_dir))
        try:
            result = run.read_json(path)
            run.checked(run.predictions(split.split))
            if all(result.get(name) == value for name, value in options.items()):
                return result
        except InputError as error:
            say(f"warning: {error}\nwarning: the evaluation is made again")
    spec, classifier, step = runs.load_predictor(run_dir, "best", mixed_precision)
    private = str(split.folder) if private_paths else ""
    origin = origin_of(run_dir, "best", step, mixed_precision, private)
    return evaluate_model(spec, classifier, split, batch_size, origin, run_dir)


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
