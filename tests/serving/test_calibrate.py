"""The calibrate command: a run meets the films of another place."""

import dataclasses
import json

import pytest
from serving_helpers import made_decision, make_run

from medcolor_tf.calibrate import main as calibrate_main
from medcolor_tf.evaluate import main as evaluate_main
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import existing_decision, load_decision, save_decision


@pytest.fixture(scope="module")
def places(tmp_path_factory, write_small_dataset):
    """Two data sets: where the run is from, and another place."""
    folder = tmp_path_factory.mktemp("places")
    write_small_dataset(folder / "home", images=(8, 40, 8))
    write_small_dataset(folder / "few", images=(4, 8, 4), seed=4)
    write_small_dataset(folder / "five", images=(5, 0, 0), seed=5)
    write_small_dataset(folder / "other", images=(20, 40, 40), seed=3)
    return folder


@pytest.fixture
def run_dir(tmp_path):
    run_dir = make_run(tmp_path / "run", colorizer="color_u")
    runs.Run(run_dir).write({runs.CONFIG: {"flags": {}, "data_fingerprint": "test-0"}})
    return run_dir


def calibrate(run_dir, data_dir, *flags):
    return calibrate_main([f"--run_dir={run_dir}", f"--data_dir={data_dir}", *flags])


@pytest.mark.slow
def test_a_run_is_adapted_and_nothing_is_lost(run_dir, places, capsys):
    evaluate = [f"--run_dir={run_dir}", "--operating_point=sensitivity=0.9"]
    assert evaluate_main([*evaluate, f"--data_dir={places / 'home'}", "--split=valid"]) == 0
    path = run_dir / "decision.json"
    first = path.read_bytes()
    assert calibrate(run_dir, places / "other", "--replace_decision") == 0
    printed = capsys.readouterr().out
    assert "100 films of 100 patients of other; after: 10-fold cross-validation" in printed
    assert "thresholds before: sensitivity=0.9, chosen on valid of home" in printed
    assert "thresholds after: rule sensitivity=0.9, the run's" in printed
    assert "Edema: refused, no calibration and no threshold: the AUC here is 0.35" in printed
    content = path.read_bytes()
    assert json.loads(content)["previous"] == json.loads(first)
    assert calibrate(run_dir, places / "other") == 0
    assert path.read_bytes() == content
    decision = load_decision(run_dir)
    assert decision is not None
    assert decision.rule == "sensitivity=0.9"
    edema, effusion = decision.observations.values()
    assert (edema.threshold, edema.method, edema.slope) == (None, "none", 1)
    assert effusion.method == "platt"
    before, after = (decision.comparison[when]["Pleural Effusion"] for when in ("before", "after"))
    previous = json.loads(first)["observations"]["Pleural Effusion"]["threshold"]
    assert before["threshold"] == previous
    assert after["brier"]["value"] < before["brier"]["value"]
    # Where the new one goes does not change what was there before.
    flags = (f"--out={run_dir / 'elsewhere'}", "--operating_point=youden")
    capsys.readouterr()
    assert calibrate(run_dir, places / "other", *flags) == 0
    printed = capsys.readouterr().out
    assert "thresholds before: sensitivity=0.9, chosen on valid of home" in printed
    assert "thresholds after: rule youden, --operating_point's" in printed
    alone = dataclasses.replace(decision, previous={})
    runs.Run(run_dir).write({runs.DECISION: alone.to_dict()})
    flags = (f"--out={run_dir / 'alone'}", "--operating_point=youden")
    assert calibrate(run_dir, places / "other", *flags) == 0
    printed = capsys.readouterr().out
    assert "thresholds before: none (the run's were chosen on these films" in printed
    evaluate = [f"--run_dir={run_dir}", f"--data_dir={places / 'other'}"]
    assert evaluate_main(evaluate) == 0
    printed = capsys.readouterr().out
    assert "chosen on images of this very split (test)" in printed
    assert "the model's own probabilities on test:" in printed
    assert "no threshold for Edema: the AUC here is" in printed


@pytest.mark.parametrize(
    ("place", "flags", "message"),
    [
        ("home", (), "--split=all: the run was trained on"),
        ("home", ("--split=test",), "expected --split=valid, or the data set of another place"),
        ("five", (), "no observation can be adapted: Edema: positive films of"),
        ("five", ("--split=valid",), "no images in split 'valid'; it has train"),
        ("few", (), "no observation can be adapted: Edema: positive films of"),
        ("other", ("--operating_point=x",), "--operating_point=x: expected youden"),
        ("other", ("--method=isotonic",), "platt|temperature"),
    ],
)
def test_what_cannot_be_done_is_refused(run_dir, places, capsys, place, flags, message):
    assert calibrate(run_dir, places / place, *flags) == 2
    assert message in capsys.readouterr().err
    assert existing_decision(run_dir) is None


def test_another_decision_is_refused_before_the_model_is_loaded(
    run_dir, places, capsys, monkeypatch
):
    save_decision(made_decision(run_dir), run_dir)

    def load(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(runs, "load_predictor", load)
    assert calibrate(run_dir, places / "other") == 2
    flags = [f"--run_dir={run_dir}", f"--data_dir={places / 'other'}"]
    assert evaluate_main([*flags, "--operating_point=sensitivity=0.9"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("decision.json: holds another decision (youden, chosen on valid of d") == 2
    assert printed.count("Give --replace_decision") == 2
