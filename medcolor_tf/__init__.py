"""Deep colorization: a small network T turns a gray image into the colours a backbone reads best.

``import medcolor_tf as mc`` is the public API: the names in ``__all__``. Each is imported on first
use, so that importing this package imports neither Keras nor TensorFlow. Keras knows the package's
layers, losses and optimizers in model files from then on, whichever of the two is imported first.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING

from medcolor_tf import registration

__version__ = "0.2.0"

if TYPE_CHECKING:
    from medcolor_tf.data import make_dataset
    from medcolor_tf.evaluation import mean_auc, roc_auc
    from medcolor_tf.models import (
        build_backbone,
        build_classifier,
        build_colorizer,
        load_torch_colorizer,
    )
    from medcolor_tf.runs.load import load_run
    from medcolor_tf.sharing.classifier_file import load_classifier
    from medcolor_tf.sharing.colorizer_file import load_colorizer
    from medcolor_tf.sharing.colormap import load_colormap
    from medcolor_tf.training.augment import RandomRotationZoom
    from medcolor_tf.training.losses import MaskedBinaryCrossentropy
    from medcolor_tf.training.lr_finder import find_lr
    from medcolor_tf.training.lr_multipliers import set_lr_multipliers
    from medcolor_tf.training.optimizer import MomentumSGD
    from medcolor_tf.training.schedule import OneCycle, one_cycle

__all__ = [
    "MaskedBinaryCrossentropy",
    "MomentumSGD",
    "OneCycle",
    "RandomRotationZoom",
    "__version__",
    "build_backbone",
    "build_classifier",
    "build_colorizer",
    "find_lr",
    "load_classifier",
    "load_colorizer",
    "load_colormap",
    "load_run",
    "load_torch_colorizer",
    "make_dataset",
    "mean_auc",
    "one_cycle",
    "roc_auc",
    "set_lr_multipliers",
]

# Where each name comes from; imported on first use.
_SOURCES = {
    "MaskedBinaryCrossentropy": "medcolor_tf.training.losses",
    "MomentumSGD": "medcolor_tf.training.optimizer",
    "OneCycle": "medcolor_tf.training.schedule",
    "RandomRotationZoom": "medcolor_tf.training.augment",
    "build_backbone": "medcolor_tf.models",
    "build_classifier": "medcolor_tf.models",
    "build_colorizer": "medcolor_tf.models",
    "find_lr": "medcolor_tf.training.lr_finder",
    "load_classifier": "medcolor_tf.sharing.classifier_file",
    "load_colorizer": "medcolor_tf.sharing.colorizer_file",
    "load_colormap": "medcolor_tf.sharing.colormap",
    "load_run": "medcolor_tf.runs.load",
    "load_torch_colorizer": "medcolor_tf.models",
    "make_dataset": "medcolor_tf.data",
    "mean_auc": "medcolor_tf.evaluation",
    "one_cycle": "medcolor_tf.training.schedule",
    "roc_auc": "medcolor_tf.evaluation",
    "set_lr_multipliers": "medcolor_tf.training.lr_multipliers",
}


def __getattr__(name):
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_SOURCES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__


class _Package(types.ModuleType):
    """This module's class: ``find_lr`` is the function, whatever else was imported.

    There is a command of that name, and Python binds a submodule that it imports to its package.
    """

    @property
    def find_lr(self):
        return __getattr__("find_lr")

    @find_lr.setter
    def find_lr(self, module):
        pass


sys.modules[__name__].__class__ = _Package
registration.install()
