"""TensorBoard events: scalars, curves, gray images beside colorized ones, hyper-parameters.

TensorFlow only, like the event format; the models it shows may run on any backend.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.evaluation.metrics import mean_auc, roc_auc
from medcolor_tf.evaluation.operating_points import (
    YOUDEN,
    Rule,
    choose_threshold,
    measures,
    patient_counts,
)
from medcolor_tf.evaluation.visualize import side_by_side
from medcolor_tf.files import cannot_write

# Thresholds of a precision-recall curve.
CURVE_POINTS = 101
MEAN_AUC = "{}/mean_auc"
# Group of the pictures: TensorBoard sorts groups and opens the first two, which are curves then.
PICTURES = "visual"
# Options that the HPARAMS tab shows first; the others can be ticked.
FIRST_OPTIONS = ("strategy", "colorizer", "backbone", "max_lr", "lr_multipliers", "train_fraction")


class Log:
    """An event file.

    Args:
        folder: made when missing; TensorBoard calls the run as it is called. A resumed run adds a
            file; steps that were run again have the same values there.

    Every method raises InputError where the file cannot be written, on a full disk for one.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        with self._writing():
            self._writer = tf.summary.create_file_writer(str(folder))

    @contextlib.contextmanager
    def _writing(self, step: int | None = None) -> Iterator[None]:
        """Makes events those of a step; InputError where the file cannot be written."""
        try:
            with contextlib.nullcontext() if step is None else self._writer.as_default(step=step):
                yield
        except tf.errors.OpError as error:
            cause = OSError(0, " ".join(error.message.split()))
            raise cannot_write(self._folder, cause) from None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one point a name; NaN (an undefined AUC) is left out."""
        with self._writing(step):
            for name, value in values.items():
                if np.isfinite(value):
                    tf.summary.scalar(name, value)

    def pictures(self, step: int, gray: np.ndarray, colorized: np.ndarray) -> None:
        """Writes gray images (B, H, W, C) beside T's output (B, H, W, 3)."""
        with self._writing(step):
            tf.summary.image(
                f"{PICTURES}/gray_and_colorized",
                side_by_side(gray, colorized),
                max_outputs=len(gray),
            )
            self._writer.flush()

    def color_table(self, step: int, picture: np.ndarray) -> None:
        """Writes the gray values and their colours, (H, W, 3) uint8, of a color_map."""
        with self._writing(step):
            tf.summary.image(f"{PICTURES}/gray_to_color", picture[None])

    def validation(
        self,
        step: int,
        observations: Sequence[str],
        labels: np.ndarray,
        logits: np.ndarray,
        loss: float,
    ) -> None:
        """Writes what the validation images say.

        The loss, the AUC of each observation and their mean; sensitivity, specificity and the
        threshold where the sum of the two is greatest, which the same images chose; a curve of
        precision and recall for each observation.

        Args:
            step: steps done.
            observations: L names.
            labels: (N, L) 0, 1 or NaN.
            logits: (N, L).
            loss: of these images.
        """
        auc, probabilities = roc_auc(labels, logits), sigmoid(logits)
        values = {"valid/loss": loss, MEAN_AUC.format("valid"): mean_auc(auc)}
        for name, value, truth, chance in zip(
            observations, auc, labels.T, probabilities.T, strict=True
        ):
            values[f"valid/auc {name}"] = float(value)
            threshold = choose_threshold(truth, chance, Rule(YOUDEN))
            if threshold is not None:
                one = np.zeros(len(truth), int)  # all images as if of one patient
                counts = patient_counts(truth, chance, threshold, one, 1)[0]
                point = measures(counts)
                values[f"valid/threshold {name}"] = threshold
                for measure in ("sensitivity", "specificity"):
                    values[f"valid/{measure} {name}"] = float(point[measure])
        self.scalars(step, values)
        for name, truth, chance in zip(observations, labels.T, probabilities.T, strict=True):
            self._curve(step, f"valid/{name}", truth, chance)

    def _curve(self, step: int, name: str, labels: np.ndarray, chances: np.ndarray) -> None:
        from tensorboard.plugins.pr_curve import summary

        known = np.isfinite(labels)
        if len(np.unique(labels[known])) < 2:
            return
        curve = summary.pb(name, labels[known] == 1, chances[known], CURVE_POINTS)
        with self._writing(step):
            tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step)

    def evaluation(self, step: int, result: Mapping) -> None:
        """Writes the AUCs of an evaluation, of which the mean is a metric of the HPARAMS tab.

        Args:
            step: of the weights.
            result: of :func:`medcolor_tf.evaluation.evaluate.evaluate`.
        """
        split = result["split"]
        values = {f"{split}/auc {k}": v["auc"] for k, v in result["observations"].items()}
        values[MEAN_AUC.format(split)] = result["mean_auc"]
        self.scalars(step, {name: value for name, value in values.items() if value is not None})

    def hyper_parameters(self, values: Mapping, splits: Sequence[str]) -> None:
        """Writes a run's options to the HPARAMS tab, with the mean AUCs as its metrics.

        Args:
            values: name -> option as it is used.
            splits: that are evaluated, beside the validation images.
        """
        from tensorboard.plugins.hparams import api, api_pb2, plugin_data_pb2

        types: Any = api_pb2  # protobuf makes the names of such modules when they are imported
        messages: Any = plugin_data_pb2
        shown = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in values.items()
        }
        names = dict.fromkeys(("valid", *splits))
        metrics = [api.Metric(MEAN_AUC.format(s), display_name=f"{s} mean AUC") for s in names]
        experiment = api.hparams_config_pb([api.HParam(name) for name in shown], metrics)
        # TensorBoard sorts options by their names, those that differ first: what it finds out where
        # it knows nothing of metrics.
        plugin_data = experiment.value[0].metadata.plugin_data
        content = messages.HParamsPluginData.FromString(plugin_data.content)
        for info in content.experiment.hparam_infos:
            kind = type(shown[info.name])
            info.differs = info.name in FIRST_OPTIONS
            info.type = {
                bool: types.DATA_TYPE_BOOL,
                int: types.DATA_TYPE_FLOAT64,
                float: types.DATA_TYPE_FLOAT64,
            }.get(kind, types.DATA_TYPE_STRING)
        plugin_data.content = content.SerializeToString()
        with self._writing(0):
            tf.summary.experimental.write_raw_pb(experiment.SerializeToString(), 0)
            api.hparams(shown, trial_id=self._folder.name)

    def graph(self, model: keras.Model, shape: Sequence[int | None]) -> None:
        """Writes the graph of a model.

        Args:
            model: on the TensorFlow backend.
            shape: of its input.
        """
        traced = tf.function(lambda x: model(x, training=False))
        concrete = traced.get_concrete_function(tf.TensorSpec(shape, tf.float32))
        with self._writing(0):
            tf.summary.graph(concrete.graph)

    def close(self) -> None:
        """Writes what is left."""
        with self._writing():
            self._writer.close()
