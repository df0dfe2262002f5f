"""Collects what users of the program hold on to: flags, import paths, names inside model files.

``python -m tests.record.interface`` prints it as JSON; interface.json is what version 0.1 gave, and
test_interface.py compares. A deliberate change of the interface is made in that file, by hand.
"""

import dataclasses
import hashlib
import importlib
import json
import sys
from typing import Any
from unittest import mock

COMMANDS = (
    *("medcolor_tf.train", "medcolor_tf.evaluate", "medcolor_tf.predict", "medcolor_tf.export"),
    *("medcolor_tf.experiment", "medcolor_tf.report", "medcolor_tf.find_lr"),
    *(
        "medcolor_tf.colorizer",
        "medcolor_tf.demo",
        "data_prep.build",
        "data_prep.merge",
        "data_prep.verify",
    ),
    "data_prep.phantom",
)
PUBLIC = {
    "medcolor_tf.data": ("make_dataset",),
    "medcolor_tf.evaluation": ("mean_auc", "roc_auc"),
    "medcolor_tf.models": (
        *("COLORIZERS", "backbone_names", "build_backbone", "build_classifier", "build_colorizer"),
        *("check_image_size", "classify_and_colorize", "colorize_model", "load_torch_colorizer"),
        *("load_torch_resnet18", "set_bn_momentum"),
    ),
    "medcolor_tf.training": ("OneCycle", "one_cycle"),
}


def options(command: str) -> dict:
    """Returns flag -> [default, choices, required, positional] of a ``python -m`` command."""
    module = importlib.import_module(command)
    with mock.patch("medcolor_tf.commandline.run") as run:
        module.main([])
    return {
        field.name: [
            field.default,
            field.metadata["choices"] and list(field.metadata["choices"]),
            field.metadata["required"],
            field.metadata["positional"],
        ]
        for field in dataclasses.fields(run.call_args[0][0])
    }


def weights(model) -> str:
    """Returns a digest of the names and shapes of a model's weights, in their order."""
    lines = [f"{weight.path} {tuple(weight.shape)}" for weight in model.weights]
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def models() -> dict:
    """Returns layers and weights of small models, and the names of our classes in Keras."""
    import keras

    from medcolor_tf.models import build_backbone, build_classifier, build_colorizer
    from medcolor_tf.training import OneCycle  # noqa: F401 (imports, and so registers, the rest)

    for module in ("augment", "losses", "optimizer"):
        importlib.import_module(f"medcolor_tf.training.{module}")
    found: dict[str, Any] = {"weights": {}, "layers": {}}
    for name in ("deconv", "pixel_shuffle", "color_u"):
        for init in ("paper", "gray"):
            built = build_colorizer(name, 1, init=init)
            found["weights"][f"{name} {init}"] = weights(built)
    for name in ("ResNet18", "DenseNet121", "MobileNet"):
        found["weights"][name] = weights(build_backbone(name, weights=None))
    for colorizer in ("none", "color_u"):
        classifier = build_classifier(
            colorizer, "ResNet18", 2, pixel_mean=0.5, pixel_std=0.25, backbone_weights=None
        )
        key = f"classifier {colorizer}"
        found["layers"][key] = [layer.name for layer in classifier.layers]
        found["weights"][key] = weights(classifier)
    registered = keras.saving.get_custom_objects()
    found["registered"] = sorted(name for name in registered if name.startswith("medcolor_tf>"))
    return found


def data() -> dict:
    """Returns the fields of dataset.json and of its shards, as format 1 has them."""
    from medcolor_tf.data import schema

    names = {"dataset.json": schema.DatasetInfo, "shards": schema.Shard}
    return {
        name: [field.name for field in dataclasses.fields(kind)] for name, kind in names.items()
    }


def collect() -> dict:
    """Returns everything that interface.json holds."""
    public = {
        package: [name for name in names if hasattr(importlib.import_module(package), name)]
        for package, names in PUBLIC.items()
    }
    commands = {command: options(command) for command in COMMANDS}
    collected = {"commands": commands, "public": public, "models": models(), "data": data()}
    return json.loads(json.dumps(collected))


if __name__ == "__main__":
    json.dump(collect(), sys.stdout, indent=1, sort_keys=True)
