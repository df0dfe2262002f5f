"""Every block of commands or Python on the pages is run, on small made-up data.

Commands are run as they stand, with the options of ``ADDED`` behind them. A page has a folder of
its own, in which ``THERE`` puts the files that the page supposes; some are left by other pages.
What is not run stands in ``EXCEPTIONS`` with the reason, and nothing else is left out: a new block
fails here until it runs or has its reason. docs/api.md is made from docstrings, which
test_examples.py runs.
"""

import argparse
import contextlib
import csv
import importlib
import io
import re
import shlex
import shutil
import subprocess
import urllib.request
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Thread

import documented
import documented_data as data
import huggingface_hub
import keras
import numpy as np
import pytest
from documented import ROOT
from hub_stand_in import Downloads, FakeApi, on_the_hub

import medcolor_tf as mc
from medcolor_tf import train
from medcolor_tf.studies import workers

pytestmark = pytest.mark.slow
PAGES = {page.stem: page for page in documented.pages() if page.stem != "api"}

# What a program of a page needs that costs too much, or that no test can have. Page, a part of the
# line (of the whole program, where it is one), reason.
EXCEPTIONS = (
    ("README", "source .venv/bin/activate", "the tests' environment is at work already"),
    ("start", "pip install", "changes the environment; tests/test_wheel.py installs the wheel"),
    ("page", "pip install", "changes the environment; tests/test_wheel.py installs the wheel"),
    ("page", "medcolor_tf.demo", "needs Gradio: tests/nightly/test_page_in_browser.py starts it"),
    ("gpus", "--hosts=", "three machines: tests/parallel/test_multihost.py, as processes of one"),
    (
        "hosts",
        "--hosts=",
        "machines, Slurm, Kubernetes: tests/parallel/test_multihost.py, as above",
    ),
    ("hosts", "export KERAS_BACKEND=jax", "belongs to the line of Slurm below it"),
    ("studies", "dask ", "tests/test_cluster.py starts scheduler and workers by these commands"),
    ("studies", "--cluster=", "tests/test_cluster.py runs a study and a build on such a cluster"),
    (
        "studies",
        "SLURMCluster",
        "tests/test_cluster.py runs it, with Slurm's commands stood in for",
    ),
    ("serving", "# a SavedModel", "training.md runs the same export, into another folder"),
    ("serving", "localhost:8501", "asks that server; tests/serving/test_serving_docs.py has one"),
    ("serving", "localhost:8500", "asks that server; tests/serving/test_serving_docs.py has one"),
    ("CONTRIBUTING", "-m pytest", "a test that runs tests"),
)

# Options behind those of a command: all entries whose words are in it.
TRAIN = (
    *("--epochs=0", "--steps=2", "--checkpoint_every=2", "--batch_size=4", "--max_lr=0.01"),
    *("--augment_probability=0", "--cache=none"),
)
ADDED = (
    (("data_prep.build",), ("--short_side=16", "--workers=1")),
    (("data_prep.verify",), ("--workers=1",)),
    (("medcolor_tf.train",), TRAIN),
    (("medcolor_tf.train", "--flagfile=baseline"), ("--backbone=small.keras",)),
    (("medcolor_tf.train", "stage1.flags"), ("--backbone=small.keras", "--colorizer=color_map")),
    (("medcolor_tf.train", "colours.safetensors"), ("--backbone=small.keras",)),
    (("medcolor_tf.experiment",), ("--batch_size=4",)),
    (
        ("medcolor_tf.experiment", "--flagfile=table1.flags"),
        (
            *("--strategies=baseline", "--backbones=small.keras", "--seeds=0", "--max_lr=0.01"),
            *("--epochs=0", "--steps=2", "--checkpoint_every=2"),
        ),
    ),
    (("medcolor_tf.experiment", "--tune_head=1"), ("--tune_max_lr=0.01,0.02", "--tune_head=")),
    (("medcolor_tf.experiment", "--flagfile=evidence.flags"), ("--dry_run",)),
    (("medcolor_tf.report",), ("--bootstrap_samples=10",)),
    (("medcolor_tf.predict", "--explain="), ("--explain_observations=Edema",)),
    (("medcolor_tf.doctor",), ("--offline",)),
    (("make ",), ("--dry-run",)),
    (("tensorboard ",), ("--port=0", "--load_fast=false")),
)

CHEXPERT, MURA = "CheXpert-v1.0-small", "MURA-v1.1"
# Text of a page -> what is run in its place.
REPLACED = {
    "README": {
        '"pixel_shuffle", "DenseNet121"': '"color_map", "small.keras"',
        "steps_per_epoch=100": "steps_per_epoch=1",
    },
    "data": {
        " ... --id_key_file": f" --data_root={CHEXPERT} --out=tfrecords/parts --id_key_file",
        "data_prep.merge --out=tfrecords/chexpert\n": "data_prep.merge --out=tfrecords/parts\n",
    },
    "training": {'"DenseNet121"': '"small.keras"'},
}
# Names that a program of a page supposes.
NAMES = {
    "data": {"keras": keras},
    "operating_points": {"mc": mc, "images": np.zeros((2, 16, 16, 1), np.uint8)},
}

# Page -> path in its folder -> what makes it: a function, or a page that leaves it (page:path where
# it has another path there). Every folder has small.keras, a backbone.
THERE: dict[str, dict[str, Callable[[Path], None] | str]] = {
    "README": {"labels.csv": data.make_labels},
    "data": {CHEXPERT: data.make_chexpert, "tfrecords/parts": data.make_other_parts},
    "evidence": {
        "nih1000/labels.csv": lambda path: data.make_labelled_films(path, "file", "no_finding"),
        "kermany/labels.csv": lambda path: data.make_labelled_films(
            path, "path", "Viral given pneumonia"
        ),
        "knee_oa/labels.csv": lambda path: data.make_labelled_films(path, "path", "Osteoarthritis"),
        "resnet18_imagenet_layer3_bn.keras": "README:small.keras",
        "efficientnet_lite0_imagenet.keras": "README:small.keras",
        "runs/evidence": "studies:runs/paper",
    },
    "gpus": {"tfrecords/chexpert": "start-chexpert", "runs/stage1": "training"},
    "groups": {
        CHEXPERT: data.make_chexpert,
        "runs/stage2": "training",
        "runs/mura": "start-mura:runs/mura/baseline_all",
        "tfrecords/mura_shoulder": "start-mura",
        "list.csv": data.make_list,
    },
    "operating_points": {
        "tfrecords/mine": "README",
        "runs/stage2": "README",
        "some/folder": "README",
        "tfrecords/our_hospital": data.make_our_hospital,
    },
    "page": {"runs/stage2": "training"},
    "serving": {
        "runs/stage2": "training",
        "runs/stage2/saved_model": "training:saved_model",
        "film.png": data.make_film,
        "films": lambda path: data.make_dicom(path, 3),
    },
    "start-chestxray14": {
        "ChestX-ray14": data.make_chestxray14,
        "runs/chexpert/stage2": "start-chexpert",
    },
    "start-chexpert": {CHEXPERT: data.make_chexpert},
    "start-csv": {"films": data.make_csv},
    "start-dicom": {"films": data.make_dicom},
    "start-mura": {MURA: data.make_mura},
    "studies": {"tfrecords/chexpert": "start-chexpert"},
    "training": {
        "tfrecords/chexpert": "start-chexpert",
        "tfrecords/mine": "README",
        "some/folder": data.make_films,
        "list.csv": data.make_list,
        "theta_A.pth": data.make_theta,
        "xray.png": data.make_film,
    },
}


def programs(name: str) -> list[tuple[str, str]]:
    """Returns what a page has to run, in order: (language, program); of a shell, line by line."""
    text = PAGES[name].read_text("utf-8")
    for old, new in REPLACED.get(name, {}).items():
        assert old in text, (name, old)
        text = text.replace(old, new)
    found = []
    for language, content in documented.all_blocks(text):
        if language == "text":  # what a file or the terminal holds
            continue
        lines = documented.lines(content) if language == "" else [content]
        found += [(language, line) for line in lines if language or not line.startswith("#")]
    return found


def exceptions(name: str, program: str) -> list[tuple[str, str, str]]:
    return [entry for entry in EXCEPTIONS if entry[0] == name and entry[1] in program]


class Pages:
    """Runs pages, each once, in folders below one."""

    def __init__(self, root: Path, backbone: str, monkeypatch: pytest.MonkeyPatch):
        self.root, self.backbone, self.monkeypatch = root, Path(backbone), monkeypatch
        self.api = on_the_hub(monkeypatch, FakeApi())
        self.outputs: dict[str, str] = {}

    def run(self, name: str) -> Path:
        """Runs what a page has to run; returns the folder that it ran in."""
        folder = self.root / name
        if folder.is_dir():
            assert name in self.outputs, f"{name} has failed before"
            return folder
        folder.mkdir()
        shutil.copy(self.backbone, folder / "small.keras")
        for path, source in THERE.get(name, {}).items():
            self.provide(folder / path, source, path)
        output = io.StringIO()
        self.monkeypatch.setattr(
            huggingface_hub, "hf_hub_download", Downloads(self.api, folder / "hub")
        )
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            for language, program in programs(name):
                if exceptions(name, program):
                    continue
                try:
                    output.write(f"\n$ {program}\n")
                    {"": run_line, "python": run_python}[language](program, name)
                except BaseException as error:
                    raise AssertionError(f"{name}: {program}\n{output.getvalue()}") from error
        self.outputs[name] = output.getvalue()
        return folder

    def provide(self, path: Path, source: Callable[[Path], None] | str, name: str) -> None:
        """Puts a file or folder where a page supposes it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(source):
            source(path)
            return
        page, _, other_name = source.partition(":")
        made = self.run(page) / (other_name or name)
        (shutil.copytree if made.is_dir() else shutil.copy)(made, path)


def run_python(program: str, name: str) -> None:
    exec(compile(program, name, "exec"), dict(NAMES.get(name, {})))


def run_line(line: str, name: str) -> None:
    """Runs a line of a block of commands; AssertionError where its status is not 0."""
    added = [word for words, more in ADDED if all(w in line for w in words) for word in more]
    found = documented.command(line, name, ("medcolor_tf.", "data_prep.", "benchmarks."))
    if found is not None:
        assert found.complete, "something is left out (...); REPLACED may fill it in"
        arguments = [*found.arguments, *added]
        status = importlib.import_module(found.module).main(arguments)
        assert status == 0, (found.module, arguments)
    elif line.startswith("tensorboard "):
        serve_tensorboard([*line.split()[1:], *added])
    elif line.startswith("docker run "):
        check_container(line, name)
    else:
        words = line.partition("#")[0].split() if line.startswith("make ") else line
        folder = ROOT if line.startswith("make ") else None
        done = subprocess.run(
            [*words, *added] if isinstance(words, list) else words,
            cwd=folder, shell=isinstance(words, str), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def check_container(line: str, name: str) -> None:
    """Checks what a container of TensorFlow Serving would be given: no Docker runs here.

    Its image serves the folder /models/$MODEL_NAME, which has a folder per version, by gRPC on
    8500 and by HTTP on 8501.
    """
    parser = argparse.ArgumentParser(prog="docker run")
    parser.add_argument("-p", action="append")
    parser.add_argument("-v")
    parser.add_argument("-e")
    parser.add_argument("image", choices=["tensorflow/serving"])
    given = parser.parse_args(shlex.split(line.replace("$PWD", str(Path.cwd())))[2:])
    outside, _, inside = given.v.partition(":")
    assert Path(outside).is_absolute()
    assert {path.name for path in Path(outside).iterdir()} == {"1"}
    assert {"saved_model.pb", "variables"} <= {path.name for path in Path(outside, "1").iterdir()}
    variable, _, model = given.e.partition("=")
    assert (variable, inside) == ("MODEL_NAME", f"/models/{model}")
    assert sorted(given.p) == ["8500:8500", "8501:8501"]
    clients = "".join(documented.blocks(PAGES[name].read_text("utf-8"), "python"))
    assert f"localhost:8501/v1/models/{model}:predict" in clients
    assert f'model_spec.name = "{model}"' in clients
    assert '"localhost:8500"' in clients


def serve_tensorboard(arguments: list[str]) -> None:
    """Starts TensorBoard, asks it for what it found, and ends it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries inside it, of each other
        from tensorboard import program

        program.TensorBoard  # noqa: B018  # it is imported when it is first used

    board = program.TensorBoard()
    board.configure(["tensorboard", *arguments])
    server = board._make_server()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with urllib.request.urlopen(f"{server.get_url()}data/logdir", timeout=60) as answer:
            assert b"runs" in answer.read()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class HereExecutor(Executor):
    """Does the runs of a study in this process: each study would import TensorFlow for itself."""

    def __init__(self, *_: object):
        pass

    def submit(self, function, task):
        assert task.words[:2] == ("-m", "medcolor_tf.train")
        future = Future()
        with open(task.log, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            future.set_result(train.main(list(task.words[2:])))
        return future


@pytest.fixture(scope="module")
def pages(tmp_path_factory, backbone_file):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(workers, "ForkExecutor", HereExecutor)
        yield Pages(tmp_path_factory.mktemp("pages"), backbone_file, monkeypatch)


@pytest.mark.parametrize("name", PAGES)
def test_page(name, pages):
    folder = pages.run(name)
    outputs = re.findall(r"medcolor_tf\.predict .*?--out=(\S+\.csv)", "\n".join(
        program for _, program in programs(name)
    ))  # fmt: skip
    for path in outputs:
        with (folder / path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows
        assert all(row["error"] == "" for row in rows)


def test_every_exception_is_needed_and_names_tests_that_are_there():
    for entry in EXCEPTIONS:
        name, _, reason = entry
        assert any(entry in exceptions(name, program) for _, program in programs(name)), entry
        for file in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / file).is_file(), entry


@pytest.mark.parametrize(
    "line",
    [
        "no-such-program --now",
        "docker run -p 8501:8501 -v served/medcolor:/models/medcolor tensorflow/serving",
        "python -m data_prep.verify nowhere",
        "python -m data_prep.verify ...",
        "make nothing-that-is-made",
    ],
)
def test_a_line_that_cannot_be_run_fails(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        run_line(line, "here")


def test_every_fence_is_seen():
    for page in PAGES.values():
        text = page.read_text("utf-8")
        assert text.count("```") == 2 * len(documented.all_blocks(text)), page.name
