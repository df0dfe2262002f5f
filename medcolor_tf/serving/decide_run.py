"""A run's decision on a data set: chosen on one split, measured on another, written as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import decisions
from medcolor_tf.evaluation.decisions import DecisionOptions
from medcolor_tf.evaluation.inference import Predict, Predictions, predict_split, sigmoid
from medcolor_tf.evaluation.operating_points import parse_prevalence
from medcolor_tf.files import file_sha256
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.private_paths import last_component
from medcolor_tf.progress import Progress
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import (
    NO_DECISION,
    Decision,
    ObservationDecision,
    load_decision,
    save_decision,
)

CHOSEN_ON = "valid"


def data_record(name: str, splits: Sequence[Split], predictions: Predictions) -> dict:
    """Returns what a decision says of the images on which it was chosen.

    Args:
        name: "valid", ... or "all".
        splits: opened, of one data set.
        predictions: of their images.
    """
    first = splits[0]
    return {
        "name": last_component(str(first.folder)),
        "fingerprint": first.info.fingerprint,
        "split": name,
        "uncertain_policy": dict(first.policy),
        "images": len(predictions.labels),
        "patients": len(set(predictions.patient.tolist())),
    }


def check_input(spec: ModelSpec, split: Split, run_dir: str) -> None:
    """Raises InputError where a split's images are not what a run's model takes."""
    for what, expected, received in (
        ("bits a pixel", spec.bits, split.info.bits),
        ("input channels", spec.input_channels, split.info.channels),
    ):
        if expected != received:
            raise InputError(
                f"{split.folder}: {received} {what}, the model of {run_dir} takes {expected}"
            )


def predict_shown(predict: Predict, split: Split, batch_size: int) -> Predictions:
    """Predicts a split and shows how far it is; see :func:`predict_split`."""
    with Progress(f"predicting {split.split}", len(split)) as progress:
        return predict_split(predict, split, batch_size, progress.update)


class Decider:
    """The decision of an evaluation: chosen now, the run's own, or none.

    Attributes:
        decision: to measure; None where there is none.
        path: its file.
    """

    def __init__(
        self, run_dir: str, weights: str, step: int, options: DecisionOptions, names: Sequence[str]
    ):
        """Reads the run's decision where none is to be chosen.

        Args:
            run_dir: the run's folder.
            weights, step: "best" or "last", and their step.
            options: of the command.
            names: the model's observations.

        Raises:
            InputError: flags that contradict each other, a decision of other weights.
        """
        options.check()
        parse_prevalence(options.prevalence, names)  # before an hour of predictions
        self._run_dir, self._weights, self._step, self._options = run_dir, weights, step, options
        self.path = Path(run_dir) / runs.DECISION
        self.decision: Decision | None = None
        self._warnings: list[str] = []
        if options.rule is not None:
            return
        self.decision = load_decision(run_dir, weights, options.decision)
        if options.decision not in ("", NO_DECISION):
            self.path = Path(options.decision)
        if self.decision is None and options.prevalence:
            raise InputError(
                f"--prevalence={','.join(options.prevalence)}: there is no decision whose "
                "predictive values it could be about; give --operating_point too"
            )

    def choose(
        self, predict: Predict, split: Split, batch_size: int, files: runs.Run
    ) -> Predictions:
        """Chooses a threshold per observation, without calibration, and writes the decision.

        :meth:`measure` warns of those whose scores may be no better than chance here.

        Args:
            predict: raw images to logits.
            split: on which thresholds are chosen.
            batch_size: images per batch.
            files: the folder for the file.

        Returns:
            The predictions on which it was chosen.

        Raises:
            InputError: no threshold can be chosen, or another decision is there.
        """
        rule = self._options.rule
        assert rule is not None
        predictions = predict_shown(predict, split, batch_size)
        # In double precision: an overconfident model has many that float32 rounds to 1.
        chances = sigmoid(predictions.logits.astype(np.float64))
        chosen = decisions.choose_thresholds(split.observations, predictions.labels, chances, rule)
        if all(entry["threshold"] is None for entry in chosen.values()):
            reasons = "; ".join(f"{name}: {entry['reason']}" for name, entry in chosen.items())
            raise InputError(
                f"--operating_point={rule}: no threshold can be chosen on {split.split} of "
                f"{split.folder}: {reasons}"
            )
        self.decision = Decision(
            made_by="evaluate",
            rule=str(rule),
            weights=self._weights,
            step=self._step,
            digests=runs.weights_digests(self._run_dir, self._weights),
            data=data_record(split.split, [split], predictions),
            observations={name: ObservationDecision(**entry) for name, entry in chosen.items()},
        )
        chance = decisions.warn_of_chance(
            split.observations, predictions.labels, predictions.logits, predictions.patient
        )
        self._warnings = [
            f"warning: {name}: on {split.split} {text}" for name, text in chance.items()
        ]
        self.path = save_decision(self.decision, files.folder, self._options.replace_decision)
        return predictions

    def measure(self, split: Split, predictions: Predictions, files: runs.Run) -> str:
        """Writes ``operating-points-SPLIT.json``; returns it as text, "" without a decision.

        Args:
            split: images and labels.
            predictions: of the images.
            files: the folder for the file.
        """
        if self.decision is None:
            return ""
        content = measure_decision(
            self.decision, self.path, split, predictions, self._options.prevalence
        )
        files.write({files.operating_points(split.split).name: content})
        return "\n".join([describe(self.decision, content), *self._warnings])


def measure_decision(
    decision: Decision,
    path: Path,
    split: Split,
    predictions: Predictions,
    prevalence: Sequence[str],
) -> dict:
    """Returns the content of ``operating-points-SPLIT.json``.

    Args:
        decision: to measure.
        path: its file.
        split: images and labels.
        predictions: of the images.
        prevalence: of --prevalence.

    Returns:
        What :func:`medcolor_tf.evaluation.decisions.assess` says under "observations"; where the
        decision calibrates, the same measures of the model's own probabilities under
        "uncalibrated"; and what both are of.
    """
    names, labels = list(decision.observations), predictions.labels
    shares = parse_prevalence(prevalence, names)
    observations = decisions.assess(
        names,
        labels,
        decision.calibrated_logits(predictions.logits),
        decision.calibrated(predictions.logits),
        decision.thresholds,
        predictions.patient,
        shares,
    )
    content = {
        "split": split.split,
        "data_fingerprint": split.info.fingerprint,
        "uncertain_policy": dict(split.policy),
        "images": len(labels),
        "patients": len(set(predictions.patient.tolist())),
        "weights": decision.weights,
        "step": decision.step,
        "rule": decision.rule,
        "made_by": decision.made_by,
        "chosen_on": dict(decision.data),
        "same_images": chosen_on_these(decision, split),
        "decision_sha256": file_sha256(path),
        "confidence_level": decisions.CONFIDENCE_LEVEL,
        "n_resamples": decisions.N_RESAMPLES,
        "observations": observations,
    }
    if decision.calibrates:
        none = [None] * len(names)
        content["uncalibrated"] = decisions.assess(
            names, labels, predictions.logits, predictions.probabilities, none, predictions.patient
        )
    return content


def chosen_on_these(decision: Decision, split: Split) -> bool:
    """Whether the decision was chosen on images of this split."""
    same_data = decision.data["fingerprint"] == split.info.fingerprint
    return same_data and decision.data["split"] in ("all", split.split)


def describe(decision: Decision, content: Mapping) -> str:
    """Returns the tables of :func:`measure_decision` as text for the terminal."""
    lines = [f"decision: {decision.describe()}"]
    if content["same_images"]:
        lines.append(
            f"warning: chosen on images of this very split ({content['split']}): the numbers below "
            "are better than those of new patients will be"
        )
    elif content["data_fingerprint"] == decision.data["fingerprint"]:
        lines.append(f"no image of {content['split']} had a part in the choice")
    else:
        lines.append("chosen on another data set; whether the two share patients is not known here")
    for name, entry in decision.observations.items():
        if entry.threshold is None:
            lines.append(f"no threshold for {name}: {entry.reason}")
    level = f"{content['confidence_level']:.0%} intervals over patients"
    lines += [
        f"sensitivity, specificity and predictive values on {content['split']}, {level}:",
        decisions.decisions_table(content["observations"]),
    ]
    if "uncalibrated" in content:
        lines += [
            f"the model's own probabilities on {content['split']}:",
            decisions.calibration_table(content["uncalibrated"]),
            "calibrated:",
        ]
    else:
        lines.append("calibration:")
    lines.append(decisions.calibration_table(content["observations"]))
    return "\n".join(lines)
