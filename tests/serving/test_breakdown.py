"""evaluate --by and --unit on a run: files, thresholds, and what is refused."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from serving_helpers import encode, made_decision, make_run, pixels
from sklearn import metrics

from medcolor_tf.data.groups import GroupsInfo, SplitGroups
from medcolor_tf.data.schema import SPLITS, DatasetInfo
from medcolor_tf.evaluate import main as evaluate_main
from medcolor_tf.evaluation.operating_points import Rule, choose_threshold
from medcolor_tf.files import file_sha256
from medcolor_tf.predict import main as predict_main
from medcolor_tf.runs.decision import Decision, save_decision
from medcolor_tf.runs.folder import Run

EDEMA = "Edema"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, write_small_dataset):
    """A data set with groups, and a study of two images for every two patients' images."""
    folder = tmp_path_factory.mktemp("breakdown") / "hospital"
    write_small_dataset(folder, images=(8, 48, 64))
    info = DatasetInfo.load(folder)
    digests, studies = {}, {}
    for split in SPLITS:
        count = info.images[split]
        sex = np.where(np.arange(count) % 3 == 0, "female", "male")
        view = np.where(np.arange(count) % 2 == 0, "PA", "unknown")
        study = np.array([f"{split}s{i}" for i in range(count)])
        ids = np.array([f"{split}i{i}" for i in range(count)])
        SplitGroups(ids, study, {"sex": sex, "view": view}).save(folder, split)
        digests[split] = file_sha256(SplitGroups.path(folder, split))
        studies[split] = count
    values = {"sex": ("female", "male"), "view": ("PA", "unknown")}
    dataclasses.replace(info, groups=GroupsInfo(values, studies, digests)).save(folder)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run", colorizer="none")


def evaluate(run_dir, data_dir, out, *flags):
    return evaluate_main([f"--run_dir={run_dir}", f"--data_dir={data_dir}", f"--out={out}", *flags])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows, name):
    return np.array([float(row[name] or "nan") for row in rows])


@pytest.mark.slow
def test_groups_at_the_threshold_of_validation(run_dir, data_dir, tmp_path, capsys):
    flags = ("--by=sex,sex*view", "--split=valid")
    assert evaluate(run_dir, data_dir, tmp_path, *flags) == 0
    assert "these are the same images" in capsys.readouterr().out
    assert evaluate(run_dir, data_dir, tmp_path, "--by=sex,sex*view") == 0
    printed = capsys.readouterr().out
    assert "thresholds chosen on the images of valid by youden (the run has no decision)" in printed
    content = json.loads((tmp_path / "subgroups-test.json").read_text())
    assert content["predictions_sha256"] == file_sha256(tmp_path / "predictions-test.csv")
    valid, test = (rows_of(tmp_path / f"predictions-{split}.csv") for split in ("valid", "test"))
    label, chance = (numbers(valid, f"{kind} {EDEMA}") for kind in ("label", "probability"))
    threshold = choose_threshold(label, chance, Rule("youden"))
    assert content["thresholds"][EDEMA] == pytest.approx(threshold, abs=1e-6)
    female = [row for row in test if int(row["image_id"].removeprefix("testi")) % 3 == 0]
    label, chance = (numbers(female, f"{kind} {EDEMA}") for kind in ("label", "probability"))
    known = ~np.isnan(label)
    found = [
        row for row in rows_of(tmp_path / "subgroups-test.csv")
        if (row["by"], row["group"], row["observation"]) == ("sex", "female", EDEMA)
    ]  # fmt: skip
    assert int(found[0]["images"]) == known.sum()
    if not found[0]["few"]:
        expected = metrics.roc_auc_score(label[known], chance[known])
        assert float(found[0]["value"]) == pytest.approx(expected, abs=1e-5)
    groups = {row["group"] for row in content["groups"] if row["by"] == "sex*view"}
    assert groups == {"female, PA", "male, PA", "unknown"}
    assert (tmp_path / "manifest-test.json").is_file()
    assert "subgroups-test.json" in (tmp_path / "manifest-test.json").read_text()
    assert "too few" in printed
    assert "replaces the earlier" not in printed
    assert evaluate(run_dir, data_dir, tmp_path, "--by=view") == 0
    printed = capsys.readouterr().out
    assert "note: replaces the earlier comparison by sex, sex*view in subgroups-test" in printed
    assert "--by=sex,sex*view,view compares all in one family" in printed


@pytest.mark.slow
def test_studies_and_the_decision_of_the_run(run_dir, data_dir, tmp_path, capsys):
    flags = ("--unit=patient", "--aggregate=max", "--operating_point=sensitivity=0.8", "--by=sex")
    assert evaluate(run_dir, data_dir, tmp_path, *flags) == 0
    printed = capsys.readouterr().out
    assert "test: 64 patients, the max of their images' probabilities" in printed
    assert "on the patients of valid by sensitivity=0.8 (the decision's rule)" in printed
    content = json.loads((tmp_path / "units-test.json").read_text())
    decision = json.loads((tmp_path / "decision.json").read_text())
    assert content["decision_digest"] == Decision.from_dict(decision).digest
    # A patient has one image here: the level changes nothing.
    row, own = content["observations"][EDEMA], decision["observations"][EDEMA]
    assert row["threshold"] == pytest.approx(own["threshold"])
    rows = rows_of(tmp_path / "units-test.csv")
    label, chance = (numbers(rows, f"{kind} {EDEMA}") for kind in ("label", "probability"))
    known = ~np.isnan(label)
    expected = metrics.cohen_kappa_score(label[known], chance[known] >= row["threshold"])
    assert row["kappa"]["value"] == pytest.approx(expected)
    evaluation = json.loads((tmp_path / "evaluation-test.json").read_text())
    auc = evaluation["observations"][EDEMA]["auc"]
    assert row["auc"]["value"] == pytest.approx(auc, abs=1e-6)
    assert json.loads((tmp_path / "subgroups-test.json").read_text())["unit"] == "patient"
    assert evaluate(run_dir, data_dir, tmp_path, "--unit=study", "--decision=none") == 0
    assert "test: 64 studies of 64 patients, the mean of" in capsys.readouterr().out
    studies = json.loads((tmp_path / "units-test.json").read_text())
    assert studies["observations"][EDEMA]["auc"] == row["auc"]


def test_why_an_observation_has_no_threshold(run_dir, write_small_dataset, tmp_path, capsys):
    write_small_dataset(tmp_path / "all", images=(8, 8, 8), always_uncertain=EDEMA)
    assert evaluate(run_dir, tmp_path / "all", tmp_path / "out", "--unit=patient") == 0
    printed = capsys.readouterr().out
    reason = "8 positive and 0 negative patients; a threshold needs one of each"
    assert f"\n{EDEMA}: no threshold: {reason}\n" in printed
    assert printed.count("no threshold:") == 1


def test_what_a_decision_refused_has_no_threshold_at_another_level(
    run_dir, data_dir, tmp_path, capsys
):
    decision = made_decision(run_dir, thresholds=(None, 0.5))
    entry = dataclasses.replace(decision.observations[EDEMA], reason="the AUC here is 0.40")
    entries = {**decision.observations, EDEMA: entry}
    save_decision(dataclasses.replace(decision, observations=entries), tmp_path / "other")
    file = tmp_path / "other" / "decision.json"
    assert evaluate(run_dir, data_dir, tmp_path, "--unit=study", f"--decision={file}") == 0
    assert f"\n{EDEMA}: no threshold: the AUC here is 0.40\n" in capsys.readouterr().out
    found = json.loads((tmp_path / "units-test.json").read_text())["observations"]
    assert found[EDEMA]["threshold"] is None
    assert found["Pleural Effusion"]["threshold"] is not None


def test_an_evaluation_of_other_images_is_not_replaced_silently(
    run_dir, data_dir, write_small_dataset, tmp_path, capsys
):
    write_small_dataset(tmp_path / "away", images=(8, 8, 8))
    info = DatasetInfo.load(tmp_path / "away")
    dataclasses.replace(info, fingerprint="away").save(tmp_path / "away")
    for data, replaces in ((data_dir, False), (data_dir, False), (tmp_path / "away", True)):
        assert evaluate(run_dir, data, tmp_path / "out") == 0
        out, err = capsys.readouterr()
        text = "warning: replaces the evaluation of test of hospital (64 images) in"
        assert (text in out + err) == replaces


def test_predict_decides_studies_by_their_own_thresholds(run_dir, data_dir, tmp_path, capsys):
    run = Run(Path(shutil.copytree(run_dir, tmp_path / "run")))
    words = ("--operating_point=youden", "--unit=study", "--aggregate=max")
    assert evaluate(run.folder, data_dir, run.folder, *words) == 0
    for n in range(6):
        (tmp_path / f"{n}.png").write_bytes(encode(pixels(40, 32, seed=n), "PNG"))
    rows = [f"{n}.png,exam {n // 2}\n" for n in range(6)]
    (tmp_path / "list.csv").write_text("path,exam\n" + "".join(rows))
    words = (f"--run_dir={run.folder}", f"--inputs={tmp_path / 'list.csv'}", "--study_column=exam")

    def predict(name, *flags):
        assert predict_main([*words, f"--out={tmp_path / name}.csv", *flags]) == 0
        return rows_of(tmp_path / f"{name}-studies.csv"), capsys.readouterr().out

    studies, said = predict("max", "--aggregate=max")
    assert "\ndecisions of studies: thresholds chosen on the studies of valid by youden" in said
    content = run.read_json("units-test.json")
    threshold = content["observations"][EDEMA]["threshold"]
    chances = numbers(studies, f"calibrated {EDEMA}")
    called = ["positive" if chance >= threshold else "negative" for chance in chances]
    assert [row[f"decision {EDEMA}"] for row in studies] == called
    # Those of another way to put images together are not used.
    studies, said = predict("mean")
    assert "\nno decisions of studies: the decision's thresholds are of single images" in said
    assert "--unit=study --aggregate=mean` chooses them" in said
    assert f"decision {EDEMA}" not in studies[0]
    # Seven digits do not tell on which side of such a threshold a study is.
    content["observations"][EDEMA]["threshold"] = float(chances[1])
    run.write({"units-test.json": content})
    studies, said = predict("same", "--aggregate=max")
    assert studies[1][f"decision {EDEMA}"] == ""
    assert "warning: 1 decisions of studies are left empty" in said
    run.write({"units-valid.json": content | {"observations": {
        name: entry | {"threshold": 0.25} for name, entry in content["observations"].items()
    }}})  # fmt: skip
    studies, said = predict("two", "--aggregate=max")
    assert "units-test.json, units-valid.json in" in said
    assert f"decision {EDEMA}" not in studies[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--by=age",), "has no group 'age' (it has sex, view); data_prep.build --group_col"),
        (("--by=sex*age",), "has no group 'age'"),
        (("--by=sex,sex",), "'sex' is given 2 times"),
        (("--aggregate=max",), "--aggregate=max without --unit=study"),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_met(run_dir, data_dir, tmp_path, capsys, flags, message):
    assert evaluate(run_dir, data_dir, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_sets_without_them_and_damaged_files(
    run_dir, data_dir, small_dataset, tmp_path, capsys
):
    for flag, message in (
        ("--by=sex", "has no groups; data_prep.build --group_columns=sex"),
        ("--unit=study", "no studies"),
    ):
        assert evaluate(run_dir, small_dataset, tmp_path / "out", flag) == 2
        assert message in capsys.readouterr().err
    path = SplitGroups.path(data_dir, "test")
    content = path.read_bytes()
    try:
        path.write_bytes(content.replace(b"female", b"male", 1))
        assert evaluate(run_dir, data_dir, tmp_path / "out", "--by=sex") == 2
        assert "groups-test.csv: cannot be read as a split's groups (SHA" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    finally:
        path.write_bytes(content)
