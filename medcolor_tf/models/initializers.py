"""PyTorch's initialisations as Keras initialisers, and one seed a layer out of one seed a model."""

import hashlib
import math

import keras
from keras import ops


def layer_seed(seed, name):
    """Derive a layer's own seed from the model's seed and the layer's name.

    Names, not a counter: adding a layer leaves the others' draws alone. `None` stays `None`, which
    in Keras means a fresh draw (governed by `keras.utils.set_random_seed`).
    """
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def torch_uniform(fan_in, seed=None):
    """Uniform in ±1/sqrt(fan_in): PyTorch's default for weights (Kaiming, a=√5) and for biases.

    `fan_in` is PyTorch's `weight.size(1) * receptive field`. For a transposed convolution that is
    the number of *output* channels of a group times the kernel's area.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-bound, bound, seed=seed)


def kaiming_normal_fan_out(size, filters, seed=None):
    """Kaiming-normal, fan_out, gain √2: torchvision's ResNet. Not truncated, unlike HeNormal."""
    return keras.initializers.RandomNormal(0.0, math.sqrt(2.0 / (size * size * filters)), seed=seed)


@keras.saving.register_keras_serializable(package="medcolor_tf")
class ICNR(keras.initializers.Initializer):
    """Initialise the convolution before a pixel shuffle so that its output starts free of a grid.

    Each sub-kernel is drawn once (Kaiming-normal, fan_in, gain √2) and repeated `scale**2` times in
    a row, in PyTorch's channel order, so every pixel of an r x r cell starts with the same value.
    Kernels are HWIO with O divisible by `scale**2`. Source: Aitken et al. 2017 (arXiv:1707.02937).
    """

    def __init__(self, scale, seed=None):
        self.scale = scale
        self.seed = seed

    def __call__(self, shape, dtype=None):
        """Draw a kernel of shape (height, width, in, out)."""
        height, width, channels, filters = shape
        repeats = self.scale**2
        if filters % repeats:
            raise ValueError(f"ICNR: {filters} filters are not a multiple of {repeats}")
        std = math.sqrt(2.0 / (height * width * channels))
        draw = keras.initializers.RandomNormal(0.0, std, seed=self.seed)
        small = draw((height, width, channels, filters // repeats), dtype=dtype)
        return ops.repeat(small, repeats, axis=-1)

    def get_config(self):
        """Return the arguments that rebuild this initialiser."""
        return {"scale": self.scale, "seed": self.seed}
