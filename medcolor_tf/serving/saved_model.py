"""The signatures of a SavedModel that takes the image as the user has it.

What comes before the model is data_prep's reading and resizing and the pipeline's centre square, in
TensorFlow operations (:mod:`medcolor_tf.serving.in_graph`), so that the exported model gives the
probabilities of ``medcolor_tf.predict``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from medcolor_tf.files import write_json
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision
from medcolor_tf.serving.comparison import PROBABILITIES, Answer
from medcolor_tf.serving.decision_outputs import decision_of, decision_outputs
from medcolor_tf.serving.in_graph import prepare
from medcolor_tf.serving.inputs import ReadImage

EXTRA = "assets.extra"
# What the signature "encoded" reads.
FILE_SUFFIXES = (".png", ".jpg", ".jpeg")


def write(spec: ModelSpec, model: keras.Model, folder: Path, contract: Mapping) -> Answer:
    """Writes a SavedModel; returns the function that answers by it.

    Args:
        spec: of the model.
        model: (B, S, S, C) to logits and colours, see ``classify_and_colorize``.
        folder: to write, which is not there yet.
        contract: what goes with it, see :func:`medcolor_tf.serving.contract.make_contract`.
    """
    decision = decision_of(contract)
    archive(spec, model, decision).write_out(str(folder), verbose=False)
    (folder / EXTRA).mkdir()
    weights = contract["weights"]
    about = spec.to_dict() | {"step": weights["step"], "weights": weights["which"]}
    if decision is not None:
        about["decision"] = contract["decision"]
    write_json(folder / EXTRA / runs.MODEL, about)
    return answer_by(tf.saved_model.load(str(folder)), spec)


def answer_by(exported: Any, spec: ModelSpec) -> Answer:
    """Returns the function that answers by a loaded model: from files where it reads them.

    Args:
        exported: what ``tf.saved_model.load`` returned.
        spec: of the model.
    """

    def answer(reads: Sequence[ReadImage], output: str = PROBABILITIES) -> np.ndarray:
        signature, given = "prepared", np.stack([read.image for read in reads])
        files = [read.item.files for read in reads]
        if all(of_image and _reads(of_image) for of_image in files):
            contents = [[file.read_bytes() for file in of_image] for of_image in files]
            signature = "encoded"
            given = contents if spec.input_channels > 1 else [channels[0] for channels in contents]
        return exported.signatures[signature](tf.constant(given))[output].numpy()

    return answer


def _reads(files: Sequence[Path]) -> bool:
    return all(file.suffix.lower() in FILE_SUFFIXES for file in files)


def archive(spec: ModelSpec, model: keras.Model, decision: Decision | None = None) -> Any:
    """Returns a ``keras.export.ExportArchive`` with the signatures, to be written out.

    Args:
        spec: of the model.
        model: (B, S, S, C) to logits and colours, see ``classify_and_colorize``.
        decision: of the model; what it gives stands beside the probabilities.
    """
    channels, pixels = spec.input_channels, prepare.pixel_type(spec)
    any_size = (None, None, None, channels)
    files = tf.TensorSpec((None,) if channels == 1 else (None, channels), tf.string, "encoded")
    arrays = {dtype: tf.TensorSpec(any_size, dtype, "images") for dtype in (tf.uint8, tf.uint16)}
    # Traced once each: signatures share them.
    prepare_files = _trace(prepare.prepare_files, files, spec)
    prepare_arrays = {
        dtype: _trace(prepare.prepare_arrays, signature, spec)
        for dtype, signature in arrays.items()
    }

    def answers(logits):
        return {PROBABILITIES: tf.sigmoid(logits), **decision_outputs(logits, decision)}

    def classify(prepared):
        return answers(model(prepared, training=False)[0])

    def with_names(outputs):
        count = tf.shape(outputs[PROBABILITIES])[0]
        names = tf.repeat(tf.constant([spec.observations]), count, axis=0)
        return outputs | {"observations": names}

    def from_arrays(images):
        return classify(prepare_arrays[images.dtype](images))

    def from_files(encoded):
        return with_names(classify(prepare_files(encoded)))

    def from_prepared(prepared):
        return with_names(classify(prepare.checked_prepared(prepared, spec)))

    def colorize(images):
        logits, colorized = model(prepare_arrays[images.dtype](images), training=False)
        return answers(logits) | {"colorized": colorized}

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, function, signature in (
        ("serving_default", from_arrays, arrays[tf.uint8]),
        ("uint16", from_arrays, arrays[tf.uint16]),
        ("encoded", from_files, files),
        ("prepared", from_prepared, tf.TensorSpec(any_size, pixels, "prepared")),
        ("colorized", colorize, arrays[pixels]),
    ):
        archive.add_endpoint(name, function, [signature])
    return archive


def _trace(function, signature: tf.TensorSpec, spec: ModelSpec):
    """Returns a function of (tensor, spec) as a graph function of the tensor."""
    traced = tf.function(
        lambda tensor: function(tensor, spec), input_signature=[signature], autograph=False
    )
    return traced.get_concrete_function()
