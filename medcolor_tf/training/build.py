"""The models of a run: the classifier with its first weights, and the compiled model around it."""

from pathlib import Path

import keras

from medcolor_tf import catalog
from medcolor_tf.models.fast.folding import fold_batch_norm
from medcolor_tf.parallel.multihost import ALONE, Processes
from medcolor_tf.runs.checkpoint import TrainState
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.sharing.pretrained import assign_parts
from medcolor_tf.training.augment import RandomRotationZoom, ScaledImages
from medcolor_tf.training.lr_multipliers import set_lr_multipliers
from medcolor_tf.training.plan import TrainPlan

SCALED = "scaled"  # the layer that --progressive needs


def initial_classifier(
    plan: TrainPlan, state: TrainState | None = None, origin: str | Path = ""
) -> keras.Model:
    """Builds C∘E∘T with the weights that a run starts from, or goes on from.

    Args:
        plan: what is trained on what.
        state: of the last checkpoint; None where the run is new, which takes those of --init_from.
        origin: the file that ``state`` was read from.

    Raises:
        InputError: the weights do not fit the model.
    """
    # A checkpoint or a source brings E's weights: no download then.
    given = state is not None or (plan.source is not None and plan.source.of_part("backbone"))
    weights = None if given else plan.config.initial_weights
    classifier = plan.spec.build(weights, plan.config.seed)
    if state is not None:
        state.restore_weights(classifier, origin)
    elif plan.source is not None:
        assign_parts(classifier, plan.source)
    return classifier


def training_model(
    classifier: keras.Model, side: int, config: TrainConfig, processes: Processes = ALONE
) -> keras.Model:
    """Puts the augmentation before the classifier and compiles; trainable must be set before.

    What is frozen on moving statistics is computed by a folded copy of its weights as they are now.

    Args:
        classifier: raw images to logits.
        side: of the square images, in pixels.
        config: augmentation, optimizer, loss and peak rate.
        processes: that train together.

    Returns:
        Raw images (B, side, side, C) to logits (B, L).
    """
    inputs = keras.Input((side, side, classifier.input_shape[-1]), dtype="float32")
    augment = RandomRotationZoom(
        config.rotation_degrees, config.max_zoom, config.augment_probability, config.seed
    )
    x = augment(inputs)
    if config.progressive:
        x = ScaledImages(side, name=SCALED)(x)
    for part in classifier.layers[1:]:
        x = (part if part.trainable else fold_batch_norm(part))(x)
    model = keras.Model(inputs, x, name="training")
    optimizer = catalog.builder(catalog.OPTIMIZERS, config.optimizer, "optimizer")
    loss = catalog.builder(catalog.LOSSES, config.loss, "loss")
    rate = config.peak_rate() or 0.01  # before the schedule's
    with processes.distribution():  # for the metrics, which Keras resets at every epoch
        model.compile(optimizer(rate, config.momentum_max), loss())
    model.optimizer.build(model.trainable_variables)
    if config.lr_factors:
        set_lr_multipliers(model, config.lr_factors)
    processes.replicate([*classifier.variables, *model.variables, *model.optimizer.variables])
    return model


def set_image_side(model: keras.Model, side: int) -> bool:
    """Has a training model scale its images to a side, where --progressive has given it the layer.

    Args:
        model: of :func:`training_model`.
        side: of the square images that the classifier sees, in pixels.

    Returns:
        Whether this changes the step: a traced one must be traced anew.
    """
    if SCALED not in {layer.name for layer in model.layers}:
        return False
    layer = model.get_layer(SCALED)
    before, layer.side = layer.side, side
    return before != side
