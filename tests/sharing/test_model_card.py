"""The README of a published colorizer: what the hub reads in it, and what people do."""

import huggingface_hub
import pytest
import yaml

from medcolor_tf.sharing import model_card

TEST = {
    "mean_auc": 0.875,
    "auc": {"Edema": 0.9, "Hernia": None},
    "images": 1200,
    "data_fingerprint": "abc",
}


@pytest.fixture
def card():
    """A colorizer's own card, evaluated on the test split of its training data."""
    return {
        "colorizer": "color_u",
        "colorizer_init": "gray",
        "input_channels": 1,
        "bits": 8,
        "max_value": 255,
        "pixel_mean": 0.5,
        "pixel_std": 0.25,
        "image_size": 320,
        "short_side": 320,
        "origin": "training run",
        "data": {
            "source": "chexpert",
            "observations": ["Edema", "Hernia"],
            "train_images": 191027,
            "fingerprint": "abc",
        },
        "training": {
            "strategy": "color_module",
            "backbone": "ResNet18",
            "step": 4800,
            "valid_mean_auc": 0.88,
        },
        "test": TEST,
        "versions": {"keras": "3"},
    }


def metadata(readme):
    """The YAML at the head of a README, read without the library that wrote it."""
    _, block, text = readme.split("---\n", 2)
    return yaml.safe_load(block), text


def test_what_the_hub_reads(card):
    readme = str(model_card.make(card, "me/my-T", "cc-by-4.0"))
    head, text = metadata(readme)
    assert head == {
        "language": "en",
        "license": "cc-by-4.0",
        "library_name": "keras",
        "tags": ["medcolor_tf", "colorization", "medical-imaging"],
        "datasets": ["chexpert"],
        "metrics": ["roc_auc"],
        "model-index": [
            {
                "name": "my-T",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "name": "CheXpert",
                            "type": "chexpert",
                            "split": "test",
                            "args": {"images": 1200, "fingerprint": "abc"},
                        },
                        "metrics": [
                            {"type": "roc_auc", "value": 0.875, "name": "Mean ROC AUC"},
                            {"type": "roc_auc", "value": 0.9, "name": "ROC AUC, Edema"},
                        ],
                    }
                ],
            }
        ],
    }
    assert text.startswith("\n# Colorizer color_u\n")
    assert huggingface_hub.ModelCard(readme).content == readme, "the hub's own library agrees"


def test_what_people_read(card):
    text = model_card.make(card, "me/my-T", "mit").text
    assert "--init_from=hf://me/my-T" in text
    assert "| observations | Edema, Hernia |" in text
    assert "| training images | 191,027 |" in text
    assert "| test mean AUC | 0.8750 (1,200 images) |" in text
    assert "No licence has been chosen" not in text


def test_a_test_on_other_data_is_not_given_the_name_of_the_training_data(card):
    card["test"] = TEST | {"data_fingerprint": "other"}
    (result, *_) = model_card.make(card, "me/my-T").data["eval_results"]
    assert (result.dataset_name, result.dataset_type) == ("unknown", "unknown")
    assert result.dataset_args["fingerprint"] == "other"


def test_what_is_unknown_is_left_out(card):
    unknown = dict.fromkeys(card["data"])
    card |= {"data": unknown, "test": None, "versions": None}
    head, text = metadata(str(model_card.make(card, "me/my-T")))
    assert head.keys() == {"language", "license", "library_name", "tags"}
    assert head["license"] == "unknown"
    assert "No licence has been chosen" in text
    assert "test mean AUC" not in text


def test_a_data_set_of_ones_own_is_no_data_set_of_the_hub(card):
    card["data"]["source"] = "table"
    made = model_card.make(card, "me/my-T")
    assert made.data["datasets"] is None
    assert made.data["eval_results"][0].dataset_name == "table"


@pytest.mark.parametrize(
    ("colorizer", "words"),
    [
        ("color_u", "The architecture is from *Bridging"),
        ("color_map", "The architecture is medcolor_tf's own, the method from *Bridging"),
    ],
)
def test_an_architecture_is_the_papers_only_where_it_is(card, colorizer, words):
    text = model_card.make(card | {"colorizer": colorizer}, "me/my-T").text
    assert words in text


def test_thresholds_stand_in_the_card_with_what_they_gave(card):
    entry = {"method": "platt", "slope": 0.5, "intercept": -1.25, "reason": ""}
    decision = {
        "rule": "sensitivity=0.9",
        "data": {"name": "St. Mary", "split": "all", "images": 1200},
        "observation_order": ["Edema", "Hernia"],
        "observations": {
            "Edema": entry | {"threshold": 0.3125},
            "Hernia": entry | {"threshold": None, "reason": "3 positive films"},
        },
    }
    estimate = {"value": 0.875, "interval": [0.8, 0.925]}
    points = {
        "images": 300,
        "split": "test",
        "same_images": False,
        "observations": {"Edema": {"sensitivity": estimate, "specificity": estimate}},
    }
    facts = dict(model_card.decision_facts(decision, points))
    assert facts == {
        "thresholds": "sensitivity=0.9, on 1,200 images (all splits)",
        "threshold, Edema": "0.3125; of sigmoid(0.5 * logit - 1.25), platt; sensitivity 0.875 "
        "[0.800, 0.925]; specificity 0.875 [0.800, 0.925]",
        "threshold, Hernia": "none: 3 positive films",
        "measured": "on 300 test images, 95 % intervals",
    }
    assert (
        "too good"
        in dict(model_card.decision_facts(decision, points | {"same_images": True}))["measured"]
    )
    readme = str(model_card.make(card | {"decision": facts}, "me/my-T", ""))
    assert "| threshold, Hernia | none: 3 positive films |" in readme
    assert "St. Mary" not in readme
