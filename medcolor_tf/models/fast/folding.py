"""Frozen networks with their batch normalisation inside their convolutions.

A part that is frozen on its moving statistics multiplies and shifts the output of a convolution by
numbers that never change. Put into the kernel and a bias they cost nothing, and the convolution's
bias and the ReLU behind it become one kernel. Only keras, so that it works on every backend.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from medcolor_tf.keras_ops import ops
from medcolor_tf.models.fast.batch_norm import moving_affine
from medcolor_tf.models.fast.replace import is_graph
from medcolor_tf.models.fast.stem import StemConv2D

_CONVOLUTIONS = (keras.layers.Conv2D, StemConv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Returns a frozen twin of `model` that computes its inference in fewer passes.

    Args:
        model: a functional or Sequential model; nested ones are followed.

    Returns:
        A model of the same results to rounding. Its convolutions are copies of the weights as they
        are now, in the compute dtype, with the batch normalisation that follows them folded in;
        all other layers are shared with `model`. Models of other classes come back as they are.
    """
    if not is_graph(model):
        return model
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    norm_of = _pairs(model)
    folded = {id(model.get_layer(name)) for name in norm_of.values()}
    copies = []

    def twin_of(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return fold_batch_norm(layer)
        if type(layer) not in _CONVOLUTIONS or not layer.built:
            return layer
        norm = model.get_layer(norm_of[layer.name]) if layer.name in norm_of else None
        copies.append(_Copy(layer, norm, _frozen_twin(layer, norm is not None)))
        return copies[-1].twin

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if id(layer) in folded else layer(*args, **kwargs)

    twins = {id(layer): twin_of(layer) for layer in model.layers}
    twin = keras.models.clone_model(
        model, clone_function=lambda layer: twins[id(layer)], call_function=call
    )
    twin.trainable = False
    for copy in copies:
        copy.fill()
    return twin


@dataclass(frozen=True)
class _Copy:
    """A convolution, the batch normalisation behind it or None, and the frozen twin of both."""

    source: keras.layers.Layer
    norm: keras.layers.Layer | None
    twin: keras.layers.Layer

    def fill(self) -> None:
        """Sets the twin's weights from the convolution's and the normalisation's."""
        kernel, *bias = (np.asarray(w, np.float32) for w in self.source.get_weights())
        if self.norm is not None:
            scale, shift = (ops.convert_to_numpy(v) for v in moving_affine(self.norm))
            bias = [shift + (bias[0] * scale if bias else 0)]
            # (h, w, in, out), or depthwise (h, w, in, multiplier) with in * multiplier outputs.
            depthwise = isinstance(self.source, keras.layers.DepthwiseConv2D)
            kernel = kernel * (scale.reshape(kernel.shape[2:]) if depthwise else scale)
        self.twin.set_weights([kernel, *bias])


def _frozen_twin(layer: Any, folded: bool) -> keras.Layer:
    """Makes the convolution anew, with a bias where it takes over a shift."""
    config = layer.get_config()
    config["dtype"] = layer.compute_dtype
    config["use_bias"] = layer.use_bias or folded
    for name in config:
        if name.endswith(("_regularizer", "_constraint")):
            config[name] = None
        if name.endswith("_initializer"):
            config[name] = "zeros"
    return type(layer).from_config(config)


def _pairs(model: keras.Model) -> dict[str, str]:
    """Returns {name of a convolution: name of the batch normalisation that alone reads it}."""
    calls, outputs = _graph(model)
    readers = {}
    for name, nodes in calls.items():
        for source in (source for sources in nodes for source in sources):
            readers.setdefault(source, []).append(name)
    pairs = {}
    for layer in model.layers:
        nodes = calls.get(layer.name, ())
        if not _can_fold(layer) or len(nodes) != 1 or len(nodes[0]) != 1:
            continue
        conv = model.get_layer(nodes[0][0])
        alone = readers[conv.name] == [layer.name] and conv.name not in outputs
        if alone and len(calls.get(conv.name, ())) == 1 and _can_take(conv):
            pairs[conv.name] = layer.name
    return pairs


def _graph(model: keras.Model) -> tuple[dict[str, list[list[str]]], list[str]]:
    """Returns {layer: for each call of it, the layers that it reads}, and the output layers."""
    config = model.get_config()
    calls = {
        entry["name"]: [_read(n) for n in entry["inbound_nodes"]] for entry in config["layers"]
    }
    outputs = config["output_layers"]
    outputs = outputs if isinstance(outputs[0], list | tuple) else [outputs]
    return calls, [name for name, *_ in outputs]


def _read(node: Any) -> list[str]:
    """Names the layers whose outputs occur anywhere in a call's serialised arguments."""
    if isinstance(node, dict):
        if "keras_history" in node:
            return [node["keras_history"][0]]
        node = node.values()
    elif not isinstance(node, list | tuple):
        return []
    return [name for value in node for name in _read(value)]


def _can_fold(layer: keras.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and layer.built
        and layer.axis in (-1, 3)
        and not getattr(layer, "renorm", False)
    )


def _can_take(layer: Any) -> bool:
    return (
        type(layer) in _CONVOLUTIONS
        and layer.built
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
    )
