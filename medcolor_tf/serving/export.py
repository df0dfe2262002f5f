"""Exports a run in one of several formats; each is compared with predict before it has its name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from medcolor_tf import catalog
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, remove_leftovers, replacing, write_json
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.runs import folder
from medcolor_tf.runs.decision import load_decision
from medcolor_tf.serving.comparison import compare, compare_decisions, films_in, films_of_run
from medcolor_tf.serving.contract import make_contract
from medcolor_tf.serving.saved_model import EXTRA

CONTRACT = "contract.json"
MADE_UP = 5


def export(config) -> Path:
    """Exports a run; the folder appears under its name only when it is complete and was checked.

    Args:
        config: :class:`medcolor_tf.export.ExportConfig`.

    Returns:
        The new folder.

    Raises:
        InputError: no such run, a package is missing, the folder exists or cannot be written, or
            the exported model does not give what ``predict`` gives.
    """
    catalog.check_packages(config.format)
    out = Path(config.out or Path(config.run_dir) / _folder_name(config.format))
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new folder")
    spec, classifier, step = folder.load_predictor(config.run_dir, config.weights)
    decision = load_decision(config.run_dir, config.weights, config.decision)
    model = classify_and_colorize(classifier)
    if config.check_inputs:
        films, of = films_in(config.check_inputs, config.path_column, spec), "--check_inputs"
    else:
        films, of = films_of_run(config.run_dir, spec), "the run's validation images"
    contract = make_contract(spec, config.run_dir, config.weights, step, config.format, decision)
    write = catalog.resolve(catalog.EXPORT_FORMATS[config.format].build)
    remove_leftovers(out.parent, out.name)
    with replacing(out) as temporary:
        try:
            answer = write(spec, model, temporary, contract)
            difference = compare(answer, model, spec, films)
            if decision is not None:
                tolerance = contract["tolerance"]
                apart = compare_decisions(answer, model, spec, decision, tolerance, films)
                difference = float(np.maximum(difference, apart))  # NaN stays NaN
        except tf.errors.OpError as error:
            raise OSError(0, error.message) from None
        _check(difference, config)
        checked = {"made_up_images": MADE_UP, "films": len(films), "largest_difference": difference}
        _write_contract(temporary, contract | {"checked": checked})
        if out.exists():
            raise InputError(f"--out={out}: another process has made it meanwhile")
    print(_describe(contract, difference, len(films), of))
    if decision is not None:
        print(f"decision: {decision.describe()}")
    return out


def _folder_name(form: str) -> str:
    return folder.SAVED_MODEL if form == catalog.SAVED_MODEL_FORMAT else form


def _check(difference: float, config) -> None:
    tolerance = catalog.EXPORT_FORMATS[config.format].tolerance
    if not difference <= tolerance:
        raise InputError(
            f"--run_dir={config.run_dir}: the exported model and predict are up to "
            f"{difference:.2g} apart on the images compared; expected at most {tolerance:g}, so "
            "nothing was exported"
        )


def _write_contract(new: Path, contract: Mapping) -> None:
    """Writes the contract with the SHA-256 of all files, beside them or where TensorFlow has it."""
    files = sorted(path for path in new.rglob("*") if path.is_file())
    digests = {path.relative_to(new).as_posix(): file_sha256(path) for path in files}
    beside = new / EXTRA if (new / EXTRA).is_dir() else new
    write_json(beside / CONTRACT, {**contract, "files": digests})


def _describe(contract: Mapping, difference: float, films: int, of: str) -> str:
    said = f"compared with predict: {MADE_UP} made-up images"
    said += f" and {films} of {of}" if films else ""
    said += f", probabilities up to {difference:.1e} apart (allowed: {contract['tolerance']:g})"
    if not films:
        said += "; no film was compared: name some by --check_inputs"
    return said
