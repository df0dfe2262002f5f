"""What a run trains with: options, data and source checked against each other, then built."""

from dataclasses import dataclass, field
from functools import cached_property

import keras
import numpy as np

from medcolor_tf.data.pipeline import Selection, Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import predict_split
from medcolor_tf.models import colorize_model
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.parallel import replicas, runtime
from medcolor_tf.parallel.devices import Devices, unsharded
from medcolor_tf.parallel.multihost import ALONE, Processes
from medcolor_tf.runs import checkpoint, folder
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.training import device_cache, feature_cache, strategies
from medcolor_tf.training.augment import RandomRotationZoom
from medcolor_tf.training.losses import MaskedBinaryCrossentropy
from medcolor_tf.training.optimizer import MomentumSGD, follow
from medcolor_tf.training.schedule import OneCycle

PAPER_CHECKPOINT_STEPS = 4800


@dataclass
class Session:
    """What is open while a run trains."""

    config: TrainConfig
    run: folder.Run
    train: Split
    valid: Split
    spec: ModelSpec
    classifier: keras.Model
    model: keras.Model
    group: Processes = ALONE
    pooled: feature_cache.Features | None = None
    fed: device_cache.Fed | None = None
    best: dict = field(default_factory=lambda: {"auc": float("-inf"), "step": 0})

    @property
    def total_steps(self) -> int:
        """Length of the whole run."""
        if self.config.steps:
            return self.config.steps
        return max(1, self.config.min_steps, round(self.config.epochs * self.steps_per_epoch))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.train.steps_per_epoch(self.config.batch_size)

    @property
    def interval(self) -> int:
        """Steps between checkpoints."""
        wanted = self.config.checkpoint_every or min(PAPER_CHECKPOINT_STEPS, self.steps_per_epoch)
        return min(wanted, self.total_steps)

    @cached_property
    def colorize(self) -> keras.Model:
        """Raw images to T's output, for TensorBoard."""
        return colorize_model(self.classifier)

    def batches(self, start_step: int):
        """The training stream from a step on."""
        config = self.config
        stream = config.batch_size, config.seed, start_step, config.shuffle_buffer
        if self.pooled is not None:
            return self.pooled.batches(self.train, *stream)
        if self.fed is not None:
            return self.fed.lines.batches(stream)
        return unsharded(self.train.training_batches(*stream, self.group.part))

    def keep_in_memory(self, start: int) -> None:
        """Computes the features, or keeps the decoded images, that every epoch needs again."""
        left = self.total_steps - start
        once, why = False, ""
        if self.group.count == 1:  # several would not choose the same; --features=once is refused
            once, why = feature_cache.choose(self.config, self.classifier, self.train, left)
        if why:
            print(why)
        if not once:
            copies = max(replicas.of(self.model), self.group.count)
            self.fed, where = device_cache.keep(
                self.config.cache,
                self.train,
                self.valid,
                self.model,
                copies,
                self.group.neighbours,
            )
            print(where)
        elif left:
            self.pooled = feature_cache.Features.compute(
                self.config, self.classifier, self.train, self.valid
            )

    def fit(self, first: int, epochs: int, steps: int, cycle: OneCycle, told: list) -> None:
        """Trains ``epochs`` times ``steps`` steps from step ``first`` on."""
        batches = self.batches(first)
        if self.pooled is not None:
            every = self.config.log_every
            feature_cache.fit_head(self.model, batches, epochs, steps, cycle, every, told)
            return
        model = self.model if self.fed is None else self.fed.model
        together = runtime.steps_together(self.config.steps_per_execution, steps)
        # Not by the callback, which would give the optimizer back between two calls of this.
        if follow(model.optimizer, cycle.table) or together != model.steps_per_execution:
            model.steps_per_execution = together
            model.make_train_function(force=True)
        model.fit(
            batches, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=told
        )

    def validate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels and logits of the validation images."""
        if self.pooled is not None:
            return self.pooled.validate(self.classifier)
        size = self.config.batch_size
        predictions = predict_split(self.classifier, self.valid, size, group=self.group)
        return predictions.labels, predictions.logits


@dataclass(frozen=True)
class Plan:
    """What will be trained on what, checked before anything is built or written."""

    config: TrainConfig
    source: strategies.Source | None
    train: Split
    valid: Split
    others: tuple[Split, ...]
    spec: ModelSpec
    devices: Devices

    @classmethod
    def of(cls, config: TrainConfig) -> "Plan":
        """Opens the data and the source; InputError where options, data and source do not fit."""
        feature_cache.check(config)
        devices = Devices.choose(config)  # before anything else makes TensorFlow start
        source = strategies.open_source(config.init_from)
        colorizer, init, backbone = strategies.choose_parts(config, source)
        selection = Selection(
            config.observations, config.uncertain_policy, config.train_fraction, config.subset_seed
        )
        train, valid = (
            Split(config.data_dir, name, selection, config.image_size or None)
            for name in ("train", "valid")
        )
        train.steps_per_epoch(config.batch_size)
        # Opened now, so that a missing test split is found before the training, not after it.
        whole = Selection(config.observations, config.uncertain_policy)
        others = tuple(
            Split(config.data_dir, name, whole, config.image_size or None)
            for name in config.evaluate
        )
        info = train.info
        if source and source.spec.input_channels != info.channels:
            raise InputError(
                f"{source.origin} takes {source.spec.input_channels} input channels, "
                f"--data_dir={config.data_dir} has {info.channels}"
            )
        normal = source.spec if config.normalization == "source" else info
        spec = ModelSpec(
            colorizer=colorizer,
            colorizer_init=init,
            backbone=backbone,
            observations=tuple(train.observations),
            image_size=train.image_size,
            short_side=info.short_side,
            input_channels=info.channels,
            bits=info.bits,
            pixel_mean=normal.pixel_mean,
            pixel_std=normal.pixel_std,
            bn_momentum=config.bn_momentum,
        )
        return cls(config, source, train, valid, others, spec, devices)

    def build(self, run: folder.Run, group: Processes = ALONE) -> Session:
        """Builds and compiles the model, with the source's weights where the run is new."""
        with self.devices.scope():
            return self._build(run, group)

    def _build(self, run: folder.Run, group: Processes) -> Session:
        config, source = self.config, self.source
        if self.devices.note:
            print(self.devices.note)
        # A checkpoint or a source brings E's weights: no download then.
        given = run.started or (source is not None and source.of_part("backbone"))
        classifier = self.spec.build(None if given else config.initial_weights, config.seed)
        if not run.started:
            strategies.load_source(classifier, source)
        else:
            checkpoint.load_parts(classifier, run.folder / folder.LAST)
        strategies.set_trainable(classifier, config.strategy, config.frozen_bn)
        self.devices.prepare(classifier)
        model = training_model(classifier, self.spec.image_size, config, group)
        return Session(config, run, self.train, self.valid, self.spec, classifier, model, group)


def training_model(
    classifier: keras.Model, side: int, config: TrainConfig, group: Processes = ALONE
) -> keras.Model:
    """Puts the augmentation before the classifier and compiles; trainable must be set before.

    What is frozen on moving statistics is computed by a folded copy of its weights as they are now.
    """
    inputs = keras.Input((side, side, classifier.input_shape[-1]), dtype="float32")
    augment = RandomRotationZoom(
        config.rotation_degrees, config.max_zoom, config.augment_probability, config.seed
    )
    x = augment(inputs)
    for part in classifier.layers[1:]:
        x = (part if part.trainable else fold_batch_norm(part))(x)
    model = keras.Model(inputs, x, name="training")
    rate = config.peak_rate() or 0.01
    with group.distribution():  # for the metrics, which Keras resets at every epoch
        model.compile(MomentumSGD(rate, config.momentum_max), MaskedBinaryCrossentropy())
    model.optimizer.build(model.trainable_variables)
    group.spread([*classifier.variables, *model.variables, *model.optimizer.variables])
    return model
