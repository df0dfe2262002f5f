"""Clones functional models with stable layer names, their own seeds, or without input scaling."""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras

from medcolor_tf.models.torch_layers import layer_seed

_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
# Policies that store weights in float32, so that one can take another's place.
_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def has_automatic_names(model: keras.Model) -> bool:
    """Says whether a layer with weights carries a counted name such as `conv2d_17`.

    Keras counts such names up over a process' life, so the second model of a kind (Xception,
    InceptionV3) would have other variable paths than the first and its weights would not load.
    """
    return any(layer.weights and _automatic_stem(layer) for layer in model.layers)


def input_scaling(model: keras.Model) -> list[str]:
    """Names the Rescaling and Normalization layers between the input and the first other layer."""
    names = []
    for layer in model.layers:
        if isinstance(layer, _SCALING):
            names.append(layer.name)
        elif not isinstance(layer, keras.layers.InputLayer):
            break
    return names


def rebuild(
    model: keras.Model, without: Collection[str] = (), seed: int | None = None, copy: bool = True
) -> keras.Model:
    """Clones a functional model.

    Args:
        model: a functional model.
        without: names of layers that become the identity.
        seed: gives every initialiser and dropout that has none a seed derived from this one.
        copy: whether the weights are taken over; otherwise they are drawn anew.

    Returns:
        The clone; automatic layer names are counted from 1.
    """
    counts = {}

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        stem = _automatic_stem(layer)
        if stem:
            counts[stem] = counts.get(stem, 0) + 1
            config["name"] = f"{stem}_{counts[stem]}"
        if layer.name in without:
            return keras.layers.Activation("linear", name=config["name"])
        if seed is not None:
            config = _with_seeds(config, seed, config["name"])
        return type(layer).from_config(config)

    return _cloned(model, clone, copy)


def with_policy(model: keras.Model, policy: str) -> keras.Model:
    """Returns a functional model that computes in a precision, whatever it was saved with.

    Args:
        model: a functional model; it is returned as it is where it computes so already.
        policy: "float32" or "mixed_bfloat16". Layers that store other weights keep their own.
    """
    if not {name for name in _policies(model) if name in _POLICIES} - {policy}:
        return model

    def clone(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(_with_policy(layer.get_config(), policy))

    return _cloned(model, clone, copy=True)


def _cloned(
    model: keras.Model, clone: Callable[[keras.Layer], keras.Layer], copy: bool
) -> keras.Model:
    """Clones a model layer by layer, with its weights where ``copy``."""
    pairs = []

    def remembered(layer: keras.Layer) -> keras.Layer:
        twin = clone(layer)
        pairs.append((layer, twin))
        return twin

    new = keras.models.clone_model(model, clone_function=remembered)
    for layer, twin in pairs:
        if copy and layer.weights:
            twin.set_weights(layer.get_weights())
    return new


def _policies(layer: Any) -> Iterator[str]:
    """Yields the precision of each layer; an input has none of its own."""
    if not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
        yield layer.dtype_policy.name
    for inner in getattr(layer, "layers", ()):
        yield from _policies(inner)


def _with_policy(config: Any, policy: str) -> Any:
    """Puts a precision in the place of the others in a layer's configuration."""
    if isinstance(config, list):
        return [_with_policy(value, policy) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        changeable = config["config"]["name"] in _POLICIES
        return config | {"config": {"name": policy}} if changeable else config
    return {key: _with_policy(value, policy) for key, value in config.items()}


def _automatic_stem(layer: keras.Layer) -> str | None:
    """Returns `conv2d` for a Conv2D named `conv2d` or `conv2d_17`, and None for a chosen name."""
    stem = re.sub(r"_\d+$", "", layer.name)
    return stem if stem.replace("_", "") == type(layer).__name__.lower() else None


def _with_seeds(config: Any, seed: int, path: str) -> Any:
    """Fills in every missing seed of a layer's configuration, each from its own place in it."""
    if not isinstance(config, dict):
        return config
    filled = {key: _with_seeds(value, seed, f"{path}/{key}") for key, value in config.items()}
    if "seed" in filled and filled["seed"] is None:
        filled["seed"] = layer_seed(seed, path)
    return filled
