import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.building.splits import assert_disjoint, split_by_patient
from medcolor_tf.errors import InputError

patients = st.lists(st.integers(0, 40).map(str), min_size=1, max_size=120)


@given(patients, st.integers(0, 5), st.floats(0, 0.45), st.floats(0, 0.45), st.randoms())
@settings(max_examples=60)
def test_disjoint_deterministic_and_independent_of_order(names, seed, valid, test, random):
    splits = split_by_patient(names, seed, valid, test)
    assert_disjoint(names, splits)
    order = list(range(len(names)))
    random.shuffle(order)
    again = split_by_patient([names[i] for i in order], seed, valid, test)
    assert again.tolist() == [splits[i] for i in order]
    largest = max(names.count(name) for name in set(names))
    for split, share in (("valid", valid), ("test", test), ("train", 1 - valid - test)):
        # Half a patient's images at each end of a split.
        assert abs((splits == split).sum() - share * len(names)) <= largest + 1e-6


def test_seed_matters():
    names = [str(i) for i in range(100)]
    assert (split_by_patient(names, 0) != split_by_patient(names, 1)).any()


def test_defaults_are_70_10_20():
    splits = split_by_patient([str(i) for i in range(1000)], 0)
    counts = {split: int((splits == split).sum()) for split in ("train", "valid", "test")}
    assert counts == {"train": 700, "valid": 100, "test": 200}


def test_official_splits_are_kept_and_valid_is_carved_from_train():
    names = [str(i // 2) for i in range(400)]
    official = np.array(["train"] * 300 + ["test"] * 100, object)
    splits = split_by_patient(names, 0, official=official)
    assert (splits[300:] == "test").all()
    assert set(splits[:300]) == {"train", "valid"}
    assert (splits == "valid").sum() == pytest.approx(30, abs=2)
    assert_disjoint(names, splits)


def test_three_official_splits_are_left_alone():
    official = np.array(["train", "valid", "test"] * 5, object)
    splits = split_by_patient([str(i) for i in range(15)], 0, official=official)
    assert splits.tolist() == official.tolist()


def test_a_test_set_alone_stays_one():
    assert set(split_by_patient(["a", "b"], 0, official=["test", "test"])) == {"test"}


def test_errors():
    where = ["line 2", "line 3", "line 4"]
    with pytest.raises(InputError, match=r"'x' is in two splits \(test: line 4; train: line 2\)"):
        split_by_patient(["x", "y", "x"], 0, official=["train", "train", "test"], where=where)
    with pytest.raises(InputError, match="official valid split"):
        split_by_patient(["x"], 0, valid_fraction=0.1, official=["valid"])
    with pytest.raises(InputError, match="nothing to train on"):
        split_by_patient(["x"], 0, 0.5, 0.5)
    with pytest.raises(InputError, match=r"--test_fraction=1\.5"):
        split_by_patient(["x"], 0, 0.1, 1.5)
