"""What it takes to build a trained classifier again."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras

from medcolor_tf import catalog
from medcolor_tf import schema_check as schema
from medcolor_tf.catalog import COLORIZERS, DEFAULT_HEAD, FULL_RANGE, RUN_EXPECTED
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.models.classifier import build_classifier

BACKBONE_FILE = "backbone.keras"


def _schema() -> schema.Check:
    """What a description may hold, with the catalog's entries of now."""
    side = schema.integer(1, catalog.MAX_SIDE)
    return schema.record(
        {
            "colorizer": schema.one_of((*catalog.COLORIZERS, catalog.NO_COLORIZER)),
            "colorizer_init": schema.one_of(catalog.COLORIZER_INITS),
            # The file beside it, or a name: never a path.
            "backbone": schema.text(
                200,
                re.compile(rf"{re.escape(BACKBONE_FILE)}|\w*"),
                f"{BACKBONE_FILE} or a backbone's name",
            ),
            "observations": schema.list_of(schema.text(), catalog.MAX_OBSERVATIONS, unique=True),
            "image_size": side,
            "short_side": side,
            "input_channels": schema.integer(1, catalog.MAX_CHANNELS),
            "bits": schema.one_of((8, 16)),
            "pixel_mean": schema.number(0, 1),
            "pixel_std": schema.number(0, 1),
            "bn_momentum": schema.number(0, 1),
        },
        {"head": schema.one_of(catalog.HEADS), "range": schema.one_of(catalog.RANGES)},
    )


@dataclass(frozen=True)
class ModelSpec:
    """Architecture, input and labels of a classifier; stored with every run as ``model.json``.

    Attributes:
        colorizer: a name of :data:`medcolor_tf.catalog.COLORIZERS`, or "none".
        colorizer_init: "paper" or "gray" (which adds the gray image to the colorizer's output).
        backbone: "ResNet18", a keras.applications name, or the path of a .keras file.
        observations: names of the logits.
        image_size: side of the square input in pixels.
        short_side: of an image before it is cropped to a square, in pixels.
        input_channels: gray channels.
        bits: 8 or 16, of a raw pixel.
        pixel_mean, pixel_std: normalisation, on the [0, 1] scale.
        bn_momentum: of every batch normalisation.
        head: "linear", or another of :data:`medcolor_tf.catalog.HEADS`.
        range: what becomes black and white in an image file, as in ``dataset.json``.
    """

    colorizer: str
    colorizer_init: str
    backbone: str
    observations: tuple[str, ...]
    image_size: int
    short_side: int
    input_channels: int
    bits: int
    pixel_mean: float
    pixel_std: float
    bn_momentum: float
    head: str = DEFAULT_HEAD
    range: str = FULL_RANGE

    @property
    def max_value(self) -> int:
        """Largest raw pixel value."""
        return 2**self.bits - 1

    @property
    def has_colorizer(self) -> bool:
        """Whether there is a T."""
        return self.colorizer != "none"

    @property
    def is_gray_map(self) -> bool:
        """Whether T is a map from one gray value to a colour, which a table can hold."""
        entry = COLORIZERS.get(self.colorizer)
        return entry is not None and entry.pointwise and self.input_channels == 1

    def build(self, backbone_weights: str | None = None, seed: int | None = None) -> keras.Model:
        """Builds the classifier; see :func:`medcolor_tf.models.build_classifier`.

        Args:
            backbone_weights: "imagenet", a file, or None for random weights. A .keras backbone
                has its own and takes none.
            seed: of T's and C's initialisation.
        """
        return build_classifier(
            self.colorizer,
            self.backbone,
            len(self.observations),
            image_size=self.image_size,
            input_channels=self.input_channels,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            max_value=self.max_value,
            colorizer_init=self.colorizer_init,
            backbone_weights=backbone_weights,
            bn_momentum=self.bn_momentum,
            head=self.head,
            seed=seed,
        )

    def to_dict(self) -> dict:
        """Returns the spec as files hold it.

        A backbone from a file is called BACKBONE_FILE there: its path is nobody else's business.
        The head is left out where it is the default, which is what files of version 0.1 have, and
        where there are no labels, as in a colorizer file; the range likewise where it is full.
        """
        content = dataclasses.asdict(self)
        if self.backbone.endswith(".keras"):
            content["backbone"] = BACKBONE_FILE
        if self.head == DEFAULT_HEAD or not self.observations:
            del content["head"]
        if self.range == FULL_RANGE:
            del content["range"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping, origin: str) -> "ModelSpec":
        """Reads what :meth:`to_dict` gave; ``origin`` is the file, for the error message."""
        try:
            _schema()(content, origin)
        except InputError as error:
            raise InputError(f"{error}: not a model description") from None
        return cls(**{**content, "observations": tuple(content["observations"])})

    @classmethod
    def load(cls, path: str | Path) -> "ModelSpec":
        """Reads a ``model.json``; a .keras backbone is looked for beside it.

        Raises:
            InputError: no such file, or not a model description.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: {RUN_EXPECTED}")
        spec = cls.from_dict(read_json(path), str(path))
        if spec.backbone == BACKBONE_FILE:
            spec = dataclasses.replace(spec, backbone=str(path.parent / BACKBONE_FILE))
        return spec
