"""Learning rates per part: a factor of the optimizer's rate for the variables of each part.

The factors are constants of the training step. The optimizer's variables, and so checkpoints, are
the same with and without them; what a schedule or the LR finder sets is the common rate.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from medcolor_tf.errors import InputError
from medcolor_tf.training.optimizer import innermost


def set_lr_multipliers(model: keras.Model, multipliers: Mapping[str, float]) -> None:
    """Gives parts of a model learning rates of their own: the optimizer's rate times a factor.

    Called "discriminative learning rates" by fastai, "parameter groups" by PyTorch. They hold in
    every way of training: ``fit``, with :class:`OneCycle` and in :func:`find_lr`, whose curve is
    then over the common rate. Weight decay, which Keras multiplies by the rate, follows. A model
    file does not hold them: call this again after loading.

    Args:
        model: compiled, with any Keras optimizer that has one learning rate.
        multipliers: name of a layer at any depth (a part of ``build_classifier``'s model:
            "colorizer", "backbone", "head") -> factor above zero. Layers that are not named, and
            all of them for {}, have factor 1. A layer inside another takes its own factor where
            it stands behind that one here.

    Raises:
        InputError: the model is not compiled, has no such layer, or a factor is no number above 0.
        ValueError: a MultiOptimizer.

    Source: Howard and Ruder 2018 (arXiv:1801.06146).

    Example:
        >>> import keras
        >>> import medcolor_tf as mc
        >>> model = mc.build_classifier(
        ...     "color_u", "ResNet18", 5, pixel_mean=0.5, pixel_std=0.25, backbone_weights="none"
        ... )
        >>> model.compile(mc.MomentumSGD(0.01), mc.MaskedBinaryCrossentropy())
        >>> mc.set_lr_multipliers(model, {"backbone": 0.1, "head": 4})
    """
    if not model.compiled or not isinstance(model.optimizer, keras.optimizers.Optimizer):
        raise InputError("set_lr_multipliers: expected a compiled model; call model.compile first")
    optimizer = innermost(model.optimizer)
    if not optimizer.built:
        model.optimizer.build(model.trainable_variables)
    places = {id(v): place for place, v in enumerate(optimizer._trainable_variables)}
    factors = [1.0] * len(places)
    for name, factor in multipliers.items():
        if isinstance(factor, bool) or not (0 < float(factor) < math.inf):
            raise InputError(f"set_lr_multipliers: {name}={factor!r}: expected a number above 0")
        layers = _layers(model, name)
        if not layers:
            raise InputError(
                f"set_lr_multipliers: no layer {name!r}; the model's are "
                f"{', '.join(layer.name for layer in model.layers)}"
            )
        for variable in (v for layer in layers for v in layer.trainable_variables):
            if id(variable) in places:
                factors[places[id(variable)]] = float(factor)
    _scale(optimizer, factors)
    model.make_train_function(force=True)


def _layers(model: keras.Model, name: str) -> list[keras.layers.Layer]:
    """The layers of that name, at any depth."""
    found = []
    for layer in model.layers:
        if layer.name == name:
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += _layers(layer, name)
    return found


def _scale(optimizer: Any, factors: Sequence[float]) -> None:
    """Puts the factors between an optimizer and its update of each variable, or takes them away.

    ``factors`` are in the order of the variables that it was built with.
    """
    for name in ("update_step", "_apply_weight_decay"):
        vars(optimizer).pop(name, None)
    if all(factor == 1 for factor in factors):
        return
    update, decay = optimizer.update_step, optimizer._apply_weight_decay

    def factor_of(variable) -> float:
        return factors[optimizer._get_variable_index(variable)]

    def update_step(gradient, variable, learning_rate):
        update(gradient, variable, _times(learning_rate, factor_of(variable)))

    def apply_weight_decay(variables):
        own = optimizer.weight_decay
        if own is None:
            return
        try:
            for factor in sorted({factor_of(variable) for variable in variables}):
                optimizer.weight_decay = own * factor
                decay([variable for variable in variables if factor_of(variable) == factor])
        finally:
            optimizer.weight_decay = own

    optimizer.update_step = update_step
    optimizer._apply_weight_decay = apply_weight_decay


def _times(rate, factor: float):
    """The rate, or the first of (rate, momentum), times the factor; 1 leaves the very tensor."""
    if factor == 1:
        return rate
    if isinstance(rate, tuple):
        return (rate[0] * factor, *rate[1:])
    return rate * factor
