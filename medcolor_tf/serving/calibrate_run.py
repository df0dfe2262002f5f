"""A finished run adapted to the films of a new place: its decision, and what it changed there."""

import dataclasses
from pathlib import Path

import numpy as np

from medcolor_tf.data import damage
from medcolor_tf.data.labels import count_labels
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.data.schema import SPLITS, DatasetInfo
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import adaptation
from medcolor_tf.evaluation.adaptation import Adaptation, adapt
from medcolor_tf.evaluation.decisions import spell_estimate, spell_line, spell_threshold
from medcolor_tf.evaluation.inference import Predictions, predict_split, predictor
from medcolor_tf.evaluation.operating_points import Rule
from medcolor_tf.progress import Progress
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import (
    Decision,
    ObservationDecision,
    existing_decision,
    save_decision,
)
from medcolor_tf.serving.decide_run import CHOSEN_ON, check_input, data_record


def calibrate_run(config, rule: Rule) -> str:
    """Adapts a run and writes its decision.

    Args:
        config: :class:`medcolor_tf.calibrate.CalibrateConfig`.
        rule: how thresholds are chosen.

    Returns:
        What was done, as text for the terminal.

    Raises:
        InputError: no such run, a data set that does not fit it or that it was trained on, another
            decision is there, or no observation can be adapted.
    """
    _check_split(config)
    spec, classifier, step = runs.load_predictor(
        config.run_dir, config.weights, config.mixed_precision
    )
    selection = Selection(
        spec.observations, config.uncertain_policy, max_bad_records=config.max_bad_records
    )
    splits = [
        Split(config.data_dir, name, selection, spec.image_size, config.verify)
        for name in _split_names(config)
    ]
    splits = [split for split in splits if len(split)]
    predict = predictor(classifier, config.batch_size)
    with damage.named(*splits):
        for split in splits:
            check_input(spec, split, config.run_dir)
        with Progress("predicting", sum(map(len, splits))) as progress:
            parts = [
                predict_split(predict, split, config.batch_size, progress.update)
                for split in splits
            ]
    for line in damage.describe(splits):
        print(line)
    predictions = _joined(parts)
    adapted, reasons = _adapt(spec.observations, predictions, config.method, rule)
    if not adapted:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"--data_dir={config.data_dir}: no observation can be adapted: {listed}")
    digests = runs.weights_digests(config.run_dir, config.weights)
    own = existing_decision(config.run_dir)  # wherever --out puts the new one
    base = own and own.before(splits[0].info.fingerprint)
    if base is not None and base.digests != digests:
        base = None  # of other weights
    comparison = _compare(spec.observations, predictions, base, adapted)
    decision = Decision(
        made_by="calibrate",
        rule=str(rule),
        weights=config.weights,
        step=step,
        digests=digests,
        data=data_record(config.split, splits, predictions),
        observations=_entries(spec.observations, predictions, adapted, reasons),
        comparison=comparison,
    )
    path = save_decision(decision, config.out or config.run_dir, config.replace_decision)
    if base is not None:
        before = base.describe()
    elif own is not None:
        before = "none (the run's were chosen on these films, or for other weights)"
    else:
        before = "none"
    origin = "--operating_point's" if config.operating_point else "the run's"
    rule_from = origin if config.operating_point or own else "since the run has no decision"
    return _text(decision, before, path, rule_from)


def _split_names(config) -> tuple[str, ...]:
    """The splits to open; of "all" those that have images."""
    if config.split != "all":
        return (config.split,)
    images = DatasetInfo.load(config.data_dir).images
    return tuple(name for name in SPLITS if images.get(name)) or SPLITS


def _check_split(config) -> None:
    """Refuses films of the run's own data set from which it has learned, or that are its test."""
    run = runs.Run(Path(config.run_dir))
    if not run.lists(runs.CONFIG) and not (run.folder / runs.CONFIG).is_file():
        return
    own = run.read_json(runs.CONFIG)["data_fingerprint"]
    if config.split != CHOSEN_ON and DatasetInfo.load(config.data_dir).fingerprint == own:
        raise InputError(
            f"--split={config.split}: the run was trained on --data_dir={config.data_dir}: its "
            "training images were learned by heart, and its test images are to measure the result "
            f"with; expected --split={CHOSEN_ON}, or the data set of another place"
        )


def _joined(parts: list[Predictions]) -> Predictions:
    names = ("logits", "labels", "image_id", "patient")
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _adapt(
    observations: tuple[str, ...], predictions: Predictions, method: str, rule: Rule
) -> tuple[dict[str, Adaptation], dict[str, str]]:
    """Returns what could be adapted, and the reasons for the rest."""
    adapted, reasons = {}, {}
    for column, name in enumerate(observations):
        labels, logits = predictions.labels[:, column], predictions.logits[:, column]
        try:
            adapted[name] = adapt(
                labels.astype(float), logits.astype(float), predictions.patient, method, rule
            )
        except InputError as error:
            reasons[name] = str(error)
    return adapted, reasons


def _compare(
    observations: tuple[str, ...],
    predictions: Predictions,
    base: Decision | None,
    adapted: dict[str, Adaptation],
) -> dict:
    if base is None:
        before = {"logits": predictions.logits, "probabilities": predictions.probabilities}
        thresholds = [None] * len(observations)
    else:
        before = {
            "logits": base.calibrated_logits(predictions.logits),
            "probabilities": base.calibrated(predictions.logits),
        }
        thresholds = base.thresholds
    return adaptation.compare(
        observations, predictions.labels, before, thresholds, adapted, predictions.patient
    )


def _entries(
    observations: tuple[str, ...],
    predictions: Predictions,
    adapted: dict[str, Adaptation],
    reasons: dict[str, str],
) -> dict[str, ObservationDecision]:
    counts = count_labels(predictions.labels, observations)
    entries = {}
    for name in observations:
        if name in reasons:
            refused = ObservationDecision(None, reason=reasons[name])
            entries[name] = dataclasses.replace(refused, **counts[name])
            continue
        line, threshold = adapted[name].recalibration, adapted[name].threshold
        fitted = ObservationDecision(threshold, line.method, line.slope, line.intercept)
        entries[name] = dataclasses.replace(fitted, **counts[name])
    return entries


def _text(decision: Decision, before: str, path: Path, rule_from: str) -> str:
    data, comparison = decision.data, decision.comparison
    lines = [
        f"{data['images']:,} films of {data['patients']:,} patients of {data['name']}; after: "
        f"{comparison['folds']}-fold cross-validation over patients, intervals of "
        f"{comparison['confidence_level']:.0%} over patients",
        f"thresholds before: {before}",
        f"thresholds after: rule {decision.rule}, {rule_from}",
        adaptation.comparison_table(comparison),
    ]
    for name, entry in decision.observations.items():
        if entry.threshold is None:
            lines.append(f"{name}: refused, no calibration and no threshold: {entry.reason}")
        else:
            lines.append(
                f"{name}: {entry.method}, probability = sigmoid("
                f"{spell_line(entry.slope, entry.intercept)}); positive from "
                f"{spell_threshold(entry.threshold)} on ({decision.rule})"
            )
    for name, row in comparison["after"].items():
        low, _ = row["calibration_slope"]["interval"]
        if low is None or low <= 0:
            lines.append(
                f"warning: {name}: the slope that the other films predict may be 0 (interval "
                f"{spell_estimate(row['calibration_slope'])}): on these films its scores may say "
                "nothing"
            )
    lines.append(f"written to {path}")
    return "\n".join(lines)
