"""Decoded images packed as rows of one array, from which a random crop is one gather.

Every stored image has the same short side S (all of them, or those that were scaled to it). Its
pixels are packed as rows along that side: an upright image as it is, a landscape one transposed. A
square crop is then S consecutive rows, the first of which alone says where it lies, and a batch
needs two numbers per image, not S * S * C.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from medcolor_tf.data.damage import WrongSizeError
from medcolor_tf.data.image_ops import crop_start, without_autograph
from medcolor_tf.data.pipeline import BATCHES_READY, Split
from medcolor_tf.errors import InputError
from medcolor_tf.progress import progressing

# The host holds up to four of them: one being filled and, in the backend, copies under way.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PackedImages:
    """Where the N images of a split lie in the array of their rows.

    Attributes:
        split: what they come from.
        side: S, pixels of a row and rows of a crop.
        row_offsets: (N,) int32, each image's first row.
        overhang: (N,) int32, rows of each image beyond S.
        transposed: (N,) bool, landscape images: their axes are exchanged.
        rows: of all images.
    """

    split: Split
    side: int
    row_offsets: np.ndarray
    overhang: np.ndarray
    transposed: np.ndarray
    rows: int

    @classmethod
    def from_split(cls, split: Split) -> "PackedImages":
        """Plans the array; reads every record's size.

        Raises:
            InputError: images are cropped before they are scaled, or there are more rows than
                int32 can number.
        """
        side = split.image_size
        overhang = split.sizes.max(axis=1) - split.sizes.min(axis=1)
        if side != split.info.short_side and overhang.any():
            raise InputError(
                "images that are not square are cropped before they are scaled from "
                f"{split.info.short_side} to {side} px, so they cannot be stored scaled"
            )
        edges = np.cumsum([0, *(side + overhang)])
        if edges[-1] > np.iinfo(np.int32).max:
            raise InputError(f"{edges[-1]:,} rows of pixels; expected at most 2**31 - 1")
        return cls(
            split,
            side,
            row_offsets=edges[:-1].astype(np.int32),
            overhang=overhang.astype(np.int32),
            transposed=split.sizes[:, 1] > split.sizes[:, 0],
            rows=int(edges[-1]),
        )

    @property
    def width(self) -> int:
        """Values in a row, S * C."""
        return self.side * self.split.info.channels

    @property
    def dtype(self) -> str:
        """uint8 or uint16."""
        return f"uint{self.split.info.bits}"

    @property
    def bytes(self) -> int:
        """What all rows take."""
        return self.rows * self.width * np.dtype(self.dtype).itemsize

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
        """Reads and decodes every image once; yields (first row, rows (n, S * C)) in order.

        A block is a new array each time: a backend may still be copying the last one.

        Raises:
            InputError: an image is of another size than its record says.
        """
        height = max(1, min(self.rows, block_bytes // (self.bytes // self.rows)))
        start, filled, block = 0, 0, self._empty(height)
        for rows in self._images():
            while len(rows):
                part = rows[: len(block) - filled]
                block[filled : filled + len(part)] = part
                filled, rows = filled + len(part), rows[len(part) :]
                if filled == len(block):
                    yield start, block
                    start += filled
                    filled, block = 0, self._empty(min(height, self.rows - start))

    @without_autograph
    def batches(self, stream) -> tf.data.Dataset:
        """The order and the crops of :meth:`Split.training_batches`, without a pixel.

        Args:
            stream: batch_size, seed, start_step and shuffle_buffer.

        Returns:
            An endless dataset of (crops (B, 2) int32, labels (B, L) float32); a crop is its first
            row, and 1 where its axes are exchanged.
        """
        with tf.device("/CPU:0"):  # tensors, so that a function holds them once, not as constants
            row_offsets, overhang = tf.constant(self.row_offsets), tf.constant(self.overhang)
            transposed = tf.constant(self.transposed.astype(np.int32))
            labels = tf.constant(self.split.labels)

        is_square = not self.overhang.any()

        def crops(positions, shares):
            first = tf.gather(row_offsets, positions)
            if not is_square:
                first += crop_start(tf.gather(overhang, positions), shares)
            crop = tf.stack([first, tf.gather(transposed, positions)], axis=1)
            return crop, tf.gather(labels, positions)

        return self.split.crops(*stream, square=is_square).map(crops).prefetch(BATCHES_READY)

    def _empty(self, rows: int) -> np.ndarray:
        return np.empty((rows, self.width), self.dtype)

    def _images(self) -> Iterator[np.ndarray]:
        """Yields each image's rows."""
        images = self.split.decoded(self.side).as_numpy_iterator()
        count = len(self.row_offsets)
        for position, (image, image_id) in enumerate(progressing(images, "caching", count)):
            size = [int(self.overhang[position]) + self.side, self.side]
            size = size[::-1] if self.transposed[position] else size
            if list(image.shape[:2]) != size:
                raise WrongSizeError(
                    f"image {image_id.decode()}: {list(image.shape[:2])} pixels, expected {size} "
                    "from its record and the data set; `python -m data_prep.verify` tells more"
                )
            image = image.swapaxes(0, 1) if self.transposed[position] else image
            yield image.reshape(-1, self.width)
