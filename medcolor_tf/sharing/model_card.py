"""The README.md of a published colorizer: a Hugging Face model card, written from its own card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from medcolor_tf.catalog import COLORIZERS
from medcolor_tf.evaluation.decisions import spell_estimate, spell_line, spell_threshold

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

# What the data sets that data_prep reads by name are called by those who made them.
DATA_SETS = {"chexpert": "CheXpert", "chestxray14": "ChestX-ray14", "mura": "MURA"}
METRIC = "roc_auc"  # the hub's name of the area under the ROC curve
TAGS = ("medcolor_tf", "colorization", "medical-imaging")
TEMPLATE = """\
---
{metadata}
---

# Colorizer {colorizer}

A network T that turns gray medical images into three channels for a backbone that was pretrained
on colour photographs. The {origin} from *Bridging the gap between natural and medical
images through deep colorization* (Morra, Piano, Lamberti, Tommasi; ICPR 2020); the weights are in
the format of medcolor_tf, a TensorFlow/Keras implementation of it.

```
python -m medcolor_tf.train --strategy=all --init_from=hf://{repository} \\
    --data_dir=... --run_dir=...
```

T starts with these weights (`--strategy=last_layer` keeps them), the classifier is learned anew, so
the labels may differ. With `--normalization=source` the input is normalised as it was here.

{table}

`colorizer.json` says the same to programs.{no_license}
Research software, not a medical device.
"""
NO_LICENSE = " No licence has been chosen for these weights."


def make(card: Mapping, repository: str, license_id: str = "") -> ModelCard:
    """Returns the model card; ``str`` of it is README.md. Nothing is sent anywhere.

    Args:
        card: see :func:`medcolor_tf.sharing.colorizer_file.make_card`.
        repository: "owner/name" on the hub.
        license_id: the hub's name of a licence; "" for none chosen.
    """
    from huggingface_hub import ModelCard, ModelCardData

    source = card["data"]["source"]
    of_test = results(card)
    metadata = ModelCardData(
        language="en",
        license=license_id or "unknown",
        library_name="keras",
        tags=list(TAGS),
        datasets=[source] if source in DATA_SETS else None,
        metrics=[METRIC] if of_test else None,
        # The name belongs to the results' entry; alone it is no field of the hub.
        model_name=repository.partition("/")[2] if of_test else None,
        eval_results=of_test or None,
    )
    content = TEMPLATE.format(
        metadata=metadata.to_yaml(),
        colorizer=card["colorizer"],
        origin=_origin(card["colorizer"]),
        no_license="" if license_id else NO_LICENSE,
        repository=repository,
        table=table(card),
    )
    return ModelCard(content)


def table(card: Mapping) -> str:
    """Returns what the card knows as a Markdown table."""
    rows = [(name, value) for name, value in facts(card) if value]
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {escaped(value)} |" for name, value in rows)]
    )


def _origin(colorizer: str) -> str:
    """Says what of the colorizer is the paper's, the beginning of a sentence."""
    entry = COLORIZERS.get(colorizer)
    if entry is None or "paper" in entry.inits:
        return "architecture is"
    return "architecture is medcolor_tf's own, the method"


def escaped(text: str) -> str:
    """Text of a card as Markdown that reads the same in a cell of a table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text)


def results(card: Mapping) -> list[EvalResult]:
    """Returns the test AUC as the hub's results: the mean, and one per observation."""
    from huggingface_hub import EvalResult

    test, data = card["test"], card["data"]
    if test is None:
        return []
    # The test split may be another data set's; then its fingerprint is all that is known of it.
    same = data["source"] is not None and test["data_fingerprint"] == data["fingerprint"]
    source = data["source"] if same else "unknown"
    values = {"Mean ROC AUC": test["mean_auc"]}
    values |= {f"ROC AUC, {name}": auc for name, auc in test["auc"].items()}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=source,
            dataset_name=DATA_SETS.get(source, source),
            dataset_split="test",
            dataset_args={"images": test["images"], "fingerprint": test["data_fingerprint"]},
            metric_type=METRIC,
            metric_name=name,
            metric_value=value,
        )
        for name, value in values.items()
        if value is not None  # an observation with one class only has no AUC
    ]


def facts(card: Mapping) -> list[tuple[str, str | None]]:
    """Returns the card's lines, (name, value); None where it is unknown."""
    data, training, test = card["data"], card["training"], card["test"]
    channels = card["input_channels"]
    return [
        ("initialised", f"{card['colorizer_init']} (before training)"),
        (
            "input",
            f"{channels} gray channel{'s' if channels > 1 else ''}, {card['bits']} bits: "
            f"(x / {card['max_value']} - {card['pixel_mean']:.6g}) / {card['pixel_std']:.6g}",
        ),
        ("image size", f"{card['image_size']} px"),
        ("made from", card["origin"]),
        ("data", data["source"]),
        ("observations", ", ".join(data["observations"] or ())),
        ("training images", data["train_images"] and f"{data['train_images']:,}"),
        ("data fingerprint", data["fingerprint"]),
        ("strategy", training["strategy"]),
        ("backbone in training", training["backbone"]),
        ("validation mean AUC", _auc(training["valid_mean_auc"])),
        ("test mean AUC", test and _test(test)),
        *card.get("decision", {}).items(),
        ("versions", ", ".join(f"{k} {v}" for k, v in (card["versions"] or {}).items())),
    ]


def _test(test: Mapping) -> str:
    return f"{_auc(test['mean_auc']) or 'undefined'} ({test['images']:,} images)"


def decision_facts(decision: Mapping, points: Mapping | None = None) -> list[tuple[str, str]]:
    """Returns what a card says of a decision: how it was chosen, then a row per observation.

    Args:
        decision: content of a run's ``decision.json``.
        points: content of its ``operating-points-SPLIT.json``, if it was measured.
    """
    data = decision["data"]
    split = "all splits" if data["split"] == "all" else data["split"]
    # Not the data set's name, which may be a hospital's.
    chosen = f"{decision['rule']}, on {data['images']:,} images ({split})"
    facts = [("thresholds", chosen)]
    measured = (points or {}).get("observations", {})
    for name in decision["observation_order"]:
        entry = decision["observations"][name]
        if entry["threshold"] is None:
            facts.append((f"threshold, {name}", f"none: {entry['reason']}"))
            continue
        words = [spell_threshold(entry["threshold"])]
        if entry["method"] != "none":
            line = spell_line(entry["slope"], entry["intercept"])
            words.append(f"of sigmoid({line}), {entry['method']}")
        for measure in ("sensitivity", "specificity"):
            if spelled := measured.get(name, {}).get(measure):
                words.append(f"{measure} {spell_estimate(spelled)}")
        facts.append((f"threshold, {name}", "; ".join(words)))
    if points and points["same_images"]:
        facts.append(("measured", "on the images on which thresholds were chosen: too good"))
    elif points:
        facts.append(
            ("measured", f"on {points['images']:,} {points['split']} images, 95 % intervals")
        )
    return facts


def _auc(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
