"""The report on decisions: the numbers of the run's files, and what makes them doubtful."""

import json

import pytest

from medcolor_tf.reporting.collect import collect
from medcolor_tf.reporting.contents import Note, Table
from medcolor_tf.reporting.decisions import decisions
from medcolor_tf.reporting.output import to_csv
from tests.reporting.run_folders import Runs


@pytest.fixture
def runs(tmp_path):
    runs = Runs(tmp_path / "runs", observations=("Edema", "Mass"))
    runs.add("first", "baseline")
    runs.add("second", "baseline_all")
    return runs


def made(runs):
    (group,) = collect([runs.folder]).evaluation_sets(50)
    contents = list(decisions(group))
    tables = {table.name: table for table in contents if isinstance(table, Table)}
    return tables, [note.text for note in contents if isinstance(note, Note)]


def test_without_a_decision_there_is_no_section(runs):
    assert made(runs) == ({}, [])


def test_the_tables_hold_what_the_run_says(runs):
    content = runs.decide("first", [0.6, None], slope=0.5)
    tables, notes = made(runs)
    assert notes == []
    points = [[cell.text for cell in row] for row in tables["thresholds-1"].cells]
    edema, mass = points
    rule = "Chosen by youden, on 18 images of data (split valid), calibrated by temperature"
    assert tables["thresholds-1"].caption.startswith("Thresholds are of the calibrated probability")
    assert edema[1:3] == ["Edema", "60 %"]
    found = content["observations"]["Edema"]["sensitivity"]
    assert tables["thresholds-1"].groups == (rule, rule)
    low, high = (f"{100 * end:.1f}" for end in found["interval"])
    assert edema[3] == f"{100 * found['value']:.1f} ({low} to {high})"
    assert mass[1:] == ["Mass", *["-"] * 5]
    assert f",0.6,{found['value']:.3f} (" in to_csv(tables["thresholds-1"])
    calibration = [[cell.text for cell in row] for row in tables["decision-calibration-1"].cells]
    slope = content["observations"]["Mass"]["calibration_slope"]["value"]
    assert calibration[1][4].startswith(f"{slope:.2f} (")


def test_a_threshold_of_almost_one_is_not_called_100(runs):
    runs.decide("first", [1 - 2e-6, 0.5])
    tables, _ = made(runs)
    assert tables["thresholds-1"].cells[0][2].text == "100 - 0.0002 %"
    assert "was not calibrated" in tables["thresholds-1"].caption
    assert tables["thresholds-1"].cells[0][2].csv == "1 - 2e-06"


def test_what_is_doubtful_is_said_and_what_is_of_another_decision_left_out(runs):
    runs.decide("first", [0.5, 0.5], same_images=True)
    runs.decide("second", [0.5, 0.5])
    path = runs.folder / "second" / "operating-points-test.json"
    stale = json.loads(path.read_text())
    runs.decide("second", [0.4, 0.4])
    path.write_text(json.dumps(stale))
    tables, notes = made(runs)
    assert len(tables["thresholds-1"].rows) == 2
    assert "first: its thresholds were chosen on images of test themselves" in notes[0]
    assert "second: operating-points-test.json is of another decision or data set" in notes[1]
    path.unlink()
    assert "second: its decision was not measured on test" in made(runs)[1][1]
    (runs.folder / "second" / "best.safetensors").write_bytes(b"other weights")
    assert "chosen for other weights" in made(runs)[1][1]
