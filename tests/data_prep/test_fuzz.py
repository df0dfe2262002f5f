"""Made-up and damaged images and tables; tests/nightly/test_fuzzing.py reads thousands."""

import numpy as np
from fuzzing import decode_png, fuzz_images, fuzz_tables, gray_png16, make_image, parse_table


def test_images_made_and_damaged(tmp_path):
    seen = fuzz_images(tmp_path, 400, seed=0)
    assert seen.total() == 400
    assert seen["damaged, refused"] > 50
    assert len(seen) > 12, "every kind was read"


def test_tables_made_and_damaged(tmp_path):
    seen = fuzz_tables(tmp_path, 400, seed=0)
    assert seen["made, read"] == 200
    assert seen["damaged, refused"] > 20
    assert seen["damaged, read alike"] > 20


def test_the_independent_readings_read():
    random = np.random.default_rng(1)
    made = gray_png16(random)
    np.testing.assert_array_equal(decode_png(made.content), made.gray)
    broken = bytearray(made.content)
    broken[45] ^= 1
    assert decode_png(bytes(broken)) is None
    assert parse_table(b'\xef\xbb\xbfa;b\r\n"1 ""x""";2\r\n\r\n') == [["a", "b"], ['1 "x"', "2"]]
    assert parse_table(b'a,b\n"1,2\n') is None
    assert len({make_image(random).kind for _ in range(200)}) > 10
