"""Reads what a run predicted and what its log says; imports no TensorFlow."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from medcolor_tf.errors import InputError
from medcolor_tf.runs import folder as run_folder
from medcolor_tf.runs.folder import Run

_EVALUATE_AGAIN = "`python -m medcolor_tf.evaluate` writes it anew"


def columns(kind: str, observations: Iterable[str]) -> list[str]:
    """Columns of predictions that hold each observation's "label" or "probability"."""
    return [f"{kind} {name}" for name in observations]


def of_observation(runs: pd.DataFrame, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(labels, probabilities), each (N,), of one observation in each run's predictions."""
    contents: list[pd.DataFrame] = [read() for read in runs["predictions"]]
    return [(c[f"label {name}"].to_numpy(), c[f"probability {name}"].to_numpy()) for c in contents]


def pooled(runs: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of one observation, those of all runs one after the other."""
    labels, probabilities = zip(*of_observation(runs, name), strict=True)
    return np.concatenate(labels), np.concatenate(probabilities)


def read_predictions(path: Path, observations: Iterable[str]) -> pd.DataFrame:
    """Keyed ids of image and patient, labels (NaN for unknown) and probabilities, a row per image.

    Raises:
        InputError: the file is missing, cut or of other observations.
    """
    probabilities = columns("probability", observations)
    numbers = [*columns("label", observations), *probabilities]
    table = _read_csv(path, ["image_id", "patient"], numbers, "predictions", _EVALUATE_AGAIN)
    if table[probabilities].isna().to_numpy().any():
        raise InputError(
            f"{path}: cannot be read as predictions (a row without a probability); "
            f"{_EVALUATE_AGAIN}"
        )
    return table


def read_log(folder: Path) -> pd.DataFrame:
    """Step and validation mean AUC (``valid_mean_auc``) of every checkpoint of a run."""
    names, path = ["step", "valid_mean_auc"], folder / run_folder.LOG
    text = Run(folder).log_text()
    if not text:
        return pd.DataFrame(columns=pd.Index(names))
    remedy = "without it there is no learning curve of the run"
    return _read_csv(path, [], names, "a log", remedy, text)


def _read_csv(
    path: Path, texts: list[str], numbers: list[str], content: str, remedy: str, text: str = ""
) -> pd.DataFrame:
    """Columns of a CSV file: texts as they are, numbers to the last digit, NaN for an empty one.

    ``text`` is the file's content, where it has been read.
    """
    try:
        source = io.StringIO(text) if text else path
        table = pd.read_csv(
            source, usecols=[*texts, *numbers], dtype=object, keep_default_na=False, index_col=False
        )
        # As Python reads them: pandas' own parser rounds in some of its versions.
        return table.assign(**table[numbers].replace("", "nan").astype(float))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {content} ({error}); {remedy}") from None
