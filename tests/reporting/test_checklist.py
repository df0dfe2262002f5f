"""Methods and checklist: what runs say is said, and the rest is left to the authors."""

import re

import pytest

from medcolor_tf.reporting import checklist
from medcolor_tf.reporting.checklist import ITEMS, YOURS
from medcolor_tf.reporting.collect import collect
from medcolor_tf.reporting.methods import Facts, alternatives, paragraphs
from medcolor_tf.reporting.render import build_report
from tests.reporting.run_folders import Runs, write_breakdown

MODEL = {"image_size": 64, "short_side": 96, "bits": 8, "pixel_mean": 0.50281, "pixel_std": 0.29}
TRIPOD = re.findall(
    r"\S+",
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 "
    "16 17 18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c",
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Of a study with two training sizes, two rates, and a tuned option."""
    runs = Runs(tmp_path_factory.mktemp("study") / "runs")
    for seed in range(2):
        runs.add(f"base-{seed}", "baseline", 0.5, seed, MODEL, batch_size=16)
        module = MODEL | {"colorizer": "pixel_shuffle"}
        options = {"batch_size": 16, "max_lr": "0.005", "tuned": ("max_lr",)}
        runs.add(f"module-{seed}", "color_module", 1.0, seed, module, **options)
    runs.add("small", "baseline", 0.4, 0, MODEL, batch_size=16, train_fraction=0.1)
    (group,) = collect([runs.folder]).evaluation_sets(50)
    return Facts(group)


def answers(facts):
    return {row[0].text: row[3].text for row in checklist.table(facts).cells}


def numbers(items):
    return [number for item in items for number in item.split(", ") if number]


def test_every_item_of_both_guidelines_has_a_row():
    assert set(numbers(item.claim for item in ITEMS)) == {str(n) for n in range(1, 45)}
    assert set(numbers(item.tripod for item in ITEMS)) == set(TRIPOD)
    assert len({item.topic for item in ITEMS}) == len(ITEMS)


def test_methods_say_what_the_runs_say(facts):
    text = " ".join(paragraphs(facts))
    assert "trained on 100 (10 %) or 1,000 (100 %) of the training images" in text
    assert "evaluated on 60 test images of 30 patients of chexpert" in text
    assert re.search(r"Edema: \d+ positive, \d+ negative; Pleural Effusion: \d+ positive", text)
    assert "shorter side scaled to 96 pixels, were cropped to squares of 64 pixels" in text
    assert "A colorizer T, PixelShuffle, turns" in text
    assert "backbone E, ResNet18 (ImageNet weights);" in text
    assert "Baseline (C), Color Module (T, C)." in text
    assert "2 steps of 16 images" in text
    assert "max_lr: chosen for each strategy by validation AUC on seeds of their own" in text
    assert "each with probability 75 %" in text
    assert "50 bootstrap resamples of patients" in text
    assert "two-sided paired t-tests over runs of the same seed" in text
    assert "compared by DeLong's test" in text
    assert YOURS not in text


def test_what_runs_cannot_know_is_left_to_the_authors(facts):
    found = answers(facts)
    assert found["Ethics"] == found["Funding"] == YOURS
    assert found["Subsets of the data"].startswith("100 (10 %) or 1,000 (100 %) of the training")
    assert found["Preparation of the images"].startswith("Gray images of 8 bits, shorter side 96")
    assert "mean 0.5028 and" in found["Preparation of the images"]
    assert found["Source of the images"].endswith(f"Where they come from: {YOURS}")
    assert found["Who was included and excluded"] == YOURS
    assert "None here" in found["Evaluation on other data, and how these differ"]


def test_other_runs_give_other_answers(tmp_path):
    runs = Runs(tmp_path / "runs", "table", ("Edema",))
    options = {"augment_probability": 0.0, "progressive": "0.5:0.6", "stop_at_auc": 0.9}
    runs.add("alone", "baseline", loss="focal", optimizer="adamw", **options)
    config = runs.folder / "alone" / "config.json"
    changed = config.read_text().replace('"data_fingerprint": "one"', '"data_fingerprint": "two"')
    config.write_text(changed.replace('"init_from"', '"bad_records": {"train": [3]}, "init_from"'))
    (group,) = collect([runs.folder]).evaluation_sets(50)
    facts = Facts(group)
    text, found = " ".join(paragraphs(facts)), answers(facts)
    assert "minimised the focal loss (gamma 2) by AdamW" in text
    scaled = "images scaled to 0.5 of the side in 60 % of the steps, then the whole size"
    assert f"Augmentation: none; {scaled}." in text
    assert "images was kept. Training ended when that AUC reached 0.9. Runs" in text
    assert "three times to a convolutional backbone" in text
    assert "and their unweighted mean" not in text
    assert "squares of" not in text  # the run does not say
    assert found["Preparation of the images"] == YOURS
    assert found["Unequal classes"].startswith("Focal loss")
    assert "Damaged records left out: 1 of train." in found["Who was included and excluded"]
    assert "All runs were trained on another data set than table" in " ".join(found.values())
    assert found["Evaluation on data of the same source"] == YOURS


def test_decisions_are_part_of_methods_and_answers(tmp_path):
    runs = Runs(tmp_path / "runs", observations=("Edema",))
    runs.add("first", "baseline")
    (group,) = collect([runs.folder]).evaluation_sets(50)
    assert "No threshold was chosen" in answers(Facts(group))["What the model gives"]
    assert answers(Facts(group))["Updating or recalibrating the model"] == YOURS
    runs.decide("first", [0.6], slope=0.5)
    facts = Facts(group)
    assert "at thresholds chosen by youden on 18 images of data (split valid)" in " ".join(
        paragraphs(facts)
    )
    assert (
        "calibrated by temperature. Thresholds: by youden" in answers(facts)["What the model gives"]
    )
    assert "sensitivity, specificity" in answers(facts)["Measures of performance"]


def test_only_what_was_done_is_a_method(tmp_path):
    runs = Runs(tmp_path / "runs", observations=("Edema",), fingerprint="three")
    runs.add("all", "baseline")
    collected = collect([runs.folder])
    (group,) = collected.evaluation_sets(50)
    facts = Facts(group)
    text, found = " ".join(paragraphs(facts)), answers(facts)
    for word in ("t-test", "DeLong", "Benjamini", "over runs", "own seed", "Groups"):
        assert word not in text
    assert found["Uncertainty and tests"] == "Bootstrap over patients (50 resamples)."
    assert found["Fairness between groups of people"] == YOURS
    assert found["Robustness"].startswith("1 run per setting, seed 0.")
    assert "1 model in all" in found["Training and choice of its options"]
    report = build_report(collected, 50)
    assert "t-test" not in report.lead
    assert "1 of 1 run is finished and evaluated." in report.sections[0].contents
    write_breakdown(runs.folder / "all")
    facts = Facts(group)
    text, found = " ".join(paragraphs(facts)), answers(facts)
    assert "Groups (by sex, site of patients) were each compared with all others" in text
    assert "Images of a patient were put together by the max of their probabilities" in text
    fair = found["Fairness between groups of people"]
    assert "Groups by sex, site of patients, each compared" in fair
    assert "1 of 2 tests with adjusted p < 0.05; " in fair
    assert "Student's t of groups" in found["Uncertainty and tests"]


def test_alternatives():
    assert alternatives(["a", None, "b", "a", "", "c"]) == "a, b or c"
    assert alternatives(["a", "b"]) == "a or b"
    assert alternatives([None]) == ""
