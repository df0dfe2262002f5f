"""Decoded images in the host's memory while a run trains (``--cache``): the choice, and the cache.

The accelerator's memory is :mod:`medcolor_tf.training.device_cache`' part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from medcolor_tf.data.damage import WrongSizeError
from medcolor_tf.data.memory_blocks import Blocks, aligned
from medcolor_tf.data.numpy_calls import call_numpy
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError
from medcolor_tf.parallel.runtime import available_memory
from medcolor_tf.progress import progressing

if TYPE_CHECKING:  # a split holds its cache
    from medcolor_tf.data.pipeline import Split

# auto leaves the other half to the training step, the operating system and other runs.
AUTO_SHARE = 0.5


@dataclass(frozen=True)
class RamCache:
    """N decoded images of any sizes, one after the other, with their labels and keyed ids.

    Attributes:
        pixels: (sum of H*W*C,) uint8 or uint16, on the host.
        memory: (sum of H*W*C,), the same memory as ``pixels``.
        offsets: (N,) int64, where each image starts.
        sizes: (N, 2) int64, heights and widths.
        channels: C.
        labels: (N, L) float32, NaN for unknown.
        image_ids: (N,) bytes.
        patients: (N,) bytes.
    """

    pixels: tf.Tensor
    memory: np.ndarray = field(repr=False)
    offsets: tf.Tensor
    sizes: tf.Tensor
    channels: int
    labels: tf.Tensor
    image_ids: tf.Tensor
    patients: tf.Tensor
    _blocks: Blocks = field(default_factory=Blocks, repr=False)

    @classmethod
    def from_images(
        cls,
        images: tf.data.Dataset,
        sizes: np.ndarray,
        info: DatasetInfo,
        labels: np.ndarray,
        patients: np.ndarray,
    ) -> "RamCache":
        """Reads all images once.

        Args:
            images: N times (image (H, W, C), image id).
            sizes: (N, 2) the images' sizes.
            info: of the data set.
            labels: (N, L) float32.
            patients: (N,) bytes.

        Raises:
            InputError: an image is of another size than its record says.
        """
        offsets = np.cumsum([0, *(sizes.prod(axis=1) * info.channels)])
        pixels = aligned(int(offsets[-1]), np.dtype(np.uint16 if info.bits == 16 else np.uint8))
        image_ids = []
        items = progressing(images.as_numpy_iterator(), "caching", len(sizes))
        for position, (image, image_id) in enumerate(items):
            if image.shape[:2] != tuple(sizes[position]):
                raise WrongSizeError(
                    f"image {image_id.decode()}: {image.shape[:2]} pixels, its record says "
                    f"{tuple(sizes[position].tolist())}; `python -m data_prep.verify` tells more"
                )
            pixels[offsets[position] : offsets[position + 1]] = image.reshape(-1)
            image_ids.append(image_id)
        with tf.device("/CPU:0"):
            return cls(
                pixels=tf.constant(pixels),
                memory=pixels,
                offsets=tf.constant(offsets[:-1]),
                sizes=tf.constant(sizes),
                channels=info.channels,
                labels=tf.constant(labels),
                image_ids=tf.constant(np.array(image_ids)),
                patients=tf.constant(patients),
            )

    @cached_property
    def is_square(self) -> bool:
        """Whether every image is a square of the same size."""
        return bool((self._sizes == self._sizes[0, 0]).all())

    def has_side(self, side: int) -> bool:
        """Whether ``side`` is every image's shorter side, so that a crop needs no scaling."""
        return bool((self._sizes.min(axis=1) == side).all())

    def batch_bytes(self, batch_size: int) -> int:
        """Returns what a batch of :meth:`squares` takes."""
        return batch_size * self._side**2 * self._pixel_bytes

    def squares(self, positions, shares):
        """Returns the largest squares (G, B, S, S, C) of images, and labels (G, B, L).

        Of images whose shorter side is the same, see :meth:`has_side`. Whole images are one gather.
        Others are copied by numpy: TensorFlow has no operation that cuts from images of different
        sizes, and one by one they take twice the time (measured). A call takes as long as to copy
        ten images, so it pays to ask for several batches.

        Args:
            positions: (G, B) int64, of the images of G batches.
            shares: (G, B) float32, where along the longer side the squares lie, 0 to 1.
        """
        side = self._side
        if self.is_square:
            whole = tf.reshape(self.pixels, [len(self._sizes), side, side, self.channels])
            images = tf.gather(whole, positions)
        else:
            images = call_numpy(self._squares, [positions, shares], self.pixels.dtype)
        images = tf.ensure_shape(images, [*positions.shape, side, side, self.channels])
        return images, tf.gather(self.labels, positions)

    def _squares(self, positions: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """What :meth:`squares` returns of images that are not square, in numpy."""
        side, images = self._side, positions.ravel()
        shape = images.size, side, side, self.channels
        squares = self._blocks.empty(math.prod(shape), self.memory.dtype).reshape(shape)
        overhang = (self._sizes[images] - side).astype(np.float32)
        top, left = np.rint(overhang * shares.reshape(-1, 1)).astype(int).T  # as crop_start rounds
        widths = self._sizes[images, 1]
        firsts = self.offsets.numpy()[images] + (top * widths + left) * self.channels
        # A square's row is one element: numpy copies a few long ones faster than many short ones.
        row = np.dtype((np.void, side * self._pixel_bytes))
        copies = squares.reshape(len(squares), -1).view(row)
        places = zip(firsts * self.memory.itemsize, widths * self._pixel_bytes, strict=True)
        for copy, (first, stride) in zip(copies, places, strict=True):
            copy[:] = np.ndarray(side, row, self.memory, first, (stride,))
        return squares.reshape(*positions.shape, *shape[1:])

    @cached_property
    def _sizes(self) -> np.ndarray:
        """(N, 2) int64, heights and widths."""
        return self.sizes.numpy()

    @property
    def _side(self) -> int:
        """The first image's shorter side."""
        return int(self._sizes[0].min())

    @property
    def _pixel_bytes(self) -> int:
        return self.channels * self.memory.itemsize

    def example(self, position):
        """Returns image (H, W, C), label (L,), image id and patient of the image at a position."""
        size = self.sizes[position]
        count = size[0] * size[1] * self.channels
        image = tf.slice(self.pixels, [self.offsets[position]], [count])
        image = tf.reshape(image, tf.concat([size, [self.channels]], axis=0))
        image = tf.ensure_shape(image, [None, None, self.channels])
        return image, self.labels[position], self.image_ids[position], self.patients[position]


def cache_splits(cache: str, splits: Sequence["Split"], processes: int = 1) -> str:
    """Caches the decoded images of the splits where ``cache`` says; the batches stay the same.

    Args:
        cache: "none", "ram" or "auto".
        splits: what will be read over and over.
        processes: on this machine, each of which caches as much.

    Returns:
        What was done and why, for the log.

    Raises:
        InputError: "ram", and there is not enough memory.
    """
    if cache == "none":
        return "cache none: images are read and decoded anew in every epoch"
    free = available_memory() / processes
    limit = free * (AUTO_SHARE if cache == "auto" else 1.0)
    needed = sum(minimum_bytes(split) for split in splits)
    if needed <= limit:  # only then is it worth reading every record's size
        needed = sum(decoded_bytes(split) for split in splits)
    images = sum(len(split) for split in splits)
    if needed <= limit:
        for split in splits:
            split.cache_decoded()
        return (
            f"cache ram: {images:,} images, {format_bytes(needed)} decoded, "
            f"{format_bytes(free)} were free"
        )
    if cache == "auto":
        return (
            f"cache none: {images:,} decoded images are {format_bytes(needed)} or more, beyond "
            f"half of the {format_bytes(free)} of free memory; they are read and decoded anew in "
            "every epoch"
        )
    raise InputError(
        f"--cache=ram: {images:,} decoded images are {format_bytes(needed)} or more, "
        f"{format_bytes(free)} of memory are free; expected a data set that fits, --cache=none or "
        "--cache=auto"
    )


def decoded_bytes(split: "Split") -> int:
    """Returns what :meth:`Split.cache_decoded` takes, exactly; reads every record's size."""
    return int(split.cached_sizes().prod(axis=1).sum()) * _pixel_bytes(split)


def minimum_bytes(split: "Split", enlarged: bool = False) -> int:
    """Returns what the split's images take at least, decoded, without reading any.

    ``enlarged``: images smaller than --image_size are cached at that size.
    """
    side = split.image_size if enlarged else min(split.image_size, split.info.short_side)
    return len(split) * side**2 * _pixel_bytes(split)


def _pixel_bytes(split: "Split") -> int:
    return split.info.channels * split.info.bits // 8


def format_bytes(count: float) -> str:
    """Returns a number of bytes as text with three digits."""
    power = min(int(np.log(max(count, 1)) / np.log(1000)), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
