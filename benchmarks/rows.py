"""What is measured: every row, its variants, and the data that it needs."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import data_prep, input_data, serving
from benchmarks.table import OURS, STOCK
from medcolor_tf.catalog import COLORIZERS, EXPORT_FORMATS
from medcolor_tf.errors import InputError

STRATEGIES = ("color_module", "all", "baseline_all", "last_layer")
WORKS = (*STRATEGIES, "inference")  # of a whole model
BACKBONES = ("ResNet18", "DenseNet121")
PRECISIONS = ("float32", "bfloat16")
TORCH = ("torch eager", "torch compile")
PAPERS_FASTEST = "color_u"  # of the paper's colorizers
MARKED = {"eager": False, "compile": True}


@dataclass(frozen=True)
class Row:
    """One work that several variants do.

    Attributes:
        name: its parts, joined by "/"; see :func:`choose`.
        batch: images per step.
        specs: name of the variant -> what its worker builds, module and work name
            its function: ``benchmarks.MODULE.WORK(spec)``.
        rivals: variants whose best is compared with.
        prepare: makes the data in a folder, whose name then is in every spec ("folder").
        note: what a reader must know of it.
    """

    name: str
    batch: int
    specs: dict[str, dict]
    rivals: tuple[str, ...] = TORCH
    prepare: Callable[[Path], None] | None = None
    note: str = ""


def all_rows(config) -> list[Row]:
    """Returns all rows, in the order in which they are measured.

    Args:
        config: size, densenet_size and batch of the models; image_side, images and distinct of
            the input; picture_side and pictures of the preparation.
    """
    return [
        _augmentation(config),
        _input_files(config),
        _input_memory(config),
        _preparation(config),
        _colorizers("training", config),
        _colorizers("inference", config),
        _serving(1, config),
        _serving(config.batch, config),
        *model_rows(config),
    ]


def model_rows(config) -> list[Row]:
    """Returns the rows of training steps and inference; see :func:`all_rows`."""
    return [
        _model_row(work, backbone, precision, config)
        for backbone, precision in itertools.product(BACKBONES, PRECISIONS)
        for work in WORKS
    ]


def check_above_zero(config, *names: str) -> None:
    """Raises InputError where an option of a benchmark's command is no number above zero."""
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"--{name}={getattr(config, name)}: expected a number above zero")


def choose(rows: list[Row], wanted: tuple[str, ...]) -> list[Row]:
    """Returns the rows that have all parts of one of the wanted names; all where none is named.

    Raises:
        InputError: a name that no row has.
    """
    found = {name: {id(row) for row in rows if has_parts(row, name)} for name in wanted}
    for name, fitting in found.items():
        if not fitting:
            parts = dict.fromkeys(part for row in rows for part in row.name.split("/"))
            raise InputError(f"--rows={name}: no such row; its parts are {', '.join(parts)}")
    chosen = set().union(*found.values())
    return [row for row in rows if not wanted or id(row) in chosen]


def has_parts(row: Row, name: str) -> bool:
    """Says whether a row has all parts of a name."""
    return set(name.split("/")) <= set(row.name.split("/"))


def model_spec(work: str, backbone: str, precision: str) -> dict:
    """Returns what a worker builds for one of WORKS, without size and batch."""
    strategy = "" if work == "inference" else work
    return {"strategy": strategy, "backbone": backbone, "bfloat16": precision == "bfloat16"}


def _model_row(work, backbone, precision, config) -> Row:
    shared = model_spec(work, backbone, precision) | {
        "size": config.densenet_size if backbone == "DenseNet121" else config.size,
        "batch": config.batch,
    }
    specs = {
        OURS: {"module": "ours", "work": "step"},
        STOCK: {"module": "stock_keras", "work": "step"},
        **_torch("step"),
    }
    name = f"{work}/{backbone}/{precision}"
    return Row(name, config.batch, {variant: shared | spec for variant, spec in specs.items()})


def _torch(work: str) -> dict[str, dict]:
    return {
        f"torch {k}": {"module": "pytorch", "work": work, "compile": v} for k, v in MARKED.items()
    }


def _augmentation(config) -> Row:
    shared = {"size": config.image_side, "batch": config.batch}
    specs = {
        OURS: {"module": "ours", "work": "augmentation"},
        STOCK: {"module": "stock_keras", "work": "augmentation"},
        **_torch("augmentation"),
    }
    note = f"rotation and zoom of {config.image_side} px float32; stock Keras resamples twice"
    specs = {name: shared | spec for name, spec in specs.items()}
    return Row("augmentation", config.batch, specs, note=note)


def _input_files(config) -> Row:
    specs = {
        OURS: {"module": "ours", "work": "inputs", "cache": "none"},
        "torch 2 workers": {"module": "pytorch", "work": "inputs", "keep": False, "workers": 2},
    }
    return _input("files", specs, "from JPEG: TFRecords here, files and DataLoader there", config)


def _input_memory(config) -> Row:
    specs = {
        OURS: {"module": "ours", "work": "inputs", "cache": "ram"},
        "torch no worker": {"module": "pytorch", "work": "inputs", "keep": True, "workers": 0},
        "torch 2 workers": {"module": "pytorch", "work": "inputs", "keep": True, "workers": 2},
    }
    return _input("memory", specs, "decoded images in memory (--cache=ram here)", config)


def _input(name, specs, note, config) -> Row:
    def prepare(folder: Path) -> None:
        input_data.make(folder, config.images, config.distinct, config.image_side)

    # Batches that were made ahead while others worked must not count.
    shared = {"batch": config.batch, "unmeasured": 32}
    specs = {variant: shared | spec for variant, spec in specs.items()}
    note = f"shuffled, random {config.image_side} px crops, {note}"
    rivals = tuple(variant for variant in specs if variant != OURS)
    return Row(f"input/{name}", config.batch, specs, rivals, prepare, note)


def _colorizers(work: str, config) -> Row:
    """T alone, a variant per entry of the catalog."""
    shared = {"module": "ours", "work": "colorizer", "training": work == "training"}
    shared |= {"size": config.size, "batch": config.batch, "bfloat16": False}
    specs = {name: shared | {"colorizer": name} for name in COLORIZERS}
    note = f"T alone at {config.size} px, gray init; {PAPERS_FASTEST} in PyTorch's place"
    return Row(f"colorizer/{work}", config.batch, specs, (PAPERS_FASTEST,), note=note)


def _serving(batch: int, config) -> Row:
    """Exported models, beside what predict runs and PyTorch."""

    def prepare(folder: Path) -> None:
        serving.make(folder, config.size, "ResNet18")

    shared = {"strategy": "", "backbone": "ResNet18", "size": config.size, "batch": batch}
    shared |= {"bfloat16": False}
    specs = {
        OURS: {"module": "ours", "work": "step"},
        **{name: {"module": "serving", "work": name} for name in EXPORT_FORMATS},
        **_torch("step"),
    }
    specs = {name: shared | spec for name, spec in specs.items()}
    note = f"inference of exported models, {batch} per request; {OURS} is what predict runs"
    return Row(f"serving/batch{batch}", batch, specs, prepare=prepare, note=note)


def _preparation(config) -> Row:
    def prepare(folder: Path) -> None:
        options = {"side": config.picture_side, "pictures": config.pictures}
        data_prep.save_pictures(data_prep.BenchConfig(what="speed", **options), folder)

    shared = {"module": "preparation", "work": "convert", "batch": config.pictures, "first": 1}
    names = {
        OURS: "data_prep",
        "Pillow LANCZOS": "plain, LANCZOS",
        "Pillow BILINEAR": "plain, BILINEAR",
        "Pillow thumbnail": "plain, thumbnail()",
    }
    specs = {name: shared | {"way": way} for name, way in names.items()}
    note = (
        f"JPEGs of {config.picture_side} px to 320, a core, beside Pillow in PyTorch's place; "
        "thumbnail() loses more and is not counted"
    )
    rivals = ("Pillow LANCZOS", "Pillow BILINEAR")
    return Row("preparation", config.pictures, specs, rivals, prepare, note)
