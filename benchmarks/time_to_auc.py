"""From a folder of JPEGs to a good AUC: ``python -m benchmarks.time_to_auc --data=FOLDER``."""

import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.timed_runs import Reached, finish, until_reached
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

DESCRIPTION = """
Measures, in turns, how long this project (data preparation and training, two commands) and a
PyTorch script (benchmarks/pytorch_time_to_auc.py) take from a folder of JPEGs to the first
validation at which the AUC reaches a target. All is included: imports, preparation, training,
validation. All start from the same backbone weights and validate on the same patients after the
same steps. The script runs twice: as it is usually written (plain), and with what this project does
as well (pytorch): frozen features computed once, small images first, bfloat16. Prints wall and
processor time, their ratios (median, and the range over seeds), and where the time went. On a busy
machine believe processor time.
"""
BACKBONE = "resnet18_imagenet_layer3_bn.keras"
# Our layers' names, and those of a file that was converted from torchvision; PyTorch's modules.
NAMES = (
    (r"(conv1|bn1)", r"\1"),
    (r"layer(\d)_(\d)_(conv|bn)(\d)", r"layer\1.\2.\3\4"),
    (r"layer(\d)_(\d)_downsample_(?:conv|0)", r"layer\1.\2.downsample.0"),
    (r"layer(\d)_(\d)_downsample_(?:bn|0_bn)", r"layer\1.\2.downsample.1"),
)
OURS, PYTORCH, PLAIN = "ours", "pytorch", "plain"
SIDES = {OURS: "ours", PYTORCH: "PyTorch, the same recipe", PLAIN: "PyTorch, plain"}


@dataclass(frozen=True)
class Task:
    """What is to be learned from which films, and how; settings were chosen on seeds 100 and 101.

    Attributes:
        table: within --data.
        columns: of the table that data_prep is told of, as its options.
        path, label: columns of the path and the label.
        inverted: whether 1 in the label's column is the absence of the finding.
        target: validation AUC.
        strategy: baseline (the head alone learns) or baseline_all.
        size, batch, steps, interval: of the images (pixels), a step (images), the schedule (steps),
            and between validations (steps).
        max_lr, head_factor: peak learning rate, and the head's as a multiple of it.
        ours, pytorch, plain: options of one side.
    """

    table: str
    columns: tuple[str, ...]
    path: str
    label: str
    inverted: bool
    target: float
    strategy: str
    size: int
    batch: int
    steps: int
    interval: int
    max_lr: float
    head_factor: float
    ours: tuple[str, ...]
    pytorch: tuple[str, ...]
    plain: tuple[str, ...]


NIH = (
    "nih1000/labels.csv",
    (
        *("--path_column=file", "--patient_column=patient_id", "--duplicates=keep_first"),
        "--observations=Any finding=!no_finding",
    ),
    *("file", "no_finding", True, 0.90),
)
KNEE = (
    "knee_oa/labels.csv",
    ("--patient_column=patient_id", "--observations=Osteoarthritis"),
    *("path", "Osteoarthritis", False, 0.83),
)
# Autocast is where it helps: a step that trains everything is slower with it on these processors.
TASKS = {
    "nih1000": Task(
        *(*NIH, "baseline", 160, 64, 120, 20, 1.0, 1.0),
        ours=("--mixed_precision",),
        pytorch=("--bfloat16",),
        plain=("--bfloat16", "--recompute"),
    ),
    "knee_oa": Task(
        *(*KNEE, "baseline_all", 80, 32, 160, 20, 0.03, 4.0),
        ours=("--mixed_precision", "--progressive=0.6:0.5"),
        pytorch=("--small_scale=0.6", "--small_share=0.5"),
        plain=(),
    ),
}


@dataclass(frozen=True)
class AucConfig:
    """Options of the command."""

    data: str = option(
        "",
        "Folder with the films: nih1000/labels.csv and knee_oa/labels.csv, each with its images.",
    )
    backbone: str = option("", f"The backbone's .keras file, {BACKBONE}.")
    python: str = option("", "Python that has PyTorch; not set: the one that runs this.")
    tasks: tuple[str, ...] = option(tuple(TASKS), f"What to measure: {', '.join(TASKS)}.")
    seeds: tuple[str, ...] = option(("0", "1", "2"), "Of both sides, a turn each.")
    sides: tuple[str, ...] = option(tuple(SIDES), f"Who is measured: {', '.join(SIDES)}.")
    valid_fraction: float = option(0.2, "Share of the films that validate, by patient.")
    settings: tuple[str, ...] = option(
        (), "Other values of a task's settings, to choose them: max_lr=0.01,steps=100."
    )
    ours: tuple[str, ...] = option((), "More options of medcolor_tf.train.")
    pytorch: tuple[str, ...] = option((), "More options of the PyTorch script with our recipe.")
    plain: tuple[str, ...] = option((), "More options of the plain PyTorch script.")
    seconds: float = option(300.0, "A run that has not reached the AUC by then is given up.")
    out: str = option("", "File to write the tables to; not set: they are printed only.")


def measure(config: AucConfig) -> None:
    """Prints the tables, and writes them."""
    tasks = _tasks(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "backbone.npz"
        if {PYTORCH, PLAIN} & set(config.sides):
            convert(config.backbone, weights)
        lines = [line for name in tasks for line in _task(config, name, tasks[name], folder)]
    text = "\n".join(lines)
    if config.out:
        command = commandline.command_line("benchmarks.time_to_auc", config)
        head = f"# {machine.processor()}\n\n`{command}`\n\n{machine.software()}"
        Path(config.out).write_text(f"{head}\n\n{text}\n", encoding="utf-8")


def _tasks(config: AucConfig) -> dict[str, Task]:
    """Returns the tasks with --settings; InputError where something that is needed is not there."""
    if not config.data or not config.backbone:
        raise InputError(
            "--data and --backbone are needed: a folder with "
            f"{' and '.join(sorted({task.table for task in TASKS.values()}))} and their images, "
            f"and the file {BACKBONE} (ResNet18's first three layers with ImageNet weights); "
            f"received --data={config.data} --backbone={config.backbone}"
        )
    tasks = {}
    for name in config.tasks:
        if name not in TASKS:
            raise InputError(f"--tasks={name}: expected one of {', '.join(TASKS)}")
        tasks[name] = with_settings(TASKS[name], config.settings)
    for path in (config.backbone, *(Path(config.data) / task.table for task in tasks.values())):
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file (--data, --backbone)")
    if unknown := set(config.sides) - set(SIDES):
        raise InputError(f"--sides={min(unknown)}: expected some of {', '.join(SIDES)}")
    return tasks


def with_settings(task: Task, settings: Sequence[str]) -> Task:
    """Returns the task with other values: ("max_lr=0.01",)."""
    values = dict(vars(task))
    for setting in settings:
        name, _, text = setting.partition("=")
        if not isinstance(values.get(name), int | float | str) or not text:
            raise InputError(f"--settings={setting}: expected NAME=VALUE, as max_lr=0.01")
        try:
            values[name] = type(values[name])(text)
        except ValueError:
            raise InputError(f"--settings={setting}: expected a number") from None
    return Task(**values)


def _task(config: AucConfig, name: str, task: Task, folder: Path) -> list[str]:
    """Measures a task; returns the lines of its table, which are printed as well."""
    films = folder / f"{name}.csv"
    _write_films(config, task, films, folder / f"{name}-split")
    results: dict[str, list[Reached]] = {side: [] for side in config.sides}
    for seed in map(int, config.seeds):
        for side in config.sides:
            one = folder / f"{name}-{side}-{seed}"
            one.mkdir()
            if side == OURS:
                found = _ours(config, task, one, seed)
            else:
                options = getattr(task, side) + getattr(config, side)
                found = _pytorch(config, task, one, films, seed, options)
            results[side].append(found)
            print(f"{name}, {side}, seed {seed}: {_describe(found)}", flush=True)
    lines = list(table(name, task, results))
    print("\n".join(lines), flush=True)
    return lines


def convert(backbone: str, out: Path) -> None:
    """Writes a backbone's weights under torchvision's names; in a process that ends with it."""
    code = (
        "import sys, numpy\nfrom medcolor_tf import commandline\ncommandline.import_tensorflow()\n"
        "from medcolor_tf.models.backbones import build_backbone\n"
        "from medcolor_tf.models.torch_weights import torch_state\n"
        "from benchmarks.time_to_auc import NAMES\n"
        "numpy.savez(sys.argv[2], **torch_state(build_backbone(sys.argv[1]), NAMES))"
    )
    finish([sys.executable, "-c", code, backbone, str(out)])


def _prepare(config: AucConfig, task: Task, side: int) -> list[str]:
    """The command that prepares the films, without --out."""
    return [
        *(sys.executable, "-m", "data_prep.build", "--source=table", "--test_fraction=0"),
        *(f"--table={Path(config.data) / task.table}", *task.columns),
        *(f"--valid_fraction={config.valid_fraction}", f"--short_side={side}"),
    ]


def _write_films(config: AucConfig, task: Task, films: Path, data: Path) -> None:
    """Writes path, label and split of every film, as data_prep splits them; takes no time."""
    finish([*_prepare(config, task, 32), f"--out={data}", "--write_key_table"])
    table = Path(config.data) / task.table
    splits = {}
    for split in ("train", "valid"):
        with np.load(data / f"index-{split}.npz") as index:
            splits.update(dict.fromkeys(index["patient"].astype(str).tolist(), split))
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = {row[task.path]: int(row[task.label]) ^ task.inverted for row in rows}
    with (
        open(data / "key_table.csv", newline="", encoding="utf-8") as file,
        open(films, "w", newline="", encoding="utf-8") as written,
    ):
        writer = csv.writer(written)
        writer.writerow(("path", "label", "split"))
        for row in csv.DictReader(file):
            path = row["source_path"]
            writer.writerow((table.parent / path, labels[path], splits[row["patient"]]))


def _ours(config: AucConfig, task: Task, folder: Path, seed: int) -> Reached:
    data, begun = folder / "data", time.perf_counter()
    # A second process would take longer to start than it saves.
    fast = ("--workers=1", "--encoding=raw")
    spent = finish([*_prepare(config, task, task.size), f"--out={data}", *fast])
    prepared = time.perf_counter() - begun
    factors = f"--lr_multipliers=head={task.head_factor}" if task.head_factor != 1 else ""
    words = [
        *(sys.executable, "-m", "medcolor_tf.train", f"--data_dir={data}"),
        *(f"--run_dir={folder / 'run'}", f"--backbone={config.backbone}", f"--seed={seed}"),
        *(f"--strategy={task.strategy}", f"--batch_size={task.batch}", f"--steps={task.steps}"),
        *(f"--checkpoint_every={task.interval}", f"--max_lr={task.max_lr}"),
        *([factors] if factors else []),
        *(["--features=once", "--augment_probability=0"] if task.strategy == "baseline" else []),
        *(*task.ours, *config.ours),
    ]
    return until_reached(words, task.target, config.seconds, begun, prepared, spent)


def _pytorch(
    config: AucConfig, task: Task, folder: Path, films: Path, seed: int, options: tuple[str, ...]
) -> Reached:
    words = [
        *(config.python or sys.executable, "-m", "benchmarks.pytorch_time_to_auc"),
        *(f"--films={films}", f"--weights={folder.parent / 'backbone.npz'}", f"--seed={seed}"),
        *(f"--size={task.size}", f"--batch={task.batch}", f"--steps={task.steps}"),
        *(f"--interval={task.interval}", f"--max_lr={task.max_lr}"),
        *(f"--head_factor={task.head_factor}", "--workers=2"),
        *(["--head_only"] if task.strategy == "baseline" else []),
        *options,
    ]
    return until_reached(words, task.target, config.seconds)


def table(name: str, task: Task, results: dict[str, list[Reached]]) -> Iterator[str]:
    """Yields the lines of a task's table."""
    yield f"## {name}: validation AUC {task.target}"
    yield (
        f"{task.strategy}, {task.size} px, {task.steps} steps of {task.batch}, validation every "
        f"{task.interval} steps, peak rate {task.max_lr:g}, the head's x{task.head_factor:g}"
    )
    yield ""
    yield "| | wall, s | processor, s | step | best AUC | prepared | started | trained, s |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for side, runs in results.items():
        steps = [str(run.step) if run.step else "not reached" for run in runs]
        cells = [SIDES[side], _spread([r.wall for r in runs])]
        cells += [_spread([r.processor for r in runs])]
        cells += [", ".join(steps), ", ".join(f"{run.best:.3f}" for run in runs)]
        cells += [f"{statistics.median(r.parts[k] for r in runs):.1f}" for k in range(3)]
        yield f"| {' | '.join(cells)} |"
    for side in [side for side in results if side != OURS and OURS in results]:
        pairs = list(zip(results[OURS], results[side], strict=True))
        both = [(ours, theirs) for ours, theirs in pairs if ours.step and theirs.step]
        cells = [f"ours / {SIDES[side]}, {len(both)} of {len(pairs)} seeds reached by both"]
        for what in ("wall", "processor"):
            ratios = [getattr(ours, what) / getattr(theirs, what) for ours, theirs in both]
            cells.append(_spread(ratios, 2) if ratios else "")
        yield f"| {' | '.join([*cells, '', '', '', '', ''])} |"
    yield ""


def _spread(values: Sequence[float], digits: int = 1) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _describe(run: Reached) -> str:
    what = f"step {run.step}" if run.step else f"not reached ({run.best:.3f})"
    prepared, started, trained = run.parts
    return (
        f"{what}, {run.wall:.1f} s, {run.processor:.1f} s of processors; prepared {prepared:.1f}, "
        f"started {started:.1f}, trained {trained:.1f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return commandline.run(AucConfig, measure, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
