"""Memory of arrays that TensorFlow takes over as they are, and that is used again."""

import sys
import threading

import numpy as np

# TensorFlow takes over a numpy array without copying it when it starts at such an address.
_ALIGNMENT = 64


class Blocks:
    """Memory for arrays that come and go, used again once nothing refers to it.

    Fresh memory costs a page fault per 4 kB: in one process of three it was that for every array,
    which took as long as to fill it (measured).
    """

    _MOST = 4

    def __init__(self):
        self._lock = threading.Lock()
        self._blocks: list[np.ndarray] = []

    def empty(self, count: int, dtype: np.dtype) -> np.ndarray:
        """Returns an uninitialised (count,) array that TensorFlow can take over as it is."""
        with self._lock:
            size = _buffer_bytes(count, dtype)
            for index in range(len(self._blocks)):
                if len(self._blocks[index]) >= size and self._is_free(index):
                    return _aligned_part(self._blocks[index], count, dtype)
            # The oldest goes to whom it is with.
            self._blocks = [*self._blocks[1 - self._MOST :], np.empty(size, np.uint8)]
            return _aligned_part(self._blocks[-1], count, dtype)

    def _is_free(self, index: int) -> bool:
        """Whether the list alone refers to a block; every array in its memory does, as its base."""
        return sys.getrefcount(self._blocks[index]) == _REFERENCES_OF_A_LIST


_LIST = [np.empty(0)]
_REFERENCES_OF_A_LIST = sys.getrefcount(_LIST[0])


def aligned(count: int, dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialised array of ``count`` values that TensorFlow can take over as it is."""
    return _aligned_part(np.empty(_buffer_bytes(count, dtype), np.uint8), count, dtype)


def _buffer_bytes(count: int, dtype: np.dtype) -> int:
    return count * dtype.itemsize + _ALIGNMENT


def _aligned_part(buffer: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    shift = -buffer.ctypes.data % _ALIGNMENT
    return buffer[shift : shift + count * dtype.itemsize].view(dtype)
