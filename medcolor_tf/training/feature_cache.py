"""C trained on features that are computed once: what T and E, frozen, make of every image.

The steps are those of the plain loop: the same order of images, schedule, update and checkpoints.
One step on stored features is a few small matrix products, which numpy does in less time than any
backend needs to start one, so it runs the same, and as fast, on every Keras backend.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from medcolor_tf.catalog import DEFAULT_HEAD, STRATEGIES
from medcolor_tf.data.image_cache import AUTO_SHARE
from medcolor_tf.data.pipeline import Split
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation.inference import predict_full, sigmoid
from medcolor_tf.interrupts import StopRequest
from medcolor_tf.parallel import replicas
from medcolor_tf.parallel.runtime import available_memory
from medcolor_tf.runs.checkpoint import LossSums
from medcolor_tf.runs.config import AUTO, TrainConfig
from medcolor_tf.training.augment import RandomRotationZoom

# What :func:`fit_head` computes by itself.
_FIT_HEAD = {"optimizer": "sgd", "loss": "bce", "head": DEFAULT_HEAD}


def check(config: TrainConfig) -> None:
    """Raises InputError where --features=once cannot be what the other options ask for."""
    if config.features != "once":
        return
    if not _only_head(config):
        raise InputError(
            f"--features=once: --strategy={config.strategy} trains more than C; "
            "expected baseline or last_layer"
        )
    if reason := _other_step(config):
        raise InputError(f"--features=once: {reason}; expected --features=each_step or auto")
    if config.frozen_bn == "batch":
        raise InputError("--features=once: with --frozen_bn=batch features change at every step")
    if config.augments and not config.views:
        raise InputError(
            "--features=once: augmented images are new in every epoch; expected "
            "--augment_probability=0, or --views=K for K stored views of each image"
        )


def choose(
    config: TrainConfig, classifier: keras.Model, train: Split, steps: int
) -> tuple[bool, str]:
    """Decides whether the features are computed once.

    Args:
        config: checked by :func:`check`.
        classifier: with trainable set.
        train: training images.
        steps: of the whole run.

    Returns:
        (decision, reason for the log; "" where the strategy leaves no choice).
    """
    if not _only_head(config):
        return False, ""
    if config.features == "each_step":
        return False, "features: computed anew at each step"
    if config.features == AUTO and (reason := _obstacle(config, classifier, train, steps)):
        return False, f"features: computed anew at each step ({reason})"
    if config.views:
        return True, (
            f"features: computed once, of {config.views} augmented views of each image (an "
            "approximation: the plain loop augments anew in every epoch)"
        )
    if config.features == AUTO or not (reason := _difference(classifier, train)):
        return True, "features: computed once; C alone is trained on them, with the same result"
    return True, f"features: computed once, of the centre crop and without dropout ({reason})"


def _only_head(config: TrainConfig) -> bool:
    return STRATEGIES[config.strategy].trains == ("head",)


def _other_step(config: TrainConfig) -> str:
    """Says which option :func:`fit_head` does not compute, or ""."""
    if config.progressive:
        return f"--progressive={config.progressive} has images of several sizes"
    for flag, known in _FIT_HEAD.items():
        if getattr(config, flag) != known:
            return f"with --{flag}={getattr(config, flag)} there is no step on stored features"
    return ""


def _obstacle(config, classifier, train, steps) -> str:
    """Says why auto computes them at each step, or ""; the cheap questions first."""
    if reason := _other_step(config):
        return reason
    if config.frozen_bn == "batch":
        return "--frozen_bn=batch changes them"
    if config.augments:
        return "images are augmented; --augment_probability=0 or --views would allow once"
    if steps * config.batch_size <= len(train):
        return "no image is seen twice"
    width = classifier.get_layer("pool").output.shape[-1]
    if len(train) * width * 4 > AUTO_SHARE * available_memory():
        return "they would take more than half of the free memory"
    return _difference(classifier, train)


def _difference(classifier, train) -> str:
    """Says what makes an image's features another at each step, or ""."""
    if any("seed_generator" in variable.path for variable in classifier.variables):
        return "the frozen model has random layers"
    if (train.sizes[:, 0] != train.sizes[:, 1]).any():
        return "images are not square and cropped at random"
    return ""


@dataclass(frozen=True)
class FrozenFeatures:
    """What T and E, frozen, make of both splits: pooled features.

    Attributes:
        train: (views, N, F) float32.
        train_labels: (N, L) float32, NaN for unknown.
        valid: (M, F) float32.
        valid_labels: (M, L) float32.
    """

    train: np.ndarray
    train_labels: np.ndarray
    valid: np.ndarray
    valid_labels: np.ndarray

    @classmethod
    def compute(cls, config: TrainConfig, classifier: keras.Model, train: Split, valid: Split):
        """Runs T and E over every image once, or once per view."""
        with replicas.scope_of(classifier):
            extract = keras.Model(classifier.inputs[0], classifier.get_layer("pool").output)
        size, seed = config.batch_size, config.seed

        def extracted(batches, change=np.asarray):
            return np.concatenate(
                [predict_full(extract, change(images), size) for images, _ in batches]
            )

        # A layer of its own: its draws start anew whenever a run is resumed.
        augment = RandomRotationZoom(
            config.rotation_degrees, config.max_zoom, config.augment_probability, seed
        )
        if config.views:
            views = [
                extracted(
                    train.view_batches(size, seed, view),
                    lambda images: augment(images, training=True),
                )
                for view in range(config.views)
            ]
        else:
            views = [extracted(train.batches(size))]
        return cls(np.stack(views), train.labels, extracted(valid.batches(size)), valid.labels)

    def validate(self, classifier: keras.Model) -> tuple[np.ndarray, np.ndarray]:
        """Returns the validation images' labels and logits, both (M, L)."""
        kernel, bias = classifier.get_layer("head").get_weights()
        return self.valid_labels, self.valid @ kernel + bias

    def batches(
        self, train: Split, batch_size: int, seed: int, start_step: int, shuffle_buffer: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (B, F) and labels (B, L) of the images of :meth:`Split.training_batches`.

        In epoch e the image at position p is seen in view (e + p) mod views: all of them in turn.
        """
        first, skipped = divmod(start_step, train.steps_per_epoch(batch_size))
        epochs = train.training_positions(batch_size, seed, first, shuffle_buffer)
        for epoch, positions in enumerate(epochs.as_numpy_iterator(), start=first):
            start = skipped * batch_size if epoch == first else 0
            for at in range(start, len(positions), batch_size):
                rows = positions[at : at + batch_size]
                yield self.train[(epoch + rows) % len(self.train), rows], self.train_labels[rows]


class HeadLoss:
    """Sums up the losses of :func:`fit_head`."""

    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, loss: float) -> None:
        """Adds the loss of one step."""
        self.total, self.count = self.total + loss, self.count + 1

    @property
    def mean(self) -> float:
        """Mean over the steps."""
        return self.total / self.count

    def read(self) -> LossSums:
        """Returns the sums as they are."""
        return LossSums((self.total,), (self.count,))

    def write(self, sums: LossSums) -> None:
        """Goes on from these sums."""
        self.total, self.count = sum(sums.total), int(sum(sums.count))


def fit_head(
    model: keras.Model,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    epochs: int,
    steps_per_epoch: int,
    schedule: Callable[[int], tuple[float, float]],
    every: int,
    callbacks: Sequence[keras.callbacks.Callback],
    loss: HeadLoss,
    stop: StopRequest,
    multiplier: float = 1.0,
) -> None:
    """Does what ``model.fit`` would, where only C trains and its features are at hand.

    Args:
        model: compiled with :class:`medcolor_tf.training.optimizer.MomentumSGD`; its trainable
            variables are C's kernel and bias. They, the velocities and the optimizer's position
            are read at the start and kept up to date.
        batches: features (B, F) and labels (B, L) of each step.
        epochs, steps_per_epoch: as for ``fit``.
        schedule: step -> (learning rate, momentum).
        every: callbacks see every step whose number this divides, the last one of each epoch, one
            whose loss is not finite, and the one in which a signal comes.
        callbacks: as for ``fit``.
        loss: sums up the losses of an epoch.
        stop: whether a signal has come.
        multiplier: factor of the schedule's rate.
    """
    callback_list = keras.callbacks.CallbackList(list(callbacks), model=model)
    model.stop_training = False
    step = int(model.optimizer.iterations.numpy())
    state = _read(model)
    callback_list.on_train_begin()
    for epoch in range(epochs):
        loss.write(LossSums((), ()))
        callback_list.on_epoch_begin(epoch)
        for batch in range(steps_per_epoch):
            rate, momentum = schedule(step)
            rate = np.float32(rate) * np.float32(multiplier)
            value = _step(state, *next(batches), rate, np.float32(momentum))
            loss.add(value)
            step += 1
            is_last = batch + 1 == steps_per_epoch
            if step % every == 0 or is_last or stop.signum or not np.isfinite(value):
                _write(model, state, step)
                callback_list.on_train_batch_begin(batch)
                callback_list.on_train_batch_end(batch, {"loss": loss.mean})
        callback_list.on_epoch_end(epoch, {"loss": loss.mean})
        if model.stop_training:
            break
    callback_list.on_train_end()


def _variables(model: keras.Model) -> list[keras.Variable]:
    """C's kernel and bias, and their velocities."""
    kernel, bias = model.trainable_variables
    return [kernel, bias, *model.optimizer.velocity]


def _read(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in _variables(model)]


def _write(model: keras.Model, state, step: int) -> None:
    for variable, value in zip(_variables(model), state, strict=True):
        variable.assign(value)
    model.optimizer.iterations.assign(step)


def _step(state, features, labels, rate, momentum) -> float:
    """One step in place; returns the loss before it.

    Loss and update are those of :class:`medcolor_tf.training.losses.MaskedBinaryCrossentropy` and
    :class:`medcolor_tf.training.optimizer.MomentumSGD`, which the tests compare.
    """
    kernel, bias, kernel_velocity, bias_velocity = state
    with np.errstate(all="ignore"):  # the loss tells of a run that diverges
        logits = features @ kernel + bias
        known = ~np.isnan(labels)
        target = np.where(known, labels, np.float32(0))
        count = np.float32(max(known.sum(), 1))
        loss = np.maximum(logits, 0) - logits * target + np.log1p(np.exp(-np.abs(logits)))
        gradient = np.where(known, sigmoid(logits) - target, np.float32(0)) / count
        kernel_velocity[:] = momentum * kernel_velocity + features.T @ gradient
        bias_velocity[:] = momentum * bias_velocity + gradient.sum(axis=0)
        kernel -= rate * kernel_velocity
        bias -= rate * bias_velocity
        return float(np.where(known, loss, 0).sum() / count)
