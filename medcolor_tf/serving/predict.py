"""Probabilities for image files, read exactly as data preparation reads them."""

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep.levels import WARNING_KINDS
from medcolor_tf.catalog import HEAT_MAPS
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.files import writing
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.progress import Progress, counted
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision, load_decision
from medcolor_tf.serving import dicom_out
from medcolor_tf.serving.dicom_out import DicomOut
from medcolor_tf.serving.inputs import (
    InputImage,
    ReadImage,
    encode_name,
    list_inputs,
    read_batches,
)
from medcolor_tf.serving.partial import PartialRecord, PartialTable
from medcolor_tf.serving.pictures import Colorized, Explained, Heat, Pictures
from medcolor_tf.serving.study_rows import StudyRows

PICTURE_COLUMNS = ("colorized", "explained")
AFTER_OBSERVATIONS = ("warnings", *PICTURE_COLUMNS, "error")


def predict(config) -> tuple[int, int]:
    """Writes a CSV with a row per image: path, probabilities, warnings, PNGs, error.

    Where there is a decision, two columns per observation stand after the probabilities:
    "calibrated NAME", and "decision NAME", which is "positive", "negative" or, without a threshold,
    empty.

    Rows are on the disk as they come, in ``OUT.partial``, which gets its name at the end; the same
    command goes on where it stopped, see :mod:`medcolor_tf.serving.partial`. An unreadable image
    gets its reason in the ``error`` column, and the others go on.

    Args:
        config: :class:`medcolor_tf.predict.PredictConfig`.

    Returns:
        (number of images, number of those that could not be read).

    Raises:
        InputError: no such run, input, column, image or observation, a folder that cannot take
            pictures or has files of their names, the output exists, or rows of another command are
            there.
    """
    out = Path(config.out)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new file")
    spec, classifier, step = runs.load_predictor(
        config.run_dir, config.weights, config.mixed_precision
    )
    decision = load_decision(config.run_dir, config.weights, config.decision)
    decided = decision.columns if decision else []
    header = ["path", *spec.observations, *decided, *AFTER_OBSERVATIONS]
    columns = PICTURE_COLUMNS
    if config.dicom_out:
        header.insert(-1, dicom_out.COLUMN)
        columns = (*columns, dicom_out.COLUMN)
    table = PartialTable(out, header, (header.index(name) for name in columns))
    inputs = list_inputs(
        config.inputs, config.path_column, spec.input_channels, config.study_column
    )
    inputs = _without_own_pictures(inputs, config, table)
    studies = StudyRows(config, inputs, decision, goes_on=table.recorded() is not None)
    drawings = _drawings(config, spec, classifier, inputs)
    dicom = None
    if config.dicom_out:
        dicom = _dicom(config, spec, classifier, step, inputs, decision)
    if table.recorded() is None:  # else what is there is the interrupted command's
        _check_free(inputs, drawings, dicom)
    # E's feature map is fetched from the device only for those who draw it.
    explained = bool(config.explain or config.dicom_out)
    model = classify_and_colorize(classifier, features=explained)
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    record = PartialRecord.from_command(config, inputs, decision.digest if decision else "")
    table.open(record, config.batch_size)
    try:
        _write_rows(table, model, inputs, spec, drawings, config.batch_size, decision, dicom)
    except InputError as error:
        raise InputError(f"{error}. {table.advice()}") from error
    finally:
        table.close()
    # Before the table has its name, without which the same command writes this again.
    said = studies.write(header, spec.observations, table.rows)
    table.finish()
    if said:
        print(said)
    _say_warnings(table.rows, header.index("warnings"))
    if dicom:
        dicom_out.say_unwritten(table.rows, header.index(dicom_out.COLUMN), config.dicom_out)
    if decision:
        print(f"decision: {decision.describe()}")
    return len(inputs), sum(bool(row[-1]) for row in table.rows)


def _write_rows(
    table: PartialTable,
    model,
    inputs,
    spec,
    drawings: list,
    batch_size: int,
    decision: Decision | None,
    dicom: DicomOut | None,
) -> None:
    """Answers the images that have no row yet, a batch at a time."""
    done = len(table.rows)
    if done:
        print(f"{done:,} of {len(inputs):,} images are in {table.path}: going on", file=sys.stderr)
    for drawing in filter(None, drawings):
        names = [item.picture for item, row in zip(inputs, table.rows, strict=False) if not row[-1]]
        drawing.pictures.reserve(names)
    if dicom:  # the last column but one
        pairs = zip(inputs, table.rows, strict=False)
        dicom.pictures.reserve([item.picture for item, row in pairs if row[-2]])
    with Progress("predicting", len(inputs), done=done) as progress:
        for batch in read_batches(inputs[done:], spec, batch_size):
            table.append(_answer(model, batch, spec, drawings, decision, dicom))
            progress.update(len(batch))


def _check_free(inputs: list[InputImage], drawings: list, dicom: DicomOut | None) -> None:
    """Checks that no picture or DICOM file of another command would be written over."""
    names = [item.picture for item in inputs]
    for drawing in filter(None, drawings):
        drawing.pictures.check_free(names)
    if dicom:
        suffixes = (dicom_out.IMAGE_SUFFIX, dicom_out.REPORT_SUFFIX)
        dicom.pictures.check_free(names, suffixes)


def _without_own_pictures(
    inputs: list[InputImage], config, table: PartialTable
) -> list[InputImage]:
    """Leaves out what an interrupted run of the command has drawn into a folder of --inputs."""
    record = table.recorded()
    if record is None:
        return inputs
    names = set(record.names)
    flags = (config.colorized_dir, config.explain, config.dicom_out)
    folders = {Path(name).resolve() for name in flags if name}
    return [
        item
        for item in inputs
        if item.name in names or item.files[0].parent.resolve() not in folders
    ]


def _answer(
    model,
    batch: list[ReadImage],
    spec: ModelSpec,
    drawings: list,
    decision: Decision | None,
    dicom: DicomOut | None,
) -> list[list[str]]:
    """Returns the CSV's rows of a batch, and saves its pictures.

    Args:
        model: raw images to logits, colorized images and, where they are explained, features.
        batch: of images, or reasons why they cannot be read.
        spec: of the model.
        drawings: a column of paths each; None leaves its column empty.
        decision: whose columns there are, if any.
        dicom: writes DICOM files, and has a column of its own; None: there is no such column.
    """
    readable = [read for read in batch if not isinstance(read.image, str)]
    answers: dict[int, list[str]] = {}
    if readable:
        images = np.stack([read.image for read in readable])
        names = [read.item.picture for read in readable]
        logits, *maps = model.predict_on_batch(images)
        chances = sigmoid(logits)
        decided = decision.cells(logits) if decision else [[]] * len(readable)
        calibrated = decision.calibrated_only(logits) if decision else None
        answer = images, chances, calibrated, *maps
        columns = [
            drawing.save(names, *answer) if drawing else [""] * len(readable)
            for drawing in drawings
        ]
        notes = [""] * len(readable)
        if dicom:
            items = [read.item for read in readable]
            written = dicom.save(items, images, logits, chances, maps)
            columns.append([path for path, _ in written])
            notes = [note for _, note in written]
        rows = zip(readable, chances, decided, notes, *columns, strict=True)
        for read, row, cells, note, *files in rows:
            warnings = [f"{one.kind}: {one.message}" for one in read.warnings]
            said = "; ".join([*warnings, *filter(None, [note])])
            numbers = [f"{chance:.7g}" for chance in row]
            answers[id(read)] = [*numbers, *cells, said, *map(encode_name, files), ""]
    decided_columns = len(decision.columns) if decision else 0
    empty = [""] * (len(spec.observations) + decided_columns + 1 + len(drawings) + bool(dicom))
    return [
        [encode_name(read.item.name), *answers.get(id(read), [*empty, str(read.image)])]
        for read in batch
    ]


def _say_warnings(rows: list[list[str]], column: int) -> None:
    """Counts warnings on standard error, as a build does; nothing where there are none."""
    kinds = re.compile(rf"(?:^|; )({'|'.join(WARNING_KINDS)}): ")
    found = [kinds.findall(row[column]) for row in rows]
    counts = Counter(kind for of_image in found for kind in of_image)
    if counts:
        listed = "; ".join(f"{counts[kind]:,} {WARNING_KINDS[kind]}" for kind in counts)
        images = counted(sum(map(bool, found)), "image")
        print(f"warnings: {images} ({listed}); see column warnings", file=sys.stderr)


def _dicom(
    config,
    spec: ModelSpec,
    classifier,
    step: int,
    inputs: list[InputImage],
    decision: Decision | None,
) -> DicomOut:
    """Returns what --dicom_out asks for.

    Raises:
        InputError: no input is a DICOM file, or the folder is another flag's or cannot be used.
    """
    folder = Path(config.dicom_out)
    dicom_out.check_inputs(inputs, spec, config.dicom_out)
    taken = {file.parent.resolve() for item in inputs for file in item.files}
    taken |= {Path(name).resolve() for name in (config.colorized_dir, config.explain) if name}
    if folder.resolve() in taken:
        raise InputError(
            f"--dicom_out={folder}: is a folder of other images; expected one for these files only"
        )
    pictures = Pictures(folder, "dicom_out", dicom_out.IMAGE_SUFFIX)
    heat = Heat(config.heat_map, spec, classifier, _chosen(config, spec))
    algorithm = dicom_out.algorithm_of(config.run_dir, config.weights, step, spec)
    calibrate = decision.calibrated_only if decision else None
    return DicomOut(pictures, Explained(pictures, heat).draw, spec, algorithm, calibrate)


def _drawings(config, spec: ModelSpec, classifier, inputs: list[InputImage]) -> list:
    """Returns what fills the columns `colorized` and `explained`; None for a flag not given.

    Raises:
        InputError: flags that contradict each other or the run, or a folder that cannot be used.
    """
    chosen = _chosen(config, spec)

    def explain_with(observations: list[int]) -> "Heat":
        return Heat(config.heat_map, spec, classifier, observations)

    sources = {file.parent for item in inputs for file in item.files}
    taken = {folder.resolve(): "has images of --inputs" for folder in sources}
    drawings = []
    for flag, make in (
        ("colorized_dir", Colorized),
        ("explain", lambda pictures: Explained(pictures, explain_with(chosen))),
    ):
        folder = Path(getattr(config, flag))
        if not getattr(config, flag):
            drawings.append(None)
            continue
        if why := taken.get(folder.resolve()):
            raise InputError(f"--{flag}={folder}: {why}; expected a folder for these pictures only")
        taken[folder.resolve()] = f"is --{flag}"
        drawings.append(make(Pictures(folder, flag)))
    return drawings


def _chosen(config, spec: ModelSpec) -> list[int]:
    """Returns the positions of the observations to explain."""
    names = config.explain_observations
    if not config.explain and not config.dicom_out:
        for flag, given in (
            ("--explain_observations", bool(names)),
            (f"--heat_map={config.heat_map}", config.heat_map != next(iter(HEAT_MAPS))),
        ):
            if given:
                raise InputError(f"{flag} without --explain=FOLDER, the pictures' folder")
    unknown = [name for name in names if name not in spec.observations]
    if unknown:
        raise InputError(
            f"--explain_observations: the run has no {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(spec.observations)}"
        )
    return [spec.observations.index(name) for name in dict.fromkeys(names or spec.observations)]
