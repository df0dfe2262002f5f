"""decision.json of a run: chosen on validation, measured elsewhere, bound to the weights."""

import csv
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from serving_helpers import drawn_captions, encode, made_decision, make_run, pixels

import medcolor_tf as mc
from medcolor_tf.errors import InputError
from medcolor_tf.evaluate import main as evaluate_main
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.evaluation.operating_points import Rule, choose_threshold, ppv_at
from medcolor_tf.evaluation.visualize import percent
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.predict import main as predict_main
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import load_decision, save_decision
from medcolor_tf.serving.comparison import compare_decisions
from medcolor_tf.serving.decision_outputs import decision_outputs

OBSERVATIONS = ("Edema", "Pleural Effusion")
PAGE = Path(__file__).parents[2] / "docs" / "operating_points.md"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, write_small_dataset):
    folder = tmp_path_factory.mktemp("decisions") / "hospital"
    write_small_dataset(folder, images=(16, 40, 40))
    return folder


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run", colorizer="none")


def evaluate(run_dir, data_dir, *flags):
    return evaluate_main([f"--run_dir={run_dir}", f"--data_dir={data_dir}", *flags])


def predictions(folder, split, observation):
    with open(folder / f"predictions-{split}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([float(row[f"label {observation}"] or "nan") for row in rows])
    return labels, np.array([float(row[f"probability {observation}"]) for row in rows])


def read(path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_thresholds_are_those_of_validation_and_measured_on_test(run_dir, data_dir, capsys):
    assert evaluate(run_dir, data_dir) == 0
    assert not (run_dir / "operating-points-test.json").exists()
    before = [(run_dir / name).read_bytes() for name in ("evaluation-test.json", "model.json")]
    flags = ("--operating_point=sensitivity=0.8", "--prevalence=Edema=0.02")
    assert evaluate(run_dir, data_dir, *flags) == 0
    printed = capsys.readouterr().out
    assert "chosen on valid of hospital: 40 images of 40 patients" in printed
    assert "no image of test had a part in the choice" in printed
    assert "warning: Edema: on valid AUC 0." in printed
    after = [(run_dir / name).read_bytes() for name in ("evaluation-test.json", "model.json")]
    assert before == after
    assert evaluate(run_dir, data_dir, "--split=valid") == 0
    assert "chosen on images of this very split (valid)" in capsys.readouterr().out
    decision, points = load_decision(run_dir), read(run_dir / "operating-points-test.json")
    assert decision is not None
    for name, entry in decision.observations.items():
        labels, chances = predictions(run_dir, "valid", name)
        chosen = choose_threshold(labels, chances, Rule("sensitivity", 0.8))
        assert entry.threshold == pytest.approx(chosen, abs=1e-6)
        assert (entry.positive, entry.negative) == ((labels == 1).sum(), (labels == 0).sum())
        labels, chances = predictions(run_dir, "test", name)
        row, called = points["observations"][name], chances >= entry.threshold
        assert row["counts"]["true_positive"] == (called & (labels == 1)).sum()
        assert row["sensitivity"]["value"] == pytest.approx(called[labels == 1].mean())
        assert row["brier"]["value"] == pytest.approx(np.mean((chances - labels) ** 2), abs=1e-6)
    edema = points["observations"]["Edema"]
    expected = ppv_at(edema["sensitivity"]["value"], edema["specificity"]["value"], 0.02)
    assert edema["ppv_at_prevalence"]["value"] == pytest.approx(expected)
    assert "ppv_at_prevalence" not in points["observations"]["Pleural Effusion"]


def test_a_decision_is_not_lost(run_dir, data_dir, capsys):
    path = save_decision(made_decision(run_dir), run_dir)
    content = path.read_bytes()
    assert save_decision(made_decision(run_dir), run_dir).read_bytes() == content
    assert evaluate(run_dir, data_dir, "--operating_point=youden") == 2
    assert "holds another decision (youden, chosen on valid of d:" in capsys.readouterr().err
    assert path.read_bytes() == content
    assert evaluate(run_dir, data_dir, "--operating_point=youden", "--replace_decision") == 0
    assert read(path)["previous"] == json.loads(content)
    replaced = path.read_bytes()
    decision = load_decision(run_dir)
    assert decision is not None
    assert save_decision(decision, run_dir).read_bytes() == replaced


def test_a_decision_of_other_weights_is_refused(run_dir, data_dir, tmp_path, capsys):
    save_decision(made_decision(run_dir), run_dir)
    assert load_decision(run_dir) is not None
    arrays, _ = checkpoint.load(run_dir / runs.BEST)
    arrays["head/bias"] = arrays["head/bias"] + 1
    content = checkpoint.to_bytes(arrays, {"step": 9})
    runs.Run(run_dir).write({runs.BEST: content, runs.LAST: content})
    with pytest.raises(InputError, match=r"decision.json: chosen for other weights: best.safe"):
        load_decision(run_dir)
    assert evaluate(run_dir, data_dir) == 2
    assert "or give --decision=none to go without" in capsys.readouterr().err
    with pytest.raises(InputError, match="chosen for --weights=best, received --weights=last"):
        load_decision(run_dir, "last")
    assert load_decision(run_dir, source="none") is None
    assert evaluate(run_dir, data_dir, "--decision=none", f"--out={tmp_path / 'out'}") == 0


LOGITS = np.array([[-3.0, -0.5], [0.0, 0.2], [0.7, 40.0], [2.0, -40.0]], np.float32)


def test_what_a_decision_makes_of_logits(run_dir):
    decision = made_decision(run_dir, (0.3, None), slope=2.0, intercept=-1.0)
    calibrated = decision.calibrated(LOGITS)
    np.testing.assert_allclose(calibrated, 1 / (1 + np.exp(-(2 * LOGITS.astype(float) - 1))))
    # The third is 0.599, the second 0.269.
    assert decision.classify(logits=LOGITS)[:, 0].tolist() == [0, 0, 1, 1]
    assert decision.classify(logits=LOGITS)[:, 1].tolist() == [-1] * 4
    cells = decision.cells(LOGITS)
    assert decision.columns == [
        f"{k} {n}" for n in OBSERVATIONS for k in ("calibrated", "decision")
    ]
    assert [row[1::2] for row in cells[1:3]] == [["negative", ""], ["positive", ""]]
    assert float(cells[1][0]) == pytest.approx(calibrated[1, 0], rel=1e-6)
    # Of probabilities that float32 cannot tell from 1, the logits still can.
    sure = made_decision(run_dir, (1 - 1e-9, 0.0))
    logits = np.array([[18, -99], [23, 99]], np.float32)
    assert (sigmoid(logits)[:, 0] == 1).all()
    assert sure.classify(logits=logits).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("thresholds", [(0.3, None), (np.nextafter(1, 2), 0.0), (1 - 1e-9, 1e-9)])
def test_the_graph_decides_as_numpy_does(run_dir, thresholds):
    decision = made_decision(run_dir, thresholds, slope=1.5, intercept=0.25)
    outputs = decision_outputs(keras.ops.convert_to_tensor(LOGITS), decision)
    calibrated = decision.calibrated(LOGITS)
    np.testing.assert_allclose(outputs["calibrated"], calibrated, atol=1e-6)
    np.testing.assert_array_equal(outputs["decisions"], decision.classify(logits=LOGITS))
    assert decision_outputs(LOGITS, None) == {}


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_predict_and_python_use_it(run_dir, tmp_path, capsys, monkeypatch):
    images = [pixels(40, 36, seed=i) for i in range(6)]
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(encode(image, "PNG"))
    (tmp_path / "bad.png").write_bytes(b"no image")
    command = [f"--run_dir={run_dir}", f"--inputs={tmp_path}"]
    flags = [f"--out={tmp_path / 'without.csv'}", "--decision=none"]
    assert predict_main([*command, *flags]) == 1
    assert list(rows_of(tmp_path / "without.csv")[0])[-5:-3] == ["Pleural Effusion", "warnings"]
    chances = [float(row["Edema"]) for row in rows_of(tmp_path / "without.csv") if row["Edema"]]
    logits = np.log(np.divide(chances, np.subtract(1, chances)))
    middle = float(np.sort(1 / (1 + np.exp(-(2 * logits - 1))))[2:4].mean())
    decision = made_decision(run_dir, (middle, None), slope=2.0, intercept=-1.0)
    save_decision(decision, run_dir)
    capsys.readouterr()
    captions = drawn_captions(monkeypatch)
    flags = [f"--explain={tmp_path / 'heat'}", "--explain_observations=Edema"]
    assert predict_main([*command, f"--out={tmp_path / 'with.csv'}", *flags]) == 1
    assert (
        "decision: youden, calibrated (platt), chosen on valid of d: 7" in capsys.readouterr().out
    )
    rows, without = rows_of(tmp_path / "with.csv"), rows_of(tmp_path / "without.csv")
    kept = [{name: row[name] for name in without[0]} for row in rows]
    assert kept == [
        row | {"explained": new["explained"]} for row, new in zip(without, rows, strict=True)
    ]
    assert sorted(captions) == sorted(
        f"Edema\nprobability {percent(float(row['Edema']))}, "
        f"calibrated {percent(float(row['calibrated Edema']))}"
        for row in rows
        if not row["error"]
    )
    assert [row["decision Edema"] for row in rows if not row["error"]].count("positive") == 3
    assert {row["decision Pleural Effusion"] for row in rows} == {""}
    assert [row["calibrated Edema"] for row in rows if row["error"]] == [""]

    monkeypatch.chdir(run_dir.parent)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    raw = np.stack([pixels(32, 32, seed=i) for i in range(2)])[..., None]
    names: dict[str, Any] = {"mc": mc, "images": raw}
    exec(textwrap.dedent(code).replace('"runs/stage2"', '"run"'), names)
    assert names["run"].decision == decision
    assert names["calibrated"].shape == (2, len(OBSERVATIONS))
    expected = np.where(names["calibrated"][:, 0] >= middle, 1, 0)
    assert names["called"].tolist() == [[called, -1] for called in expected]
    with pytest.raises(TypeError, match="positional"):  # probabilities by mistake
        decision.classify(names["calibrated"])  # pyright: ignore[reportCallIssue]


def test_an_export_that_decides_otherwise_is_refused(run_dir):
    decision = made_decision(run_dir, (0.3, 0.3), slope=2.0)
    spec, model, _ = runs.load_classifier(run_dir)

    def answer(flip):
        def outputs(reads, output="probabilities"):
            logits = model.predict_on_batch(np.stack([read.image for read in reads]))
            calibrated = decision.calibrated(logits)
            called = decision.classify(logits=logits)
            return calibrated if output == "calibrated" else flip(called)

        return outputs

    both = classify_and_colorize(model)
    same = compare_decisions(answer(lambda called: called), both, spec, decision, 1e-5)
    assert same < 1e-6
    other = compare_decisions(answer(lambda called: 1 - called), both, spec, decision, 1e-5)
    assert other == np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": 7}, "decision.json: rule: expected a text"),
        ({"observation_order": ["Edema"]}, "observation_order: expected the names of observations"),
        ({"step": -1}, "decision.json: step: expected an integer"),
    ],
)
def test_files_that_are_no_decision_are_named(run_dir, tmp_path, change, message):
    path = tmp_path / "decision.json"
    path.write_text(json.dumps(made_decision(run_dir).to_dict() | change))
    with pytest.raises(InputError, match=message):
        load_decision(run_dir, source=str(path))


def test_a_decision_in_another_folder_is_read(run_dir, tmp_path):
    save_decision(made_decision(run_dir), tmp_path / "elsewhere")
    assert load_decision(run_dir) is None
    assert load_decision(run_dir, source=str(tmp_path / "elsewhere" / "decision.json")) is not None
    with pytest.raises(InputError, match=r"--decision=.*nothing\.json: no such file; expected a"):
        load_decision(run_dir, source=str(tmp_path / "nothing.json"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--operating_point=best",), "--operating_point=best: expected youden, sensitivity=X"),
        (("--replace_decision",), "--replace_decision without --operating_point"),
        (("--operating_point=youden", "--decision=x"), "expected one of them"),
        (("--prevalence=0.1",), "--prevalence=0.1: there is no decision whose predictive values"),
        (("--operating_point=youden", "--prevalence=Hernia=0.1"), "the model has no 'Hernia'"),
    ],
)
def test_flags_that_cannot_be_met(run_dir, data_dir, capsys, flags, message):
    assert evaluate(run_dir, data_dir, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (run_dir / "decision.json").exists()
