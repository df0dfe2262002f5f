"""The plan of a run: what is trained on what, checked before anything is built or written."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

from medcolor_tf import catalog
from medcolor_tf.catalog import STRATEGIES
from medcolor_tf.data.labels import count_labels
from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.models.colorizers import check_image_size
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel.replicas import Devices
from medcolor_tf.runs.config import TrainConfig, parse_multipliers
from medcolor_tf.runs.folder import Run
from medcolor_tf.runs.image_stages import Stage, image_stages
from medcolor_tf.sharing.pretrained import PretrainedParts, read_parts
from medcolor_tf.training import feature_cache, strategies
from medcolor_tf.training.callbacks import Schedule

PAPER_CHECKPOINT_STEPS = 4800


@dataclass(frozen=True)
class TrainPlan:
    """Options, data and source of a run, opened and checked against each other.

    Attributes:
        config: options.
        source: what --init_from holds, or None.
        train, valid: training and validation images.
        evaluated: the splits of --evaluate, whole.
        spec: of the model.
        devices: that share each batch.
    """

    config: TrainConfig
    source: PretrainedParts | None
    train: Split
    valid: Split
    evaluated: tuple[Split, ...]
    spec: ModelSpec
    devices: Devices

    @classmethod
    def from_config(cls, config: TrainConfig) -> "TrainPlan":
        """Opens the data and the source, which is read as the run in --run_dir read it.

        Raises:
            InputError: options, data and source do not fit each other.
        """
        feature_cache.check(config)
        # Before anything else makes TensorFlow start.
        devices = Devices.choose(config.device_count(), config.batch_size)
        init_from = config.init_from and Run(Path(config.run_dir)).source(config.init_from)
        source = read_parts(init_from) if init_from else None
        parts = strategies.choose_parts(config, source)
        selection = Selection(
            config.observations,
            config.uncertain_policy,
            config.train_fraction,
            config.subset_seed,
            config.max_bad_records,
        )
        train, valid = (_split(config, name, selection) for name in ("train", "valid"))
        _refuse_unknown_labels(config, train)
        train.steps_per_epoch(config.batch_size)
        # Opened now, so that a missing test split is found before the training, not after it.
        whole = dataclasses.replace(selection, train_fraction=1.0)
        evaluated = tuple(_split(config, name, whole) for name in config.evaluate)
        spec = _spec(config, source, train, parts)
        plan = cls(config, source, train, valid, evaluated, spec, devices)
        plan.check_sizes()
        return plan

    @property
    def splits(self) -> tuple[Split, ...]:
        """All that are read, each once."""
        names = ("train", "valid")
        others = (split for split in self.evaluated if split.split not in names)
        return (self.train, self.valid, *others)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.train.steps_per_epoch(self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Length of the whole run."""
        if self.config.steps:
            return self.config.steps
        return max(1, self.config.min_steps, round(self.config.epochs * self.steps_per_epoch))

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints."""
        default = min(PAPER_CHECKPOINT_STEPS, self.steps_per_epoch)
        return min(self.config.checkpoint_every or default, self.total_steps)

    @property
    def stages(self) -> list[Stage]:
        """Which steps see images of which size; one stage without --progressive."""
        config, side = self.config, self.spec.image_size
        return image_stages(config.progressive, side, self.total_steps, self.checkpoint_interval)

    def image_side(self, step: int) -> int:
        """Returns the side of the images that the step after ``step`` steps sees, in pixels."""
        return next((s.side for s in self.stages if step < s.last), self.spec.image_size)

    def check_sizes(self) -> None:
        """Raises InputError where --progressive has a size that the colorizer does not take."""
        for stage in self.stages[:-1]:
            try:
                check_image_size(self.spec.colorizer, stage.side)
            except InputError as error:
                raise InputError(
                    f"--progressive={self.config.progressive}, of images of "
                    f"{self.spec.image_size} px: {error}"
                ) from None

    def schedule(self, max_lr: float) -> Schedule:
        """Returns --schedule with a peak rate: step -> (learning rate, momentum)."""
        return functools.partial(
            catalog.builder(catalog.SCHEDULES, self.config.schedule, "schedule"),
            total_steps=self.total_steps,
            max_lr=max_lr,
            **self.config.schedule_options,
        )

    def segments(self, start: int) -> list[tuple[int, int, int]]:
        """Splits the steps from ``start`` on into whole intervals and what is shorter.

        Checkpoints are at the same steps wherever a run goes on: first comes what is left of an
        interval that was left in the middle, last the end of the run. All steps of a segment see
        images of one size.

        Returns:
            (first step, step after the last, steps between checkpoints) of each.
        """
        total, interval = self.total_steps, self.checkpoint_interval
        begin = min(-(-start // interval) * interval, total)
        whole = begin + (total - begin) // interval * interval
        changes = {stage.last for stage in self.stages if stage.last > start}
        edges = sorted({start, begin, whole, total} | changes)
        return [
            (first, last, min(interval, last - first)) for first, last in itertools.pairwise(edges)
        ]

    def describe(self, spec: ModelSpec, parameters: int, max_lr: float | None) -> list[str]:
        """Says in lines of text what is about to be trained on what.

        Args:
            spec: the model's, with the path of the backbone that is used.
            parameters: how many are trained.
            max_lr: peak learning rate; None where the LR finder will choose it.
        """
        config, train = self.config, self.train
        trained = ", ".join(STRATEGIES[config.strategy].trains)
        lines = [
            f"strategy {config.strategy}: trains {trained} ({parameters:,} parameters); "
            f"colorizer {spec.colorizer}, backbone {spec.backbone}"
        ]
        if config.backbone_weights == "none" and not config.init_from:
            lines.append("the backbone starts from RANDOM weights, not from ImageNet's")
        rates = "from the LR finder" if max_lr is None else f"{max_lr:.3g}"
        for part, factor in config.lr_factors.items():
            own = "" if max_lr is None else f": {max_lr * factor:.3g}"
            rates += f", {part} {factor:g} times{own}"
        lines.append(
            f"{len(train):,} training and {len(self.valid):,} validation images of "
            f"{spec.image_size} px; {self.total_steps:,} steps of {config.batch_size}, "
            f"checkpoint every {self.checkpoint_interval:,}; peak learning rate {rates}"
        )
        if len(self.stages) > 1:
            sizes = (f"{s.side} px in steps {s.first + 1:,} to {s.last:,}" for s in self.stages)
            lines.append(f"training images of {', '.join(sizes)}")
        if config.stop_at_auc:
            lines.append(
                "training ends at the first checkpoint with a mean validation AUC of at least "
                f"{config.stop_at_auc:g}"
            )
        idle = parse_multipliers(config.lr_multipliers).keys() - STRATEGIES[config.strategy].trains
        if idle:
            lines.append(
                f"--lr_multipliers: {', '.join(sorted(idle))} without effect, since "
                f"--strategy={config.strategy} does not train it"
            )
        return lines

    def one_sided_labels(self) -> list[str]:
        """Warns of observations that cannot be learned, a line each."""
        counts = count_labels(self.train.labels, self.spec.observations)
        return [
            f"warning: {name} has only one class in the training images: {count}"
            for name, count in counts.items()
            if not count["positive"] or not count["negative"]
        ]


def _refuse_unknown_labels(config: TrainConfig, train: Split) -> None:
    """Raises InputError for observations without a single known label in the training images."""
    counts = count_labels(train.labels, train.observations)
    unknown = [n for n, count in counts.items() if not count["positive"] + count["negative"]]
    if unknown:
        raise InputError(
            f"--data_dir={config.data_dir}: all {len(train):,} training labels of "
            f"{', '.join(map(repr, unknown))} are unknown; expected at least one 0 or 1. Leave "
            f"{'them' if len(unknown) > 1 else 'it'} out with --observations, or give -1 a meaning "
            "with --uncertain_policy"
        )


def _split(config: TrainConfig, name: str, selection: Selection) -> Split:
    return Split(config.data_dir, name, selection, config.image_size or None, config.verify)


def _spec(
    config: TrainConfig,
    source: PretrainedParts | None,
    train: Split,
    parts: tuple[str, str, str],
) -> ModelSpec:
    """The model's description; ``parts`` are colorizer, its initialisation and backbone."""
    info = train.info
    if source and source.spec.input_channels != info.channels:
        raise InputError(
            f"{source.origin} takes {source.spec.input_channels} input channels, "
            f"--data_dir={config.data_dir} has {info.channels}"
        )
    normal = source.spec if source and config.normalization == "source" else info
    colorizer, colorizer_init, backbone = parts
    return ModelSpec(
        colorizer=colorizer,
        colorizer_init=colorizer_init,
        backbone=backbone,
        observations=tuple(train.observations),
        image_size=train.image_size,
        short_side=info.short_side,
        input_channels=info.channels,
        bits=info.bits,
        pixel_mean=normal.pixel_mean,
        pixel_std=normal.pixel_std,
        bn_momentum=config.bn_momentum,
        head=config.head,
        range=info.range,
    )
