"""Heat maps finer than Grad-CAM's: where E's evidence for a finding lies, at several of its depths.

Grad-CAM has one number per cell of E's last feature map, 5 x 5 cells of a 160-pixel image. Earlier
feature maps have smaller cells, but each alone is noisy: what it holds may come to nothing further
up. So three depths are multiplied: E's last feature map A and the last one of each of the two finer
scales before it. Of each depth, the map is ReLU(sum over channels of A * dlogit/dA), which is exact
for the last depth and a linear head (HiResCAM, Draelos & Carin 2020, arXiv:2011.08891; there it is
Grad-CAM itself). A place is hot where all depths agree. What speaks for this product rather than
for LayerCAM, Grad-CAM++ or gradients through T was measured, see docs/results.md and
``python -m benchmarks.heat_maps``.

Gradients are TensorFlow's, so this needs Keras' TensorFlow backend.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from PIL import Image

from medcolor_tf.errors import InputError
from medcolor_tf.keras_ops import ops

DEPTHS = 3  # E's last feature map and the two finer scales before it
# Images per pass: gradients need every activation behind the finest depth at once.
BATCH = 8


@dataclass(frozen=True)
class _Call:
    """A layer's call in the backbone: the ids of the tensors it reads, and its output."""

    layer: keras.layers.Layer
    reads: tuple[int, ...]
    output: Any


class MultiscaleMaps:
    """Computes the maps of a classifier from what its backbone sees.

    Args:
        classifier: of ``build_classifier``, or its folded twin; any backbone, head and policy.
        size: side of the square images in pixels.
        chosen: positions of the logits that maps are wanted of.

    Raises:
        InputError: another Keras backend than TensorFlow.

    Example:
        >>> import numpy as np
        >>> from medcolor_tf.evaluation.heat_maps import MultiscaleMaps
        >>> from medcolor_tf.models import build_classifier
        >>> model = build_classifier(
        ...     "none", "ResNet18", num_labels=2, pixel_mean=0.5, pixel_std=0.25,
        ...     backbone_weights="none", seed=0,
        ... )
        >>> maps = MultiscaleMaps(model, 64, [0, 1])
        >>> maps(np.zeros((1, 64, 64, 3), "float32")).shape
        (1, 8, 8, 2)
    """

    def __init__(self, classifier: keras.Model, size: int, chosen: list[int]):
        if keras.backend.backend() != "tensorflow":
            raise InputError(
                "--heat_map=multiscale: expected Keras' TensorFlow backend, which its gradients "
                f"are taken with, received {keras.backend.backend()}; --heat_map=grad_cam needs "
                "none"
            )
        backbone = classifier.get_layer("backbone")
        self._pool, self._head = classifier.get_layer("pool"), classifier.get_layer("head")
        self._chosen = chosen
        inputs, tensors = _depths(backbone, size)
        self._front = keras.Model(inputs, tensors[0], name="front")
        self._rest = [keras.Model(below, above) for below, above in itertools.pairwise(tensors)]

    def __call__(self, colors: np.ndarray) -> np.ndarray:
        """Returns the maps of images.

        Args:
            colors: (B, S, S, 3) float, what E sees: the second output of ``classify_and_colorize``.

        Returns:
            (B, h, w, K) float32, 0 or more, of the finest depth's cells; each in units of its own.
        """
        parts = [colors[i : i + BATCH] for i in range(0, len(colors), BATCH)]
        return np.concatenate([self._of_batch(part) for part in parts])

    def _of_batch(self, colors: np.ndarray) -> np.ndarray:
        maps = [
            np.maximum(np.einsum("bhwc,kbhwc->bhwk", features, gradients), 0)
            for features, gradients in self.gradients(colors)
        ]
        height, width = maps[0].shape[1:3]
        product = np.ones_like(maps[0])
        for of_depth in maps:
            # To a maximum of 1 first: products of small numbers would vanish in float32.
            product *= enlarged(to_unit_peak(of_depth), height, width)
        return product

    def gradients(self, colors: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns feature maps and the logits' gradients, of each depth, the finest first.

        Args:
            colors: (B, S, S, 3) float, what E sees.

        Returns:
            ((B, h, w, c), (K, B, h, w, c)) float32 per depth.
        """
        import tensorflow as tf

        depths: list[Any] = [self._front(colors, training=False)]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(depths[0])
            for part in self._rest:
                depths.append(part(depths[-1], training=False))
            logits = self._head(self._pool(depths[-1]))
            scores = [logits[:, k] for k in self._chosen]
        of_scores: list[Any] = [tape.gradient(score, depths) for score in scores]
        del tape
        return [
            (_float32(depth), np.stack([_float32(gradients[i]) for gradients in of_scores]))
            for i, depth in enumerate(depths)
        ]


def _float32(tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def to_unit_peak(maps: np.ndarray) -> np.ndarray:
    """Scales each map of (B, h, w, K), 0 or more, to a maximum of 1; zeros stay zeros."""
    peak = maps.max((1, 2), keepdims=True)
    return np.divide(maps, peak, out=np.zeros_like(maps), where=peak > 0)


def enlarged(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarges maps (B, h, w, K) bilinearly to (B, height, width, K)."""
    if maps.shape[1:3] == (height, width):
        return maps
    result = np.empty((len(maps), height, width, maps.shape[-1]), np.float32)
    for image in range(len(maps)):
        for k in range(maps.shape[-1]):
            cells = Image.fromarray(np.ascontiguousarray(maps[image, ..., k], np.float32))
            large = cells.resize((width, height), Image.Resampling.BILINEAR)
            result[image, ..., k] = np.asarray(large)
    return result


def _depths(backbone: keras.Model, size: int) -> tuple[Any, list[Any]]:
    """Returns the backbone's input, and up to DEPTHS feature maps, the finest first.

    The last of them is the backbone's output. The others are the last tensors of their scale that
    everything after them is computed from, so that no evidence goes round them.
    """
    calls: list[_Call] = []

    def call(layer, *args, **kwargs):
        output = layer(*args, **kwargs)
        reads = tuple(id(tensor) for tensor in keras.tree.flatten((args, kwargs)))
        calls.append(_Call(layer, reads, output))
        return output

    # The same layers called once more: those of a folded twin belong to two graphs.
    graph = keras.models.clone_model(
        backbone, clone_function=lambda layer: layer, call_function=call
    )
    inputs, last = graph.inputs[0], graph.outputs[0]
    necks = [call for call in _necks(calls) if not isinstance(call.layer, _PADDING)]
    outputs = [neck.output for neck in necks]
    sides = _sides(inputs, [*outputs, last], size)
    *sides, side = sides
    depths = [last]
    for output, finer in reversed(list(zip(outputs, sides, strict=True))):
        # A new scale has at least half as many cells again along a side; and never the image's.
        if len(depths) < DEPTHS and 1.5 * side < finer < size:
            depths.insert(0, output)
            side = finer
    return inputs, depths


_PADDING = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


def _necks(calls: list[_Call]) -> list[_Call]:
    """Returns the calls whose output alone, of all computed up to then, is read later."""
    last_read = {tensor: number for number, call in enumerate(calls) for tensor in call.reads}
    necks, alive = [], -1
    for number, call in enumerate(calls):
        # What was computed before is read by this call at the latest.
        if alive <= number and not isinstance(call.output, list | tuple):
            necks.append(call)
        alive = max([alive, *(last_read.get(id(t), -1) for t in keras.tree.flatten(call.output))])
    return necks


def _sides(inputs: Any, tensors: list[Any], size: int) -> list[int]:
    """Returns the heights in cells of feature maps of a square image.

    From a real pass: Keras does not infer every network's shapes as it computes them.
    """
    outputs = keras.Model(inputs, tensors)(np.zeros((1, size, size, 3), np.float32))
    return [output.shape[1] for output in keras.tree.flatten(outputs)]
