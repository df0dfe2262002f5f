"""Keras finds this package's classes in model files as soon as it and ``medcolor_tf`` are imported.

Importing ``medcolor_tf`` must not import Keras: commands answer ``--help`` and flag errors at once,
and who imports it first may still choose Keras' backend. But a registered class is known to Keras
only after its module, which needs Keras, was imported. So Keras' own table of custom objects gets
an entry for each class that imports the real one when a file asks for it. It is written when Keras
has been imported: now, or right after that import, which a finder on ``sys.meta_path`` sees.
"""

import importlib
import sys
import warnings

# Registered name -> where the class is. The names stand in model files and never change, the
# addresses may. `tests/test_api.py` compares this table with every class of the package.
CLASSES = {
    "medcolor_tf>ContextChannels": "medcolor_tf.models.layers:ContextChannels",
    "medcolor_tf>CopyChannels": "medcolor_tf.models.layers:CopyChannels",
    "medcolor_tf>DepthwiseConv2DTranspose": "medcolor_tf.models.layers:DepthwiseConv2DTranspose",
    "medcolor_tf>FusedBatchNormalization": (
        "medcolor_tf.models.fast.batch_norm:FusedBatchNormalization"
    ),
    "medcolor_tf>ICNR": "medcolor_tf.models.torch_layers:ICNR",
    "medcolor_tf>MaskedBinaryCrossentropy": (
        "medcolor_tf.training.losses:MaskedBinaryCrossentropy"
    ),
    "medcolor_tf>MaskedFocalCrossentropy": "medcolor_tf.training.losses:MaskedFocalCrossentropy",
    "medcolor_tf>MomentumSGD": "medcolor_tf.training.optimizer:MomentumSGD",
    "medcolor_tf>Normalize": "medcolor_tf.models.layers:Normalize",
    "medcolor_tf>PaddedMaxPool2D": "medcolor_tf.models.layers:PaddedMaxPool2D",
    "medcolor_tf>PixelShuffle": "medcolor_tf.models.layers:PixelShuffle",
    "medcolor_tf>RandomRotationZoom": "medcolor_tf.training.augment:RandomRotationZoom",
    "medcolor_tf>ReplicatePadAveragePool": "medcolor_tf.models.layers:ReplicatePadAveragePool",
    "medcolor_tf>StemConv2D": "medcolor_tf.models.fast.stem:StemConv2D",
}


class _Deferred(type):
    """Metaclass of the entries: classes that become the real one wherever Keras uses them."""

    def __new__(cls, address):
        return super().__new__(cls, address.partition(":")[2], (), {"address": address})

    def __init__(cls, address):
        super().__init__(cls.__name__, (), {})

    def __call__(cls, *args, **kwargs):
        return _resolve(cls.address)(*args, **kwargs)

    def __getattr__(cls, name):
        return getattr(_resolve(cls.address), name)

    def __repr__(cls):
        return f"<class {cls.address!r}, not yet imported>"


def _resolve(address: str):
    """Imports the class, which registers it: its entry takes the place of the deferred one."""
    from medcolor_tf.catalog import resolve

    return resolve(address)


class _KerasFinder:
    """Sees the first import of Keras, and lets the other finders find it."""

    def find_spec(self, name, path=None, target=None):
        """Returns Keras' spec with a loader that registers our classes; None for all else."""
        if name != "keras":
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    loader = _RegisteringLoader(spec.loader)
                    spec.loader = loader  # pyright: ignore[reportAttributeAccessIssue]
                return spec
        return None


class _RegisteringLoader:
    """A module's own loader, and :func:`_register` after it."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):  # who looks for Keras without importing it sees its own loader
        return getattr(self._loader, name)

    def create_module(self, spec):
        """Creates the module as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Runs the module, then registers; the module keeps no trace of this."""
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        sys.meta_path[:] = [item for item in sys.meta_path if not isinstance(item, _KerasFinder)]
        _register(module)


def _register(keras) -> None:
    try:
        known = keras.saving.get_custom_objects()
    except AttributeError:
        # An error here would be one of `import keras` in somebody's program.
        version = getattr(keras, "__version__", "unknown")
        warnings.warn(
            f"medcolor_tf needs Keras 3.15 or newer, found {version}: its classes are not "
            "registered",
            stacklevel=2,
        )
        return
    for name, address in CLASSES.items():
        known.setdefault(name, _Deferred(address))


def install() -> None:
    """Registers the classes now where Keras is imported already, else when it will be."""
    if "keras" in sys.modules:
        _register(importlib.import_module("keras"))  # waits where another thread is importing it
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())
