"""The uncertainty policy: one rule for arrays and tensors, read from text, counted."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from medcolor_tf.data import labels
from medcolor_tf.data.records import label_tensor
from medcolor_tf.errors import InputError

NAMES = ("a", "b", "c")
# By hand: what becomes of an uncertain and of a blank label.
VALUES = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}


@pytest.mark.parametrize("policy", list(itertools.product(labels.UNCERTAIN_POLICIES, repeat=3)))
@pytest.mark.parametrize("blank", labels.BLANK_POLICIES)
def test_arrays_and_tensors_follow_the_same_rule(policy, blank):
    raw = np.array(list(itertools.product((0, 1, -1, np.nan), repeat=3)), np.float32)
    expected = raw.copy()
    for column, name in enumerate(policy):
        expected[raw[:, column] == -1, column] = VALUES[name]
    expected[np.isnan(raw)] = VALUES[blank]
    by_name: dict[str, str] = dict(zip(NAMES, policy, strict=True))
    applied = labels.apply_policy(raw, NAMES, by_name, blank)
    assert applied.dtype == np.float32
    np.testing.assert_array_equal(applied, expected)

    columns = [2, 0]

    def apply(rows):
        return labels.apply_policy(rows, NAMES, by_name, blank)[:, columns]

    tensors = tf.map_fn(lambda row: label_tensor(row, apply, columns), tf.constant(raw))
    np.testing.assert_array_equal(tensors, expected[:, columns])


def test_a_policy_is_read_for_all_or_by_name():
    default = {"a": "ones", "b": "zeros"}
    assert labels.parse_policy("", NAMES, default) == {"a": "ones", "b": "zeros", "c": "ignore"}
    assert set(labels.parse_policy("zeros", NAMES, default).values()) == {"zeros"}
    by_name = labels.parse_policy(["c=ones", " b=ignore"], NAMES, default)
    assert by_name == {"a": "ones", "b": "ignore", "c": "ones"}
    with pytest.raises(InputError, match=r"'maybe': expected one of ones, zeros, ignore"):
        labels.parse_policy("a=ones,maybe", NAMES, default)
    with pytest.raises(InputError, match=r"no observation 'd'; the data set has a, b, c"):
        labels.parse_policy("d=ones", NAMES, default)


def test_labels_are_counted_before_and_after_the_policy():
    raw = np.array([[1, 0], [-1, np.nan], [0, np.nan]], np.float32)
    assert labels.count_raw_labels(raw, ("a", "b")) == {
        "a": {"positive": 1, "negative": 1, "uncertain": 1, "blank": 0},
        "b": {"positive": 0, "negative": 1, "uncertain": 0, "blank": 2},
    }
    applied = labels.apply_policy(raw, ("a", "b"), {"a": "ones", "b": "ones"}, "ignore")
    assert labels.count_labels(applied, ("a", "b")) == {
        "a": {"positive": 2, "negative": 1, "unknown": 0},
        "b": {"positive": 0, "negative": 1, "unknown": 2},
    }
