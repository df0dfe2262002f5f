"""What the page shows of a film, without the page: panels, numbers, a table, and the run's card.

Everything here is a pure function of a model and files, in the numbers of ``medcolor_tf.predict``.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcolor_tf.catalog import COLORIZERS, HEAT_MAPS, STRATEGIES
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import visualize
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.files import read_json
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.progress import counted
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import WORDS, Decision, load_decision
from medcolor_tf.serving.decision_outputs import decision_of
from medcolor_tf.serving.inputs import InputImage, read_input
from medcolor_tf.serving.pictures import Heat
from medcolor_tf.serving.saved_model import EXTRA

KIND = next(iter(HEAT_MAPS))


@dataclass(frozen=True)
class Finding:
    """What the model says of one observation.

    Attributes:
        observation: its name.
        probability: of the model, in [0, 1].
        calibrated: the probability after calibration; None where there is none.
        threshold: of the calibrated probability, or of the probability where that is None; None
            where there is none.
        decision: "positive", "negative", or "" without a threshold.
    """

    observation: str
    probability: float
    calibrated: float | None = None
    threshold: float | None = None
    decision: str = ""


@dataclass(frozen=True)
class FilmAnswer:
    """What became of one film.

    Attributes:
        name: of the file, as the user calls it.
        error: why it cannot be read; "" where it was.
        warnings: what data preparation would warn of.
        findings: one per observation; none where it was not read.
        decided: cells of the decision's columns, as in predict's table.
        panels: (caption, (H, W, 3) uint8): gray, colorized, a heat map per observation.
    """

    name: str
    error: str = ""
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    decided: tuple[str, ...] = ()
    panels: tuple[tuple[str, np.ndarray], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class FilmModel:
    """A model that answers films.

    Attributes:
        spec: architecture, input and observations.
        card: (name, value) lines on where the model comes from.
        answer_image: prepared image (S, S, C) to logits (L,) float, colorized (S, S, 3) or None,
            and heat (h, w, L) in [0, 1] or None.
        decision: calibration and thresholds of the run; None without them.
    """

    spec: ModelSpec
    card: tuple[tuple[str, str], ...]
    answer_image: Callable[[np.ndarray], tuple[np.ndarray, Any, Any]]
    decision: Decision | None = None

    def answer(self, path: str | Path, name: str = "", panels: bool = True) -> FilmAnswer:
        """Reads one film and answers it.

        Args:
            path: of the file: JPEG, PNG, TIFF, DICOM, ...
            name: that the user knows it by; "" for the path's.
            panels: whether pictures are drawn.
        """
        path = Path(path)
        name = name or path.name
        try:
            read = read_input(InputImage(name, (path,), name), self.spec)
        except InputError as error:  # a package that its format needs
            return FilmAnswer(name, str(error))
        if isinstance(read.image, str):
            return FilmAnswer(name, read.image)
        logits, colorized, heat = self.answer_image(read.image)
        findings = self.findings(logits)
        chances = [finding.probability for finding in findings]
        decision = self.decision
        calibrated = None
        if decision:
            calibrated = [float(chance) for chance in decision.calibrated_only(logits)]
        drawn = (
            visualize.draw_panels(
                read.image, colorized, heat, chances, self.spec.observations, calibrated
            )
            if panels
            else []
        )
        warnings = tuple(f"{one.kind}: {one.message}" for one in read.warnings)
        decided = tuple(self.decision.cells(logits[None])[0]) if self.decision else ()
        return FilmAnswer(name, "", warnings, findings, decided, tuple(drawn))

    def findings(self, logits: np.ndarray) -> tuple[Finding, ...]:
        """Returns the numbers of (L,) logits, with the run's decision where it has one."""
        chances = [float(chance) for chance in sigmoid(logits)]
        names = self.spec.observations
        if self.decision is None:
            return tuple(map(Finding, names, chances))
        calibrated = self.decision.calibrated_only(logits)
        words = [WORDS[int(code)] for code in self.decision.classify(logits=logits)]
        after = [None if np.isnan(chance) else float(chance) for chance in calibrated]
        thresholds = self.decision.thresholds
        return tuple(map(Finding, names, chances, after, thresholds, words))


def load_run_model(run_dir: str, weights: str = "best", decision: str = "") -> FilmModel:
    """Loads a run for films.

    Args:
        run_dir: the run's folder.
        weights: "best" or "last".
        decision: as :func:`medcolor_tf.runs.decision.load_decision` takes it; "" for the run's own.

    Raises:
        InputError: no run there, damaged files, or a model of several channels.
    """
    spec, classifier, step = runs.load_predictor(run_dir, weights)
    _check_channels(spec, f"--run_dir={run_dir}")
    model = classify_and_colorize(classifier, features=True)
    maps = Heat(KIND, spec, classifier, list(range(len(spec.observations))))

    def answer_image(image: np.ndarray):
        logits, colorized, features = model.predict_on_batch(image[None])
        heat = maps.of(sigmoid(logits), colorized, features)
        return logits[0], colorized[0] if spec.has_colorizer else None, heat[0]

    decided = load_decision(run_dir, weights, decision)
    card = (*card_of_run(run_dir, spec, step, weights), *_decision_fact(decided))
    return FilmModel(spec, card, answer_image, decided)


def _decision_fact(decision: Decision | None) -> list[tuple[str, str]]:
    return [("decision", decision.describe())] if decision else []


def load_exported_model(folder: str) -> FilmModel:
    """Loads an exported SavedModel for films; it gives no heat maps.

    Raises:
        InputError: no export of this project there, or a model of several channels.
    """
    import tensorflow as tf
    from scipy.special import logit

    path = Path(folder) / EXTRA / runs.MODEL
    if not path.is_file():
        raise InputError(
            f"--model={folder}: no {EXTRA}/{runs.MODEL} in it; expected the folder of a SavedModel "
            "that `python -m medcolor_tf.export` wrote"
        )
    content = read_json(path)
    step, weights = content.pop("step", None), content.pop("weights", None)
    decision = decision_of({"decision": content.pop("decision", None)})
    spec = ModelSpec.from_dict(content, str(path))
    _check_channels(spec, f"--model={folder}")
    exported = tf.saved_model.load(folder)
    # Of an image that has the model's size it changes no pixel.
    colorize = exported.signatures["colorized"]

    def answer_image(image: np.ndarray):
        found = colorize(tf.constant(image[None]))
        chances = found["probabilities"].numpy()[0].astype(np.float64)
        logits = logit(chances)
        colorized = found["colorized"].numpy()[0] if spec.has_colorizer else None
        return logits, colorized, None

    card = (
        *_facts(spec, step, weights),
        *_decision_fact(decision),
        ("heat maps", "none: an export has no gradients"),
    )
    return FilmModel(spec, card, answer_image, decision)


def _check_channels(spec: ModelSpec, flag: str) -> None:
    if spec.input_channels > 1:
        raise InputError(
            f"{flag}: the model takes {spec.input_channels} channels; expected one of 1 channel, "
            "since the page takes one file per film (predict takes tables of several)"
        )


def card_of_run(
    run_dir: str, spec: ModelSpec, step: int, weights: str
) -> tuple[tuple[str, str], ...]:
    """Returns what is known of a run, (name, value) lines; no folder's name is among them."""
    run = runs.Run(Path(run_dir))
    lines = list(_facts(spec, step, weights))
    if (run.folder / runs.CONFIG).is_file():
        config = run.read_json(runs.CONFIG)
        strategy = str(config["flags"].get("strategy", ""))
        if strategy in STRATEGIES:
            lines.insert(0, ("strategy", f"{STRATEGIES[strategy].title} ({strategy})"))
        images = config.get("train_images")
        of_images = f"{counted(images, 'image')}, " if isinstance(images, int) else ""
        source = config.get("data_source", "unknown")
        lines.append(("trained on", f"{of_images}data source {source}"))
    if run.finished:
        auc = run.read_result()["best_valid_mean_auc"]
        if auc is not None:
            lines.append(("validation mean AUC", f"{auc:.3f}"))
    test = run.evaluation("test")
    if test.is_file():
        result = run.read_json(test)
        if result.get("step") == step and result["mean_auc"] is not None:
            count = result.get("images")
            images = f" ({counted(count, 'image')})" if isinstance(count, int) else ""
            lines.append(("test mean AUC", f"{result['mean_auc']:.3f}{images}"))
    return tuple(lines)


def _facts(spec: ModelSpec, step, weights) -> list[tuple[str, str]]:
    backbone = "from a file" if spec.backbone.endswith(".keras") else spec.backbone
    entry = COLORIZERS.get(spec.colorizer)
    return [
        ("colorizer", f"{entry.title} ({spec.colorizer})" if entry else "none"),
        ("backbone", backbone),
        ("observations", ", ".join(spec.observations)),
        ("image size", f"{spec.image_size} px"),
        ("weights", f"{weights}, step {step}"),
    ]


def to_csv(answers: Sequence[FilmAnswer], model: FilmModel) -> str:
    """Returns a CSV with a row per film and the columns of predict, but for those of pictures."""
    columns = [*model.spec.observations, *(model.decision.columns if model.decision else ())]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *columns, "warnings", "error"])
    for answer in answers:
        numbers = [f"{finding.probability:.7g}" for finding in answer.findings]
        cells = [*numbers, *answer.decided] or [""] * len(columns)
        name, warnings = _inert(answer.name), "; ".join(answer.warnings)
        writer.writerow([name, *cells, warnings, answer.error])
    return text.getvalue()


def _inert(name: str) -> str:
    """A file's name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name
