"""Decoded images as lines of one array, from which a random crop is one gather.

Every stored image has the same short side S (all of them, or those that were scaled to it). Its
pixels are kept as lines along that side: an upright image as it is, a landscape one with its axes
exchanged. A square crop is then S consecutive lines, the first of which alone says where it lies,
and a batch needs one number an image, not S * S * C.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from medcolor_tf.data.image_ops import crop_start
from medcolor_tf.data.pipeline import Split, crop_offset
from medcolor_tf.errors import InputError

# The host holds up to four of them: one being filled and, in the backend, copies under way.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Lines:
    """Where the N images of a split lie in the array of their lines.

    Attributes:
        split: what they come from.
        side: S, length of a line and number of lines of a crop, in pixels.
        first: (N,) int32, each image's first line.
        slack: (N,) int32, lines of each image beyond S.
        turned: (N,) bool, landscape: the axes are exchanged.
        count: lines of all images.
    """

    split: Split
    side: int
    first: np.ndarray
    slack: np.ndarray
    turned: np.ndarray
    count: int

    @classmethod
    def of(cls, split: Split) -> "Lines":
        """Plans the array; reads every record's size.

        Raises:
            InputError: images are cropped before they are scaled, or there are more lines than
                int32 can number.
        """
        side = split.image_size
        slack = split.sizes.max(axis=1) - split.sizes.min(axis=1)
        if side != split.info.short_side and slack.any():
            raise InputError(
                "images that are not square are cropped before they are scaled from "
                f"{split.info.short_side} to {side} px, so they cannot be stored scaled"
            )
        first = np.cumsum([0, *(side + slack)])
        if first[-1] > np.iinfo(np.int32).max:
            raise InputError(f"{first[-1]:,} lines of pixels; expected at most 2**31 - 1")
        turned = split.sizes[:, 1] > split.sizes[:, 0]
        numbers = first[:-1].astype(np.int32), slack.astype(np.int32)
        return cls(split, side, *numbers, turned, int(first[-1]))

    @property
    def width(self) -> int:
        """Values in a line, S * C."""
        return self.side * self.split.info.channels

    @property
    def dtype(self) -> str:
        """uint8 or uint16."""
        return f"uint{self.split.info.bits}"

    @property
    def bytes(self) -> int:
        """What all lines take."""
        return self.count * self.width * np.dtype(self.dtype).itemsize

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
        """Reads and decodes every image once; yields (first line, lines (n, S * C)) in order.

        A block is a new array each time: a backend may still be copying the last one.

        Raises:
            InputError: an image is of another size than its record says.
        """
        height = max(1, min(self.count, block_bytes // (self.bytes // self.count)))
        start, filled, block = 0, 0, self._empty(height)
        for lines in self._images():
            while len(lines):
                part = lines[: len(block) - filled]
                block[filled : filled + len(part)] = part
                filled, lines = filled + len(part), lines[len(part) :]
                if filled == len(block):
                    yield start, block
                    start += filled
                    filled, block = 0, self._empty(min(height, self.count - start))

    def batches(self, stream) -> tf.data.Dataset:
        """The order and the crops of :meth:`Split.training_batches`, without a pixel.

        Args:
            stream: batch_size, seed, start_step and shuffle_buffer.

        Returns:
            An endless dataset of (places (B, 2) int32, labels (B, L) float32); a place is the
            first line of a crop, and 1 where its axes are exchanged.
        """
        with tf.device("/CPU:0"):  # tensors, so that a function holds them once, not as constants
            first, slack = tf.constant(self.first), tf.constant(self.slack)
            turned = tf.constant(self.turned.astype(np.int32))
            labels = tf.constant(self.split.labels)

        batch_size = stream[0]

        def batched(items, key):
            def places(numbers, positions):
                lines = tf.gather(first, positions)
                if self.slack.any():
                    # One draw an image, as the split's own crops, but a map over batches: a third
                    # of the work of a map over images (measured).
                    keys = [(*key, numbers[image]) for image in range(batch_size)]
                    offsets = tf.stack([crop_offset(one) for one in keys])
                    lines += crop_start(tf.gather(slack, positions), offsets)
                place = tf.stack([lines, tf.gather(turned, positions)], axis=1)
                return place, tf.gather(labels, positions)

            whole = items.batch(batch_size, drop_remainder=True)
            return whole.map(places, num_parallel_calls=tf.data.AUTOTUNE)

        return self.split.training_stream(batched, stream, positions=True)

    def _empty(self, lines: int) -> np.ndarray:
        return np.empty((lines, self.width), self.dtype)

    def _images(self) -> Iterator[np.ndarray]:
        """Each image's lines."""
        images = self.split.decoded(self.side).as_numpy_iterator()
        for number, (image, image_id) in enumerate(
            tqdm(images, "keeping", len(self.first), unit=" images", disable=None)
        ):
            size = [int(self.slack[number]) + self.side, self.side]
            size = size[::-1] if self.turned[number] else size
            if list(image.shape[:2]) != size:
                raise InputError(
                    f"image {image_id.decode()}: {list(image.shape[:2])} pixels, expected {size} "
                    "from its record and the data set; `python -m data_prep.verify` tells more"
                )
            image = image.swapaxes(0, 1) if self.turned[number] else image
            yield image.reshape(-1, self.width)
