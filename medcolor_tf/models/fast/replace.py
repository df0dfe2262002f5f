"""Replaces a model's layers by twins that compute the same faster on TensorFlow."""

import keras

from medcolor_tf.models.fast.batch_norm import FusedBatchNormalization, is_plain_batch_norm
from medcolor_tf.models.fast.stem import StemConv2D, is_stem

# (which layers, class of their twins, what a built twin takes over from the layer)
_TWINS = (
    (
        is_plain_batch_norm,
        FusedBatchNormalization,
        ("gamma", "beta", "moving_mean", "moving_variance", "input_spec", "_reduction_axes"),
    ),
    (is_stem, StemConv2D, ("_kernel", "bias", "input_spec")),
)


def use_fast_layers(model: keras.Model) -> keras.Model:
    """Returns a functional or Sequential `model` with fused batch normalisation and a fast stem.

    Args:
        model: any; nested functional models are followed. Layers that are not exactly Keras' own
            classes, and models of other classes, stay as they are.

    Returns:
        A model of the same name, graph and results that shares every variable with `model`, under
        the same path; or `model` itself where there is nothing to do.
    """
    if keras.backend.backend() != "tensorflow" or not _has_slow(model):
        return model
    twins = {}

    def twin_of(layer: keras.Layer) -> keras.Layer:
        if id(layer) not in twins:  # a layer that is called twice stays one layer
            nested = isinstance(layer, keras.Model)
            twins[id(layer)] = use_fast_layers(layer) if nested else fast_twin(layer) or layer
        return twins[id(layer)]

    fast = keras.models.clone_model(model, clone_function=twin_of)
    if not model.trainable:
        fast.trainable = False
    return fast


def fast_twin(layer: keras.Layer) -> keras.Layer | None:
    """Returns the faster twin of a built layer, which shares its variables; None without one."""
    for fits, twin_class, attributes in _TWINS:
        if fits(layer):
            twin = twin_class.from_config(layer.get_config())
            for name in attributes:
                setattr(twin, name, getattr(layer, name))
            twin.built = True
            return twin
    return None


def is_graph(model: keras.Layer) -> bool:
    """Says whether a model can be rebuilt from its graph of layers: not a class with its own call.

    By name: Keras does not export its class of functional models.
    """
    return isinstance(model, keras.Model) and type(model).__name__ in ("Functional", "Sequential")


def _has_slow(model: keras.Layer) -> bool:
    if isinstance(model, keras.Model):
        return is_graph(model) and any(_has_slow(layer) for layer in model.layers)
    return any(fits(model) for fits, *_ in _TWINS)
