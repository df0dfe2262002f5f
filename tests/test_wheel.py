"""The wheel, installed outside the checkout: README's commands in an empty folder."""

import csv
import json
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from medcolor_tf import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Builds the wheel and installs it alone; returns the new environment's folder.

    TensorFlow and all else come from the running environment's packages, through a path file that
    puts them behind the new environment's own.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
    for name in ("medcolor_tf", "data_prep"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, f"--wheel-dir={folder}", source], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(environment, symlinks=True)
    python = f"--python={environment / 'bin/python'}"
    subprocess.run([*PIP, python, "install", "--no-deps", "--no-index", wheel], check=True)
    packages = sysconfig.get_path("purelib", "venv", {"base": str(environment)})
    Path(packages, "running_environment.pth").write_text("\n".join(site.getsitepackages()))
    return environment


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Runs a command of the new environment in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run_command(program, *arguments, status=0):
        command = [installed / "bin" / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run_command


def test_the_installed_package_is_imported_with_its_files(run, installed):
    program = (
        "import json, importlib.resources as r, data_prep, medcolor_tf\n"
        "names = [p.name for p in (r.files('medcolor_tf') / 'configs').iterdir()]\n"
        "typed = [(r.files(p) / 'py.typed').is_file() for p in ('medcolor_tf', 'data_prep')]\n"
        "print(json.dumps([medcolor_tf.__file__, data_prep.__file__, names, typed]))"
    )
    *files, names, typed = json.loads(run("python", "-c", program))
    assert all(Path(file).is_relative_to(installed) for file in files)
    assert sorted(names) == sorted(path.name for path in (ROOT / "configs").iterdir())
    assert typed == [True, True]


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_every_console_script_tells_the_version_and_returns_its_exit_status(run, script):
    assert run(script, "--version") == f"medcolor_tf {__version__}\n"
    assert "unknown flag --no_such_flag" in run(script, "--no_such_flag", status=2)


def test_readme_commands_from_prep_to_export(run, backbone_file, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    data, stage1 = "--data_dir=tfrecords/phantom", "--run_dir=runs/stage1"
    run(
        "medcolor-prep",
        "--flagfile=prep_phantom.flags",
        "--data_root=phantom",
        "--out=tfrecords/phantom",
        *("--phantom_images=40", "--short_side=32", "--workers=1"),
    )
    small = (
        f"--backbone={backbone_file}",
        "--backbone_weights=none",
        "--colorizer=color_map",
        "--epochs=0",
        "--steps=2",
        "--checkpoint_every=2",
        "--image_size=0",
        "--batch_size=8",
    )
    run("medcolor-train", "--flagfile=stage1.flags", "--flagfile=demo.flags", data, stage1, *small)
    assert json.loads(Path("runs/stage1/result.json").read_text())["steps"] == 2
    table = run("python", "-m", "medcolor_tf.evaluate", stage1, data)
    assert "Edema" in table
    run("medcolor-predict", stage1, "--inputs=phantom/valid", "--out=probabilities.csv")
    with open("probabilities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(Path("phantom/valid").rglob("*.jpg"))) > 0
    assert all(0 < float(row["Edema"]) < 1 for row in rows)
    run("python", "-m", "medcolor_tf.export", stage1, "--out=saved_model")
    assert Path("saved_model/saved_model.pb").stat().st_size > 0
