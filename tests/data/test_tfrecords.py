"""TFRecords written without TensorFlow are TensorFlow's own."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medcolor_tf.data.tfrecords import encode_example, write_record

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
FEATURES = st.dictionaries(
    st.text(max_size=20),
    st.lists(st.binary(max_size=300), max_size=3)
    | st.lists(FLOATS, max_size=5).map(lambda values: np.array(values, np.float32))
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(
        lambda values: np.array(values, np.int64)
    ),
    max_size=8,
)


def by_tensorflow(features) -> tf.train.Example:
    def feature(values):
        if isinstance(values, list):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if values.dtype == np.int64:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    named = {name: feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named))


@given(FEATURES)
def test_an_example_is_the_one_that_tensorflow_writes(features):
    found, expected = encode_example(features), by_tensorflow(features)
    read = tf.train.Example.FromString(found)
    # As bytes, so that NaN equals NaN; TensorFlow's order of the names is another one.
    assert read.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
    assert len(found) == expected.ByteSize()  # nothing in it that is not read


def test_only_an_examples_kinds_of_values_are_taken():
    with pytest.raises(TypeError, match="float64; expected bytes, int64 or float32"):
        encode_example({"a": np.zeros(2)})


@given(st.lists(st.binary(max_size=2000) | st.just(bytes(range(256)) * 400), max_size=5))
def test_a_file_is_the_one_that_tensorflow_writes_and_reads(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("records")
    with open(folder / "ours", "wb") as file:
        for record in records:
            write_record(file, record)
    with tf.io.TFRecordWriter(str(folder / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    read = tf.data.TFRecordDataset(str(folder / "ours")).as_numpy_iterator()
    assert list(read) == records


def test_data_is_prepared_without_tensorflow(tmp_path):
    """Its import takes longer than to prepare some hundred images, in every process."""
    (tmp_path / "table.csv").write_text("path,a\n0.png,0\n1.png,1\n")
    for number in range(2):
        Image.new("L", (40, 32), number).save(tmp_path / f"{number}.png")
    flags = ("--source=table", f"--table={tmp_path / 'table.csv'}", "--observations=a")
    flags += ("--workers=1", "--short_side=32", f"--out={tmp_path / 'data'}")
    code = (
        "import sys\nfrom data_prep import build\n"
        f"status = build.main({list(flags)!r})\n"
        "print(status, 'tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "0 False", found.stderr
