"""Exported models at work: the same classifier as SavedModel, ONNX and LiteRT, prepared pixels in.

``python -m benchmarks.serving FOLDER SIZE BACKBONE`` writes them, in a process of its own: the
processes that are measured hold the runtime of their format alone.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.work import LABELS, batch_of

Run = Callable[[int], None]


def make(folder: Path, size: int, backbone: str) -> None:
    """Writes the models into a folder, one per format that can be written here."""
    command = [sys.executable, "-m", "benchmarks.serving", str(folder), str(size), backbone]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no message")


def main(folder: str, size: str, backbone: str) -> None:
    """Writes the models."""
    from benchmarks import ours
    from medcolor_tf import catalog
    from medcolor_tf.errors import InputError
    from medcolor_tf.models import classify_and_colorize
    from medcolor_tf.models.fast.folding import fold_batch_norm
    from medcolor_tf.models.spec import ModelSpec

    names = tuple(f"observation {number}" for number in range(LABELS))
    side = int(size)
    spec = ModelSpec(
        "pixel_shuffle", "paper", backbone, names, side, side, 1, 8, 0.5, 0.3, bn_momentum=0.9
    )
    model = classify_and_colorize(fold_batch_norm(ours.build("all", backbone)))
    contract = {"weights": {"step": 0, "which": "best"}}
    for name, form in catalog.EXPORT_FORMATS.items():
        try:
            catalog.check_packages(name)
            catalog.resolve(form.build)(spec, model, Path(folder) / name, contract)
        except InputError as error:
            print(error, file=sys.stderr)  # the worker says that there is no such file


def savedmodel(spec: dict) -> Run:
    """Returns ``run(steps)``, a batch through the signature ``prepared`` per step.

    Args:
        spec: folder, size, batch.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(f"{spec['folder']}/savedmodel")
    images = tf.constant(batch_of(spec)[0])
    prepared = loaded.signatures["prepared"]

    def run(steps: int) -> None:
        for _ in range(steps):
            answer = prepared(images)
        answer["probabilities"].numpy()
        assert loaded  # whose signatures hold no reference to it

    return run


def onnx(spec: dict) -> Run:
    """Returns ``run(steps)``, a batch through ONNX Runtime per step.

    Its threads wait for each other in busy loops; on a machine that others use they sleep, as
    PyTorch's do there, see :func:`benchmarks.machine.waiting`.

    Args:
        spec: folder, size, batch.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if os.environ.get("OMP_WAIT_POLICY") == "PASSIVE":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        f"{spec['folder']}/onnx/model.onnx", options, providers=["CPUExecutionProvider"]
    )
    images = batch_of(spec)[0]

    def run(steps: int) -> None:
        for _ in range(steps):
            session.run(["probabilities"], {"images": images})

    return run


def litert(spec: dict) -> Run:
    """Returns ``run(steps)``, a batch through LiteRT per step, on all cores.

    Args:
        spec: folder, size, batch.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(f"{spec['folder']}/litert/model.tflite", num_threads=threads())
    answer = interpreter.get_signature_runner()
    images = batch_of(spec)[0]

    def run(steps: int) -> None:
        for _ in range(steps):
            answer(images=images)

    return run


def threads() -> int:
    """Returns how many threads an operation may use: the default of TensorFlow and ONNX Runtime."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main(*sys.argv[1:])
