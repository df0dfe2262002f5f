"""Models: the colorizer T, the backbone E and the classifier C∘E∘T. keras and keras.ops only."""

from medcolor_tf.models.backbones import backbone_names, build_backbone
from medcolor_tf.models.classifier import (
    build_classifier,
    classify_and_colorize,
    colorize_model,
    set_bn_momentum,
)
from medcolor_tf.models.colorizers import COLORIZERS, build_colorizer, check_image_size
from medcolor_tf.models.torch_weights import load_torch_colorizer, load_torch_resnet18

__all__ = [
    "COLORIZERS",
    "backbone_names",
    "build_backbone",
    "build_classifier",
    "build_colorizer",
    "check_image_size",
    "classify_and_colorize",
    "colorize_model",
    "load_torch_colorizer",
    "load_torch_resnet18",
    "set_bn_momentum",
]
