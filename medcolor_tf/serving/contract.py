"""What goes with an exported model: what it takes and gives, and of which weights it is.

``contract.json`` is all that a program needs which runs the model without this project.
"""

import dataclasses
from pathlib import Path

from data_prep.levels import PERCENTILES
from medcolor_tf import __version__
from medcolor_tf.catalog import EXPORT_FORMATS, FULL_RANGE, SAVED_MODEL_FORMAT
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision
from medcolor_tf.serving.decision_outputs import CALIBRATED, DECISIONS

FORMAT_VERSION = 1
NOTICE = "Research software, not a medical device, not for diagnosis."
# What --range says of a picture, as data preparation does it.
_RANGES = {
    FULL_RANGE: "levels as they are: 0 is black, the largest value of the file's type is white",
    "used": "levels stretched: the darkest pixel becomes black, the brightest one white",
    "percentile": "levels stretched: percentile {} becomes black, {} white".format(*PERCENTILES),
}


def make_contract(
    spec: ModelSpec,
    run_dir: str | Path,
    weights: str,
    step: int,
    form: str,
    decision: Decision | None = None,
) -> dict:
    """Returns what is known before the model is written: see docs/serving.md for its entries.

    Args:
        spec: of the model.
        run_dir: the run's folder.
        weights: "best" or "last".
        step: of the weights.
        form: a name of :data:`medcolor_tf.catalog.EXPORT_FORMATS`.
        decision: of these weights, if any.
    """
    contract = {
        "format_version": FORMAT_VERSION,
        "notice": NOTICE,
        "medcolor_tf": __version__,
        "format": form,
        "observations": list(spec.observations),
        "input": _input(spec, form),
        "preparation": _preparation(spec),
        "normalisation": {
            "inside_the_model": True,
            "divided_by": spec.max_value,
            "mean": spec.pixel_mean,
            "std": spec.pixel_std,
        },
        "outputs": _outputs(spec, form),
        "weights": {
            "which": weights,
            "step": step,
            "sha256": runs.weights_digests(run_dir, weights),
        },
        "tolerance": EXPORT_FORMATS[form].tolerance,
        "model": spec.to_dict(),
    }
    if decision is not None:
        # What it replaced, and how it was found out, stay with the run.
        contract["decision"] = dataclasses.replace(decision, previous={}, comparison={}).to_dict()
        contract["outputs"] |= _decision_outputs(len(spec.observations))
    return contract


def _decision_outputs(count: int) -> dict:
    shape = ["batch", count]
    return {
        CALIBRATED: {
            "shape": shape,
            "dtype": "float32",
            "meaning": "sigmoid(slope * logit + intercept), as decision says per observation",
        },
        DECISIONS: {
            "shape": shape,
            "dtype": "int32",
            "meaning": "1 where calibrated is at least the threshold, 0 where it is less, -1 "
            "without a threshold",
        },
    }


def _input(spec: ModelSpec, form: str) -> dict:
    described = {
        "name": "images",
        "dtype": f"uint{spec.bits}",
        "shape": ["batch", spec.image_size, spec.image_size, spec.input_channels],
        "values": [0, spec.max_value],
        "meaning": "gray; black is 0, white the largest value",
    }
    if form == SAVED_MODEL_FORMAT:
        described |= {"name": "prepared", "signature": "prepared"}
    return described


def _outputs(spec: ModelSpec, form: str) -> dict:
    count, size = len(spec.observations), spec.image_size
    probabilities = {"shape": ["batch", count], "dtype": "float32"}
    if form == SAVED_MODEL_FORMAT:
        names = {"shape": ["batch", count], "dtype": "string"}
        return {"probabilities": probabilities, "observations": names}
    return {
        "probabilities": probabilities,
        "logits": {"shape": ["batch", count], "dtype": "float32"},
        "colorized": {
            "shape": ["batch", size, size, 3],
            "dtype": "float32",
            "meaning": "what the backbone sees, on the normalised scale",
        },
    }


def _preparation(spec: ModelSpec) -> list[str]:
    """Returns the steps from an image file to the input, in their order."""
    steps = [
        "one file per channel; EXIF orientation applied; colour to gray by ITU-R 601",
        _RANGES[spec.range],
        f"resized to a short side of {spec.short_side} pixels, bilinear with antialiasing "
        "(Pillow's BILINEAR)",
        "the largest square in the centre",
    ]
    if spec.image_size != spec.short_side:
        steps.append(f"resized again to {spec.image_size} pixels")
    return steps
