"""The README.md of a published colorizer, written from its card."""

from collections.abc import Mapping

TEMPLATE = """\
---
license: {license_id}
tags:
- medcolor_tf
- colorization
- medical-imaging
---

# Colorizer {colorizer}

A network T that turns gray medical images into three channels for a backbone that was pretrained
on colour photographs. The architecture is from *Bridging the gap between natural and medical
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


def markdown(card: Mapping, repository: str, license_id: str = "") -> str:
    """Returns the text.

    Args:
        card: see :func:`medcolor_tf.sharing.colorizer_file.make_card`.
        repository: "owner/name" on the hub.
        license_id: the hub's name of a licence; "" for none chosen.
    """
    rows = [(name, value) for name, value in _facts(card) if value]
    return TEMPLATE.format(
        colorizer=card["colorizer"],
        license_id=license_id or "unknown",
        no_license="" if license_id else NO_LICENSE,
        repository=repository,
        table="\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]),
    )


def _facts(card: Mapping) -> list[tuple[str, str | None]]:
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
        ("versions", ", ".join(f"{k} {v}" for k, v in (card["versions"] or {}).items())),
    ]


def _test(test: Mapping) -> str:
    return f"{_auc(test['mean_auc']) or 'undefined'} ({test['images']:,} images)"


def _auc(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"
