"""What commands take before and around their work: ``python -m benchmarks.startup``."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from medcolor_tf import commandline
from medcolor_tf.commandline import option

DESCRIPTION = """
Measures, in turns, the import of TensorFlow alone and what users wait for: the prediction of one
image, a training run of one step, and the runs of a small study, each in a process of its own and
as forks of one that has imported TensorFlow. Prints processor time and wall time, and their ratios
(median, and the range over rounds). On a busy machine believe processor time. With --before, a
checkout of another version, its run of one step is measured beside.
"""
ROOT = Path(__file__).resolve().parents[1]
IMPORT = "from medcolor_tf import commandline; commandline.import_tensorflow()"
# The command, whose process ends with the first training step; in version 0.1, too.
TO_FIRST_STEP = """
import os, sys
from medcolor_tf import commandline, train
import_tensorflow = commandline.import_tensorflow
def import_and_watch():
    import_tensorflow()
    import keras
    keras.callbacks.CallbackList.on_train_batch_end = lambda *_, **__: os._exit(0)
commandline.import_tensorflow = import_and_watch
sys.exit(train.main(sys.argv[1:]))
"""
RUN = (
    *("--strategy=color_module", "--colorizer=color_u", "--backbone=ResNet18"),
    *("--backbone_weights=none", "--batch_size=16", "--deterministic"),
)
STUDY = (
    *("--name=study", "--strategies=baseline,color_module,baseline_all,all", "--seeds=0"),
    *("--colorizers=color_u", "--backbones=ResNet18", "--backbone_weights=none"),
    *("--batch_size=16", "--steps=24", "--checkpoint_every=12", "--log_every=12"),
    "--deterministic",
)


@dataclass(frozen=True)
class StartupConfig:
    """Options of the command."""

    rounds: int = option(3, "Turns of everything.")
    before: str = option("", "Folder with another version of the project, to compare with.")
    study: bool = option(True, "Also measure a study's runs (some 80 s of processor time a turn).")
    out: str = option("", "File to write the table to; not set: it is printed only.")


@dataclass
class Measured:
    """Seconds of a row in each round."""

    title: str
    divisor: str
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, wall: float, processor: float) -> None:
        """Notes a round's seconds."""
        self.wall.append(wall)
        self.processor.append(processor)


def measure(config: StartupConfig) -> None:
    """Prints the table, and writes it."""
    with tempfile.TemporaryDirectory() as name:
        rows = _measure_rounds(config, Path(name))
    text = "\n".join(_table(rows))
    print(text)
    if config.out:
        command = commandline.command_line("benchmarks.startup", config)
        about = f"{time.strftime('%Y-%m-%d')}. {machine.software()}"
        head = f"# {machine.processor()}\n\n`{command}`\n\n{about}"
        Path(config.out).write_text(f"{head}\n\n{text}\n", encoding="utf-8")


def _measure_rounds(config: StartupConfig, folder: Path) -> dict[str, Measured]:
    rows = {
        "import": Measured("import tensorflow", ""),
        "ours": Measured("the same as our commands do it", "import"),
        "predict": Measured("predict, one image of 48 px", "import"),
        "first": Measured("train, one step", "import"),
        "to step": Measured("train, from command to the first step", "import"),
    }
    _prepare(ROOT, folder / "now")
    if config.before:
        rows["before"] = Measured(f"train, one step, in {Path(config.before).name}", "import")
        rows["against"] = Measured("train, one step: now", "before")
        rows["to step before"] = Measured("train, to the first step, there", "import")
        rows["to step against"] = Measured("train, to the first step: now", "to step before")
        _prepare(Path(config.before), folder / "before")
    if config.study:
        rows["processes"] = Measured("four runs, each by its own command", "")
        rows["study"] = Measured("the same by a study", "processes")
    now, before = folder / "now", folder / "before"
    image = next((now / "phantoms").rglob("*.jpg"))
    _train(ROOT, now, "predicted", 1)
    for turn in range(config.rounds):
        name = f"first{turn}"
        rows["import"].add(*_python(ROOT, "-c", "import tensorflow"))
        rows["ours"].add(*_python(ROOT, "-c", IMPORT))
        rows["predict"].add(*_predict(now / "predicted", image, folder / f"{turn}.csv"))
        rows["first"].add(*_train(ROOT, now, name, 1))
        rows["to step"].add(*_train(ROOT, now, f"step{turn}", 3, ("-c", TO_FIRST_STEP)))
        if config.before:
            rows["before"].add(*_train(Path(config.before), before, name, 1))
            rows["against"].add(rows["first"].wall[-1], rows["first"].processor[-1])
            there = _train(Path(config.before), before, f"step{turn}", 3, ("-c", TO_FIRST_STEP))
            rows["to step before"].add(*there)
            rows["to step against"].add(rows["to step"].wall[-1], rows["to step"].processor[-1])
        if config.study:
            rows["study"].add(*_study(now))
            rows["processes"].add(*_single_runs(now))
    return rows


def _prepare(root: Path, folder: Path) -> None:
    """Draws phantoms and builds a data set of them, with the version in ``root``."""
    _python(
        root,
        *("-m", "data_prep.build", "--flagfile=prep_phantom.flags", "--views=frontal"),
        *("--short_side=48", "--phantom_images=300", "--workers=1"),
        *(f"--data_root={folder / 'phantoms'}", f"--out={folder / 'data'}"),
    )


def _predict(run_dir: Path, image: Path, out: Path) -> tuple[float, float]:
    words = (f"--run_dir={run_dir}", f"--inputs={image}", f"--out={out}")
    return _python(ROOT, "-m", "medcolor_tf.predict", *words)


def _train(
    root: Path,
    folder: Path,
    name: str,
    steps: int,
    command: Sequence[str] = ("-m", "medcolor_tf.train"),
) -> tuple[float, float]:
    own = (f"--data_dir={folder / 'data'}", f"--run_dir={folder / name}", f"--steps={steps}")
    return _python(root, *command, *RUN, *own)


def _study(folder: Path) -> tuple[float, float]:
    shutil.rmtree(folder / "study", ignore_errors=True)
    return _python(ROOT, "-m", "medcolor_tf.experiment", *_study_words(folder))


def _single_runs(folder: Path) -> tuple[float, float]:
    """Does the study's runs one after another by the commands that --dry_run prints."""
    from medcolor_tf.studies import grid

    study = commandline.parse(grid.StudyConfig, _study_words(folder))
    shutil.rmtree(folder / "study", ignore_errors=True)
    spent = [_python(ROOT, *run.command.split()[1:]) for run in grid.plan(study)]
    return sum(wall for wall, _ in spent), sum(processor for _, processor in spent)


def _study_words(folder: Path) -> list[str]:
    return [*STUDY, f"--study_dir={folder / 'study'}", f"--data_dir={folder / 'data'}"]


def _python(root: Path, *words: str) -> tuple[float, float]:
    """Runs Python in a folder to its end; returns (wall, processor) seconds, children's too."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        if process.returncode:
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
            raise RuntimeError(f"{' '.join(words)} failed:\n{text[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime


def _table(rows: dict[str, Measured]) -> list[str]:
    lines = [
        "| | processor, s | wall, s | beside | processor | wall |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for row in rows.values():
        cells = [row.title, _median(row.processor), _median(row.wall)]
        if row.divisor:
            other = rows[row.divisor]
            cells += [other.title, _ratio(row.processor, other.processor)]
            cells += [_ratio(row.wall, other.wall)]
        else:
            cells += ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}"


def _ratio(values: Sequence[float], others: Sequence[float]) -> str:
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    sys.exit(commandline.run(StartupConfig, measure, DESCRIPTION))
