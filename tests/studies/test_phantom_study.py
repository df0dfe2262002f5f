"""The phantom study in miniature, killed on the way, and its report: real runs, no stand-ins."""

import csv
import importlib
import json
import time

import pytest

pytestmark = pytest.mark.slow


def command(name, *arguments):
    """Runs a command as `python -m NAME` does; returns its exit status."""
    return importlib.import_module(name).main(list(arguments))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    for seed, name in enumerate(("first", "second")):
        build = [f"--data_root={folder / f'drawn{seed}'}", f"--out={folder / name}"]
        small = [f"--seed={seed}", "--phantom_images=50", "--short_side=32", "--workers=1"]
        assert command("data_prep.build", "--flagfile=prep_phantom.flags", *build, *small) == 0
    return folder


def test_a_killed_study_goes_on_and_its_report_has_the_runs_numbers(
    data, tmp_path, capsys, forks, backbone_file
):
    study, report = tmp_path / "study", tmp_path / "report"
    arguments = [
        "--flagfile=phantom.flags",
        f"--study_dir={study}",
        f"--data_dir={data / 'first'}",
        f"--target_dirs={data / 'second'}",
        "--strategies=all",
        "--train_fractions=1",
        "--transfers=last_layer@all",
        "--seeds=0",
        "--batch_size=8",
        "--steps=2",
        "--checkpoint_every=1",
        "--jobs=1",
        "--colorizers=color_map",
        "--colorizer_inits=gray",
        f"--backbones={backbone_file}",
    ]
    words = ["-m", "medcolor_tf.experiment", *arguments]
    child = forks.start(words)
    first = study / "runs" / "first-color_module-color_map_gray-small-f1-s0"
    second = study / "runs" / "first-all-color_map_gray-small-f1-s0"
    deadline = time.monotonic() + 300
    while not (second / "config.json").is_file() and time.monotonic() < deadline:
        assert child.poll() is None, child.communicate()
        time.sleep(0.2)
    child.kill()
    child.wait()
    before = (first / "result.json").stat().st_mtime_ns
    assert not (second / "result.json").is_file()

    done = forks.run(words)
    assert done.returncode == 0, done.stderr
    third = study / "runs" / "second-last_layer_from_all-color_map_gray-small-f1-s0"
    evaluations = {
        run: json.loads((run / "evaluation-test.json").read_text())
        for run in (first, second, third)
    }
    assert (first / "result.json").stat().st_mtime_ns == before

    assert command("medcolor_tf.report", str(study), f"--out={report}") == 0
    tables = {}
    for path in report.glob("table*.csv"):
        with open(path, newline="") as file:
            tables[path.stem] = list(csv.reader(file))
    by_size = sorted(tables.values(), key=len)
    shown = [cell for table in by_size for row in table for cell in row]
    for evaluation in evaluations.values():
        assert f"{100 * evaluation['mean_auc']:.1f}" in shown
    assert any(name.startswith("table3") for name in tables)
    page = (report / "index.html").read_text()
    assert "drawn phantoms" in page
    assert "RANDOM weights" in page
    assert "runs are missing" not in page
