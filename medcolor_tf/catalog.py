"""Tables of the variants that commands, models, studies and reports share; imports no framework.

To add a variant, add one entry here and the function that its ``build`` names; flags, studies,
reports and tests read these tables.
"""

import difflib
import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from medcolor_tf.errors import InputError

NO_COLORIZER = "none"
COLORIZER_INITS = ("paper", "gray")
FROZEN_BN = ("moving", "batch")


@dataclass(frozen=True)
class Strategy:
    """What trains, and where T and E start; C always starts anew (section III-A of the paper).

    Attributes:
        title: in tables and figures.
        trains: the parts that train; the others are frozen.
        colorizer: "none" (the gray channel is copied three times), "new" or "source" (--init_from).
        backbone: "imagenet" or "source".
        without_colorizer: the strategy without T that it is compared with; "" where it is one.
        table_order: its place among the others in a report's tables; a difference between two is
            that of the later one minus that of the earlier one.
    """

    title: str
    trains: tuple[str, ...]
    colorizer: str
    backbone: str
    without_colorizer: str = ""
    table_order: int = 0


@dataclass(frozen=True)
class Colorizer:
    """An architecture of T.

    Attributes:
        title: in tables and figures.
        build: "module:function", see :func:`resolve`; the function takes a
            :class:`medcolor_tf.models.torch_layers.TorchLayers`, the gray image (B,H,W,C) and
            whether the output has to start at zero, and returns colours (B,H,W,3).
        multiple: height and width of the image must be divisible by it.
        xavier: whether its convolutions start Xavier-uniform, else as PyTorch's default.
    """

    title: str
    build: str
    multiple: int
    xavier: bool


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "baseline": Strategy("Baseline", ("head",), "none", "imagenet", table_order=0),
        "color_module": Strategy(
            "Color Module", ("colorizer", "head"), "new", "imagenet", "baseline", table_order=1
        ),
        "baseline_all": Strategy(
            "Baseline All", ("backbone", "head"), "none", "imagenet", table_order=3
        ),
        "all": Strategy(
            *("All", ("colorizer", "backbone", "head"), "source", "source", "baseline_all"),
            table_order=4,
        ),
        "last_layer": Strategy(
            "Last Layer", ("head",), "source", "source", "baseline", table_order=2
        ),
    }
)

COLORIZERS: Mapping[str, Colorizer] = MappingProxyType(
    {
        "deconv": Colorizer("DECONV", "medcolor_tf.models.colorizers:deconv", 4, xavier=True),
        "pixel_shuffle": Colorizer(
            "PixelShuffle", "medcolor_tf.models.colorizers:pixel_shuffle", 4, xavier=False
        ),
        "color_u": Colorizer("ColorU", "medcolor_tf.models.colorizers:color_u", 8, xavier=True),
    }
)


def resolve(address: str):
    """Returns the object at "module:name"; imports the module.

    Args:
        address: of an entry in one of this module's tables.
    """
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)


def lookup(table: Mapping, name, flag: str):
    """Returns the entry of a table.

    Raises:
        InputError: there is none of that name; names ``flag``, the known ones and the nearest.
    """
    if name in table:
        return table[name]
    raise InputError(f"--{flag}: {expected_one_of(table, name)}")


def expected_one_of(known: Collection[str], received) -> str:
    """Returns "expected one of a, b, received 'x' (did you mean a?)" for an unknown name."""
    near = difflib.get_close_matches(str(received).lower(), known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"expected one of {', '.join(known)}, received {received!r}{hint}"
