"""Exported models for other runtimes: ONNX and LiteRT, from prepared pixels to probabilities.

Normalisation is inside, reading and resizing are not: neither format decodes files. What comes
before the model stands in ``contract.json``.
"""

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from medcolor_tf import commandline
from medcolor_tf.catalog import SAVED_MODEL_FORMAT
from medcolor_tf.errors import InputError
from medcolor_tf.keras_ops import ops
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs.decision import Decision
from medcolor_tf.serving.comparison import PROBABILITIES, Answer
from medcolor_tf.serving.decision_outputs import decision_of, decision_outputs
from medcolor_tf.serving.inputs import ReadImage

ONNX_FILE, LITERT_FILE = "model.onnx", "model.tflite"
INPUT, OUTPUTS = "images", (PROBABILITIES, "logits", "colorized")
# Name of the contract in an ONNX file's metadata.
METADATA = "medcolor_tf"


def portable_model(
    spec: ModelSpec, model: keras.Model, decision: Decision | None = None
) -> keras.Model:
    """Returns the model of one size, (B, S, S, C) uint8 or uint16 to a dictionary of OUTPUTS.

    Args:
        spec: of the model.
        model: raw images to logits and colours, see ``classify_and_colorize``.
        decision: of the model; what it gives stands beside the others.
    """
    images = keras.Input(_shape(spec), dtype=f"uint{spec.bits}", name=INPUT)
    logits, colorized = model(images)
    probabilities = ops.sigmoid(logits)
    outputs = dict(zip(OUTPUTS, (probabilities, logits, colorized), strict=True))
    outputs |= decision_outputs(logits, decision)
    return keras.Model(images, outputs, name="exported")


def write_onnx(spec: ModelSpec, model: keras.Model, folder: Path, contract: Mapping) -> Answer:
    """Writes ``model.onnx``, with the contract in its metadata; answers by ONNX Runtime.

    Args:
        spec: of the model.
        model: raw images to logits and colours.
        folder: to write, which is not there yet.
        contract: what goes with it, see :func:`medcolor_tf.serving.contract.make_contract`.

    Raises:
        InputError: the model has an operation that ONNX lacks.
    """
    import onnx
    import onnxruntime

    folder.mkdir(parents=True)
    path = folder / ONNX_FILE
    with _converting("onnx"):
        _export(spec, model, path, "onnx", contract)
        converted: Any = onnx.load(str(path))
        for value in (*converted.graph.input, *converted.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.helper.set_model_props(converted, {METADATA: json.dumps(contract, sort_keys=True)})
        onnx.checker.check_model(converted)  # what it cannot translate, tf2onnx leaves as it is
        onnx.save(converted, str(path))
        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return _answer(lambda images, output: np.asarray(session.run([output], {INPUT: images})[0]))


def write_litert(spec: ModelSpec, model: keras.Model, folder: Path, contract: Mapping) -> Answer:
    """Writes ``model.tflite``; answers by LiteRT's interpreter.

    Only LiteRT's own operations are allowed: with TensorFlow's among them, a device would need a
    larger runtime.

    Args:
        spec: of the model.
        model: raw images to logits and colours.
        folder: to write, which is not there yet.
        contract: what goes with it, see :func:`medcolor_tf.serving.contract.make_contract`.

    Raises:
        InputError: the model has an operation that LiteRT lacks.
    """
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    folder.mkdir(parents=True)
    path = folder / LITERT_FILE
    own = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    with _converting("litert"):
        _export(spec, model, path, "litert", contract, target_spec=own)
        run = Interpreter(str(path)).get_signature_runner()
        run(**{INPUT: np.zeros((1, *_shape(spec)), f"uint{spec.bits}")})  # says what it runs on
    return _answer(lambda images, output: run(**{INPUT: images})[output])


def _shape(spec: ModelSpec) -> tuple[int, int, int]:
    return (spec.image_size, spec.image_size, spec.input_channels)


def _export(
    spec: ModelSpec, model: keras.Model, path: Path, form: str, contract: Mapping, **options: Any
) -> None:
    signature: Any = keras.InputSpec(f"uint{spec.bits}", (None, *_shape(spec)), name=INPUT)
    exported = portable_model(spec, model, decision_of(contract))
    exported.export(str(path), form, verbose=False, input_signature=[signature], **options)


def _answer(run: Callable[[np.ndarray, str], np.ndarray]) -> Answer:
    def answer(reads: Sequence[ReadImage], output: str = PROBABILITIES) -> np.ndarray:
        return np.asarray(run(np.stack([read.image for read in reads]), output))

    return answer


@contextlib.contextmanager
def _converting(form: str) -> Iterator[None]:
    """Keeps what converters write on the terminal to itself, and says whose error it was."""
    try:
        with warnings.catch_warnings(), commandline.silent_errors():
            warnings.simplefilter("ignore")  # of NumPy's and TensorFlow's names, not of the model
            yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # converters raise anything
        raise InputError(
            f"--format={form}: the model cannot be converted ({_reason(error)}); nothing was "
            f"exported. --format={SAVED_MODEL_FORMAT} takes every operation"
        ) from error


def _reason(error: Exception) -> str:
    """Returns what a converter says of the operations that fail, without its dump of the model."""
    text = str(error)
    # LiteRT lists them after a page of places in the graph, and prints the whole graph then.
    listed = re.search(r"^(?:TF Select|Custom) ops: .*?(?=^<unknown>|\Z)", text, re.M | re.S)
    lines = [line.strip() for line in (listed.group() if listed else text).splitlines()]
    return "; ".join(filter(None, lines)) or type(error).__name__
