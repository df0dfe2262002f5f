"""A run folder as a model that others go on with."""

from pathlib import Path
from typing import NamedTuple

import keras

from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs.decision import Decision, load_decision
from medcolor_tf.runs.folder import load_classifier


class _Parts(NamedTuple):
    model: keras.Model
    observations: tuple[str, ...]
    spec: ModelSpec


class LoadedRun(_Parts):
    """What :func:`load_run` returns, the tuple (model, observations, spec).

    Attributes:
        model: the classifier C∘E∘T.
        observations: the name of each logit.
        spec: what the model was built from, its normalisation and image size among it.
    """

    _folder: Path
    _which: str

    @property
    def decision(self) -> Decision | None:
        """The run's calibration and thresholds; None where it has none.

        Raises:
            InputError: they were chosen for other weights, or the file is damaged.
        """
        return load_decision(self._folder, self._which)


def load_run(folder: str | Path, which: str = "best") -> LoadedRun:
    """Loads the classifier of a run folder, with its weights.

    Args:
        folder: made by ``python -m medcolor_tf.train`` (``--run_dir``).
        which: "best", the checkpoint with the highest validation mean AUC, or "last".

    Returns:
        A named tuple ``(model, observations, spec)``. ``model`` is a functional Keras model, not
        compiled: raw images (B, H, W, ``spec.input_channels``) of any numeric dtype, values 0 to
        ``spec.max_value``, to logits (B, L) float32. It normalises by itself; H and W are those it
        was trained with, ``spec.image_size`` pixels, or any that T and E take.
        ``observations`` names the L logits; a sigmoid makes probabilities of them. Its attribute
        ``decision`` is what ``evaluate --operating_point`` or ``calibrate`` have left, or None:
        ``decision.calibrated(logits)`` gives calibrated probabilities, and
        ``decision.classify(logits=logits)`` 1 for positive, 0 for negative, -1 without a threshold.

    Raises:
        InputError: ``folder`` is no run, has no checkpoint yet, or its files are damaged.

    Example:
        >>> import keras
        >>> import medcolor_tf as mc
        >>> model, observations, spec = mc.load_run(run_dir)
        >>> observations
        ('Atelectasis', 'Cardiomegaly', 'Consolidation', 'Edema', 'Pleural Effusion')
        >>> images, labels = next(iter(mc.make_dataset(data_dir, "test", batch_size=4)))
        >>> probabilities = keras.ops.sigmoid(model(images))
        >>> tuple(probabilities.shape)
        (4, 5)
    """
    spec, model, _ = load_classifier(folder, which)
    loaded = LoadedRun(model, spec.observations, spec)
    loaded._folder, loaded._which = Path(folder), which
    return loaded
