"""Decoded images of a split in one block of memory, each found by its position."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError

# TensorFlow takes over a numpy array without copying it when it starts at such an address.
_ALIGNMENT = 64


@dataclass(frozen=True)
class ResidentImages:
    """N decoded images of any sizes, one after the other, with their labels and keyed ids.

    Attributes:
        pixels: (sum of H*W*C,) uint8 or uint16, on the host.
        first: (N,) int64, where each image starts.
        sizes: (N, 2) int64, heights and widths.
        channels: C.
        labels: (N, L) float32, NaN for unknown.
        image_id: (N,) bytes.
        patient: (N,) bytes.
    """

    pixels: tf.Tensor
    first: tf.Tensor
    sizes: tf.Tensor
    channels: int
    labels: tf.Tensor
    image_id: tf.Tensor
    patient: tf.Tensor

    @classmethod
    def load(
        cls,
        images: tf.data.Dataset,
        sizes: np.ndarray,
        info: DatasetInfo,
        labels: np.ndarray,
        patient: np.ndarray,
    ) -> "ResidentImages":
        """Reads all images once.

        Args:
            images: N times (image (H, W, C), image id).
            sizes: (N, 2) the images' sizes.
            info: of the data set.
            labels: (N, L) float32.
            patient: (N,) bytes.

        Raises:
            InputError: an image is of another size than its record says.
        """
        first = np.cumsum([0, *(sizes.prod(axis=1) * info.channels)])
        flat = _aligned(int(first[-1]), np.uint16 if info.bits == 16 else np.uint8)
        ids = []
        items = tqdm(
            images.as_numpy_iterator(), "keeping", len(sizes), unit=" images", disable=None
        )
        for number, (image, image_id) in enumerate(items):
            if image.shape[:2] != tuple(sizes[number]):
                raise InputError(
                    f"image {image_id.decode()}: {image.shape[:2]} pixels, its record says "
                    f"{tuple(sizes[number].tolist())}; `python -m data_prep.verify` tells more"
                )
            flat[first[number] : first[number + 1]] = image.reshape(-1)
            ids.append(image_id)
        with tf.device("/CPU:0"):
            tensors = [tf.constant(array) for array in (flat, first[:-1], sizes)]
            about = [tf.constant(array) for array in (labels, np.array(ids), patient)]
        return cls(*tensors, info.channels, *about)

    def example(self, position):
        """Image (H, W, C), label (L,), image id and patient of the image at a position."""
        size = self.sizes[position]
        count = size[0] * size[1] * self.channels
        image = tf.slice(self.pixels, [self.first[position]], [count])
        image = tf.reshape(image, tf.concat([size, [self.channels]], axis=0))
        image = tf.ensure_shape(image, [None, None, self.channels])
        return image, self.labels[position], self.image_id[position], self.patient[position]


def _aligned(count: int, dtype) -> np.ndarray:
    """An uninitialised array of ``count`` values that TensorFlow can take over as it is."""
    bytes_ = np.empty(count * np.dtype(dtype).itemsize + _ALIGNMENT, np.uint8)
    shift = -bytes_.ctypes.data % _ALIGNMENT
    return bytes_[shift : shift + count * np.dtype(dtype).itemsize].view(dtype)
