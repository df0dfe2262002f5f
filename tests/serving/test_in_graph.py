"""data_prep's steps in TensorFlow operations: equal to Pillow and NumPy in every pixel."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import images, levels
from medcolor_tf.serving.in_graph.exif import turn_upright
from medcolor_tf.serving.in_graph.levels import stretch
from medcolor_tf.serving.in_graph.png import crc32
from medcolor_tf.serving.in_graph.resize import centre_square, target_size

# (height, width): up, down, as it is, one pixel; tall, of which Pillow resizes columns first.
SIZES = (
    *((48, 48), (48, 60), (20, 31), (1, 1), (1, 7), (7, 1), (301, 204), (500, 640), (97, 700)),
    *((96, 48), (97, 48), (300, 147), (224, 108), (700, 97), (367, 183)),
)


def resize(dtype, bits, side):
    """A graph function that resizes (1, H, W, 1)."""

    def function(picture):
        shape = tf.shape(picture)
        size = target_size(shape[1], shape[2], side)
        extent = [tf.cast(shape[i], tf.float64) for i in (1, 2)]
        return centre_square(picture, size, extent, bits)

    return tf.function(function, input_signature=[tf.TensorSpec((1, None, None, 1), dtype)])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_is_pillows(tmp_path, dtype, bits):
    random = np.random.default_rng(bits)
    in_graph = resize(dtype, bits, 48)
    for size in SIZES:
        picture = random.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
        Image.fromarray(picture).save(tmp_path / "x.png")
        expected = images.read_image(tmp_path / "x.png", 48, bits)
        top, left = (round((side - 48) / 2) for side in expected.shape)
        received = in_graph(picture[None, ..., None]).numpy()[0, ..., 0]
        assert received.dtype == expected.dtype
        np.testing.assert_array_equal(
            received, expected[top : top + 48, left : left + 48], err_msg=str(size)
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("how", ["used", "percentile"])
def test_stretching_is_data_preparations(how, dtype):
    signature = [tf.TensorSpec((None, None), dtype)]
    in_graph = tf.function(lambda picture: stretch(picture, how), input_signature=signature)
    random = np.random.default_rng(0)
    for size in ((1, 1), (1, 2), (3, 3), (20, 10), (201, 1), (100, 101)):
        for high in (1, 2, 90, np.iinfo(dtype).max):
            picture = random.integers(0, high, size, dtype, endpoint=True)
            expected = levels.stretch(picture, how)
            if expected.dtype == np.uint8:  # constant: as it is
                expected = expected.astype(np.uint16) * 257
            np.testing.assert_array_equal(in_graph(picture), expected)


def test_turning_is_pillows():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for orientation, method in {
        **{1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
        **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE},
        **{6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
        **{8: Image.Transpose.ROTATE_90, 9: None},
    }.items():
        image = Image.fromarray(picture)
        expected = image if method is None else image.transpose(method)
        np.testing.assert_array_equal(turn_upright(picture, orientation), np.asarray(expected))


@pytest.mark.parametrize("length", [4, 5, 8, 1000, 4097])
def test_the_checksum_is_zlibs(length):
    numbers = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    assert int(crc32(tf.constant(numbers))) == zlib.crc32(numbers.tobytes())
