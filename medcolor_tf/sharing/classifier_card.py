"""The README.md of a published classifier: a Hugging Face model card, and its picture.

The picture is a phantom that is drawn for it, never an image of the data.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np

from medcolor_tf.catalog import BACKBONES, HEAT_MAPS, HubWeights
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.sharing import model_card
from medcolor_tf.sharing.model_card import DATA_SETS, METRIC, NO_LICENSE, TAGS

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

PIPELINE = "image-classification"
TEMPLATE = """\
---
{metadata}
---

# {title}

A classifier of gray medical images for {observations}: a colorizer T ({colorizer}), a backbone E
({backbone}) and a linear head C, after *Bridging the gap between natural and medical images through
deep colorization* (Morra, Piano, Lamberti, Tommasi; ICPR 2020), in the format of medcolor_tf, a
TensorFlow/Keras implementation of it.

**Research software, not a medical device, not for diagnosis.**
{picture}
## Use it

```python
import keras
import numpy as np
import medcolor_tf as mc
from data_prep.images import read_image

model, observations, spec = mc.load_classifier("hf://{repository}")
image = read_image("film.jpg", spec.short_side, spec.bits, spec.range)
side = min(image.shape)  # the middle square, as in training
top, left = ((length - side) // 2 for length in image.shape)
square = image[None, top : top + side, left : left + side, None]
square = keras.ops.image.resize(square.astype("float32"), (spec.image_size, spec.image_size))
probabilities = keras.ops.sigmoid(model(square))
print(dict(zip(observations, np.asarray(probabilities)[0])))
```

`python -m medcolor_tf.demo --run_dir=hf://{repository}` serves a page to drop films on.

## What is known of it

{table}

## Limits

- It was trained and tested on the data named above. How it does at another hospital, with other
  machines, views or patients, is unknown until it is measured there.
- The labels are those of that data set{labels}; a model cannot be more right than they are.
- Probabilities follow how common the findings were in training; {decision}
- Heat maps show what raised the model's output. They are no segmentation.
- It looks at the middle square of a film in {image_size} x {image_size} pixels: what is smaller, or
  outside, is not seen.

`card.json` says the same to programs.{no_license}
"""
EXTRACTED = {
    "chexpert": ", taken from radiology reports by a program",
    "chestxray14": ", taken from radiology reports by a program",
    "phantom": ", drawn by a program: phantoms say nothing about medicine",
}


def make(
    card: Mapping, spec: ModelSpec, repository: str, license_id: str = "", picture: str = ""
) -> ModelCard:
    """Returns the model card; ``str`` of it is README.md. Nothing is sent anywhere.

    Args:
        card: see :func:`medcolor_tf.sharing.colorizer_file.card_of_run`.
        spec: of the classifier.
        repository: "owner/name" on the hub.
        license_id: the hub's name of a licence; "" for none chosen.
        picture: the file's name in the repository; "" without one.
    """
    from huggingface_hub import ModelCard, ModelCardData

    source, title = card["data"]["source"], repository.partition("/")[2]
    results = model_card.results(card)
    metadata = ModelCardData(
        language="en",
        license=license_id or "unknown",
        library_name="keras",
        pipeline_tag=PIPELINE,
        tags=[*TAGS, "radiology"],
        datasets=[source] if source in DATA_SETS else None,
        metrics=[METRIC] if results else None,
        base_model=base_model(spec),
        model_name=title if results else None,
        eval_results=results or None,
    )
    text = TEMPLATE.format(
        metadata=metadata.to_yaml(),
        title=model_card.escaped(title),
        observations=model_card.escaped(", ".join(spec.observations)),
        colorizer=model_card.escaped(spec.colorizer),
        backbone=model_card.escaped(card["training"]["backbone"] or "unknown"),
        picture=f"\n![A drawn phantom, its colours and a heat map]({picture})\n" if picture else "",
        repository=repository,
        table=model_card.table(card),
        labels=EXTRACTED.get(source or "", ""),
        decision="compare them with the threshold and the calibration of a place, not with 50 %.",
        image_size=spec.image_size,
        no_license="" if license_id else NO_LICENSE,
    )
    return ModelCard(text)


def base_model(spec: ModelSpec) -> str | None:
    """Returns the hub's repository of the backbone's ImageNet weights, where there is one."""
    backbone = BACKBONES.get(spec.backbone)
    where = backbone.imagenet if backbone else None
    return where.repository if isinstance(where, HubWeights) else None


def draw_picture(spec: ModelSpec, classifier: keras.Model) -> bytes | None:
    """Returns a JPEG of a drawn phantom, its colours and a heat map; None where none would fit.

    Args:
        spec: of the classifier; one that reads none of the phantoms' findings gets no picture.
        classifier: its model.
    """
    from data_prep.phantom_drawing import FINDINGS, draw, make_anatomy

    known = [name for name in spec.observations if name in FINDINGS]
    if not known or spec.input_channels != 1 or keras.backend.backend() != "tensorflow":
        return None
    rng = np.random.default_rng(7)
    strengths = {name: 0.9 * (name == known[-1]) for name in FINDINGS}
    side = spec.image_size
    gray = draw(rng, make_anatomy(rng, female=False), strengths, "frontal", (side, side))
    image = gray[..., None] if spec.bits == 8 else gray[..., None].astype(np.uint16) * 257
    return _explained(spec, classifier, image, spec.observations.index(known[-1]))


def _explained(spec: ModelSpec, classifier, image: np.ndarray, k: int) -> bytes:
    from PIL import Image

    from medcolor_tf.evaluation import visualize
    from medcolor_tf.evaluation.heat_maps import MultiscaleMaps
    from medcolor_tf.evaluation.inference import sigmoid
    from medcolor_tf.models import classify_and_colorize

    logits, colors = classify_and_colorize(classifier).predict_on_batch(image[None])
    chances = sigmoid(logits)[:, [k]]
    heat = visualize.to_heat(MultiscaleMaps(classifier, spec.image_size, [k])(colors), chances)
    picture = visualize.draw_explanation(
        image,
        colors[0] if spec.has_colorizer else None,
        heat[0],
        chances[0],
        [spec.observations[k]],
        next(iter(HEAT_MAPS)),
    )
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=88)
    return file.getvalue()
